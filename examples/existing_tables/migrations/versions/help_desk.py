"""The help desk as it was, before there was an agent."""

import sqlalchemy as sa
from alembic import op

revision = "help_desk"
down_revision = None

Key = sa.BigInteger().with_variant(sa.Integer, "sqlite")
Moment = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "tickets",
        sa.Column("id", Key, primary_key=True),
        sa.Column("customer", sa.Text, nullable=False),
        sa.Column("subject", sa.Text),
        sa.Column("opened_at", Moment, server_default=sa.func.now(), nullable=False),
    )
    op.create_index("ix_tickets_customer", "tickets", ["customer"])
    op.create_table(
        "comments",
        sa.Column("id", Key, primary_key=True),
        sa.Column(
            "ticket_id", Key, sa.ForeignKey("tickets.id", ondelete="CASCADE"), nullable=False
        ),
        sa.Column("author", sa.Text, nullable=False),
        sa.Column("body", sa.Text, server_default="", nullable=False),
        sa.Column("written_at", Moment, server_default=sa.func.now(), nullable=False),
    )
    op.create_index("ix_comments_ticket_id", "comments", ["ticket_id"])


def downgrade() -> None:
    op.drop_table("comments")
    op.drop_table("tickets")
