"""The work that code runs for: a call, or a batch that serves many of them.

Code finds the one it works for in a context variable (`current`), so that nothing has to be
passed through. It records where time goes, and has the ids for log lines.
All of it is recorded without a lock and costs a call about a microsecond.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

# A line about a batch names so many of its calls.
MAX_REQUEST_IDS = 16

_current: "ContextVar[Work | None]" = ContextVar("work", default=None)
# The work for which code runs, None for background tasks; and how it is begun.
current = _current.get
begin = _current.set


class Work:
    """What a call and a batch have in common: time that goes to the database, in seconds."""

    __slots__ = ("connect_s", "sql_s", "statements")

    def __init__(self) -> None:
        self.connect_s = 0.0
        self.sql_s = 0.0
        self.statements = 0

    def statement(self, name: str, text: str, took_s: float, error: BaseException | None) -> None:
        """A statement has ended."""
        self.sql_s += took_s
        self.statements += 1

    def ids(self) -> dict[str, str | list[str]]:
        """What a line of the log should carry."""
        return {}


class Call(Work):
    """A call: what its time went to, and its request id, which is found when it is asked for."""

    __slots__ = ("_find_request_id", "_flushed", "_request_id", "_waited_s", "_waits_since_s")
    # Whether a batch with this call in it is to be of the call's making.
    makes_batches = False

    def __init__(self, find_request_id: Callable[[], str]) -> None:
        self.connect_s = 0.0
        self.sql_s = 0.0
        self.statements = 0
        self._find_request_id = find_request_id
        self._request_id: str | None = None
        self._waits_since_s: float | None = None
        self._waited_s = 0.0
        self._flushed: _Flushed | None = None

    @property
    def request_id(self) -> str:
        """The caller's, or one that was made; the same each time."""
        if self._request_id is None:
            self._request_id = self._find_request_id()
        return self._request_id

    def ids(self) -> dict[str, str | list[str]]:
        """The request id."""
        return {"request_id": self.request_id}

    def waits(self) -> None:
        """It waits for a batch from now on."""
        if self._waits_since_s is None:
            self._waits_since_s = time.perf_counter()

    def served_by(self, batch: "Batch") -> None:
        """A batch with something of this call begins. Of many things the first one counts."""
        flushed = self._flushed
        if flushed is None:
            self._flushed = _Flushed(batch)
        elif flushed.last is batch:
            return
        else:
            flushed.add(batch)
        if self._waits_since_s is not None:
            self._waited_s += batch.began_s - self._waits_since_s
            self._waits_since_s = None

    def batch(self, name: str, calls: "Sequence[Call | None]") -> "Batch":
        """A batch that this call is in."""
        return Batch(name, calls)

    def ended(self, code: str, reason: str | None, took_s: float) -> None:
        """The call has its answer: a status code, and the reason if it was refused."""

    def where_time_went(self, took_s: float) -> dict[str, float | int]:
        """What the time went to, in seconds.

        `waited_s` (for a batch), `flush_s` (in batches, with their connect_s and sql_s in
        it) and `rest_s`, with `connect_s` and `sql_s` of the call itself, are the whole.
        """
        waited_s = self._waited_s
        if self._waits_since_s is not None:
            waited_s += time.perf_counter() - self._waits_since_s
        rest_s = took_s - waited_s - self.connect_s - self.sql_s
        found: dict[str, float | int] = {}
        connect_s, sql_s, statements = self.connect_s, self.sql_s, self.statements
        if (flushed := self._flushed) is not None:
            flush_s, in_connect_s, in_sql_s, in_statements = flushed.sums()
            rest_s -= flush_s
            connect_s, sql_s = connect_s + in_connect_s, sql_s + in_sql_s
            statements += in_statements
            found["flush_s"] = flush_s
            found["batch_size"] = flushed.last.size
            found["batches"] = flushed.batches
        found |= {"waited_s": waited_s, "connect_s": connect_s, "sql_s": sql_s}
        found["rest_s"] = max(0.0, rest_s)
        return {name: round(value, 6) for name, value in found.items()} | {"statements": statements}


class Batch(Work):
    """A batch: its calls, and when it began and ended.

    `calls` may name a call more than once and hold None for work without a call.
    """

    __slots__ = ("_ended_s", "began_s", "calls", "name", "size")

    def __init__(self, name: str, calls: Sequence[Call | None]) -> None:
        super().__init__()
        self.name = name
        self.size = len(calls)
        self.calls = [call for call in dict.fromkeys(calls) if call is not None]
        self.began_s = time.perf_counter()
        self._ended_s: float | None = None
        for call in self.calls:
            call.served_by(self)

    @property
    def took_s(self) -> float:
        """How long it took, or takes so far."""
        return (self._ended_s or time.perf_counter()) - self.began_s

    def ended(self, error: BaseException | None) -> None:
        """It is done, or has failed as a whole."""
        self._ended_s = time.perf_counter()
        self.calls = []  # a call keeps its batch, but not all the others of it

    def ids(self) -> dict[str, str | list[str]]:
        """The request ids of the first of its calls."""
        return {"request_ids": [call.request_id for call in self.calls[:MAX_REQUEST_IDS]]}


class _Flushed:
    """The batches that have served a call: the last one, and sums over those before it."""

    __slots__ = ("_before", "batches", "last")

    def __init__(self, batch: Batch) -> None:
        self.last = batch
        self.batches = 1
        self._before = (0.0, 0.0, 0.0, 0)

    def add(self, batch: Batch) -> None:
        """The next batch begins."""
        self._before = self.sums()
        self.last = batch
        self.batches += 1

    def sums(self) -> tuple[float, float, float, int]:
        """(seconds in flushes, for connections, for statements; how many statements)."""
        last, (flush_s, connect_s, sql_s, statements) = self.last, self._before
        return (
            flush_s + last.took_s,
            connect_s + last.connect_s,
            sql_s + last.sql_s,
            statements + last.statements,
        )


def waiting_call() -> Call | None:
    """The call that waits for a batch from now on, if it is one that puts something into it."""
    call = _current.get()
    if not isinstance(call, Call):
        return None
    call.waits()
    return call


def begin_batch(name: str, calls: Sequence[Call | None]) -> Batch:
    """A batch is what code works for from now on, in this context."""
    for call in calls:
        if call is not None and call.makes_batches:
            batch = call.batch(name, calls)
            break
    else:
        batch = Batch(name, calls)
    _current.set(batch)
    return batch


@contextmanager
def connecting() -> Iterator[None]:
    """What is done inside is to get a connection; failing to get one takes its time too."""
    began_s = time.perf_counter()
    try:
        yield
    finally:
        if (work := _current.get()) is not None:
            work.connect_s += time.perf_counter() - began_s
