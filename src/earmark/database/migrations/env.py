"""Runs migrations on the connection that `migrate` or a developer's Alembic gives."""

from __future__ import annotations

from alembic import context

from earmark.database.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,
    compare_type=False,
)
context.run_migrations()
