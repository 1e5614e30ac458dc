"""Sites, their keys and certificates, join tokens and requests, counters, events."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring a store up to this step."""
    op.create_table(
        "revision",
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("value", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_revision")),
    )
    op.create_table(
        "sites",
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("id", sa.String(length=63), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_s", sa.Double(), nullable=False),
        sa.Column("changed_s", sa.Double(), nullable=False),
        sa.Column("seen_s", sa.Double(), nullable=True),
        sa.Column("report", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_sites")),
        sa.UniqueConstraint("id", name=op.f("uq_sites_id")),
    )
    op.create_table(
        "counters",
        sa.Column("site", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.String(length=20), nullable=False),
        sa.Column("up_bytes", sa.BigInteger(), nullable=False),
        sa.Column("down_bytes", sa.BigInteger(), nullable=False),
        sa.Column("calls", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["site"], ["sites.number"], name=op.f("fk_counters_site")),
        sa.PrimaryKeyConstraint("site", "run_id", name=op.f("pk_counters")),
    )
    op.create_table(
        "events",
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("site", sa.Integer(), nullable=False),
        sa.Column("at_s", sa.Double(), nullable=False),
        sa.Column("what", sa.String(length=32), nullable=False),
        sa.Column("words", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["site"], ["sites.number"], name=op.f("fk_events_site")),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_events")),
    )
    op.create_index(op.f("ix_events_site"), "events", ["site"])
    op.create_table(
        "keys",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("site", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("public", sa.LargeBinary(), nullable=False),
        sa.Column("since_s", sa.Double(), nullable=False),
        sa.Column("until_s", sa.Double(), nullable=True),
        sa.Column("node_id", sa.String(length=20), nullable=True),
        sa.ForeignKeyConstraint(["site"], ["sites.number"], name=op.f("fk_keys_site")),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_keys")),
    )
    op.create_index(op.f("ix_keys_site"), "keys", ["site"])
    op.create_table(
        "tokens",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("site", sa.Integer(), nullable=False),
        sa.Column("certificate_sha256", sa.String(length=64), nullable=False),
        sa.Column("issued_s", sa.Double(), nullable=False),
        sa.Column("expires_s", sa.Double(), nullable=False),
        sa.Column("new_keys", sa.Boolean(), nullable=False),
        sa.Column("used_s", sa.Double(), nullable=True),
        sa.Column("withdrawn_s", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["site"], ["sites.number"], name=op.f("fk_tokens_site")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tokens")),
        sa.UniqueConstraint("certificate_sha256", name=op.f("uq_tokens_certificate_sha256")),
    )
    op.create_index(op.f("ix_tokens_site"), "tokens", ["site"])
    op.create_table(
        "certificates",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("site", sa.Integer(), nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("der", sa.LargeBinary(), nullable=False),
        sa.Column("issued_s", sa.Double(), nullable=False),
        sa.Column("expires_s", sa.Double(), nullable=False),
        sa.Column("authority", sa.Integer(), nullable=False),
        sa.Column("ended_s", sa.Double(), nullable=True),
        sa.Column("ended_why", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["key"], ["keys.sha256"], name=op.f("fk_certificates_key")),
        sa.ForeignKeyConstraint(["site"], ["sites.number"], name=op.f("fk_certificates_site")),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_certificates")),
    )
    op.create_index(op.f("ix_certificates_site"), "certificates", ["site"])
    op.create_table(
        "requests",
        sa.Column("token", sa.String(length=32), nullable=False),
        sa.Column("site", sa.Integer(), nullable=False),
        sa.Column("transport", sa.LargeBinary(), nullable=False),
        sa.Column("node", sa.LargeBinary(), nullable=False),
        sa.Column("identity", sa.LargeBinary(), nullable=False),
        sa.Column("fingerprint", sa.String(length=24), nullable=False),
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("asked_s", sa.Double(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("decided_s", sa.Double(), nullable=True),
        sa.Column("decided_by", sa.String(length=64), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("certificate", sa.String(length=64), nullable=True),
        sa.ForeignKeyConstraint(["certificate"], ["certificates.sha256"], name=op.f("fk_requests_certificate")),
        sa.ForeignKeyConstraint(["site"], ["sites.number"], name=op.f("fk_requests_site")),
        sa.ForeignKeyConstraint(["token"], ["tokens.id"], name=op.f("fk_requests_token")),
        sa.PrimaryKeyConstraint("token", name=op.f("pk_requests")),
    )
    op.create_index(op.f("ix_requests_site"), "requests", ["site"])


def downgrade() -> None:
    """Go back to the step before."""
    op.drop_table("requests")
    op.drop_table("certificates")
    op.drop_table("tokens")
    op.drop_table("keys")
    op.drop_table("events")
    op.drop_table("counters")
    op.drop_table("sites")
    op.drop_table("revision")
