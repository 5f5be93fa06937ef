"""First tables: sounders, their history and credentials, batches, cycles, source cursors."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "sounders",
        sa.Column("sounder_id", sa.String(64), primary_key=True),
        *_description(),
        sa.Column("registered_at", TIME, nullable=False),
        sa.Column("changed_at", TIME, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
    )
    op.create_table(
        "sounder_versions",
        sa.Column("sounder_id", sa.String(64), sa.ForeignKey("sounders.sounder_id"), primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True),
        *_description(),
        sa.Column("valid_from", TIME, nullable=False),
    )
    op.create_table(
        "credentials",
        sa.Column("credential_hash", sa.String(64), primary_key=True),
        sa.Column("sounder_id", sa.String(64), sa.ForeignKey("sounders.sounder_id"), nullable=False),
        sa.Column("issued_at", TIME, nullable=False),
        sa.Column("is_revoked", sa.Boolean, nullable=False),
    )
    op.create_index("ix_credentials_sounder_id", "credentials", ["sounder_id"])
    op.create_table(
        "batches",
        sa.Column("batch_id", sa.String(64), primary_key=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("counts", sa.JSON, nullable=False),
        sa.Column("files", sa.JSON, nullable=False),
        sa.Column("contract_versions", sa.JSON, nullable=False),
        sa.Column("recorded_at", TIME, nullable=False),
    )
    op.create_index("ix_batches_state", "batches", ["state"])
    op.create_table(
        "cycles",
        sa.Column("cycle_id", sa.String(96), primary_key=True),
        sa.Column("valid_time", TIME, nullable=False),
        sa.Column("available_until", TIME, nullable=False),
        sa.Column("config_hash", sa.String(64), nullable=False),
        sa.Column("inputs_hash", sa.String(64), nullable=False),
        sa.Column("effective_ig12", sa.Float, nullable=True),
        sa.Column("details", sa.JSON, nullable=False),
        sa.Column("files", sa.JSON, nullable=False),
        sa.Column("recorded_at", TIME, nullable=False),
    )
    op.create_index("ix_cycles_valid_time", "cycles", ["valid_time"])
    op.create_table(
        "source_cursors",
        sa.Column("source", sa.String(32), primary_key=True),
        sa.Column("key", sa.String(64), primary_key=True),
        sa.Column("fetched_until", TIME, nullable=False),
    )


def downgrade() -> None:
    for table in ("source_cursors", "cycles", "batches", "credentials", "sounder_versions", "sounders"):
        op.drop_table(table)


def _description() -> tuple[sa.Column[object], ...]:
    return (
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("latitude_deg", sa.Float, nullable=True),
        sa.Column("longitude_deg", sa.Float, nullable=True),
        sa.Column("altitude_m", sa.Float, nullable=True),
        sa.Column("details", sa.JSON, nullable=False),
    )
