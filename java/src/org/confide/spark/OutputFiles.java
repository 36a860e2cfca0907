package org.confide.spark;

import java.io.FileNotFoundException;
import java.io.IOException;
import java.util.HashSet;
import java.util.Map;
import java.util.Set;
import org.apache.hadoop.fs.Path;

/**
 * Tells this node's agent what becomes of files of the run's outputs, before it is done: what agents were not told did not happen.
 *
 * <p>The driver's agent compares an output with what it heard when it commits: storage that loses a file, or brings one back, is noticed.
 */
final class OutputFiles {
    /** Part of the name of every output's staging folder (confide.jobs.staging). */
    private static final String MARK = ".staging-";

    /** Folders of Spark's StreamExecution and FileStreamSinkLog. */
    private static final Set<String> LOGS = Set.of("offsets", "commits", "_spark_metadata");
    private static final String SOURCES = "sources";

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

    /**
     * What {@code look} finds of {@code path}: of a streaming query's log, storage is not believed that a file is not there which is.
     *
     * <p>A query takes a missing file of its log for a batch that has not begun, or has not ended.
     */
    static <T> T found(Path path, InputFiles.Look<T> look) throws IOException {
        try {
            return look.at();
        } catch (FileNotFoundException missing) {
            if (!known(path.getParent()).contains(path.getName())) {
                throw missing;
            }
        }
        try {
            return look.at();
        } catch (FileNotFoundException missing) {
            requireShown(path.getParent(), Set.of(path.getName()), Set.of());
            throw missing;
        }
    }

    /** Holds what storage lists of a log's folder against what was known to be there before, and still is. */
    static void requireShown(Path folder, Set<String> before, Set<String> shown) throws IOException {
        if (shown.containsAll(before)) {
            return;
        }
        Set<String> after = known(folder);
        for (String name : before) {
            if (after.contains(name) && !shown.contains(name)) {
                throw new IOException("[data-integrity] storage does not show a file of a query's log: " + folder.getName() + "/" + name);
            }
        }
    }

    /** The files that are in {@code folder} by what the driver did, if that is a folder of a query's log; else nothing. */
    static Set<String> known(Path folder) throws IOException {
        if (folder == null || !concerned(folder) || !isLog(folder)) {
            return Set.of();
        }
        Set<String> names = new HashSet<>();
        AgentClient.here().call("output-listing", Map.of("path", text(folder))).path("names").forEach(name -> names.add(name.asText()));
        names.removeIf(ConfideFileSystem::isUnfinished);
        return names;
    }

    private static boolean isLog(Path folder) {
        return LOGS.contains(folder.getName()) || (folder.getParent() != null && SOURCES.equals(folder.getParent().getName()));
    }

    private static boolean concerned(Path path) {
        return text(path).contains(MARK);
    }

    private static String text(Path path) {
        return path.toUri().getPath();
    }
}
