"""The chat's tables: keys and the visitor are its own, all else is the library's columns."""

from uuid import UUID, uuid4

from sqlalchemy import ForeignKey
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from opencode_async import ArtifactMixin, AskMixin, ConversationMixin, MessageMixin, Tables


class Base(DeclarativeBase):
    pass


class Conversation(ConversationMixin, Base):
    __tablename__ = "conversations"
    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    visitor: Mapped[str] = mapped_column(index=True)


class Message(MessageMixin, Base):
    __tablename__ = "messages"
    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    conversation_id: Mapped[UUID] = mapped_column(
        ForeignKey("conversations.id", ondelete="CASCADE")
    )


class File(ArtifactMixin, Base):
    __tablename__ = "files"
    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    message_id: Mapped[UUID] = mapped_column(ForeignKey("messages.id", ondelete="CASCADE"))


class Ask(AskMixin, Base):
    __tablename__ = "asks"
    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    message_id: Mapped[UUID] = mapped_column(ForeignKey("messages.id", ondelete="CASCADE"))


TABLES = Tables(Conversation, Message, artifact=File, ask=Ask)
