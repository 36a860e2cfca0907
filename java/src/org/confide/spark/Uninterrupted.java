package org.confide.spark;

import java.io.IOException;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.FutureTask;

/**
 * Steps that are done whole or not begun, also while somebody interrupts the thread that asks for them.
 *
 * <p>Spark interrupts a query's thread to stop it, and a task's to kill it. An interrupt closes the channel to the agent (JDK,
 * InterruptibleChannel): the agent would have heard of something that is then not done, and a query that is started again would miss a file
 * that never was.
 */
final class Uninterrupted {
    private Uninterrupted() {}

    /** What is to be done. */
    interface Steps<T> {
        T run() throws IOException;
    }

    /** Does {@code steps} in a thread that nobody interrupts. An interrupt that comes meanwhile is the caller's afterwards. */
    static <T> T call(Steps<T> steps) throws IOException {
        FutureTask<T> task = new FutureTask<>(steps::run);
        Thread thread = new Thread(task, "confide-steps");
        thread.setDaemon(true);
        thread.start();
        boolean interrupted = false;
        try {
            while (true) {
                try {
                    return task.get();
                } catch (InterruptedException meanwhile) {
                    interrupted = true;
                } catch (ExecutionException failed) {
                    throw thrown(failed.getCause());
                }
            }
        } finally {
            if (interrupted) {
                Thread.currentThread().interrupt();
            }
        }
    }

    private static IOException thrown(Throwable cause) {
        if (cause instanceof RuntimeException unchecked) {
            throw unchecked;
        }
        if (cause instanceof Error error) {
            throw error;
        }
        return cause instanceof IOException io ? io : new IOException(cause);
    }
}
