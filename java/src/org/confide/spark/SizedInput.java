package org.confide.spark;

import java.io.EOFException;
import java.io.IOException;
import org.apache.hadoop.fs.FSInputStream;

/** A stream whose length is known when it is opened: a reader can be anywhere in it, and nowhere else. */
abstract class SizedInput extends FSInputStream {
    private long position;

    /** Bytes of all. */
    abstract long length();

    /** Puts at least one and at most {@code wanted} bytes, those from {@code position} on, into {@code buffer}; it is inside the stream. */
    abstract int readAt(long position, byte[] buffer, int offset, int wanted) throws IOException;

    @Override
    public final synchronized int read() throws IOException {
        byte[] one = new byte[1];
        return read(one, 0, 1) < 0 ? -1 : one[0] & 0xff;
    }

    @Override
    public final synchronized int read(byte[] buffer, int offset, int wanted) throws IOException {
        if (wanted == 0) {
            return 0;
        }
        if (position >= length()) {
            return -1;
        }
        int count = readAt(position, buffer, offset, wanted);
        position += count;
        return count;
    }

    @Override
    public final synchronized void seek(long target) throws IOException {
        if (target < 0 || target > length()) {
            throw new EOFException("cannot seek to " + target + " in a file of " + length() + " bytes");
        }
        position = target;
    }

    @Override
    public final synchronized long getPos() {
        return position;
    }

    @Override
    public final synchronized int available() {
        return (int) Math.min(Integer.MAX_VALUE, length() - position);
    }

    @Override
    public final boolean seekToNewSource(long target) {
        return false;
    }
}
