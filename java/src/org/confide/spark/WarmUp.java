package org.confide.spark;

import java.io.IOException;

/**
 * Runs AES-GCM until the JVM has compiled it.
 *
 * <p>Until then Java 17 does some 0.03 GB/s, afterwards some gigabytes ({@code python -m benchmarks.aead}): the intrinsics are used by compiled
 * code only. It takes about 0.2 s of computing, which an executor has while it waits for the driver. The compiler counts calls and rounds of
 * loops: parts of 16 KiB bring both to their thresholds with half the computing that whole chunks need.
 */
final class WarmUp {
    /** Nobody waits for it, and the compilers of a busy machine take their time. */
    private static final long LIMIT_NANOS = 3_000_000_000L;

    private static final int PART = 1 << 14;
    private static final int ROUNDS = 16;
    /** Compiled code is 60 times as fast and more; one batch may be disturbed, several in a row are the compiler's doing. */
    private static final int GAIN = 16;

    private static final int ENOUGH = 3;

    private final Container container = new Container(new byte[32], new byte[Container.HEADER]);
    private final byte[] plain = new byte[PART];
    private final byte[] sealed = new byte[PART + Container.TAG];
    private long index;

    private WarmUp() {}

    static Thread start() {
        Thread thread = new Thread(() -> new WarmUp().run(), "confide-warm-up");
        thread.setDaemon(true);
        thread.start();
        return thread;
    }

    private void run() {
        long end = System.nanoTime() + LIMIT_NANOS;
        long slow = batch();
        for (int fast = 0; fast < ENOUGH && System.nanoTime() < end; ) {
            fast = batch() * GAIN < slow ? fast + 1 : 0;
        }
    }

    private long batch() {
        long begun = System.nanoTime();
        try {
            for (int i = 0; i < ROUNDS; i++, index++) {
                int length = container.seal(index, false, plain, PART, sealed);
                container.open(index, false, sealed, length, plain, "warm-up");
            }
        } catch (IOException impossible) {
            throw new IllegalStateException("confide: AES-GCM does not work in this JVM", impossible);
        }
        return System.nanoTime() - begun;
    }
}
