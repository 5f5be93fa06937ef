"""Alembic migrations of the catalog; `tasks.catalog.open_catalog` runs them."""
