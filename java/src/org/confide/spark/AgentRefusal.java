package org.confide.spark;

import java.io.IOException;

/** The agent said no. The message starts with the error's code in brackets, which the driver's Python side looks for. */
final class AgentRefusal extends IOException {
    private static final long serialVersionUID = 1L;

    AgentRefusal(String code, String message) {
        super("[" + code + "] " + message);
    }
}
