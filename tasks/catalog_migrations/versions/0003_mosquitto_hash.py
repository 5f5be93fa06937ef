"""Credentials as Mosquitto's password file has them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("credentials", sa.Column("mosquitto_hash", sa.String(160), nullable=True))


def downgrade() -> None:
    op.drop_column("credentials", "mosquitto_hash")
