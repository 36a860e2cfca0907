package org.confide.spark;

import java.io.IOException;
import java.net.InetAddress;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.concurrent.TimeUnit;
import org.apache.spark.SparkConf;
import org.apache.spark.api.java.JavaSparkContext;
import org.apache.spark.sql.SparkSession;
import py4j.CallbackClient;
import py4j.GatewayServer;

/**
 * The driver's JVM: {@code DriverMain <config.json>}. Makes the Spark context, then offers it to the user's program.
 *
 * <p>Unlike Spark's PythonGatewayServer it starts the context by itself, while workers are still being attested, so that the program
 * cannot change how Spark is protected; its gateway listens on a unix socket in the node's private folder, because results that a
 * program shows would cross loopback TCP in plaintext; and the authentication secret comes from a private file.
 */
public final class DriverMain {
    private final JavaSparkContext context;

    private DriverMain(JavaSparkContext context) {
        this.context = context;
    }

    /** The entry point that confide.data.spark asks for. */
    public JavaSparkContext context() {
        return context;
    }

    /** Before the output in {@code folder} is committed: see {@link StreamOutput}. */
    public void settle(String folder, String checkpoints) throws IOException {
        StreamOutput.settle(SparkSession.active(), new org.apache.hadoop.fs.Path(folder), new org.apache.hadoop.fs.Path(checkpoints));
    }

    public static void main(String[] args) throws Exception {
        NodeConfig config = NodeConfig.load(args[0]);
        AuthSecret.install(config.path("secret_file"));
        AuthSecret.setPlaceholder();
        JavaSparkContext context = new JavaSparkContext(new SparkConf());
        String token = Files.readString(config.path("gateway_token_file")).strip();
        Path socket = config.path("gateway_socket");
        // Not ClientServer, which takes a socket factory and then does not use it. Both give each connection a thread of its own.
        GatewayServer gateway =
                new GatewayServer.GatewayServerBuilder(new DriverMain(context))
                        .callbackClient(callbacks(token, config.path("callback_socket")))
                        .authToken(token)
                        .serverSocketFactory(new UnixServerSocketFactory(socket))
                        .build();
        gateway.start();
        // The program finds this session; making it now, while Python imports, takes its start-up off the program's time.
        SparkSession.builder().getOrCreate().sql("SELECT 1").collect();
        Thread.currentThread().join();
    }

    /** Calls into the program ({@code foreachBatch}, listeners written in Python): they show the token as the program does. */
    private static CallbackClient callbacks(String token, Path socket) {
        InetAddress ignored = InetAddress.getLoopbackAddress();
        return new CallbackClient(
                0, ignored, token, CallbackClient.DEFAULT_MIN_CONNECTION_TIME, TimeUnit.SECONDS, new UnixSocketFactory(socket), true, 0);
    }
}
