"""Arrival delays by weather, and a model that predicts them.  Ordinary PySpark: only where data comes from and goes to is Confide's."""

from pyspark.ml.feature import VectorAssembler
from pyspark.ml.regression import LinearRegression
from pyspark.sql import DataFrame, SparkSession

import confide

FEATURES = ["dep_delay", "distance", "hour", "wind_speed", "visib", "precip"]

BANDS = """
SELECT CASE WHEN wind_speed < 10 THEN '1 calm (under 10 mph)'
            WHEN wind_speed < 20 THEN '2 breeze (10-20 mph)'
            ELSE '3 strong wind (over 20 mph)' END AS wind,
       CASE WHEN visib < 2 THEN '1 fog (under 2 miles)'
            WHEN visib < 9 THEN '2 haze (2-9 miles)'
            ELSE '3 clear' END AS visibility,
       count(*) AS flights,
       round(avg(dep_delay), 1) AS departure_delay,
       round(avg(arr_delay), 1) AS arrival_delay,
       round(100 * avg(CASE WHEN arr_delay > 30 THEN 1 ELSE 0 END), 1) AS late_percent
FROM joined GROUP BY 1, 2
"""


def join(flights: DataFrame, weather: DataFrame) -> DataFrame:
    """Every flight that arrived, with the weather at its origin in the hour of its departure."""
    hourly = weather.select("origin", "time_hour", "wind_speed", "visib", "precip")
    columns = ["origin", "time_hour", "carrier", "dep_delay", "arr_delay", "distance", "hour"]
    return flights.select(*columns).join(hourly, ["origin", "time_hour"]).dropna()


def model(spark: SparkSession, joined: DataFrame) -> DataFrame:
    """Train on four fifths, test on the rest: how far off the prediction is, next to always guessing the mean."""
    rows = VectorAssembler(inputCols=FEATURES, outputCol="features").transform(joined).select("features", "arr_delay")
    train, test = rows.randomSplit([0.8, 0.2], seed=2013)
    fitted = LinearRegression(labelCol="arr_delay", maxIter=20, solver="normal").fit(train)
    errors = "sqrt(avg(pow(arr_delay - prediction, 2))) AS model", "stddev(arr_delay) AS mean"
    error = fitted.transform(test).selectExpr(*errors).collect()[0]
    measures = [
        ("error in minutes, model", float(error["model"])),
        ("error in minutes, always the mean", float(error["mean"])),
        *((f"minutes per unit of {name}", float(weight)) for name, weight in zip(FEATURES, fitted.coefficients, strict=True)),
    ]
    return spark.createDataFrame(measures, "measure string, value double").coalesce(1)


def main() -> None:
    """Read two owners' tables, write two results."""
    ctx = confide.session()
    joined = join(ctx.read("flights"), ctx.read("weather")).cache()
    joined.createOrReplaceTempView("joined")
    ctx.write(ctx.spark.sql(BANDS), "delays")
    ctx.write(model(ctx.spark, joined), "model")
    ctx.stop()


main()
