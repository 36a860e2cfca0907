package org.confide.spark;

import java.io.IOException;
import java.lang.management.ManagementFactory;
import java.lang.management.ThreadMXBean;
import java.util.Arrays;

/**
 * How fast this JVM seals and opens chunks between its buffers, in GB a CPU second: {@code seal|open X}, one a line.
 *
 * <p>{@code first}: its first 16 MiB. {@code warmed-up}: the first 16 MiB after the executors' warm-up. {@code warm}: the best of many rounds.
 */
final class AeadSpeed {
    private static final int CHUNKS = 256;
    private static final int ROUNDS = 60;
    private static final ThreadMXBean CLOCK = ManagementFactory.getThreadMXBean();

    private final Container container = new Container(new byte[32], new byte[Container.HEADER]);
    private final byte[] plain = new byte[Container.CHUNK];
    private final byte[] sealed = new byte[Container.SEALED];

    /** The JDK refuses to seal under one nonce twice in a row. */
    private long index;

    private AeadSpeed() {}

    public static void main(String[] arguments) throws Exception {
        boolean warm = arguments[0].equals("warm");
        AeadSpeed speed = new AeadSpeed();
        if (arguments[0].equals("warmed-up")) {
            WarmUp.start().join();
        }
        double[] best = new double[2];
        for (int round = 0; round < (warm ? ROUNDS : 1); round++) {
            best[0] = Math.max(best[0], speed.seal());
            best[1] = Math.max(best[1], speed.open());
        }
        System.out.println("seal " + best[0] + "\nopen " + best[1]);
    }

    private double seal() throws IOException {
        long begun = CLOCK.getCurrentThreadCpuTime();
        for (int round = 0; round < CHUNKS; round++) {
            container.seal(index++, false, plain, plain.length, sealed);
        }
        return rate(begun);
    }

    private double open() throws IOException {
        byte[] chunk = Arrays.copyOf(sealed, container.seal(index, false, plain, plain.length, sealed));
        long begun = CLOCK.getCurrentThreadCpuTime();
        for (int round = 0; round < CHUNKS; round++) {
            container.open(index, false, chunk, chunk.length, plain, 0, "speed");
        }
        index++;
        return rate(begun);
    }

    private static double rate(long begun) {
        return (double) CHUNKS * Container.CHUNK / (CLOCK.getCurrentThreadCpuTime() - begun);
    }
}
