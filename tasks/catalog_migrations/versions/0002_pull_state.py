"""What pulls remember: resources as last fetched, hosts that fail."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "pulled_resources",
        sa.Column("address", sa.Text, primary_key=True),
        sa.Column("etag", sa.Text, nullable=True),
        sa.Column("last_modified", sa.Text, nullable=True),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("is_landed", sa.Boolean, nullable=False),
        sa.Column("seen_at", TIME, nullable=False),
    )
    op.create_table(
        "failing_hosts",
        sa.Column("host", sa.String(255), primary_key=True),
        sa.Column("n_failures", sa.Integer, nullable=False),
        sa.Column("problem", sa.Text, nullable=False),
        sa.Column("open_until", TIME, nullable=True),
    )


def downgrade() -> None:
    for table in ("failing_hosts", "pulled_resources"):
        op.drop_table(table)
