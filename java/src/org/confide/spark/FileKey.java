package org.confide.spark;

import com.fasterxml.jackson.databind.JsonNode;
import java.io.IOException;
import java.util.Base64;
import java.util.HashMap;
import java.util.Map;
import org.apache.hadoop.fs.Path;

/** The key of one data file, as the agent derived it. Lives in memory only; has no text form and is not serialisable. */
final class FileKey {
    private static final int KEY_BYTES = 32;
    /** Spark opens a table's file for its footer and then for its rows, in one thread: it asks once. Leases and withdrawals reckon in more. */
    private static final long ASKED_ONCE_NANOS = 1_000_000_000L;

    private static final ThreadLocal<Asked> LAST = new ThreadLocal<>();

    private record Asked(String path, FileKey key, long at) {}

    final byte[] key;
    /** Parquet's AAD prefix; null for a container, and for a table with column groups. */
    final byte[] aadPrefix;
    /** What a container's header must hold; null for Parquet. Public. */
    final byte[] commitment;
    /** Of a table with column groups: the wrapping keys of those that this job reads, by name ({@code key} wraps all others); else null. */
    final Map<String, byte[]> groups;

    private FileKey(byte[] key, byte[] aadPrefix, byte[] commitment, Map<String, byte[]> groups) {
        this.key = key;
        this.aadPrefix = aadPrefix;
        this.commitment = commitment;
        this.groups = groups;
    }

    /** The key of the Parquet file at {@code path}. {@code op} is {@code read-key} or {@code write-key}. */
    static FileKey ofParquet(String op, Path path) throws IOException {
        boolean reads = "read-key".equals(op);
        DataCounts.parquet(reads);
        String name = path.toUri().getPath();
        Asked last = LAST.get();
        if (reads && last != null && last.path().equals(name) && System.nanoTime() - last.at() < ASKED_ONCE_NANOS) {
            return last.key();
        }
        FileKey found = parquet(AgentClient.here().call(op, Map.of("path", name, "kind", "parquet")));
        if (reads) {
            LAST.set(new Asked(name, found, System.nanoTime()));
        }
        return found;
    }

    private static FileKey parquet(JsonNode answer) throws IOException {
        if (answer.has("groups")) {
            return new FileKey(bytes(answer, "key"), null, null, groups(answer.get("groups")));
        }
        return new FileKey(bytes(answer, "key"), bytes(answer, "aad_prefix"), null, null);
    }

    private static Map<String, byte[]> groups(JsonNode answer) throws IOException {
        Map<String, byte[]> found = new HashMap<>();
        for (Map.Entry<String, JsonNode> group : answer.properties()) {
            found.put(group.getKey(), bytes(answer, group.getKey()));
        }
        return found;
    }

    /** The key of the container at {@code path} whose header holds {@code salt}. */
    static FileKey ofContainer(String op, String path, byte[] salt) throws IOException {
        String text = Base64.getEncoder().encodeToString(salt);
        JsonNode answer = AgentClient.here().call(op, Map.of("path", path, "kind", "container", "salt", text));
        return new FileKey(bytes(answer, "key"), null, bytes(answer, "commitment"), null);
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
