"""A join that shuffles both of its sides with their longest columns, between two executors: what each protection costs alone, and all."""

from __future__ import annotations

from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path

from benchmarks.data.owned import encrypted, plain_twin
from benchmarks.data.rows import Row, note, require_equal
from benchmarks.data.sessions import Answer, Protections, Shape, confidential
from benchmarks.tpch.tables import generate

_TABLES = ("lineitem", "orders")
_JOIN = """
SELECT /*+ MERGE(orders) */ l_shipmode, count(*), sum(l_extendedprice), sum(CAST(xxhash64(l_comment, o_comment, o_clerk) AS DECIMAL(38, 0)))
FROM lineitem JOIN orders ON l_orderkey = o_orderkey
GROUP BY l_shipmode
ORDER BY l_shipmode
"""
_VARIANTS = {
    "none": Protections(rpc=False, disks=False, data=False),
    "TLS between nodes": Protections(rpc=True, disks=False, data=False),
    "shuffle and spill encrypted": Protections(rpc=False, disks=True, data=False),
    "Parquet encrypted": Protections(rpc=False, disks=False, data=True),
    "all protections": Protections(),
}


def measure(scale: Decimal, repeat: int, folder: Path) -> list[Row]:
    """Each variant in a group of its own; the one without protections once more at the end."""
    made = generate(scale, folder / "made")
    owned = {name: encrypted(made[name], folder / "encrypted" / name) for name in _TABLES}
    twin = {name: {**one.input.info(), "path": str(plain_twin(one, folder / "plain" / name))} for name, one in owned.items()}
    shape = Shape(executors=2, cores=1, memory_mb=4096)
    answers: dict[str, list[Answer]] = {}
    for number, what in enumerate([*_VARIANTS, "none"]):
        note(f"join: {what}")
        protections = _VARIANTS[what]
        with ExitStack() as stack:
            keys, plain = (owned, None) if protections.data else ({}, twin)
            place = folder / f"group-{number}"
            session = confidential(keys, place, shape, stack, protections=protections, unprotected=plain)
            for name in _TABLES:
                session.ask("view", name=name)
            first = session.ask("sql", text=_JOIN)  # compiles
            found = answers.setdefault("again" if what in answers else what, [])
            found.extend(session.ask("sql", text=_JOIN) for _ in range(repeat))
        require_equal(f"join, {what}", first.value, answers["none"][0].value)
    base, again = answers.pop("none"), answers.pop("again")
    means = "plain: the same group without protections"
    return [Row(f"shuffling join, {what}", found, base, again, means) for what, found in answers.items()]
