import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.attribute.PosixFilePermissions;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.FSDataOutputStream;
import org.apache.hadoop.fs.FileSystem;
import org.apache.hadoop.fs.Path;
import org.apache.hadoop.fs.permission.FsPermission;

/** Makes folders and an (encrypted) file through the file system that Spark uses, and prints their rights.  Started where there are no programs. */
public class NoPrograms {
    public static void main(String[] words) throws Exception {
        Configuration conf = new Configuration();
        conf.set("fs.file.impl", "org.confide.spark.EncryptedOnlyFileSystem");
        FileSystem files = FileSystem.get(java.net.URI.create("file:///"), conf);
        Path folder = new Path("file://" + words[0] + "/out");
        files.mkdirs(folder, new FsPermission("750"));
        Path file = new Path(folder, "a.parquet");
        try (FSDataOutputStream out = files.create(file, new FsPermission("640"), true, 4096, (short) 1, 1 << 20, null)) {
            out.write("PARE".getBytes(StandardCharsets.US_ASCII));
        }
        files.setPermission(file, new FsPermission("1604"));
        for (Path path : new Path[] {folder, file}) {
            System.out.println(PosixFilePermissions.toString(Files.getPosixFilePermissions(java.nio.file.Path.of(path.toUri().getPath()))));
        }
    }
}
