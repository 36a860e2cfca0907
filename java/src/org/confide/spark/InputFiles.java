package org.confide.spark;

import com.fasterxml.jackson.databind.JsonNode;
import java.io.IOException;
import java.util.Map;
import org.apache.hadoop.fs.FileStatus;

/**
 * Holds the lengths of input files that storage shows against those in their manifests.
 *
 * <p>Spark plans its tasks with lengths before anything is decrypted. Every byte that is read is authentic, but what no task was planned
 * for is not read, and nobody would miss it.
 */
final class InputFiles {
    private InputFiles() {}

    /** Returns {@code found}, a file, unless it is an input of another length than its manifest says. */
    static FileStatus checked(FileStatus found) throws IOException {
        String path = found.getPath().toUri().getPath();
        JsonNode answer = AgentClient.here().call("input-length", Map.of("path", path)).path("length");
        if (!answer.isIntegralNumber()) {
            throw new IOException("confide: the agent's answer has no usable field length");
        }
        long expected = answer.longValue();
        if (expected >= 0 && expected != found.getLen()) {
            throw new IOException(
                    "[data-integrity] " + found.getPath().getName() + " has another length than its manifest says: " + found.getLen());
        }
        return found;
    }
}
