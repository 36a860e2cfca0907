"""The tables of a key store, the same in SQLite and PostgreSQL.  ``migrations`` makes them; a test compares the two."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, MetaData, Table, Text

METADATA = MetaData()
_WORD = Text().with_variant(Text(collation="C"), "postgresql")
"""Names are compared byte by byte, whatever the database's language."""
_NUMBER = BigInteger().with_variant(Integer(), "sqlite")

META = Table(
    "meta",
    METADATA,
    Column("name", _WORD, primary_key=True),
    Column("value", Text, nullable=False),
)
"""One row, ``store``: format, custody parameters and the wrapped root secrets."""

RECORDS = Table(
    "records",
    METADATA,
    Column("kind", _WORD, primary_key=True),
    Column("id", _WORD, primary_key=True),
    Column("ref", _WORD, nullable=False),
    Column("body", Text, nullable=False),
    Column("mac", LargeBinary, nullable=False),
    Column("bucket", Integer, nullable=False),
    Column("expires", _NUMBER),
    Index("records_by_ref", "kind", "ref"),
    Index("records_by_bucket", "bucket"),
    Index("records_by_expiry", "expires"),
)
"""``expires`` is in seconds since 1970; whoever sweeps may remove the row after it."""

BUCKETS = Table(
    "buckets",
    METADATA,
    Column("bucket", Integer, primary_key=True, autoincrement=False),
    Column("tag", LargeBinary, nullable=False),
    Column("epoch", _NUMBER, nullable=False),
    Index("buckets_by_epoch", "epoch"),
)
"""What the records of each bucket must be (``storage.contents``), and the head's epoch in which that changed last."""

HEAD = Table(
    "head",
    METADATA,
    Column("place", Integer, primary_key=True, autoincrement=False),
    Column("body", Text, nullable=False),
    Column("mac", LargeBinary, nullable=False),
)
"""One row: how far the audit log has come, and the tag over all buckets.  Writers lock it."""

AUDIT = Table(
    "audit",
    METADATA,
    Column("seq", _NUMBER, primary_key=True, autoincrement=False),
    Column("event", Text, nullable=False),
    Column("leaf", LargeBinary, nullable=False),
)

AUDIT_NODES = Table(
    "audit_nodes",
    METADATA,
    Column("level", Integer, primary_key=True, autoincrement=False),
    Column("place", _NUMBER, primary_key=True, autoincrement=False),
    Column("hash", LargeBinary, nullable=False),
)
"""Perfect subtrees of the audit log's Merkle tree, from level 1 on (``keys.merkle``)."""
