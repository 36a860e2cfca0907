package org.confide.spark;

import com.fasterxml.jackson.databind.JsonNode;
import java.util.Map;
import org.apache.spark.executor.CoarseGrainedExecutorBackend;

/**
 * A Spark executor of an attested node: {@code ExecutorMain <config.json>}.
 *
 * <p>Starts while the driver still does, warms up, then asks the agent where the driver is. The agent answers once it knows, and by then
 * has put the authentication secret into its private file.
 */
public final class ExecutorMain {
    private ExecutorMain() {}

    public static void main(String[] args) throws Exception {
        NodeConfig config = NodeConfig.load(args[0]);
        WarmUp.start();
        JsonNode driver = AgentClient.here().call("await-driver", Map.of());
        AuthSecret.install(config.path("secret_file"));
        CoarseGrainedExecutorBackend.main(
                new String[] {
                    "--driver-url", "spark://CoarseGrainedScheduler@" + driver.path("host").asText() + ":" + driver.path("port").asInt(),
                    "--executor-id", config.text("executor_id"),
                    "--bind-address", config.text("host"),
                    "--hostname", config.text("host"),
                    "--cores", config.text("cores"),
                    "--app-id", config.text("app_id"),
                    "--resourceProfileId", "0",
                });
    }
}
