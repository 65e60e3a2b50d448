"""The part of the ledger that remembers which images we brought: those, and no others, may be collected."""

from __future__ import annotations

from dataclasses import astuple, dataclass, fields
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping

    from thunderagent_core.environments.ledger_store import Store

    ImageKey = tuple[str, str, str]
    """Provider, endpoint and reference."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRow:
    """An image that we pulled or built, or are about to. Times are in seconds since 1970.

    Args:
        provider: who brought it.
        endpoint: where it lies.
        reference: its name, as ``ImageStore.image_name`` gives it.
        identity: see ``StoredImage``; None: it is not known whether it has come.
        size_bytes: None: likewise.
        pulled_at: when it was brought.
        last_used_at: when an environment last needed it.
    """

    provider: str
    endpoint: str
    reference: str
    identity: str | None = None
    size_bytes: int | None = None
    pulled_at: float
    last_used_at: float

    @property
    def key(self) -> ImageKey:
        """What no two of them have in common."""
        return self.provider, self.endpoint, self.reference


IMAGES_TABLE: Final = """
CREATE TABLE IF NOT EXISTS images (
    provider TEXT NOT NULL, endpoint TEXT NOT NULL, reference TEXT NOT NULL, identity TEXT, size_bytes INTEGER,
    pulled_at REAL NOT NULL, last_used_at REAL NOT NULL, PRIMARY KEY (provider, endpoint, reference)
) WITHOUT ROWID
"""
"""Made at every opening where it is missing: ledgers of before have none, and are good without."""

_COLUMNS: Final = tuple(field.name for field in fields(ImageRow))
_OF_ONE: Final = "WHERE provider = ? AND endpoint = ? AND reference = ?"


def load_images(connection: sqlite3.Connection) -> list[ImageRow]:
    """Return all images on record."""
    found = connection.execute(f"SELECT {', '.join(_COLUMNS)} FROM images")  # noqa: S608 - constants
    return [ImageRow(**dict(zip(_COLUMNS, row, strict=True))) for row in found]


def put_image(store: Store, row: ImageRow) -> ImageRow:
    """See ``Ledger.put_image``."""
    store.connection.execute("REPLACE INTO images VALUES (?, ?, ?, ?, ?, ?, ?)", astuple(row))
    return row


def forget_image(store: Store, key: ImageKey) -> None:
    """See ``Ledger.forget_image``."""
    store.connection.execute(f"DELETE FROM images {_OF_ONE}", key)  # noqa: S608 - constants


def images_used(store: Store, used: Mapping[ImageKey, float]) -> None:
    """See ``Ledger.images_used``."""
    for key, at in used.items():
        store.connection.execute(f"UPDATE images SET last_used_at = ? {_OF_ONE}", (at, *key))  # noqa: S608 - constants
