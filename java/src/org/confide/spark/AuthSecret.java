package org.confide.spark;

import java.io.IOException;
import java.math.BigInteger;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.SecureRandom;
import org.apache.hadoop.io.Text;
import org.apache.hadoop.security.Credentials;
import org.apache.hadoop.security.UserGroupInformation;
import org.apache.spark.SparkConf;

/**
 * Gives Spark its authentication secret from a private file, through the JVM's own Hadoop credentials.
 *
 * <p>Spark reads {@code spark.authenticate.secret.file} only under a Kubernetes master; its other ways in are configuration (shown in
 * plans, sent to executors) and the environment (readable in /proc). {@code SecurityManager.getSecretKey} looks at the current user's
 * credentials first.
 */
final class AuthSecret {
    /** SecurityManager.SECRET_LOOKUP_KEY in Spark. */
    private static final Text LOOKUP_KEY = new Text("sparkCookie");
    private static final String CONF = "spark.authenticate.secret";
    private static final int MIN_BYTES = 32;

    private AuthSecret() {}

    static void install(Path file) throws IOException {
        byte[] secret = new String(Files.readAllBytes(file), StandardCharsets.US_ASCII).strip().getBytes(StandardCharsets.US_ASCII);
        if (secret.length < MIN_BYTES) {
            throw new IOException("confide: the authentication secret is too short");
        }
        Credentials credentials = new Credentials();
        credentials.addSecretKey(LOOKUP_KEY, secret);
        UserGroupInformation.getCurrentUser().addCredentials(credentials);
    }

    /**
     * Spark's driver refuses to start under a foreign master unless its configuration holds a secret. It gets one that nobody knows
     * and that is taken away again before executors can be told of it; the real one (above) is found first at every use.
     */
    static void setPlaceholder() {
        System.setProperty(CONF, new BigInteger(256, new SecureRandom()).toString(16));
    }

    static void forgetPlaceholder(SparkConf conf) {
        System.clearProperty(CONF);
        conf.remove(CONF);
    }
}
