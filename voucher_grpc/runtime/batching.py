"""Paced batches: callers wait a moment together and share one round trip.

A flush starts at once if the last one ended longer than a batch interval ago or was of one
caller, so that an idle service answers as fast as without batches; else it
waits, the longer the larger the last batch was, up to the interval, and all that
arrived goes together. (From the end, not the start: a large batch keeps the
event loop busy, and calls are only taken in between.) One flush runs at
a time. The queue is bounded: at the bound `Overloaded`. Under overload a call
that would be answered too late is refused at once (see `admission`).

A caller that stops waiting (cancelled, deadline) does not end the batch. What
has not been flushed by then is dropped, what has been is done.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from typing import Generic, NamedTuple, TypeVar

from voucher_grpc.errors import Overloaded, Reason, Refusal
from voucher_grpc.runtime.admission import PATIENCE_S, Admission
from voucher_grpc.telemetry import work

Item = TypeVar("Item")
Result = TypeVar("Result")
# What waits, where its result is awaited, and the call that it belongs to.
_Entry = tuple[Item, asyncio.Future[Result], work.Call | None]


# After a batch of so many more than one the batch interval is kept in full.
_FULL_PACE_FROM = 8
# Until when a caller without a deadline waits.
NEVER_S = 1e9


class _Waiting(NamedTuple, Generic[Item]):
    """An item since when it waits, until when its caller does, and in which call."""

    item: Item
    since_s: float
    until_s: float
    call: work.Call | None


class Batcher(Generic[Item, Result]):
    """Gathers items and flushes them together.

    `flush` gets 1 to `max_batch` items and returns one result for each, in
    order; a result that is an exception is raised in its caller. If `flush`
    itself raises, all callers of that batch get the error.
    """

    def __init__(
        self,
        name: str,
        flush: Callable[[Sequence[Item]], Awaitable[Sequence[Result | BaseException]]],
        *,
        interval_s: float,
        max_batch: int,
        max_waiting: int,
        on_batch: Callable[[str, int], None] = lambda _name, _size: None,
        on_shed: Callable[[str, str], None] = lambda _name, _why: None,
    ) -> None:
        self._name = name
        self._flush = flush
        self._interval_s = interval_s
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._on_batch = on_batch
        self._on_shed = on_shed
        self._admission = Admission(max_batch)
        # In order of arrival; a caller that leaves is removed at once.
        self._waiting: dict[asyncio.Future[Result], _Waiting[Item]] = {}
        self._running: asyncio.Task[None] | None = None
        self._last_end_s = -1e9
        self._last_size = 1
        self._closed = False

    @property
    def waiting(self) -> int:
        """How many wait for a batch."""
        return len(self._waiting)

    async def submit(self, item: Item, remaining_s: float | None = None) -> Result:
        """Wait for the item's result; `remaining_s` is how long the caller waits, if it said so.

        Raises what `put` raises, or Overloaded later, if its batch would come too late.
        """
        future = self._put(item, remaining_s)
        try:
            return await future
        except asyncio.CancelledError:
            self._forget(future)
            raise
        finally:
            # A refusal would keep this frame, and this frame the future with the refusal: a
            # circle that only the collector undoes, and that comes by seldom.
            del future

    def put(self, item: Item, remaining_s: float | None = None) -> asyncio.Future[Result]:
        """The item's result to come.

        Raises Overloaded at the bound or if the answer would come too late, SHUTTING_DOWN
        after close.
        """
        future = self._put(item, remaining_s)
        future.add_done_callback(self._forget)
        return future

    def _forget(self, future: asyncio.Future[Result]) -> None:
        """Let go of what an item that still waits has held: its caller has gone."""
        if self._waiting.pop(future, None) is not None:
            self._on_shed(self._name, "gone")

    def check_admission(self, remaining_s: float | None) -> None:
        """Raise what `put` would raise now: for callers who would do work before they put.

        An accepted call is judged twice, but a refused one is spared the reading and checking
        of its message, a third of its cost; under overload most calls are refused.
        """
        if self._closed:
            raise Refusal(Reason.SHUTTING_DOWN, "the server is shutting down", retry_after_s=1.0)
        waiting = len(self._waiting)
        if waiting >= self._max_waiting:
            self._on_shed(self._name, "full")
            raise Overloaded(self._name, self._max_waiting, self._admission.retry_after_s())
        now_s = asyncio.get_running_loop().time()
        patience_s = PATIENCE_S if remaining_s is None else remaining_s
        if not self._admission.admits(waiting, patience_s, now_s, self._oldest_s(now_s)):
            raise self._late("late")

    def _put(self, item: Item, remaining_s: float | None) -> asyncio.Future[Result]:
        self.check_admission(remaining_s)
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        self._admission.took()
        future: asyncio.Future[Result] = loop.create_future()
        until_s = now_s + (NEVER_S if remaining_s is None else remaining_s)
        self._waiting[future] = _Waiting(item, now_s, until_s, work.waiting_call())
        if self._running is None:
            self._running = asyncio.create_task(self._run(), name=f"batches of {self._name}")
        return future

    def _oldest_s(self, now_s: float) -> float:
        return next(iter(self._waiting.values())).since_s if self._waiting else now_s

    def _late(self, why: str) -> Refusal:
        self._on_shed(self._name, why)
        return Refusal(
            Reason.OVERLOADED,
            f"{self._name}: the answer would come too late",
            retry_after_s=self._admission.retry_after_s(),
        )

    async def _run(self) -> None:
        """Flush until nothing waits; a new item starts it again."""
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                interval_s = self._interval_s * min(1.0, (self._last_size - 1) / _FULL_PACE_FROM)
                pause_s = self._last_end_s + interval_s - loop.time()
                if pause_s > 0 and len(self._waiting) < self._max_batch:
                    await asyncio.sleep(pause_s)
                batch = self._take(loop.time())
                if batch:
                    await self._flush_batch(batch)
                self._last_end_s, self._last_size = loop.time(), max(1, len(batch))
        finally:
            self._running = None

    def _take(self, now_s: float) -> list[_Entry[Item, Result]]:
        """The next batch: without those whose caller has gone or would get the answer too late."""
        admission, oldest_s = self._admission, self._oldest_s(now_s)
        size = min(len(self._waiting), admission.largest_batch())
        taken = list(islice(self._waiting.items(), size))
        for future, _ in taken:
            del self._waiting[future]
        # A caller whose time is over is gone, even if the news of it is still on its way.
        here = [(f, w) for f, w in taken if not f.done() and w.until_s > now_s]
        in_time = [
            (f, w) for f, w in here if not admission.too_late(size, w.until_s, now_s, oldest_s)
        ]
        # A forecast alone never empties a batch: if it errs, nothing else would show it.
        in_time = in_time or sorted(here, key=lambda waiting: waiting[1].until_s)[-1:]
        if len(in_time) < len(taken):
            self._shed({f for f, _ in taken} - {f for f, _ in in_time})
        return [(waiting.item, future, waiting.call) for future, waiting in in_time]

    def _shed(self, left_out: set[asyncio.Future[Result]]) -> None:
        for future in left_out:
            if future.done():
                self._on_shed(self._name, "gone")
            else:
                future.set_exception(self._late("too_late"))

    async def _flush_batch(self, batch: list[_Entry[Item, Result]]) -> None:
        self._on_batch(self._name, len(batch))
        loop, answered = asyncio.get_running_loop(), False
        self._admission.began(len(batch), loop.time())
        try:
            answered = await self._flush_and_deliver(batch)
        finally:
            self._admission.ended(loop.time(), answered=answered)

    async def _flush_and_deliver(self, batch: list[_Entry[Item, Result]]) -> bool:
        """Whether the flush came to its end."""
        this_batch: work.Batch | None = None
        failed: BaseException | None = None
        try:
            this_batch = work.begin_batch(self._name, [call for _, _, call in batch])
            results = await self._flush([item for item, _, _ in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"{self._name}: {len(results)} results for {len(batch)} items")
        except Exception as error:  # noqa: BLE001 - each caller gets it
            failed = error
            _deliver(batch, [error] * len(batch))
            return False
        except asyncio.CancelledError as error:
            failed = error
            # The service ends: no caller may be left waiting for this batch.
            stopped = Refusal(Reason.SHUTTING_DOWN, "the server is shutting down")
            _deliver(batch, [stopped] * len(batch))
            raise
        finally:
            if this_batch is not None:
                this_batch.ended(failed)
            failed = None  # it holds this frame by its traceback
        _deliver(batch, results)
        return True

    async def close(self) -> None:
        """Take nothing new and finish what waits."""
        self._closed = True
        if self._running is not None:
            await self._running


def _deliver(
    batch: Sequence[_Entry[Item, Result]],
    results: Sequence[Result | BaseException],
) -> None:
    """Give each caller its result; callers that have left are skipped."""
    for (_, future, _), result in zip(batch, results, strict=True):
        if future.done():
            continue
        if isinstance(result, BaseException):
            future.set_exception(result)
        else:
            future.set_result(result)
