package org.confide.spark;

import com.codahale.metrics.Gauge;
import com.codahale.metrics.Histogram;
import com.codahale.metrics.MetricRegistry;
import com.codahale.metrics.UniformReservoir;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.atomic.LongAdder;
import org.apache.spark.TaskContext;
import org.apache.spark.executor.TaskMetrics;

/**
 * How much this JVM's tasks read and wrote of datasets, and how long the containers' cipher took: for Spark's metrics and for the receipt.
 *
 * <p>Counted by chunk and by file, never by row or byte. A task is counted when it ends, whatever its end: what counts is work. Rows, and
 * the bytes of Parquet files (whose cipher is inside Spark's reader, and is not timed), are Spark's own task metrics.
 */
final class DataCounts {
    private static final DataCounts HERE = new DataCounts();
    private static final long MICRO = 1000;

    private final Map<String, LongAdder> totals = new LinkedHashMap<>();
    private final ConcurrentHashMap<Long, Task> running = new ConcurrentHashMap<>();
    private final Histogram openMicros = new Histogram(new UniformReservoir());
    private final Histogram sealMicros = new Histogram(new UniformReservoir());

    /** What one task did so far. Its threads may be several. */
    private static final class Task {
        final LongAdder opened = new LongAdder();
        final LongAdder openedSealed = new LongAdder();
        final LongAdder openNanos = new LongAdder();
        final LongAdder sealed = new LongAdder();
        final LongAdder sealNanos = new LongAdder();
        final LongAdder parquetRead = new LongAdder();
        final LongAdder parquetWritten = new LongAdder();
    }

    private DataCounts() {
        for (String name : new String[] {"tasks", "rows_read", "rows_written", "bytes_read", "bytes_written", "open_us", "seal_us"}) {
            totals.put(name, new LongAdder());
        }
    }

    /** A chunk of {@code plain} bytes was opened, which are {@code sealed} in its file. */
    static void opened(int plain, int sealed, long nanos) {
        Task task = HERE.task();
        if (task != null) {
            task.opened.add(plain);
            task.openedSealed.add(sealed);
            task.openNanos.add(nanos);
        }
    }

    /** A chunk of {@code plain} bytes was sealed. */
    static void sealed(int plain, long nanos) {
        Task task = HERE.task();
        if (task != null) {
            task.sealed.add(plain);
            task.sealNanos.add(nanos);
        }
    }

    /** The key of a Parquet file was asked for. */
    static void parquet(boolean read) {
        Task task = HERE.task();
        if (task != null) {
            (read ? task.parquetRead : task.parquetWritten).increment();
        }
    }

    static void register(MetricRegistry registry) {
        HERE.totals.forEach((name, total) -> registry.register(name, (Gauge<Long>) total::sum));
        registry.register("open_us_per_task", HERE.openMicros);
        registry.register("seal_us_per_task", HERE.sealMicros);
    }

    private Task task() {
        TaskContext context = TaskContext.get();
        if (context == null || context.isCompleted()) { // what a task still does while it is cleaned up after is not counted
            return null;
        }
        Task known = running.get(context.taskAttemptId());
        return known != null ? known : begin(context);
    }

    private Task begin(TaskContext context) {
        Task made = new Task();
        Task other = running.putIfAbsent(context.taskAttemptId(), made);
        if (other != null) {
            return other;
        }
        context.addTaskCompletionListener(this::end);
        return made;
    }

    private void end(TaskContext context) {
        Task task = running.remove(context.taskAttemptId());
        TaskMetrics spark = context.taskMetrics();
        long parquetRead = task.parquetRead.sum() == 0 ? 0 : Math.max(0, spark.inputMetrics().bytesRead() - task.openedSealed.sum());
        long parquetWritten = task.parquetWritten.sum() == 0 ? 0 : spark.outputMetrics().bytesWritten();
        add("tasks", 1);
        add("rows_read", spark.inputMetrics().recordsRead());
        add("rows_written", spark.outputMetrics().recordsWritten());
        add("bytes_read", task.opened.sum() + parquetRead);
        add("bytes_written", task.sealed.sum() + parquetWritten);
        add("open_us", task.openNanos.sum() / MICRO);
        add("seal_us", task.sealNanos.sum() / MICRO);
        openMicros.update(task.openNanos.sum() / MICRO);
        sealMicros.update(task.sealNanos.sum() / MICRO);
        report();
    }

    private void add(String name, long count) {
        totals.get(name).add(count);
    }

    /** Tells the agent the totals: before Spark counts the task as ended, so that a run's receipt has all of them. */
    private synchronized void report() {
        Map<String, Long> counts = new LinkedHashMap<>();
        totals.forEach((name, total) -> counts.put(name, total.sum()));
        try {
            AgentClient.here().call("data-counts", Map.of("counts", counts));
        } catch (IOException failed) {
            throw new UncheckedIOException("confide: the agent did not take this node's counts", failed);
        }
    }
}
