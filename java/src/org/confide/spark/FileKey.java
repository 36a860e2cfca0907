package org.confide.spark;

import com.fasterxml.jackson.databind.JsonNode;
import java.io.IOException;
import java.util.Base64;
import java.util.Map;
import org.apache.hadoop.fs.Path;

/** The key of one data file, as the agent derived it. Lives in memory only; has no text form and is not serialisable. */
final class FileKey {
    private static final int KEY_BYTES = 32;

    final byte[] key;
    /** Parquet's AAD prefix; null for a container. */
    final byte[] aadPrefix;
    /** What a container's header must hold; null for Parquet. Public. */
    final byte[] commitment;

    private FileKey(byte[] key, byte[] aadPrefix, byte[] commitment) {
        this.key = key;
        this.aadPrefix = aadPrefix;
        this.commitment = commitment;
    }

    /** The key of the Parquet file at {@code path}. {@code op} is {@code read-key} or {@code write-key}. */
    static FileKey ofParquet(String op, Path path) throws IOException {
        DataCounts.parquet("read-key".equals(op));
        JsonNode answer = AgentClient.here().call(op, Map.of("path", path.toUri().getPath(), "kind", "parquet"));
        return new FileKey(bytes(answer, "key"), bytes(answer, "aad_prefix"), null);
    }

    /** The key of the container at {@code path} whose header holds {@code salt}. */
    static FileKey ofContainer(String op, String path, byte[] salt) throws IOException {
        String text = Base64.getEncoder().encodeToString(salt);
        JsonNode answer = AgentClient.here().call(op, Map.of("path", path, "kind", "container", "salt", text));
        return new FileKey(bytes(answer, "key"), null, bytes(answer, "commitment"));
    }

    private static byte[] bytes(JsonNode answer, String field) throws IOException {
        try {
            byte[] found = Base64.getDecoder().decode(answer.path(field).asText(""));
            if (found.length == KEY_BYTES) {
                return found;
            }
        } catch (IllegalArgumentException notBase64) {
            // Falls through to the same refusal: an answer that is not a key never becomes one.
        }
        throw new IOException("confide: the agent's answer has no usable field " + field);
    }

    @Override
    public String toString() {
        return "FileKey(secret)";
    }
}
