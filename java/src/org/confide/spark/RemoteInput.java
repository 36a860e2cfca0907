package org.confide.spark;

import java.io.IOException;
import java.util.Map;
import org.apache.hadoop.fs.FileSystem;

/**
 * An encrypted file of an input in a remote storage, by ranges that this node's agent fetches ({@code input-range}).
 *
 * <p>The storage's credential is the agent's alone. What comes is as the storage gave it, still encrypted: who reads authenticates it as it
 * does a local file. How much is asked for at one time is by how it is read: a footer's place brings the file's end, a jump a little more
 * than was wanted, and reading on ever more, so that neither a column of a table nor a long text waits for each 64 KiB.
 */
final class RemoteInput extends SizedInput {
    /** Bytes of one question. Its answer is base64, and is held here as text for a moment. */
    static final int MOST = 4 << 20;
    /** Files up to this length are fetched as a whole. */
    private static final int SMALL = 1 << 20;
    /** Bytes after a jump: two chunks of a container. */
    private static final int FIRST = 2 * Container.SEALED;
    /** Bytes that come with anything near the end: most footers of Parquet, and a container's last chunk. */
    private static final int TAIL = Container.SEALED;

    private final String path;
    private final long size;
    private final FileSystem.Statistics statistics;
    private byte[] held = new byte[0];
    /** Where {@code held} begins in the file. */
    private long from;
    private int window = FIRST;
    private boolean closed;

    /** @param size the length that the verified manifest has: the agent gives ranges of a file of that length only. */
    RemoteInput(String path, long size, FileSystem.Statistics statistics) {
        this.path = path;
        this.size = size;
        this.statistics = statistics;
    }

    @Override
    long length() {
        return size;
    }

    @Override
    int readAt(long position, byte[] buffer, int offset, int wanted) throws IOException {
        if (closed) {
            throw new IOException("confide: " + path + " is closed");
        }
        if (position < from || position >= from + held.length) {
            fetch(position, wanted);
        }
        int start = (int) (position - from);
        int count = Math.min(wanted, held.length - start);
        System.arraycopy(held, start, buffer, offset, count);
        if (statistics != null) {
            statistics.incrementBytesRead(count); // what a task got, as of a local file: not what was read ahead
        }
        return count;
    }

    private void fetch(long position, int wanted) throws IOException {
        boolean on = held.length > 0 && position == from + held.length;
        window = on ? Math.min(MOST, 2 * window) : FIRST;
        long start = position;
        int length;
        if (size <= SMALL) {
            start = 0;
            length = (int) size;
        } else if (position >= size - TAIL) {
            start = size - TAIL;
            length = TAIL;
        } else {
            length = (int) Math.min(size - start, Math.min(MOST, Math.max(window, wanted)));
        }
        held = new byte[0]; // if the question fails, nothing is held
        byte[] data = AgentClient.here().call("input-range", Map.of("path", path, "start", start, "length", length)).path("data").binaryValue();
        if (data == null || data.length != length) {
            throw new IOException("confide: the agent's answer is no range of " + length + " bytes");
        }
        held = data;
        from = start;
    }

    @Override
    public synchronized void close() {
        closed = true;
        held = new byte[0];
    }
}
