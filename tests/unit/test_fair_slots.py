"""Places for streams that anybody may open: a newcomer always gets one, nobody can have all."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voucher_grpc.errors import Reason, Refusal
from voucher_grpc.runtime.fair_slots import FairSlots


class Streams:
    """Streams that are open until they are told to end; `ended` are those that had to."""

    def __init__(self, most: int) -> None:
        self.shed = 0
        self.places = FairSlots("streams", most, self._count)
        self.ended: list[str] = []
        self.reasons: set[tuple[Reason, bool]] = set()
        self._tasks: list[asyncio.Task[None]] = []

    def _count(self) -> None:
        self.shed += 1

    async def open(self, who: str) -> None:
        """One more; those that had to end for it have ended."""
        self._tasks.append(asyncio.create_task(self._hold(who)))
        for _ in range(5):
            await asyncio.sleep(0)

    async def _hold(self, who: str) -> None:
        try:
            async with self.places.slot(who):
                await asyncio.Event().wait()
        except Refusal as refusal:
            self.ended.append(who)
            self.reasons.add((refusal.reason, bool(refusal.retry_after_s)))

    async def close(self) -> None:
        """End all that are open."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def streams(most: int) -> AsyncIterator[Streams]:
    """None open yet; all are closed at the end, and then no place is taken."""
    made = Streams(most)
    try:
        yield made
    finally:
        await made.close()
        assert 0 == made.places.taken


async def test_the_oldest_of_whoever_has_most_ends_for_a_newcomer() -> None:
    """So many streams of one address cost that address only."""
    async with streams(4) as opened:
        for who in ("a", "many", "many", "many", "b", "c"):
            await opened.open(who)
        assert ["many", "many"] == opened.ended
        assert (4, 2) == (opened.places.taken, opened.shed)
        assert {(Reason.OVERLOADED, True)} == opened.reasons


@given(st.lists(st.sampled_from("abcdef"), max_size=40), st.integers(1, 8))
def test_never_more_than_there_are_places_and_the_shares_are_as_even_as_can_be(
    newcomers: list[str], most: int
) -> None:
    """For any order of newcomers: who had to give one up had no fewer than anybody else has."""

    async def run() -> None:
        async with streams(most) as opened:
            has: Counter[str] = Counter()
            for who in newcomers:
                known = len(opened.ended)
                before = Counter(has)
                await opened.open(who)
                has[who] += 1
                lost = opened.ended[known:]
                has.subtract(lost)
                assert opened.places.taken == has.total() == min(most, before.total() + 1)
                assert all(before[one] == max(before.values()) for one in lost)

    asyncio.run(run())


async def test_a_stream_whose_caller_leaves_while_it_is_told_to_end_gives_back_one_place() -> None:
    """Both at the same moment count once."""
    places = FairSlots("streams", 1, lambda: None)
    first = asyncio.Event()

    async def hold() -> None:
        async with places.slot("a"):
            first.set()
            await asyncio.Event().wait()

    holding = asyncio.create_task(hold())
    await first.wait()
    async with places.slot("b"):
        holding.cancel()
        with pytest.raises((asyncio.CancelledError, Refusal)):
            await holding
        assert 1 == places.taken
    assert 0 == places.taken


async def test_a_time_out_of_the_stream_itself_stays_one() -> None:
    """It is not taken for a lack of places."""
    places = FairSlots("streams", 1, lambda: None)
    with pytest.raises(TimeoutError):
        async with places.slot("a"):
            raise TimeoutError
    assert 0 == places.taken
