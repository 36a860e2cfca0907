package org.confide.spark;

import com.fasterxml.jackson.databind.JsonNode;
import java.io.FileNotFoundException;
import java.io.IOException;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import org.apache.hadoop.fs.FileStatus;
import org.apache.hadoop.fs.Path;

/**
 * Holds the input files that storage shows, and their lengths, against their manifests.
 *
 * <p>Spark plans its tasks with lengths before anything is decrypted. Every byte that is read is authentic, but what no task was planned
 * for is not read, and nobody would miss it.
 */
final class InputFiles {
    /** Lengths that the agent told, by path: a file of a dataset is never written again. Spark asks several times for each. */
    private static final Map<String, Long> KNOWN = new ConcurrentHashMap<>();
    private static final int MOST_KNOWN = 1 << 16;

    private InputFiles() {}

    /** A look at storage that may end with FileNotFoundException. */
    interface Look<T> {
        T at() throws IOException;
    }

    /**
     * What {@code look} finds of {@code path}: of an input, storage is not believed that a file is not there.
     *
     * <p>Spark's listings (HadoopFSUtils.listLeafFiles) pass over a FileNotFoundException of a path that they begin with, and so over its rows.
     */
    static <T> T found(Path path, Look<T> look) throws IOException {
        try {
            return look.at();
        } catch (FileNotFoundException missing) {
            if (expectedLength(path) >= 0) {
                throw missing(path);
            }
            throw missing;
        }
    }

    static IOException missing(Path path) {
        return new IOException("[data-integrity] a file of the dataset is missing: " + path.getName());
    }

    /** Returns {@code found}, unless it is an input's file of another length than its manifest says, or a folder in the place of one. */
    static FileStatus checked(FileStatus found) throws IOException {
        long expected = expectedLength(found.getPath());
        if (expected >= 0 && found.isDirectory()) {
            throw missing(found.getPath());
        }
        if (expected >= 0 && expected != found.getLen()) {
            throw new IOException(
                    "[data-integrity] " + found.getPath().getName() + " has another length than its manifest says: " + found.getLen());
        }
        return found;
    }

    /** Returns {@code found}, what {@code path} lists: of an input's file that is itself, and not what a folder in its place holds, be it nothing. */
    static FileStatus[] listed(Path path, FileStatus[] found) throws IOException {
        if (found.length == 1 && found[0].isFile() && nameOf(found[0].getPath()).equals(nameOf(path))) {
            checked(found[0]);
        } else if (expectedLength(path) >= 0) {
            throw missing(path);
        }
        return found;
    }

    private static String nameOf(Path path) {
        return path.toUri().getPath();
    }

    /** Whether the agent said before that {@code path} is a file of an input: then it is no folder of one. */
    static boolean isKnown(Path path) {
        return KNOWN.containsKey(nameOf(path));
    }

    /** The length in the manifest of the input at {@code path}, or -1 if it is none. */
    static long expectedLength(Path path) throws IOException {
        String name = nameOf(path);
        Long known = KNOWN.get(name);
        if (known != null) {
            return known;
        }
        JsonNode answer = AgentClient.here().call("input-length", Map.of("path", name)).path("length");
        if (!answer.isIntegralNumber()) {
            throw new IOException("confide: the agent's answer has no usable field length");
        }
        long length = answer.longValue();
        if (length >= 0) { // a path that is none of an input may become one
            if (KNOWN.size() >= MOST_KNOWN) {
                KNOWN.clear();
            }
            KNOWN.put(name, length);
        }
        return length;
    }
}
