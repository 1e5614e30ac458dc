"""Labels of sites, and the line of its journal at which a run's present life begins."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Take the step."""
    op.add_column("sites", sa.Column("labels", sa.Text(), nullable=False, server_default="{}"))
    op.add_column("runs", sa.Column("from_line", sa.Integer(), nullable=False, server_default="0"))


def downgrade() -> None:
    """Take the step back."""
    op.drop_column("runs", "from_line")
    op.drop_column("sites", "labels")
