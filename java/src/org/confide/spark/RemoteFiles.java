package org.confide.spark;

import java.io.FileNotFoundException;
import java.io.IOException;
import org.apache.hadoop.fs.FSDataInputStream;
import org.apache.hadoop.fs.FileStatus;
import org.apache.hadoop.fs.FileSystem;
import org.apache.hadoop.fs.Path;

/**
 * Inputs that lie in a remote storage: which files there are, and how long, is what their verified manifests say. No storage is listed, and
 * no folder of this node is looked at, whatever lies there.
 */
final class RemoteFiles {
    /** What the names of such files begin with (REMOTE of confide.jobs.inputs). */
    private static final String ROOT = "/confide-remote/";
    /** Where Spark may split a file, in bytes; as of local files. Its own limits are below or above it. */
    private static final long BLOCK = 32L << 20;

    private RemoteFiles() {}

    static boolean holds(Path path) {
        return path.toUri().getPath().startsWith(ROOT);
    }

    static FSDataInputStream open(Path path, FileSystem.Statistics statistics) throws IOException {
        FileStatus found = status(path);
        if (found.isDirectory()) {
            throw new FileNotFoundException(path + " is a folder");
        }
        return new FSDataInputStream(new RemoteInput(path.toUri().getPath(), found.getLen(), statistics));
    }

    /** What is in a folder of an input, or the file itself. */
    static FileStatus[] list(Path path) throws IOException {
        FileStatus[] listed = InputFolder.listing(null, path);
        return listed != null ? listed : new FileStatus[] {status(path)};
    }

    /** Without a time: manifests have none for single files, and storages' clocks say nothing. */
    static FileStatus status(Path path) throws IOException {
        Path below = new Path("file", null, path.toUri().getPath());
        long length = InputFiles.expectedLength(below);
        if (length < 0 && !InputFolder.isOne(below)) {
            throw new FileNotFoundException("no input has " + path);
        }
        return new FileStatus(Math.max(0, length), length < 0, 1, BLOCK, 0, below);
    }
}
