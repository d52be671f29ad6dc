"""The table of erasures: digests of what was erased, by which late events of it are recognized."""

from enum import StrEnum

from sqlalchemy import Column, Index, Table

from handlers.kit.column_types import BinaryCollatedText, EnumText, UtcDateTime
from workers.ledger.tables.core_tables import metadata


class ErasedKind(StrEnum):
    """What a digest in the table of erasures stands for."""

    SESSION = "session"
    """The id of a session: whatever comes of it later is erased, too."""

    USER = "user"
    """The id of a driver: what was received before the erasure and names it is erased, wherever it turns up."""


erasures = Table(
    "erasures",
    metadata,
    Column("digest", BinaryCollatedText, primary_key=True),
    Column("erasure_id", BinaryCollatedText, nullable=False),
    Column("kind", EnumText(ErasedKind), nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Index("erasures_at", "at"),
)
