"""The 22 queries for Polars, on lazy frames: the same rows in the same order as the SQL of :func:`benchmarks.tpch.sql`.

Written out as joins, because Polars' SQL has no correlated subqueries.  Products of decimals are made of binary floating-point numbers:
Polars rounds a product of decimals to the larger scale of the two, and the answers have up to six decimals.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date
from decimal import Decimal

import polars as pl
from polars import col

Tables = Mapping[str, pl.LazyFrame]
Query = Callable[[Tables, Decimal], pl.LazyFrame]


def query(number: int, tables: Tables, scale: Decimal) -> pl.LazyFrame:
    """A query over lazy frames of the tables."""
    return _QUERIES[number - 1](tables, scale)


def _float(name: str) -> pl.Expr:
    return col(name).cast(pl.Float64)


_REVENUE = _float("l_extendedprice") * (1 - _float("l_discount"))
_VALUE = _float("ps_supplycost") * col("ps_availqty")


def _from(name: str, first: date, until: date) -> pl.Expr:
    """From ``first`` to the day before ``until``."""
    return (col(name) >= first) & (col(name) < until)


def _q1(t: Tables, _scale: Decimal) -> pl.LazyFrame:
    rows = t["lineitem"].filter(col("l_shipdate") <= date(1998, 9, 2)).group_by("l_returnflag", "l_linestatus")
    return rows.agg(
        col("l_quantity").sum().alias("sum_qty"),
        col("l_extendedprice").sum().alias("sum_base_price"),
        _REVENUE.sum().alias("sum_disc_price"),
        (_REVENUE * (1 + _float("l_tax"))).sum().alias("sum_charge"),
        col("l_quantity").mean().alias("avg_qty"),
        col("l_extendedprice").mean().alias("avg_price"),
        col("l_discount").mean().alias("avg_disc"),
        pl.len().alias("count_order"),
    ).sort("l_returnflag", "l_linestatus")


def _q2(t: Tables, _scale: Decimal) -> pl.LazyFrame:
    region = t["region"].filter(col("r_name") == "EUROPE")
    nation = t["nation"].join(region, left_on="n_regionkey", right_on="r_regionkey")
    offers = t["partsupp"].join(
        t["supplier"].join(nation, left_on="s_nationkey", right_on="n_nationkey"), left_on="ps_suppkey", right_on="s_suppkey"
    )
    parts = t["part"].filter((col("p_size") == 15) & col("p_type").str.ends_with("BRASS"))
    found = parts.join(offers, left_on="p_partkey", right_on="ps_partkey")
    cheapest = found.filter(col("ps_supplycost") == col("ps_supplycost").min().over("p_partkey"))
    return (
        cheapest.sort("s_acctbal", "n_name", "s_name", "p_partkey", descending=[True, False, False, False])
        .select("s_acctbal", "s_name", "n_name", "p_partkey", "p_mfgr", "s_address", "s_phone", "s_comment")
        .head(100)
    )


def _q3(t: Tables, _scale: Decimal) -> pl.LazyFrame:
    customers = t["customer"].filter(col("c_mktsegment") == "BUILDING")
    orders = t["orders"].filter(col("o_orderdate") < date(1995, 3, 15)).join(customers, left_on="o_custkey", right_on="c_custkey")
    lines = t["lineitem"].filter(col("l_shipdate") > date(1995, 3, 15))
    joined = lines.join(orders, left_on="l_orderkey", right_on="o_orderkey")
    grouped = joined.group_by("l_orderkey", "o_orderdate", "o_shippriority").agg(_REVENUE.sum().alias("revenue"))
    columns = grouped.select("l_orderkey", "revenue", "o_orderdate", "o_shippriority")
    return columns.sort("revenue", "o_orderdate", descending=[True, False]).head(10)


def _q4(t: Tables, _scale: Decimal) -> pl.LazyFrame:
    late = t["lineitem"].filter(col("l_commitdate") < col("l_receiptdate"))
    orders = t["orders"].filter(_from("o_orderdate", date(1993, 7, 1), date(1993, 10, 1)))
    found = orders.join(late, left_on="o_orderkey", right_on="l_orderkey", how="semi")
    return found.group_by("o_orderpriority").agg(pl.len().alias("order_count")).sort("o_orderpriority")


def _q5(t: Tables, _scale: Decimal) -> pl.LazyFrame:
    region = t["region"].filter(col("r_name") == "ASIA")
    nation = t["nation"].join(region, left_on="n_regionkey", right_on="r_regionkey")
    suppliers = t["supplier"].join(nation, left_on="s_nationkey", right_on="n_nationkey")
    orders = t["orders"].filter(_from("o_orderdate", date(1994, 1, 1), date(1995, 1, 1)))
    orders = orders.join(t["customer"], left_on="o_custkey", right_on="c_custkey")
    lines = t["lineitem"].join(orders, left_on="l_orderkey", right_on="o_orderkey")
    found = lines.join(suppliers, left_on=["l_suppkey", "c_nationkey"], right_on=["s_suppkey", "s_nationkey"])
    return found.group_by("n_name").agg(_REVENUE.sum().alias("revenue")).sort("revenue", descending=True)


def _q6(t: Tables, _scale: Decimal) -> pl.LazyFrame:
    wanted = _from("l_shipdate", date(1994, 1, 1), date(1995, 1, 1)) & (col("l_quantity") < 24)
    lines = t["lineitem"].filter(wanted & col("l_discount").is_between(Decimal("0.05"), Decimal("0.07")))
    return lines.select((_float("l_extendedprice") * _float("l_discount")).sum().alias("revenue"))


def _q7(t: Tables, _scale: Decimal) -> pl.LazyFrame:
    two = t["nation"].filter(col("n_name").is_in(["FRANCE", "GERMANY"])).select("n_nationkey", "n_name")
    suppliers = t["supplier"].join(two.rename({"n_name": "supp_nation"}), left_on="s_nationkey", right_on="n_nationkey")
    customers = t["customer"].join(two.rename({"n_name": "cust_nation"}), left_on="c_nationkey", right_on="n_nationkey")
    lines = t["lineitem"].filter(col("l_shipdate").is_between(date(1995, 1, 1), date(1996, 12, 31)))
    found = (
        lines.join(suppliers, left_on="l_suppkey", right_on="s_suppkey")
        .join(t["orders"], left_on="l_orderkey", right_on="o_orderkey")
        .join(customers, left_on="o_custkey", right_on="c_custkey")
        .filter(col("supp_nation") != col("cust_nation"))
        .with_columns(col("l_shipdate").dt.year().alias("l_year"))
    )
    keys = ["supp_nation", "cust_nation", "l_year"]
    return found.group_by(keys).agg(_REVENUE.sum().alias("revenue")).sort(keys)


def _q8(t: Tables, _scale: Decimal) -> pl.LazyFrame:
    region = t["region"].filter(col("r_name") == "AMERICA")
    american = t["nation"].join(region, left_on="n_regionkey", right_on="r_regionkey").select("n_nationkey")
    customers = t["customer"].join(american, left_on="c_nationkey", right_on="n_nationkey")
    orders = t["orders"].filter(col("o_orderdate").is_between(date(1995, 1, 1), date(1996, 12, 31)))
    suppliers = t["supplier"].join(t["nation"].select("n_nationkey", "n_name"), left_on="s_nationkey", right_on="n_nationkey")
    found = (
        t["part"]
        .filter(col("p_type") == "ECONOMY ANODIZED STEEL")
        .join(t["lineitem"], left_on="p_partkey", right_on="l_partkey")
        .join(orders, left_on="l_orderkey", right_on="o_orderkey")
        .join(customers, left_on="o_custkey", right_on="c_custkey")
        .join(suppliers, left_on="l_suppkey", right_on="s_suppkey")
        .with_columns(col("o_orderdate").dt.year().alias("o_year"))
    )
    share = _REVENUE.filter(col("n_name") == "BRAZIL").sum() / _REVENUE.sum()
    return found.group_by("o_year").agg(share.alias("mkt_share")).sort("o_year")


def _q9(t: Tables, _scale: Decimal) -> pl.LazyFrame:
    suppliers = t["supplier"].join(t["nation"], left_on="s_nationkey", right_on="n_nationkey")
    found = (
        t["part"]
        .filter(col("p_name").str.contains("green", literal=True))
        .join(t["lineitem"], left_on="p_partkey", right_on="l_partkey")
        .join(t["partsupp"], left_on=["p_partkey", "l_suppkey"], right_on=["ps_partkey", "ps_suppkey"])
        .join(suppliers, left_on="l_suppkey", right_on="s_suppkey")
        .join(t["orders"], left_on="l_orderkey", right_on="o_orderkey")
        .with_columns(col("o_orderdate").dt.year().alias("o_year"))
    )
    amount = _REVENUE - _float("ps_supplycost") * _float("l_quantity")
    grouped = found.group_by(col("n_name").alias("nation"), "o_year").agg(amount.sum().alias("sum_profit"))
    return grouped.sort("nation", "o_year", descending=[False, True])


def _q10(t: Tables, _scale: Decimal) -> pl.LazyFrame:
    orders = t["orders"].filter(_from("o_orderdate", date(1993, 10, 1), date(1994, 1, 1)))
    returned = t["lineitem"].filter(col("l_returnflag") == "R").join(orders, left_on="l_orderkey", right_on="o_orderkey")
    revenue = returned.group_by("o_custkey").agg(_REVENUE.sum().alias("revenue"))
    customers = t["customer"].join(t["nation"], left_on="c_nationkey", right_on="n_nationkey")
    found = customers.join(revenue, left_on="c_custkey", right_on="o_custkey")
    columns = ["c_custkey", "c_name", "revenue", "c_acctbal", "n_name", "c_address", "c_phone", "c_comment"]
    return found.select(columns).sort("revenue", descending=True).head(20)


def _q11(t: Tables, scale: Decimal) -> pl.LazyFrame:
    german = t["nation"].filter(col("n_name") == "GERMANY")
    suppliers = t["supplier"].join(german, left_on="s_nationkey", right_on="n_nationkey", how="semi")
    stock = t["partsupp"].join(suppliers, left_on="ps_suppkey", right_on="s_suppkey", how="semi")
    values = stock.group_by("ps_partkey").agg(_VALUE.sum().alias("value"))
    least = col("value").sum() * (0.0001 / float(scale))
    return values.filter(col("value") > least).sort("value", descending=True)


def _q12(t: Tables, _scale: Decimal) -> pl.LazyFrame:
    lines = t["lineitem"].filter(
        col("l_shipmode").is_in(["MAIL", "SHIP"])
        & (col("l_commitdate") < col("l_receiptdate"))
        & (col("l_shipdate") < col("l_commitdate"))
        & _from("l_receiptdate", date(1994, 1, 1), date(1995, 1, 1))
    )
    urgent = col("o_orderpriority").is_in(["1-URGENT", "2-HIGH"])
    found = lines.join(t["orders"], left_on="l_orderkey", right_on="o_orderkey").group_by("l_shipmode")
    return found.agg(urgent.sum().alias("high_line_count"), (~urgent).sum().alias("low_line_count")).sort("l_shipmode")


def _q13(t: Tables, _scale: Decimal) -> pl.LazyFrame:
    orders = t["orders"].filter(~col("o_comment").str.contains("special.*requests"))
    joined = t["customer"].join(orders, left_on="c_custkey", right_on="o_custkey", how="left")
    counts = joined.group_by("c_custkey").agg(col("o_orderkey").count().alias("c_count"))
    return counts.group_by("c_count").agg(pl.len().alias("custdist")).sort("custdist", "c_count", descending=True)


def _q14(t: Tables, _scale: Decimal) -> pl.LazyFrame:
    lines = t["lineitem"].filter(_from("l_shipdate", date(1995, 9, 1), date(1995, 10, 1)))
    found = lines.join(t["part"], left_on="l_partkey", right_on="p_partkey")
    promoted = _REVENUE.filter(col("p_type").str.starts_with("PROMO")).sum()
    return found.select((100 * promoted / _REVENUE.sum()).alias("promo_revenue"))


def _q15(t: Tables, _scale: Decimal) -> pl.LazyFrame:
    lines = t["lineitem"].filter(_from("l_shipdate", date(1996, 1, 1), date(1996, 4, 1)))
    revenue = lines.group_by("l_suppkey").agg(_REVENUE.sum().alias("total_revenue"))
    most = revenue.filter(col("total_revenue") == col("total_revenue").max())
    found = t["supplier"].join(most, left_on="s_suppkey", right_on="l_suppkey")
    return found.select("s_suppkey", "s_name", "s_address", "s_phone", "total_revenue").sort("s_suppkey")


def _q16(t: Tables, _scale: Decimal) -> pl.LazyFrame:
    parts = t["part"].filter(
        (col("p_brand") != "Brand#45")
        & ~col("p_type").str.starts_with("MEDIUM POLISHED")
        & col("p_size").is_in([49, 14, 23, 45, 19, 3, 36, 9])
    )
    complained = t["supplier"].filter(col("s_comment").str.contains("Customer.*Complaints"))
    stock = t["partsupp"].join(complained, left_on="ps_suppkey", right_on="s_suppkey", how="anti")
    keys = ["p_brand", "p_type", "p_size"]
    found = parts.join(stock, left_on="p_partkey", right_on="ps_partkey").group_by(keys)
    counted = found.agg(col("ps_suppkey").n_unique().alias("supplier_cnt"))
    return counted.sort("supplier_cnt", *keys, descending=[True, False, False, False])


def _q17(t: Tables, _scale: Decimal) -> pl.LazyFrame:
    parts = t["part"].filter((col("p_brand") == "Brand#23") & (col("p_container") == "MED BOX"))
    lines = parts.join(t["lineitem"], left_on="p_partkey", right_on="l_partkey")
    few = lines.filter(_float("l_quantity") < 0.2 * _float("l_quantity").mean().over("p_partkey"))
    sold = pl.when(pl.len() > 0).then(_float("l_extendedprice").sum() / 7.0)  # SQL's sum of nothing is NULL
    return few.select(sold.alias("avg_yearly"))


def _q18(t: Tables, _scale: Decimal) -> pl.LazyFrame:
    large = t["lineitem"].group_by("l_orderkey").agg(col("l_quantity").sum().alias("sum_qty")).filter(col("sum_qty") > 300)
    orders = t["orders"].join(large, left_on="o_orderkey", right_on="l_orderkey")
    found = orders.join(t["customer"], left_on="o_custkey", right_on="c_custkey")
    columns = found.select("c_name", col("o_custkey").alias("c_custkey"), "o_orderkey", "o_orderdate", "o_totalprice", "sum_qty")
    return columns.sort("o_totalprice", "o_orderdate", descending=[True, False]).head(100)


def _q19(t: Tables, _scale: Decimal) -> pl.LazyFrame:
    lines = t["lineitem"].filter(
        col("l_shipmode").is_in(["AIR", "AIR REG"]) & (col("l_shipinstruct") == "DELIVER IN PERSON")  # in each of the three cases
    )
    found = lines.join(t["part"], left_on="l_partkey", right_on="p_partkey")

    def case(brand: str, kind: str, least: int, largest: int) -> pl.Expr:
        containers = [f"{kind} {name}" for name in (("CASE", "BOX", "PACK", "PKG") if kind != "MED" else ("BAG", "BOX", "PKG", "PACK"))]
        size = col("p_size").is_between(1, largest)
        quantity = col("l_quantity").is_between(Decimal(least), Decimal(least + 10))
        return (col("p_brand") == brand) & col("p_container").is_in(containers) & quantity & size

    wanted = case("Brand#12", "SM", 1, 5) | case("Brand#23", "MED", 10, 10) | case("Brand#34", "LG", 20, 15)
    return found.filter(wanted).select(_REVENUE.sum().alias("revenue"))


def _q20(t: Tables, _scale: Decimal) -> pl.LazyFrame:
    forest = t["part"].filter(col("p_name").str.starts_with("forest"))
    lines = t["lineitem"].filter(_from("l_shipdate", date(1994, 1, 1), date(1995, 1, 1)))
    sold = lines.group_by("l_partkey", "l_suppkey").agg((_float("l_quantity").sum() * 0.5).alias("half"))
    stock = t["partsupp"].join(forest, left_on="ps_partkey", right_on="p_partkey", how="semi")
    stock = stock.join(sold, left_on=["ps_partkey", "ps_suppkey"], right_on=["l_partkey", "l_suppkey"])
    too_much = stock.filter(col("ps_availqty") > col("half"))
    canadian = t["supplier"].join(t["nation"].filter(col("n_name") == "CANADA"), left_on="s_nationkey", right_on="n_nationkey")
    return canadian.join(too_much, left_on="s_suppkey", right_on="ps_suppkey", how="semi").select("s_name", "s_address").sort("s_name")


def _q21(t: Tables, _scale: Decimal) -> pl.LazyFrame:
    lines = t["lineitem"].select("l_orderkey", "l_suppkey", (col("l_receiptdate") > col("l_commitdate")).alias("late"))
    # Suppliers of an order, and those of them who were late: one who was late alone kept all of the others waiting.
    by_order = lines.group_by("l_orderkey").agg(
        col("l_suppkey").n_unique().alias("suppliers"), col("l_suppkey").filter(col("late")).n_unique().alias("late_ones")
    )
    waiting = by_order.filter((col("suppliers") > 1) & (col("late_ones") == 1))
    arabian = t["supplier"].join(t["nation"].filter(col("n_name") == "SAUDI ARABIA"), left_on="s_nationkey", right_on="n_nationkey")
    found = (
        lines.filter(col("late"))
        .join(waiting, on="l_orderkey")
        .join(t["orders"].filter(col("o_orderstatus") == "F"), left_on="l_orderkey", right_on="o_orderkey", how="semi")
        .join(arabian, left_on="l_suppkey", right_on="s_suppkey")
    )
    counted = found.group_by("s_name").agg(pl.len().alias("numwait"))
    return counted.sort("numwait", "s_name", descending=[True, False]).head(100)


def _q22(t: Tables, _scale: Decimal) -> pl.LazyFrame:
    codes = ["13", "31", "23", "29", "30", "18", "17"]
    customers = t["customer"].with_columns(col("c_phone").str.slice(0, 2).alias("cntrycode")).filter(col("cntrycode").is_in(codes))
    mean = customers.filter(col("c_acctbal") > 0).select(_float("c_acctbal").mean().alias("mean"))
    rich = customers.join(mean, how="cross").filter(_float("c_acctbal") > col("mean"))
    found = rich.join(t["orders"], left_on="c_custkey", right_on="o_custkey", how="anti").group_by("cntrycode")
    return found.agg(pl.len().alias("numcust"), col("c_acctbal").sum().alias("totacctbal")).sort("cntrycode")


_QUERIES: tuple[Query, ...] = (
    *(_q1, _q2, _q3, _q4, _q5, _q6, _q7, _q8, _q9, _q10, _q11),
    *(_q12, _q13, _q14, _q15, _q16, _q17, _q18, _q19, _q20, _q21, _q22),
)
