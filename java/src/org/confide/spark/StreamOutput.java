package org.confide.spark;

import java.io.IOException;
import java.nio.file.Files;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import java.util.stream.Stream;
import org.apache.hadoop.fs.FileSystem;
import org.apache.hadoop.fs.Path;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.execution.streaming.runtime.MetadataLogFileIndex;
import scala.Option;
import scala.collection.immutable.Map$;

/**
 * Leaves of what streaming queries wrote into an output only the files that count, before the output is committed.
 *
 * <p>Spark's file sink lets tasks write in place and notes in a log which files of which batch count; readers of Spark go by the log, ours
 * by the signed manifest. So files of tasks that failed, or of executors that were lost, are deleted here, and then the log.
 */
final class StreamOutput {
    private static final String LOG = "_spark_metadata";

    private StreamOutput() {}

    /** Settles {@code folder} and every folder in it, and deletes {@code checkpoints}. */
    static void settle(SparkSession spark, Path folder, Path checkpoints) throws IOException {
        FileSystem files = folder.getFileSystem(spark.sparkContext().hadoopConfiguration());
        if (files.exists(checkpoints)) {
            files.delete(checkpoints, true);
        }
        settle(spark, files, folder);
    }

    private static void settle(SparkSession spark, FileSystem files, Path folder) throws IOException {
        Path log = new Path(folder, LOG);
        if (files.exists(log)) {
            keepOnly(files, folder, counted(spark, folder));
            // One by one: the agent takes note, and a part of the log that storage did not show is missed at the commit.
            for (Path part : inside(log)) {
                files.delete(part, false);
            }
            files.delete(log, true);
            return;
        }
        for (Path below : inside(folder)) {
            if (isFolder(below)) {
                settle(spark, files, below);
            }
        }
    }

    private static Set<Path> counted(SparkSession spark, Path folder) {
        Set<Path> kept = new HashSet<>();
        new MetadataLogFileIndex(spark, folder, Map$.MODULE$.empty(), Option.empty())
                .leafFiles()
                .keysIterator()
                .foreach(file -> kept.add(new Path(file.toUri().getPath())));
        return kept;
    }

    private static void keepOnly(FileSystem files, Path folder, Set<Path> kept) throws IOException {
        for (Path found : inside(folder)) {
            if (isFolder(found)) {
                if (!LOG.equals(found.getName())) {
                    keepOnly(files, found, kept);
                }
            } else if (!kept.contains(new Path(found.toUri().getPath()))) {
                files.delete(found, false);
            }
        }
    }

    /** By name only: what a lost executor left may be no container, and our file system does not list such. */
    private static List<Path> inside(Path folder) throws IOException {
        try (Stream<java.nio.file.Path> found = Files.list(java.nio.file.Path.of(folder.toUri().getPath()))) {
            return found.map(one -> new Path(folder, one.getFileName().toString())).sorted().toList();
        }
    }

    private static boolean isFolder(Path path) {
        return Files.isDirectory(java.nio.file.Path.of(path.toUri().getPath()));
    }
}
