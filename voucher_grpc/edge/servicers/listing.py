"""How all lists are answered: bounded in bytes, read in slices, paid for by the caller's rate.

A list is read slice by slice and its rows are encoded in short steps, so that others are served
meanwhile (`voucher_grpc.steps`). Few pages are made at a time, and of one caller one; what
has not been taken by a caller is bounded too. So memory does not grow with the number of callers.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, TypeVar

import grpc
from google.protobuf.message import Message

from voucher_grpc.access.principal import ANONYMOUS, caller
from voucher_grpc.access.rates import Rates
from voucher_grpc.edge.wire.encoding import Encoded, Pieces, part
from voucher_grpc.edge.wire.pages import Page, calls_of
from voucher_grpc.errors import Reason, Refusal
from voucher_grpc.runtime.event_loop_share import EventLoopShare
from voucher_grpc.steps import Steps
from voucher_grpc.store.slices import MAX_SLICE_ROWS, Slice

Context = grpc.aio.ServicerContext[Any, Any]
Item = TypeVar("Item")

# Pages that are made at a time.
_PAGES_AT_ONCE = 2
# Answers that are being sent, of all callers and of one; they stay until the caller reads them.
_MAX_UNSENT_BYTES = 32 * 2**20
_MAX_UNSENT_OF_CALLER_BYTES = 8 * 2**20
_RETRY_AFTER_S = 1.0


class Row(NamedTuple):
    """A row of a list: its key, which a page token is made of, and its encoded message."""

    key: Sequence[str]
    message: Pieces


def row(key: Sequence[str], message: Message) -> Row:
    """A row that is made in one go."""
    return Row(key, iter((message.SerializeToString(),)))


# The slice after a key (None: the first one) of at most so many rows; and a row of what it has.
ReadSlice = Callable[[Sequence[str] | None, int], Awaitable[Slice[Item]]]
EncodeRow = Callable[[Item], Row]


class Lists:
    """Makes the pages of all lists of a server."""

    def __init__(self, rates: Rates, share: EventLoopShare) -> None:
        self._rates = rates
        self._share = share
        self._places = asyncio.Semaphore(_PAGES_AT_ONCE)
        self._turns: dict[object, _Turns] = {}
        self._unsent_bytes = 0
        self._unsent_of_caller_bytes: Counter[object] = Counter()

    async def answer(
        self, page: Page, read: ReadSlice[Item], encode: EncodeRow[Item], context: Context
    ) -> Encoded:
        """A page of a list, charged to the caller. Raises OVERLOADED and what `read` does.

        A call that ends before its answer is paid for as far as the page has come.
        """
        self._refuse_unread()
        answer: Encoded | None = None
        try:
            async with self._place():
                more = await self._fill(page, read, encode)
                answer = page.answer(more=more)
        finally:
            size_bytes = page.size_bytes if answer is None else len(answer.raw)
            self._charge(page.rows, size_bytes)
        self._hold_until_sent(size_bytes, context)
        return answer

    async def one(
        self, read: Callable[[], Awaitable[Pieces]], tag: bytes, context: Context
    ) -> Encoded:
        """An answer that is one message in one field, read and charged as a list of one row is."""
        self._refuse_unread()
        async with self._place():
            message = await read()
            answer = Encoded(part(tag, await self._share.run(_joined(message))))
        self._charge(1, len(answer.raw))
        self._hold_until_sent(len(answer.raw), context)
        return answer

    def _charge(self, rows: int, size_bytes: int) -> None:
        """For the caller's rate; the call itself is the first that an answer costs."""
        self._rates.charge(caller(), calls_of(rows, size_bytes) - 1)

    async def _fill(self, page: Page, read: ReadSlice[Item], encode: EncodeRow[Item]) -> bool:
        """Fill a page; whether there is more than it holds."""
        last: Sequence[str] | None = None
        while True:
            # One more than the page takes, which shows whether there is a next one.
            found = await read(last, min(MAX_SLICE_ROWS, page.rows_left + 1))
            last, full = await self._share.run(_added(page, found.rows, encode, last))
            if full:
                return True
            if not found.more:
                return False

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        """One of the places in which pages are made; a caller waits for its own page first."""
        async with self._turn_of_caller(), self._places:
            # Those that waited came when there was room for each of them, not for all.
            self._refuse_unread()
            yield

    @asynccontextmanager
    async def _turn_of_caller(self) -> AsyncIterator[None]:
        if caller() is ANONYMOUS:
            yield
            return
        who = caller().key
        turns = self._turns.setdefault(who, _Turns())
        turns.calls += 1
        try:
            async with turns.lock:
                yield
        finally:
            turns.calls -= 1
            if not turns.calls:
                del self._turns[who]

    def _refuse_unread(self) -> None:
        unsent_bytes = 0 if caller() is ANONYMOUS else self._unsent_of_caller_bytes[caller().key]
        if unsent_bytes >= _MAX_UNSENT_OF_CALLER_BYTES or self._unsent_bytes >= _MAX_UNSENT_BYTES:
            message = "too many answers wait here to be read by their callers"
            raise Refusal(Reason.OVERLOADED, message, retry_after_s=_RETRY_AFTER_S)

    def _hold_until_sent(self, size_bytes: int, context: Context) -> None:
        who, of_caller_bytes = caller().key, self._unsent_of_caller_bytes
        self._unsent_bytes += size_bytes
        of_caller_bytes[who] += size_bytes

        def sent(_context: Any) -> None:
            self._unsent_bytes -= size_bytes
            of_caller_bytes[who] -= size_bytes
            if not of_caller_bytes[who]:
                del of_caller_bytes[who]

        context.add_done_callback(sent)  # type: ignore[arg-type]


class _Turns:
    """The calls of a caller that want a page, of which one has its turn."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.calls = 0


def _added(
    page: Page, items: Sequence[Item], encode: EncodeRow[Item], last: Sequence[str] | None
) -> Steps[tuple[Sequence[str] | None, bool]]:
    """(the key of the last row that was added, whether the page is full and there is more)."""
    for item in items:
        if not page.rows_left:
            return last, True
        key, message = encode(item)
        encoded = yield from _joined_if_room(message, page)
        if encoded is None or not page.add(key, encoded):
            return last, True
        last = key
        yield
    return last, False


def _joined(message: Pieces) -> Steps[bytes]:
    """A message of its pieces."""
    pieces = []
    for piece in message:
        pieces.append(piece)
        yield
    return b"".join(pieces)


def _joined_if_room(message: Pieces, page: Page) -> Steps[bytes | None]:
    """A row of its pieces; None as soon as the page has no room for it."""
    pieces, size_bytes = [], 0
    for piece in message:
        pieces.append(piece)
        size_bytes += len(piece)
        if not page.has_room(size_bytes):
            return None
        yield
    return b"".join(pieces)
