package org.confide.spark;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.util.Map;
import org.apache.spark.SparkContext;
import org.apache.spark.scheduler.TaskSchedulerImpl;
import org.apache.spark.scheduler.cluster.CoarseGrainedSchedulerBackend;

/** Waits for executors and schedules on those that register; tells the agent where the driver listens once it does. */
final class ConfideSchedulerBackend extends CoarseGrainedSchedulerBackend {
    private final SparkContext context;

    ConfideSchedulerBackend(TaskSchedulerImpl scheduler, SparkContext context) {
        super(scheduler, context.env().rpcEnv());
        this.context = context;
    }

    @Override
    public String applicationId() {
        return context.conf().get("spark.app.id");
    }

    @Override
    public void start() {
        super.start();
        int port = Integer.parseInt(context.conf().get("spark.driver.port"));
        try {
            AgentClient.here().call("driver-ready", Map.of("host", context.conf().get("spark.driver.host"), "port", port));
        } catch (IOException failed) {
            throw new UncheckedIOException("confide: the agent did not take the driver's address", failed);
        }
    }
}
