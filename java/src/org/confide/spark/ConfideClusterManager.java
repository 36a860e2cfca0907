package org.confide.spark;

import org.apache.spark.SparkContext;
import org.apache.spark.scheduler.ExternalClusterManager;
import org.apache.spark.scheduler.SchedulerBackend;
import org.apache.spark.scheduler.TaskScheduler;
import org.apache.spark.scheduler.TaskSchedulerImpl;

/**
 * Spark master {@code confide}: executors are started by the agents of attested nodes and register themselves.
 *
 * <p>No Spark Master or Worker daemon runs: fewer JVMs, no web interfaces, and nobody who passes the authentication secret in an
 * environment, as Spark's own Worker does.
 */
public final class ConfideClusterManager implements ExternalClusterManager {
    static final String MASTER = "confide";

    @Override
    public boolean canCreate(String master) {
        return MASTER.equals(master);
    }

    @Override
    public TaskScheduler createTaskScheduler(SparkContext context, String master) {
        AuthSecret.forgetPlaceholder(context.conf());
        return new TaskSchedulerImpl(context);
    }

    @Override
    public SchedulerBackend createSchedulerBackend(SparkContext context, String master, TaskScheduler scheduler) {
        return new ConfideSchedulerBackend((TaskSchedulerImpl) scheduler, context);
    }

    @Override
    public void initialize(TaskScheduler scheduler, SchedulerBackend backend) {
        ((TaskSchedulerImpl) scheduler).initialize(backend);
    }
}
