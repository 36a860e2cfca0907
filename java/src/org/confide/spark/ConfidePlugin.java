package org.confide.spark;

import java.util.Map;
import org.apache.spark.api.plugin.DriverPlugin;
import org.apache.spark.api.plugin.ExecutorPlugin;
import org.apache.spark.api.plugin.PluginContext;
import org.apache.spark.api.plugin.SparkPlugin;

/** Puts what {@link DataCounts} counts into Spark's metrics, as {@code plugin.org.confide.spark.ConfidePlugin.*} of each executor. */
public final class ConfidePlugin implements SparkPlugin {
    @Override
    public DriverPlugin driverPlugin() {
        return null;
    }

    @Override
    public ExecutorPlugin executorPlugin() {
        return new ExecutorPlugin() {
            @Override
            public void init(PluginContext context, Map<String, String> settings) {
                DataCounts.register(context.metricRegistry());
            }
        };
    }
}
