package org.confide.spark;

import java.io.IOException;
import java.io.OutputStream;
import org.apache.hadoop.fs.FileStatus;
import org.apache.hadoop.fs.LocalFileSystem;
import org.apache.hadoop.fs.Path;
import org.apache.hadoop.fs.RawLocalFileSystem;
import org.apache.hadoop.fs.permission.FsPermission;

/**
 * {@code file://}, where Spark may create Parquet files only: those are encrypted (ConfideCryptoFactory).
 *
 * <p>Guards against accidents: CSV, JSON, text or a checkpoint written to a plain path would be plaintext on disk. A program that writes
 * with means of its own is beyond it; the owners of the data approve what a program does. Keeps no checksum files: encryption
 * authenticates better.
 */
public final class EncryptedOnlyFileSystem extends LocalFileSystem {
    public EncryptedOnlyFileSystem() {
        super(new Guarded());
        setWriteChecksum(false);
        setVerifyChecksum(false);
    }

    private static final class Guarded extends RawLocalFileSystem {
        private static final String LOCAL_DIRS = System.getenv("SPARK_LOCAL_DIRS");

        /** Every way to create or append to a file ends here. */
        @Override
        protected OutputStream createOutputStreamWithMode(Path path, boolean append, FsPermission permission) throws IOException {
            String name = path.getName();
            if (append || !(name.endsWith(".parquet") || isInMemory(path))) {
                throw new IOException("[plaintext-found] " + name + " would be written in plaintext: write to enc:// or as Parquet");
            }
            return super.createOutputStreamWithMode(path, append, permission);
        }

        /** Spark's local folders are the node's memory (SparkNode in confide.jobs.engines.spark): RocksDB loads a stream's state there. */
        private static boolean isInMemory(Path path) {
            java.nio.file.Path place = java.nio.file.Path.of(path.toUri().getPath()).normalize();
            return LOCAL_DIRS != null && place.startsWith(LOCAL_DIRS);
        }

        /** Listings end here as well. Other files than tables are none of a run's data, and Spark asks for many of them. */
        @Override
        public FileStatus getFileStatus(Path path) throws IOException {
            FileStatus found = super.getFileStatus(path);
            return found.isFile() && path.getName().endsWith(".parquet") ? InputFiles.checked(found) : found;
        }

        @Override
        public FileStatus[] listStatus(Path path) throws IOException {
            FileStatus[] listed = InputFolder.listing(this, path);
            return listed != null ? listed : super.listStatus(path);
        }

        @Override
        public boolean rename(Path from, Path to) throws IOException {
            OutputFiles.announceRename(from, to);
            return super.rename(from, to);
        }

        @Override
        public boolean delete(Path path, boolean recursive) throws IOException {
            OutputFiles.announceDelete(path);
            return super.delete(path, recursive);
        }
    }
}
