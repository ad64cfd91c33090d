"""Paced batches: callers wait a moment together and share one round trip.

A flush starts at once if the last one ended longer than a pace ago or was of one
caller, so that an idle service answers as fast as without batches; else it
waits, the longer the larger the last batch was, up to the pace, and all that
arrived goes together. (From the end, not the start: a large batch keeps the
event loop busy, and calls are only taken in between.) One flush is under way at
a time. The queue is bounded: at the bound `Overloaded`.

A caller that stops waiting (cancelled, deadline) does not end the batch. What
has not been flushed by then is dropped, what has been is done.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from voucher_grpc import work
from voucher_grpc.errors import Overloaded, Reason, Refusal

Item = TypeVar("Item")
Result = TypeVar("Result")
# What waits, where its result is awaited, and the call that it belongs to.
_Entry = tuple[Item, asyncio.Future[Result], work.Call | None]


# After a batch of so many more than one the pace is kept in full.
_FULL_PACE_FROM = 8


class Batcher(Generic[Item, Result]):
    """Gathers items and flushes them together.

    `flush` gets 1 to `max_batch` items and returns one result for each, in
    order; a result that is an exception is raised in its caller. If `flush`
    itself raises, all callers of that batch hear it.
    """

    def __init__(
        self,
        name: str,
        flush: Callable[[Sequence[Item]], Awaitable[Sequence[Result | BaseException]]],
        *,
        pace_s: float,
        max_batch: int,
        max_waiting: int,
        on_batch: Callable[[str, int], None] = lambda _name, _size: None,
    ) -> None:
        self._name = name
        self._flush = flush
        self._pace_s = pace_s
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._on_batch = on_batch
        self._waiting: deque[_Entry[Item, Result]] = deque()
        self._running: asyncio.Task[None] | None = None
        self._last_end_s = -1e9
        self._last_size = 1
        self._closed = False

    async def submit(self, item: Item) -> Result:
        """Wait for the item's result."""
        return await self.put(item)

    def put(self, item: Item) -> asyncio.Future[Result]:
        """The item's result to come. Raises Overloaded at the bound, SHUTTING_DOWN after close."""
        if self._closed:
            raise Refusal(Reason.SHUTTING_DOWN, "the server is shutting down", retry_after_s=1.0)
        if len(self._waiting) >= self._max_waiting:
            raise Overloaded(self._name, self._max_waiting)
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future, work.waiting_call()))
        if self._running is None:
            self._running = asyncio.create_task(self._run(), name=f"batches of {self._name}")
        return future

    async def _run(self) -> None:
        """Flush until nothing waits; a new item starts it again."""
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                pace_s = self._pace_s * min(1.0, (self._last_size - 1) / _FULL_PACE_FROM)
                pause_s = self._last_end_s + pace_s - loop.time()
                if pause_s > 0 and len(self._waiting) < self._max_batch:
                    await asyncio.sleep(pause_s)
                batch = self._take()
                if batch:
                    await self._flush_batch(batch)
                self._last_end_s, self._last_size = loop.time(), max(1, len(batch))
        finally:
            self._running = None

    def _take(self) -> list[_Entry[Item, Result]]:
        """The next batch, without those whose caller has gone."""
        batch: list[_Entry[Item, Result]] = []
        while self._waiting and len(batch) < self._max_batch:
            entry = self._waiting.popleft()
            if not entry[1].done():
                batch.append(entry)
        return batch

    async def _flush_batch(self, batch: list[_Entry[Item, Result]]) -> None:
        self._on_batch(self._name, len(batch))
        under_way: work.Batch | None = None
        failed: BaseException | None = None
        results: Sequence[Result | BaseException]
        try:
            under_way = work.begin_batch(self._name, [call for _, _, call in batch])
            results = await self._flush([item for item, _, _ in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"{self._name}: {len(results)} results for {len(batch)} items")
        except Exception as error:  # noqa: BLE001 - each caller hears it
            failed = error
            results = [error] * len(batch)
        except asyncio.CancelledError as error:
            failed = error
            # Somebody ends the service: nobody may be left waiting for this batch.
            stopped = Refusal(Reason.SHUTTING_DOWN, "the server is shutting down")
            _deliver(batch, [stopped] * len(batch))
            raise
        finally:
            if under_way is not None:
                under_way.ended(failed)
            failed = None  # it holds this frame by its traceback
        _deliver(batch, results)

    async def close(self) -> None:
        """Take nothing new and finish what waits."""
        self._closed = True
        if self._running is not None:
            await self._running


def _deliver(
    batch: Sequence[_Entry[Item, Result]],
    results: Sequence[Result | BaseException],
) -> None:
    """Give each caller its result; who has gone is passed over."""
    for (_, future, _), result in zip(batch, results, strict=True):
        if future.done():
            continue
        if isinstance(result, BaseException):
            future.set_exception(result)
        else:
            future.set_result(result)
