"""The library's columns and indexes on both tables, and what the comments there are in its terms.

What `alembic revision --autogenerate` writes, put in order, but for three things that it cannot
know: a default that holds on SQLite and PostgreSQL, who of the authors is an agent, and the order
of the comments, without which none of them would be listed. On PostgreSQL only `updated_at`, whose
default is computed, has a table written anew; where a table is large, make its indexes
`postgresql_concurrently`, each in a migration of its own.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "an_agent"
down_revision = "help_desk"

Moment = sa.DateTime(timezone=True)
Json = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
ZERO = sa.text("0")
PENDING, QUEUED = sa.text("status = 'pending'"), sa.text("status = 'queued'")


def ticket_columns() -> list[sa.Column[object]]:
    return [
        sa.Column("opencode_session_id", sa.String(255)),
        sa.Column("session_claimed_until", Moment),
        sa.Column("directory", sa.Text),
        sa.Column("sandbox_key", sa.String(64)),
        sa.Column("updated_at", Moment, server_default=now(), nullable=False),
    ]


def comment_columns() -> list[sa.Column[object]]:
    return [
        sa.Column("role", sa.String(16), server_default="user", nullable=False),
        sa.Column("status", sa.String(16), server_default="completed", nullable=False),
        sa.Column("finish", sa.String(64)),
        sa.Column("position", sa.Integer),
        sa.Column("reasoning", sa.Text),
        sa.Column("parts", Json),
        sa.Column("todos", Json),
        sa.Column("cost", sa.Double, server_default=ZERO, nullable=False),
        sa.Column("input_tokens", sa.BigInteger, server_default=ZERO, nullable=False),
        sa.Column("output_tokens", sa.BigInteger, server_default=ZERO, nullable=False),
        sa.Column("cache_read_tokens", sa.BigInteger, server_default=ZERO, nullable=False),
        sa.Column("cache_write_tokens", sa.BigInteger, server_default=ZERO, nullable=False),
        sa.Column("ledger", Json),
        sa.Column("error_code", sa.String(64)),
        sa.Column("error_text", sa.Text),
        sa.Column("finished_at", Moment),
        sa.Column("reply_to", sa.String(255)),
        sa.Column("request", Json),
        sa.Column("prompt_id", sa.String(64)),
        sa.Column("part_ids", Json),
        sa.Column("idempotency_key", sa.String(255)),
        sa.Column("request_hash", sa.String(64)),
        sa.Column("stop_requested", sa.String(64)),
        sa.Column("lease_owner", sa.String(64)),
        sa.Column("lease_expires_at", Moment),
        sa.Column("epoch", sa.Integer, server_default=ZERO, nullable=False),
        sa.Column("cursor", sa.BigInteger, server_default=ZERO, nullable=False),
    ]


def upgrade() -> None:
    with op.batch_alter_table("tickets") as tickets:
        for column in ticket_columns():
            tickets.add_column(column)
    op.create_index("tickets_session", "tickets", ["opencode_session_id"], unique=True)

    with op.batch_alter_table("comments") as comments:
        for column in comment_columns():
            comments.add_column(column)
    op.execute("UPDATE comments SET role = 'assistant' WHERE author = 'bot'")
    op.execute(
        """
        UPDATE comments SET position = placed.place
        FROM (
            SELECT id, row_number() OVER (PARTITION BY ticket_id ORDER BY written_at, id) AS place
            FROM comments
        ) AS placed
        WHERE placed.id = comments.id
        """
    )
    index_comments("position", ["ticket_id", "position"])
    index_comments("one_live_turn", ["ticket_id"], where=PENDING)
    index_comments("queue", ["ticket_id", "position"], where=QUEUED, unique=False)
    index_comments("prompt", ["prompt_id"])
    index_comments("idempotency", ["ticket_id", "idempotency_key"])
    index_comments("lease", ["lease_expires_at"], unique=False)


def downgrade() -> None:
    for name in ("position", "one_live_turn", "queue", "prompt", "idempotency", "lease"):
        op.drop_index(f"comments_{name}", "comments")
    with op.batch_alter_table("comments") as comments:
        for column in comment_columns():
            comments.drop_column(column.name)
    op.drop_index("tickets_session", "tickets")
    with op.batch_alter_table("tickets") as tickets:
        for column in ticket_columns():
            tickets.drop_column(column.name)


def now() -> sa.TextClause:
    """The default of the models, which is each database's own: all leases are on its clock."""
    sqlite = op.get_bind().dialect.name == "sqlite"
    return sa.text("(strftime('%Y-%m-%d %H:%M:%f', 'now'))" if sqlite else "clock_timestamp()")


def index_comments(
    suffix: str, columns: list[str], *, where: sa.TextClause | None = None, unique: bool = True
) -> None:
    op.create_index(
        f"comments_{suffix}",
        "comments",
        columns,
        unique=unique,
        postgresql_where=where,
        sqlite_where=where,
    )
