package org.confide.spark;

import com.fasterxml.jackson.databind.JsonNode;
import java.io.FileNotFoundException;
import java.io.IOException;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.apache.hadoop.fs.FileStatus;
import org.apache.hadoop.fs.FileSystem;
import org.apache.hadoop.fs.Path;

/**
 * Lists folders of inputs as their manifests have them, not as storage shows them.
 *
 * <p>A batch names its files one by one; a stream looks into the folder. What storage leaves out of a listing would be missed by nobody,
 * and what it, or a writer at work, adds belongs to no snapshot of the job.
 */
final class InputFolder {
    private InputFolder() {}

    /** What is in {@code folder} of {@code local} (which a remote one does not need), or null if it is no folder of an input. A listed file that is not there is an error. */
    static FileStatus[] listing(FileSystem local, Path folder) throws IOException {
        List<FileStatus> found = new ArrayList<>();
        String last = "";
        while (true) {
            JsonNode names = names(folder, last);
            if (names == null) {
                return null;
            }
            if (names.isEmpty()) {
                return found.toArray(new FileStatus[0]);
            }
            for (JsonNode name : names) {
                last = name.asText();
                found.add(shown(local, new Path(folder, last)));
            }
        }
    }

    /** Whether {@code folder} is one of an input. */
    static boolean isOne(Path folder) throws IOException {
        return names(folder, "") != null;
    }

    private static JsonNode names(Path folder, String after) throws IOException {
        if (InputFiles.isKnown(folder)) { // Spark lists each file that it was given
            return null;
        }
        JsonNode names = AgentClient.here().call("input-listing", Map.of("path", folder.toUri().getPath(), "after", after)).path("names");
        if (names.isNull()) {
            return null;
        }
        if (!names.isArray()) {
            throw new IOException("confide: the agent's answer has no usable field names");
        }
        return names;
    }

    /** Not FileNotFoundException: Spark takes a folder in which it meets one for empty (InputFiles). */
    private static FileStatus shown(FileSystem local, Path listed) throws IOException {
        try {
            return RemoteFiles.holds(listed) ? RemoteFiles.status(listed) : local.getFileStatus(listed);
        } catch (FileNotFoundException missing) {
            throw InputFiles.missing(listed);
        }
    }
}
