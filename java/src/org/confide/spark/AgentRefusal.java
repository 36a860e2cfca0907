package org.confide.spark;

import java.io.IOException;

/**
 * The agent said no. The message starts with the error's code in brackets and ends with its hint, if it has one: the driver's Python side
 * looks for both (confide.data.failure).
 */
final class AgentRefusal extends IOException {
    private static final long serialVersionUID = 1L;

    AgentRefusal(String code, String message, String hint) {
        super("[" + code + "] " + message + (hint.isEmpty() ? "" : " (hint: " + hint + ")"));
    }
}
