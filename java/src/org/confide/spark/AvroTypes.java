package org.confide.spark;

import java.math.BigDecimal;
import java.math.BigInteger;
import java.nio.ByteBuffer;
import java.time.Instant;
import java.time.LocalDate;
import java.time.LocalDateTime;
import java.time.ZoneOffset;
import java.time.temporal.ChronoUnit;
import java.util.ArrayList;
import java.util.Collection;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.apache.avro.LogicalType;
import org.apache.avro.LogicalTypes;
import org.apache.avro.Schema;
import org.apache.avro.generic.GenericData;
import org.apache.avro.generic.GenericFixed;
import org.apache.avro.generic.IndexedRecord;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.RowFactory;
import org.apache.spark.sql.types.ArrayType;
import org.apache.spark.sql.types.DataType;
import org.apache.spark.sql.types.DataTypes;
import org.apache.spark.sql.types.DecimalType;
import org.apache.spark.sql.types.MapType;
import org.apache.spark.sql.types.StructField;
import org.apache.spark.sql.types.StructType;
import scala.jdk.javaapi.CollectionConverters;

/**
 * Avro's schemas and values as Spark's, and back (Avro 1.12 specification, "Complex Types" and "Logical Types").
 *
 * <p>A union is null and one other type, which is a column that may be null; other unions have no type in Spark and are refused.
 */
final class AvroTypes {
    /** Deeper schemas are refused, and so are those that contain themselves. */
    private static final int MAX_DEPTH = 64;

    private static final LocalDateTime EPOCH = LocalDateTime.ofEpochSecond(0, 0, ZoneOffset.UTC);

    private AvroTypes() {}

    // --- reading ---------------------------------------------------------------------------------------------------------------

    static StructType table(Schema schema) {
        if (schema.getType() != Schema.Type.RECORD) {
            throw refused("a file of " + schema.getType() + " values, not of records");
        }
        return (StructType) sparkType(schema, 0);
    }

    private static DataType sparkType(Schema schema, int depth) {
        if (depth > MAX_DEPTH) {
            throw refused("a schema that is nested too deep");
        }
        LogicalType logical = schema.getLogicalType();
        switch (schema.getType()) {
            case BOOLEAN: return DataTypes.BooleanType;
            case FLOAT: return DataTypes.FloatType;
            case DOUBLE: return DataTypes.DoubleType;
            case STRING: case ENUM: return DataTypes.StringType;
            case INT: return logical instanceof LogicalTypes.Date ? DataTypes.DateType : DataTypes.IntegerType;
            case LONG:
                if (logical instanceof LogicalTypes.TimestampMicros || logical instanceof LogicalTypes.TimestampMillis) {
                    return DataTypes.TimestampType;
                }
                boolean local = logical instanceof LogicalTypes.LocalTimestampMicros || logical instanceof LogicalTypes.LocalTimestampMillis;
                return local ? DataTypes.TimestampNTZType : DataTypes.LongType;
            case BYTES: case FIXED:
                return logical instanceof LogicalTypes.Decimal decimal
                        ? DataTypes.createDecimalType(decimal.getPrecision(), decimal.getScale()) : DataTypes.BinaryType;
            case ARRAY:
                return DataTypes.createArrayType(sparkType(schema.getElementType(), depth + 1), schema.getElementType().isNullable());
            case MAP:
                return DataTypes.createMapType(
                        DataTypes.StringType, sparkType(schema.getValueType(), depth + 1), schema.getValueType().isNullable());
            case RECORD:
                List<StructField> fields = new ArrayList<>();
                for (Schema.Field field : schema.getFields()) {
                    fields.add(DataTypes.createStructField(field.name(), sparkType(field.schema(), depth + 1), field.schema().isNullable()));
                }
                return DataTypes.createStructType(fields);
            case UNION: return sparkType(present(schema), depth);
            default: throw refused("a column of type " + schema.getType());
        }
    }

    /** The type of a value that is not null. */
    private static Schema present(Schema schema) {
        if (schema.getType() != Schema.Type.UNION) {
            return schema;
        }
        List<Schema> others = schema.getTypes().stream().filter(type -> type.getType() != Schema.Type.NULL).toList();
        if (others.size() != 1) {
            throw refused("a union of several types");
        }
        return others.get(0);
    }

    static Object toSpark(Object value, Schema nullable) {
        if (value == null) {
            return null;
        }
        Schema schema = present(nullable);
        LogicalType logical = schema.getLogicalType();
        switch (schema.getType()) {
            case STRING: case ENUM: return value.toString();
            case INT: return logical instanceof LogicalTypes.Date ? LocalDate.ofEpochDay((Integer) value) : value;
            case LONG: return time((Long) value, logical);
            case BYTES: case FIXED:
                byte[] bytes = value instanceof GenericFixed fixed ? fixed.bytes() : remaining((ByteBuffer) value);
                return logical instanceof LogicalTypes.Decimal decimal ? new BigDecimal(new BigInteger(bytes), decimal.getScale()) : bytes;
            case ARRAY:
                List<Object> items = new ArrayList<>();
                for (Object item : (Collection<?>) value) {
                    items.add(toSpark(item, schema.getElementType()));
                }
                return CollectionConverters.asScala(items).toSeq();
            case MAP:
                Map<String, Object> pairs = new LinkedHashMap<>();
                ((Map<?, ?>) value).forEach((key, item) -> pairs.put(key.toString(), toSpark(item, schema.getValueType())));
                return CollectionConverters.asScala(pairs);
            case RECORD:
                IndexedRecord record = (IndexedRecord) value;
                Object[] fields = new Object[schema.getFields().size()];
                for (int i = 0; i < fields.length; i++) {
                    fields[i] = toSpark(record.get(i), schema.getFields().get(i).schema());
                }
                return RowFactory.create(fields);
            default: return value;
        }
    }

    private static Object time(long value, LogicalType logical) {
        if (logical instanceof LogicalTypes.TimestampMicros) {
            return Instant.EPOCH.plus(value, ChronoUnit.MICROS);
        }
        if (logical instanceof LogicalTypes.TimestampMillis) {
            return Instant.ofEpochMilli(value);
        }
        if (logical instanceof LogicalTypes.LocalTimestampMicros) {
            return EPOCH.plus(value, ChronoUnit.MICROS);
        }
        return logical instanceof LogicalTypes.LocalTimestampMillis ? EPOCH.plus(value, ChronoUnit.MILLIS) : (Object) value;
    }

    private static byte[] remaining(ByteBuffer buffer) {
        byte[] bytes = new byte[buffer.remaining()];
        buffer.duplicate().get(bytes);
        return bytes;
    }

    // --- writing ---------------------------------------------------------------------------------------------------------------

    /** A record for {@code type}; {@code name} is made longer for each record in it, because Avro wants each name once. */
    static Schema record(StructType type, String name) {
        List<Schema.Field> fields = new ArrayList<>();
        for (StructField field : type.fields()) {
            Schema schema = avroType(field.dataType(), name + "_" + fields.size());
            fields.add(new Schema.Field(field.name(), field.nullable() ? orNull(schema) : schema));
        }
        return Schema.createRecord(name, null, null, false, fields);
    }

    private static Schema orNull(Schema schema) {
        return Schema.createUnion(Schema.create(Schema.Type.NULL), schema);
    }

    private static Schema avroType(DataType type, String name) {
        if (type instanceof StructType struct) {
            return record(struct, name);
        }
        if (type instanceof ArrayType array) {
            Schema items = avroType(array.elementType(), name);
            return Schema.createArray(array.containsNull() ? orNull(items) : items);
        }
        if (type instanceof MapType map && map.keyType() == DataTypes.StringType) {
            Schema values = avroType(map.valueType(), name);
            return Schema.createMap(map.valueContainsNull() ? orNull(values) : values);
        }
        if (type instanceof DecimalType decimal) {
            return LogicalTypes.decimal(decimal.precision(), decimal.scale()).addToSchema(Schema.create(Schema.Type.BYTES));
        }
        return switch (type.typeName()) {
            case "boolean" -> Schema.create(Schema.Type.BOOLEAN);
            case "byte", "short", "integer" -> Schema.create(Schema.Type.INT);
            case "long" -> Schema.create(Schema.Type.LONG);
            case "float" -> Schema.create(Schema.Type.FLOAT);
            case "double" -> Schema.create(Schema.Type.DOUBLE);
            case "string" -> Schema.create(Schema.Type.STRING);
            case "binary" -> Schema.create(Schema.Type.BYTES);
            case "date" -> LogicalTypes.date().addToSchema(Schema.create(Schema.Type.INT));
            case "timestamp" -> LogicalTypes.timestampMicros().addToSchema(Schema.create(Schema.Type.LONG));
            case "timestamp_ntz" -> LogicalTypes.localTimestampMicros().addToSchema(Schema.create(Schema.Type.LONG));
            default -> throw refused("a column of type " + type.simpleString());
        };
    }

    static Object toAvro(Object value, Schema nullable) {
        if (value == null) {
            return null;
        }
        Schema schema = present(nullable);
        if (value instanceof Row row) {
            GenericData.Record record = new GenericData.Record(schema);
            for (Schema.Field field : schema.getFields()) {
                record.put(field.pos(), toAvro(row.get(field.pos()), field.schema()));
            }
            return record;
        }
        if (value instanceof scala.collection.Seq<?> items) {
            return CollectionConverters.asJava(items).stream().map(item -> toAvro(item, schema.getElementType()))
                    .collect(java.util.stream.Collectors.toCollection(ArrayList::new));
        }
        if (value instanceof scala.collection.Map<?, ?> pairs) {
            Map<Object, Object> made = new LinkedHashMap<>();
            CollectionConverters.asJava(pairs).forEach((key, item) -> made.put(key, toAvro(item, schema.getValueType())));
            return made;
        }
        return plain(value);
    }

    private static Object plain(Object value) {
        if (value instanceof Byte || value instanceof Short) {
            return ((Number) value).intValue();
        }
        if (value instanceof byte[] bytes) {
            return ByteBuffer.wrap(bytes);
        }
        if (value instanceof BigDecimal number) {
            return ByteBuffer.wrap(number.unscaledValue().toByteArray());
        }
        if (value instanceof LocalDate day) {
            return (int) day.toEpochDay();
        }
        if (value instanceof Instant moment) {
            return micros(moment);
        }
        return value instanceof LocalDateTime clock ? (Object) micros(clock.toInstant(ZoneOffset.UTC)) : value;
    }

    /** Not {@code ChronoUnit.MICROS.between}, which counts nanoseconds first and knows 292 years only. */
    private static long micros(Instant moment) {
        return Math.addExact(Math.multiplyExact(moment.getEpochSecond(), 1_000_000L), moment.getNano() / 1000);
    }

    private static IllegalArgumentException refused(String what) {
        return new IllegalArgumentException("confide: Avro: " + what + " cannot be a table of Spark's");
    }
}
