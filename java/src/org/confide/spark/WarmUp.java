package org.confide.spark;

import java.io.IOException;
import org.codehaus.commons.compiler.CompileException;
import org.codehaus.janino.ClassBodyEvaluator;

/**
 * Does what every executor will need, while it waits for the driver: runs AES-GCM until the JVM has compiled it, and compiles a first class.
 *
 * <p>Until then Java 17 does some 0.03 GB/s, afterwards some gigabytes ({@code python -m benchmarks.aead}): the intrinsics are used by compiled
 * code only. It takes about 0.2 s of computing. The compiler counts calls and rounds of loops: parts of 16 KiB bring both to their thresholds
 * with half the computing that whole chunks need.
 *
 * <p>Spark makes Java source of a query's operators. Janino, which compiles it, is in a signed jar, whose classes are verified one by one and
 * in no class-data archive: without this, a session's first query waits for that.
 */
final class WarmUp {
    /** Nobody waits for it, and the compilers of a busy machine take their time. */
    private static final long LIMIT_NANOS = 3_000_000_000L;

    private static final int PART = 1 << 14;
    private static final int ROUNDS = 16;
    /** Compiled code is 60 times as fast and more; one batch may be disturbed, several in a row are the compiler's doing. */
    private static final int GAIN = 16;

    private static final int ENOUGH = 3;

    /** A little of what generated code has: it is compiled, and never run. */
    private static final String CODE =
            """
            public Object generate(Object[] references) { return new Rows(references); }

            static final class Rows {
              private final Object[] references;
              private final int[] kept = new int[8];
              private long count;

              Rows(Object[] references) { this.references = references; }

              private void add(long value, boolean isNull) throws java.io.IOException {
                do {
                  if (!isNull && value != -1L) { kept[(int) (value & 7)] += (int) value; count++; } else { break; }
                  value >>>= 1;
                } while (value > 0);
                for (int i = 0; i < kept.length; i++) { if (kept[i] < 0) { throw new RuntimeException("negative " + i); } }
              }
            }
            """;

    private final Container container = new Container(new byte[32], new byte[Container.HEADER]);
    private final byte[] plain = new byte[PART];
    private final byte[] sealed = new byte[PART + Container.TAG];
    private long index;

    private WarmUp() {}

    static Thread start() {
        Thread thread = new Thread(WarmUp::all, "confide-warm-up");
        thread.setDaemon(true);
        thread.start();
        return thread;
    }

    private static void all() {
        new WarmUp().cipher();
        compiler();
    }

    private static void compiler() {
        ClassBodyEvaluator compiler = new ClassBodyEvaluator();
        compiler.setParentClassLoader(WarmUp.class.getClassLoader());
        try {
            compiler.cook(CODE);
        } catch (CompileException impossible) {
            throw new IllegalStateException("confide: no code can be compiled in this JVM", impossible);
        }
    }

    private void cipher() {
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
                container.open(index, false, sealed, length, plain, 0, "warm-up");
            }
        } catch (IOException impossible) {
            throw new IllegalStateException("confide: AES-GCM does not work in this JVM", impossible);
        }
        return System.nanoTime() - begun;
    }
}
