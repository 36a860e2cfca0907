package org.confide.spark;

import java.io.EOFException;
import java.io.IOException;
import java.util.Arrays;
import org.apache.hadoop.fs.FSDataInputStream;

/**
 * Reads a container at plaintext offsets (docs/formats/container.md, section 5).
 *
 * <p>The constructor opens the final chunk, so that the length is authenticated before the first byte is returned. After a failure
 * nothing more is returned.
 */
final class ContainerInput extends SizedInput {
    private final FSDataInputStream file;
    private final String path;
    private final Container container;
    private final long chunks;
    private final long length;
    private final byte[] sealed = new byte[Container.SEALED];
    private final byte[] plain = new byte[Container.CHUNK];
    private long current = -1;
    private int filled;
    private boolean failed;

    ContainerInput(FSDataInputStream file, long size, String path) throws IOException {
        this.file = file;
        this.path = path;
        this.chunks = Container.chunks(size, path);
        this.length = Container.plaintextLength(size, path);
        byte[] header = new byte[Container.HEADER];
        file.readFully(0, header);
        Container.checkHeader(header, path);
        FileKey key = FileKey.ofContainer("read-key", path, Container.salt(header));
        Container.checkCommitment(header, key.commitment, path);
        this.container = new Container(key.key, header);
        load(chunks - 1);
    }

    private void load(long index) throws IOException {
        if (index != current) {
            current = -1;
            filled = open(index, plain, 0);
            current = index;
        }
    }

    /** Opens a chunk into {@code target}, and says how long it is. */
    private int open(long index, byte[] target, int offset) throws IOException {
        failed = true;
        int count = plainLength(index);
        try {
            file.seek(Container.HEADER + index * Container.SEALED);
            file.readFully(sealed, 0, count + Container.TAG);
        } catch (EOFException cut) {
            throw Container.broken(path, "the file is shorter than its size said");
        }
        long began = System.nanoTime();
        int opened = container.open(index, index == chunks - 1, sealed, count + Container.TAG, target, offset, path);
        DataCounts.opened(opened, count + Container.TAG, System.nanoTime() - began);
        failed = false;
        return opened;
    }

    private int plainLength(long index) {
        return index == chunks - 1 ? (int) (length - index * Container.CHUNK) : Container.CHUNK;
    }

    @Override
    long length() {
        return length;
    }

    @Override
    int readAt(long position, byte[] buffer, int offset, int wanted) throws IOException {
        if (failed) {
            throw Container.broken(path, "an earlier chunk did not open");
        }
        long index = position / Container.CHUNK;
        int start = (int) (position % Container.CHUNK);
        if (start == 0 && index != current && wanted >= plainLength(index)) {
            return open(index, buffer, offset); // all of it: no copy is kept here
        }
        load(index);
        int count = Math.min(wanted, filled - start);
        System.arraycopy(plain, start, buffer, offset, count);
        return count;
    }

    @Override
    public synchronized void close() throws IOException {
        Arrays.fill(plain, (byte) 0);
        current = -1;
        failed = true;
        file.close();
    }
}
