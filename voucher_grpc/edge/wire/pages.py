"""Pages of lists: bounded in rows and in bytes, and what they count for the caller's rate.

A page ends before the row with which its answer would be larger than 1 MiB, but has at
least one row. Nothing here reads or waits: the rows come as their encoded messages.
"""

from collections.abc import Sequence

from google.protobuf.descriptor import Descriptor

from voucher_grpc.edge.wire.encoding import Encoded, part, part_tag
from voucher_grpc.edge.wire.paging import MAX_TOKEN_CHARS, page_token

MAX_PAGE_BYTES = 2**20
# What one call of the caller's rate pays for.
ROWS_OF_A_CALL = 100
BYTES_OF_A_CALL = 64 * 1024
# More than a token takes with its tag and length.
_TOKEN_ROOM_BYTES = MAX_TOKEN_CHARS + 8


def calls_of(rows: int, size_bytes: int) -> int:
    """For how many calls an answer counts: one for each started 100 rows or 64 KiB."""
    return max(1, -(-rows // ROWS_OF_A_CALL), -(-size_bytes // BYTES_OF_A_CALL))


class Page:
    """A page that is being filled with rows, in their order.

    `answer` is the message of the answer, with the rows in its field `rows` and
    `next_page_token`; `head` has the bytes of its other fields. `scope` is that of the token.
    """

    def __init__(
        self,
        answer: Descriptor,
        rows: str,
        scope: Sequence[str],
        max_rows: int,
        *,
        head: bytes = b"",
        max_bytes: int = MAX_PAGE_BYTES,
    ) -> None:
        self._row_tag = part_tag(answer.fields_by_name[rows].number)
        self._token_tag = part_tag(answer.fields_by_name["next_page_token"].number)
        self._scope = scope
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._fields = [head]
        self._size_bytes = len(head)
        self._last: Sequence[str] = ()

    @property
    def rows(self) -> int:
        """How many there are."""
        return len(self._fields) - 1

    @property
    def size_bytes(self) -> int:
        """What the answer has so far, without a token."""
        return self._size_bytes

    @property
    def rows_left(self) -> int:
        """How many more it takes at most."""
        return self._max_rows - self.rows

    def has_room(self, row_bytes: int) -> bool:
        """Whether a row of at least so many bytes may belong on it, so that it is worth making."""
        if not self.rows:
            return True
        return self.rows_left > 0 and self._size_bytes + row_bytes <= self._max_bytes

    def add(self, key: Sequence[str], row: bytes) -> bool:
        """Add a row; False, and the page is as it was, if it does not belong on it any more.

        `key` is what the token of a page that ends with the row is made of.
        """
        field = part(self._row_tag, row)
        size_bytes = self._size_bytes + len(field)
        if self.rows and (not self.rows_left or self._too_large(size_bytes, key)):
            return False
        self._fields.append(field)
        self._size_bytes = size_bytes
        self._last = key
        return True

    def _too_large(self, size_bytes: int, key: Sequence[str]) -> bool:
        """Whether the answer would be, with the token that stands for this row."""
        if size_bytes + _TOKEN_ROOM_BYTES <= self._max_bytes:
            return False
        return size_bytes + len(self._token(key)) > self._max_bytes

    def _token(self, key: Sequence[str]) -> bytes:
        return part(self._token_tag, page_token(self._scope, key).encode("ascii"))

    def answer(self, *, more: bool) -> Encoded:
        """The answer; with `more` rows after it, it has a token that goes on there."""
        token = self._token(self._last) if more else b""
        return Encoded(b"".join([*self._fields, token]))
