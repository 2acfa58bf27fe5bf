"""What Alembic runs: the migrations, on the connection that the catalog hands over."""

from __future__ import annotations

from alembic import context

from phoenix_fleet.catalog.migration import VERSION_TABLE
from phoenix_fleet.catalog.schema import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table=VERSION_TABLE,
    render_as_batch=True,  # SQLite can alter a table only by making it anew
)
with context.begin_transaction():
    context.run_migrations()
