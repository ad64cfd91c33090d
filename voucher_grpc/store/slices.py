"""Slices of lists: what is read of Postgres at a time, bounded in rows and in bytes.

A list of 1,000 rows of 2 MB is never read as one. The bytes are those that are stored, which
Postgres knows without reading a row; compressed ones (pglz) may become ninety times as many.
"""

from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

import asyncpg

Row = TypeVar("Row")
# A row that has been read and is made a value of once it is its turn.
Unread = Callable[[], Row]

MAX_SLICE_ROWS = 100
MAX_SLICE_BYTES = 32 * 1024


class Slice(NamedTuple, Generic[Row]):
    """Some rows of a list; `more` follow them, or may."""

    rows: Sequence[Row]
    more: bool


def more_after(rows: Sequence[asyncpg.Record], limit: int) -> bool:
    """Whether rows may follow those of a statement with a column `found`, of at most `limit`."""
    found: int = rows[0]["found"] if rows else 0
    return len(rows) < found or found == limit
