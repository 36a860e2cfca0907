package org.confide.spark;

import java.io.IOException;
import java.util.Map;
import org.apache.hadoop.fs.Path;

/**
 * Tells this node's agent what becomes of files of the run's outputs, before it is done: what agents were not told did not happen.
 *
 * <p>The driver's agent compares an output with what it heard when it commits: storage that loses a file, or brings one back, is noticed.
 */
final class OutputFiles {
    /** Part of the name of every output's staging folder (confide.jobs.staging). */
    private static final String MARK = ".staging-";

    private OutputFiles() {}

    static void announceRename(Path from, Path to) throws IOException {
        if (concerned(from) || concerned(to)) {
            AgentClient.here().call("file-renamed", Map.of("from", text(from), "to", text(to)));
        }
    }

    static void announceDelete(Path path) throws IOException {
        if (concerned(path)) {
            AgentClient.here().call("file-deleted", Map.of("path", text(path)));
        }
    }

    private static boolean concerned(Path path) {
        return text(path).contains(MARK);
    }

    private static String text(Path path) {
        return path.toUri().getPath();
    }
}
