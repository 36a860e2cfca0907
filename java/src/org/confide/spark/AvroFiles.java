package org.confide.spark;

import java.io.IOException;
import java.util.List;
import java.util.UUID;
import java.util.function.Supplier;
import org.apache.avro.Schema;
import org.apache.avro.file.DataFileReader;
import org.apache.avro.generic.GenericData;
import org.apache.avro.generic.GenericDatumReader;
import org.apache.avro.generic.GenericRecord;
import org.apache.avro.mapred.AvroKey;
import org.apache.avro.mapred.FsInput;
import org.apache.avro.mapreduce.AvroJob;
import org.apache.avro.mapreduce.AvroKeyInputFormat;
import org.apache.avro.mapreduce.AvroKeyOutputFormat;
import org.apache.hadoop.fs.Path;
import org.apache.hadoop.io.NullWritable;
import org.apache.hadoop.mapreduce.Job;
import org.apache.hadoop.mapreduce.lib.input.FileInputFormat;
import org.apache.hadoop.mapreduce.lib.output.FileOutputFormat;
import org.apache.spark.api.java.JavaPairRDD;
import org.apache.spark.api.java.JavaSparkContext;
import org.apache.spark.deploy.SparkHadoopUtil;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.classic.Dataset;
import org.apache.spark.sql.classic.SparkSession;
import scala.Tuple2;

/**
 * Avro files as data frames and back, through Avro's own Hadoop formats: PySpark's wheel has these, and not Spark's Avro source.
 *
 * <p>Files are split at their sync markers, so one large file is read by many tasks. All columns are read.
 */
public final class AvroFiles {
    private static final String JAVA_8_TIMES = "spark.sql.datetime.java8API.enabled";

    private AvroFiles() {}

    /** The records of these files, with the columns of the first one. */
    @SuppressWarnings({"unchecked", "rawtypes"}) // Hadoop's formats are handed over as classes, which have no parameters
    public static Dataset<Row> read(SparkSession spark, List<String> paths) throws IOException {
        JavaSparkContext context = new JavaSparkContext(spark.sparkContext());
        // By an executor: the driver has no keys of inputs.
        String text = context.parallelize(List.of(paths.get(0)), 1).map(AvroFiles::schemaOf).first();
        Schema schema = new Schema.Parser().parse(text);
        Job job = Job.getInstance(context.hadoopConfiguration());
        AvroJob.setInputKeySchema(job, schema);
        AvroJob.setDataModelClass(job, GenericData.class);
        for (String path : paths) {
            FileInputFormat.addInputPath(job, new Path(path.replaceAll("[\\[\\]{}*?]", "\\\\$0"))); // names, not patterns
        }
        JavaPairRDD<AvroKey, NullWritable> records =
                context.newAPIHadoopRDD(job.getConfiguration(), AvroKeyInputFormat.class, AvroKey.class, NullWritable.class);
        return withJava8Times(
                spark, () -> spark.createDataFrame(records.map(one -> (Row) AvroTypes.toSpark(one._1().datum(), schema)), AvroTypes.table(schema)));
    }

    private static String schemaOf(String path) throws IOException {
        FsInput input = new FsInput(new Path(path), SparkHadoopUtil.get().conf());
        try (DataFileReader<GenericRecord> reader = new DataFileReader<>(input, new GenericDatumReader<>())) {
            return reader.getSchema().toString();
        }
    }

    /** Writes a frame into a new folder below {@code folder}, as Avro files with deflated blocks. */
    public static void write(Dataset<Row> frame, String folder) throws IOException {
        SparkSession spark = frame.sparkSession();
        Schema schema = AvroTypes.record(frame.schema(), "row");
        Job job = Job.getInstance(spark.sparkContext().hadoopConfiguration());
        AvroJob.setOutputKeySchema(job, schema);
        AvroJob.setDataModelClass(job, GenericData.class);
        FileOutputFormat.setCompressOutput(job, true);
        withJava8Times(spark, () -> frame.select("*").javaRDD())
                .mapToPair(row -> new Tuple2<>(new AvroKey<>(AvroTypes.toAvro(row, schema)), NullWritable.get()))
                .saveAsNewAPIHadoopFile(
                        folder + "/part-" + UUID.randomUUID(), AvroKey.class, NullWritable.class, AvroKeyOutputFormat.class, job.getConfiguration());
    }

    /** Rows that {@code make} makes have {@code java.time} values; {@code java.sql} ones have another calendar before 1582. */
    private static <T> T withJava8Times(SparkSession spark, Supplier<T> make) {
        String before = spark.conf().get(JAVA_8_TIMES);
        spark.conf().set(JAVA_8_TIMES, "true");
        try {
            return make.get();
        } finally {
            spark.conf().set(JAVA_8_TIMES, before);
        }
    }
}
