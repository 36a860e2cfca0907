import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.OutputStream;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Paths;
import java.security.MessageDigest;
import java.util.Arrays;
import java.util.HexFormat;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.FSDataInputStream;
import org.apache.hadoop.fs.FileStatus;
import org.apache.hadoop.fs.FileSystem;
import org.apache.hadoop.fs.LocalFileSystem;
import org.apache.hadoop.fs.Path;
import org.confide.spark.ConfideCryptoFactory;
import org.confide.spark.ConfideFileSystem;
import org.confide.spark.EncryptedOnlyFileSystem;

/**
 * Opens and seals containers through the file system that Spark uses, without Spark: one command a line, one answer a line.
 *
 * <p>{@code open PATH}: reads the whole file. {@code seal PLAIN PATH}: writes it. {@code begin PLAIN PATH} and {@code end}: the same in two steps,
 * so that several writers of one path are at work at once. {@code list URI}, {@code status URI}, {@code put URI HEX} and
 * {@code append URI HEX}: of {@code file:} and {@code enc:}, as Spark asks for them. {@code key URI}: a table's, as its reader asks.
 * {@code missed URI COUNT}: how many of the files 0.parquet, 1.parquet, ... in that folder are missed, being an input's and not there.
 */
public final class Containers {
    private Containers() {}

    public static void main(String[] arguments) throws Exception {
        ConfideFileSystem files = new ConfideFileSystem();
        files.initialize(URI.create("enc:///"), new Configuration());
        EncryptedOnlyFileSystem plain = new EncryptedOnlyFileSystem();
        plain.initialize(URI.create("file:///"), new Configuration());
        BufferedReader commands = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        java.util.ArrayDeque<OutputStream> begun = new java.util.ArrayDeque<>();
        for (String line = commands.readLine(); line != null; line = commands.readLine()) {
            String[] words = line.split("\t");
            if (words[0].equals("open")) {
                System.out.println(open(files, words[1], Integer.parseInt(words[2])));
                continue;
            }
            if (words.length > 1 && words[1].contains(":/")) {
                System.out.println(asked(words[1].startsWith("enc:") ? files : plain, words));
                continue;
            }
            if (words[0].equals("begin") || words[0].equals("seal")) {
                OutputStream out = files.create(new Path("enc", null, words[2]), true);
                out.write(Files.readAllBytes(Paths.get(words[1])));
                begun.add(out);
            }
            if (words[0].equals("end") || words[0].equals("seal")) {
                begun.removeFirst().close();
            }
            System.out.println("done");
        }
    }

    /**
     * {@code opened - DIGEST}, or {@code refused STEP DIGEST MESSAGE}; the digest is that of all bytes that were given out, at most {@code most}
     * at once.
     */
    private static String open(ConfideFileSystem files, String path, int most) throws Exception {
        MessageDigest digest = MessageDigest.getInstance("SHA-256");
        String step = "open";
        byte[] part = new byte[most];
        try (FSDataInputStream in = files.open(new Path("enc", null, path))) {
            step = "read";
            try {
                for (int count = in.read(part); count >= 0; count = in.read(part)) {
                    digest.update(part, 0, count);
                    Arrays.fill(part, (byte) 0);
                }
            } catch (IOException refused) {
                requireNothingMore(in, part);
                throw refused;
            }
            return "opened\t-\t" + HexFormat.of().formatHex(digest.digest());
        } catch (IOException refused) {
            return "refused\t" + step + "\t" + HexFormat.of().formatHex(digest.digest()) + "\t" + refused.getMessage();
        }
    }

    /** Of what did not open there is nothing in {@code part}, and of what is right before and after it nothing is given out any more. */
    private static void requireNothingMore(FSDataInputStream in, byte[] part) {
        if (!Arrays.equals(part, new byte[part.length])) {
            throw new IllegalStateException("plaintext was given out of what did not open");
        }
        for (long position = 0; position < 5L << 16; position += 1L << 16) {
            try {
                in.seek(position);
                if (in.read(part) >= 0) {
                    throw new IllegalStateException("something was given out after a failure, from " + position + " on");
                }
            } catch (IOException refused) {
                continue;
            }
        }
    }

    /** What a local file system that keeps checksums appends by: it refuses itself. */
    private static FileSystem below(FileSystem files) {
        return files instanceof LocalFileSystem local ? local.getRaw() : files;
    }

    private interface Step {
        boolean done() throws IOException;
    }

    /** Interrupts this thread while it does a step that lasts; whether it was done, and whether the interrupt is there afterwards. */
    private static String interrupted(Step step) throws IOException {
        Thread here = Thread.currentThread();
        Thread other =
                new Thread(
                        () -> {
                            try {
                                Thread.sleep(200);
                            } catch (InterruptedException nobody) {
                                throw new IllegalStateException(nobody);
                            }
                            here.interrupt();
                        });
        other.start();
        try {
            return step.done() + "\t" + Thread.interrupted();
        } finally {
            Thread.interrupted();
        }
    }

    private static int missed(FileSystem files, Path folder, int count) {
        int missed = 0;
        for (int number = 0; number < count; number++) {
            try {
                files.getFileStatus(new Path(folder, number + ".parquet"));
            } catch (IOException refused) {
                missed += refused.getMessage().contains("a file of the dataset is missing") ? 1 : 0;
            }
        }
        return missed;
    }

    /** {@code found NAME...}, or {@code refused EXCEPTION MESSAGE}. */
    private static String asked(FileSystem files, String[] words) {
        Path path = new Path(words[1]);
        StringBuilder found = new StringBuilder("found");
        try {
            if (words[0].equals("list")) {
                for (FileStatus one : files.listStatus(path)) {
                    found.append("\t").append(one.getPath().getName());
                }
            } else if (words[0].equals("status")) {
                found.append("\t").append(files.getFileStatus(path).getPath().getName());
            } else if (words[0].equals("missed")) {
                found.append("\t").append(missed(files, path, Integer.parseInt(words[2])));
            } else if (words[0].equals("key")) {
                byte[] key = new ConfideCryptoFactory().getFileDecryptionProperties(new Configuration(), path).getFooterKey();
                found.append("\t").append(HexFormat.of().formatHex(key));
            } else if (words[0].equals("interrupted-rename")) {
                found.append("\t").append(interrupted(() -> files.rename(path, new Path(words[2]))));
            } else {
                try (OutputStream out = words[0].equals("put") ? files.create(path, true) : below(files).append(path)) {
                    for (byte one : HexFormat.of().parseHex(words[2])) {
                        out.write(one);
                    }
                }
            }
            return found.toString();
        } catch (IOException | RuntimeException refused) {
            return "refused\t" + refused.getClass().getSimpleName() + "\t" + refused.getMessage();
        }
    }
}
