"""One frame with every type that Spark's files hold, and the formats that it goes through: in a plain Spark and in Confide's, to compare.

Text of two programs, not a module of theirs: a program in a node has the job's code and nothing of the tests.
"""

FRAMES = '''
SIMPLE = """
  id, cast(id % 2 = 0 AS boolean) AS flag, cast(id - 2 AS byte) AS b, cast(id * 300 AS short) AS sh, cast(id * 70000 AS int) AS i,
  id * 5000000000L AS l, cast(id / 3 AS float) AS f, IF(id = 1, double('NaN'), IF(id = 2, double('Infinity'), id / 7D)) AS d,
  cast(id / 7 AS decimal(10, 3)) AS money, cast('12345678901234567890123456789.012345678' AS decimal(38, 9)) AS wide,
  element_at(array('plain', 'a,"b"\\\\n\\\\ttwo lines', 'Ünï©ødé 東京 \\U0001F600', ' padded ', '1'), cast(id + 1 AS int)) AS s,
  element_at(array(date'1582-10-04', date'1582-10-15', date'1969-12-31', date'2024-02-29', date'0001-01-01'), cast(id + 1 AS int)) AS day,
  element_at(array(timestamp'1969-12-31 23:59:59.999999 UTC', timestamp'1582-10-14 12:00:00 UTC',
    timestamp'2024-03-31 02:30:00.123456 Europe/Berlin',
    timestamp'1900-01-01 00:00:00 America/New_York', timestamp'9999-12-31 23:59:59 UTC'), cast(id + 1 AS int)) AS at,
  element_at(array(timestamp_ntz'1969-12-31 23:59:59.999999', timestamp_ntz'1582-10-10 01:02:03',
    timestamp_ntz'2024-03-31 02:30:00.123456',
    timestamp_ntz'0001-01-01 00:00:00', timestamp_ntz'9999-12-31 23:59:59'), cast(id + 1 AS int)) AS clock
"""
NESTED = """, cast(concat('bin', id) AS binary) AS raw, array(id, NULL, id + 1) AS many,
  map('k', id, 'ключ', NULL) AS pairs,
  named_struct('x', id, 'y', named_struct('z', array(named_struct('deep', cast(id AS string))))) AS tree,
  cast(NULL AS string) AS nothing"""


def frame(spark, nested):
    whole = spark.sql(f"SELECT {SIMPLE}{NESTED if nested else ''} FROM range(5)")
    nulls = spark.range(1).select(*[F.lit(None).cast(field.dataType).alias(field.name) for field in whole.schema])
    return whole.unionByName(nulls).repartition(3, "s")


def dump(df):
    """Rows as text, in order; timestamps as microseconds, which no session's zone and no calendar of Python's changes."""
    kinds = {
        "timestamp": lambda name: F.unix_micros(name).alias(name),
        "date": lambda name: F.col(name).cast("string").alias(name),
        "timestamp_ntz": lambda name: F.col(name).cast("string").alias(name),
    }
    plain = [kinds.get(f.dataType.typeName(), F.col)(f.name) for f in df.schema]
    return df.schema.simpleString(), sorted(map(repr, df.select(*plain).collect()))


FORMATS = {
    "parquet": (True, {}),
    "orc": (True, {}),
    "json": (True, {}),
    "avro": (True, {}),
    "csv": (False, {"header": True, "escape": '"', "multiLine": True, "ignoreLeadingWhiteSpace": False, "ignoreTrailingWhiteSpace": False}),
}
'''
