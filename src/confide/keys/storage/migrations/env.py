"""Alembic's entry: runs migrations on the connection that ``storage.database`` hands over, and no other way."""

from __future__ import annotations

from alembic import context

from confide.keys.storage.schema import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA, transactional_ddl=False)
context.run_migrations()
