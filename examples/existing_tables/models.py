"""A help desk's tables, populated for years before there was an agent, with the mixins on top.

Keys, names and NOT NULL columns are the desk's. The library uses mapped attributes, never column
names, so that a subject is a title and a comment's body a message's content.
"""

from datetime import datetime

from sqlalchemy import BigInteger, DateTime, ForeignKey, Integer, Text, func
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from opencode_async import ConversationMixin, MessageMixin

Key = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts up only INTEGER keys
Moment = DateTime(timezone=True)


class Base(DeclarativeBase):
    pass


class Ticket(ConversationMixin, Base):
    __tablename__ = "tickets"
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    customer: Mapped[str] = mapped_column(Text, index=True)
    title: Mapped[str | None] = mapped_column("subject", Text)
    created_at: Mapped[datetime] = mapped_column("opened_at", Moment, server_default=func.now())


class Comment(MessageMixin, Base):
    __tablename__ = "comments"
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    conversation_id: Mapped[int] = mapped_column(
        "ticket_id", ForeignKey("tickets.id", ondelete="CASCADE"), index=True
    )
    author: Mapped[str] = mapped_column(Text)
    content: Mapped[str] = mapped_column("body", Text, server_default="")
    created_at: Mapped[datetime] = mapped_column("written_at", Moment, server_default=func.now())
