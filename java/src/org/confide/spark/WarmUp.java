package org.confide.spark;

import java.io.IOException;

/**
 * Runs AES-GCM until the JVM has compiled it.
 *
 * <p>Until then Java 17 does 0.05 GB/s, afterwards 4 GB/s and more: the intrinsics are used by compiled code only. Takes about 0.2 s, which an
 * executor has while it waits for the driver.
 */
final class WarmUp {
    private static final long LIMIT_NANOS = 300_000_000L;
    private static final int ROUNDS = 200;

    private WarmUp() {}

    static Thread start() {
        Thread thread = new Thread(WarmUp::run, "confide-warm-up");
        thread.setDaemon(true);
        thread.start();
        return thread;
    }

    private static void run() {
        byte[] plain = new byte[Container.CHUNK];
        byte[] sealed = new byte[Container.SEALED];
        long end = System.nanoTime() + LIMIT_NANOS;
        try {
            Container container = new Container(new byte[32], new byte[Container.HEADER]);
            for (int i = 0; i < ROUNDS && System.nanoTime() < end; i++) {
                int length = container.seal(i, false, plain, plain.length, sealed);
                container.open(i, false, sealed, length, plain, "warm-up");
            }
        } catch (IOException impossible) {
            throw new IllegalStateException("confide: AES-GCM does not work in this JVM", impossible);
        }
    }
}
