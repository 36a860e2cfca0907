package org.confide.spark;

import java.io.FilterOutputStream;
import java.io.IOException;
import java.io.OutputStream;
import org.apache.hadoop.fs.FSDataInputStream;
import org.apache.hadoop.fs.FileStatus;
import org.apache.hadoop.fs.LocalFileSystem;
import org.apache.hadoop.fs.Path;
import org.apache.hadoop.fs.permission.FsPermission;

/**
 * {@code file://}, where Spark may create Parquet files only, and those only encrypted (ConfideCryptoFactory): by a mis-set option they would
 * be plaintext, and by the first bytes that is known before any other reaches the disk.
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

    private static final class Guarded extends LocalFiles {
        private static final String LOCAL_DIRS = System.getenv("SPARK_LOCAL_DIRS");

        /** Every way to create or append to a file ends here. */
        @Override
        protected OutputStream createOutputStreamWithMode(Path path, boolean append, FsPermission permission) throws IOException {
            String name = path.getName();
            boolean inMemory = isInMemory(path);
            if (append || !(name.endsWith(".parquet") || inMemory)) {
                throw new IOException("[plaintext-found] " + name + " would be written in plaintext: write to enc:// or as Parquet");
            }
            OutputStream file = super.createOutputStreamWithMode(path, append, permission);
            return inMemory ? file : new EncryptedParquet(file, name);
        }

        /** Spark's local folders are the node's memory (SparkNode in confide.jobs.engines.spark): RocksDB loads a stream's state there. */
        private static boolean isInMemory(Path path) {
            java.nio.file.Path place = java.nio.file.Path.of(path.toUri().getPath()).normalize();
            return LOCAL_DIRS != null && place.startsWith(LOCAL_DIRS);
        }

        /** A table of an input in a remote storage comes from the agent. */
        @Override
        public FSDataInputStream open(Path path, int bufferSize) throws IOException {
            return RemoteFiles.holds(path) ? RemoteFiles.open(path, statistics) : super.open(path, bufferSize);
        }

        /** Listings end here as well. Other files than tables are none of a run's data, and Spark asks for many of them. */
        @Override
        public FileStatus getFileStatus(Path path) throws IOException {
            if (RemoteFiles.holds(path)) {
                return RemoteFiles.status(path);
            }
            if (!path.getName().endsWith(".parquet")) {
                return super.getFileStatus(path);
            }
            return InputFiles.checked(InputFiles.found(path, () -> super.getFileStatus(path)));
        }

        @Override
        public FileStatus[] listStatus(Path path) throws IOException {
            if (RemoteFiles.holds(path)) {
                return RemoteFiles.list(path);
            }
            FileStatus[] listed = InputFolder.listing(this, path);
            return listed != null ? listed : InputFiles.listed(path, InputFiles.found(path, () -> super.listStatus(path)));
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

    /** Takes nothing but a Parquet file with an encrypted footer (magic {@code PARE}); a plain one begins with {@code PAR1}. */
    private static final class EncryptedParquet extends FilterOutputStream {
        private static final byte[] MAGIC = {'P', 'A', 'R', 'E'};
        private final String name;
        private int seen;
        private boolean refused;

        EncryptedParquet(OutputStream file, String name) {
            super(file);
            this.name = name;
        }

        @Override
        public void write(int value) throws IOException {
            write(new byte[] {(byte) value}, 0, 1);
        }

        @Override
        public void write(byte[] data, int offset, int count) throws IOException {
            for (int i = 0; seen < MAGIC.length && i < count; i++, seen++) {
                if (refused || data[offset + i] != MAGIC[seen]) {
                    refused = true;
                    throw new IOException("[plaintext-found] " + name + " would be written in plaintext: it is not encrypted Parquet");
                }
            }
            out.write(data, offset, count);
        }
    }
}
