"""The first tables.

Revision ID: 0001
Revises: none
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables of ``storage.schema`` as they were at first."""
    word = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table("meta", sa.Column("name", word, primary_key=True), sa.Column("value", sa.Text, nullable=False))
    op.create_table(
        "records",
        sa.Column("kind", word, primary_key=True),
        sa.Column("id", word, primary_key=True),
        sa.Column("ref", word, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("mac", sa.LargeBinary, nullable=False),
        sa.Column("bucket", sa.Integer, nullable=False),
        sa.Column("expires", number),
    )
    op.create_index("records_by_ref", "records", ["kind", "ref"])
    op.create_index("records_by_bucket", "records", ["bucket"])
    op.create_index("records_by_expiry", "records", ["expires"])
    op.create_table(
        "buckets",
        sa.Column("bucket", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("tag", sa.LargeBinary, nullable=False),
        sa.Column("epoch", number, nullable=False),
    )
    op.create_index("buckets_by_epoch", "buckets", ["epoch"])
    op.create_table(
        "head",
        sa.Column("place", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("mac", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "audit",
        sa.Column("seq", number, primary_key=True, autoincrement=False),
        sa.Column("event", sa.Text, nullable=False),
        sa.Column("leaf", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "audit_nodes",
        sa.Column("level", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("place", number, primary_key=True, autoincrement=False),
        sa.Column("hash", sa.LargeBinary, nullable=False),
    )
