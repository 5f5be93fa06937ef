"""How Alembic reaches the catalog: over the connection `open_catalog` hands it, in one transaction."""

from alembic import context

from tasks.catalog import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,  # SQLite alters a table by copying it
)
with context.begin_transaction():
    context.run_migrations()
