package org.confide.spark;

import java.io.IOException;
import java.io.OutputStream;
import java.util.Arrays;

/**
 * Writes a container (docs/formats/container.md, section 6): a full chunk is held back until it is known whether it is the last.
 *
 * <p>{@code close} seals the final chunk. What an aborted task leaves lies under the committer's temporary folder and is never listed in a
 * manifest.
 */
final class ContainerOutput extends OutputStream {
    private final OutputStream file;
    private final Container container;
    private final byte[] plain = new byte[Container.CHUNK];
    private final byte[] sealed = new byte[Container.SEALED];
    private int filled;
    private long index;
    private boolean closed;
    private boolean failed;

    ContainerOutput(OutputStream file, byte[] key, byte[] header) throws IOException {
        this.file = file;
        this.container = new Container(key, header);
        file.write(header);
    }

    @Override
    public synchronized void write(int value) throws IOException {
        write(new byte[] {(byte) value}, 0, 1);
    }

    @Override
    public synchronized void write(byte[] data, int offset, int count) throws IOException {
        if (closed) {
            throw new IOException("confide: the file is closed");
        }
        int from = offset;
        int left = count;
        while (left > 0) {
            if (filled == Container.CHUNK) {
                put(false);
            }
            int step = Math.min(left, Container.CHUNK - filled);
            System.arraycopy(data, from, plain, filled, step);
            filled += step;
            from += step;
            left -= step;
        }
    }

    private void put(boolean last) throws IOException {
        if (failed) {
            throw new IOException("confide: an earlier write failed: the container is incomplete");
        }
        failed = true;
        long began = System.nanoTime();
        int length = container.seal(index, last, plain, filled, sealed);
        DataCounts.sealed(filled, System.nanoTime() - began);
        file.write(sealed, 0, length);
        failed = false;
        index++;
        filled = 0;
    }

    @Override
    public synchronized void flush() throws IOException {
        file.flush();
    }

    @Override
    public synchronized void close() throws IOException {
        if (closed) {
            return;
        }
        closed = true;
        try {
            put(true);
        } finally {
            Arrays.fill(plain, (byte) 0);
            file.close();
        }
    }
}
