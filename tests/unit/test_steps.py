"""Long computations: interrupted where they may be, one at a time, and ended with their caller."""

import asyncio
from contextlib import suppress

import pytest

from voucher_grpc.runtime import event_loop_share as steps
from voucher_grpc.runtime.event_loop_share import EventLoopShare
from voucher_grpc.steps import Steps, finished

COUNT = 20


def computation(name: str, done: list[str]) -> Steps[str]:
    """So many steps that note their names."""
    try:
        for _ in range(COUNT):
            done.append(name)
            yield
    finally:
        done.append(f"{name} ended")
    return name


@pytest.fixture
def _no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step takes longer than a turn has, whatever the machine."""
    monkeypatch.setattr(steps, "_TURN_S", -1.0)
    monkeypatch.setattr(steps, "_PAUSE_S", 0.0)


def test_a_computation_can_be_done_in_one_go() -> None:
    """As commands and tests do, without an event loop."""
    assert "one" == finished(computation("one", []))


async def test_a_short_computation_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is done within the first turn is done before anything else is."""
    monkeypatch.setattr(steps, "_TURN_S", 3_600.0)
    done: list[str] = []
    other = asyncio.ensure_future(asyncio.sleep(0))
    assert "short" == await EventLoopShare().run(computation("short", done))
    assert not other.done()
    await other


@pytest.mark.usefixtures("_no_time")
async def test_others_are_served_between_the_steps() -> None:
    """After each step the event loop does what else there is."""
    share, done, turns = EventLoopShare(), list[str](), 0

    async def other() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    beside = asyncio.create_task(other())
    assert "long" == await share.run(computation("long", done))
    beside.cancel()
    assert [*["long"] * COUNT, "long ended"] == done
    assert turns >= COUNT - 1


@pytest.mark.usefixtures("_no_time")
async def test_of_several_computations_one_has_a_turn_at_a_time_and_all_go_on() -> None:
    """However many there are, together they take one share; none waits for another's end."""
    share, done = EventLoopShare(), list[str]()
    names = ["a", "b", "c"]
    assert names == await asyncio.gather(*(share.run(computation(n, done)) for n in names))
    firsts = [done.index(f"{name} ended") for name in names]
    assert min(firsts) >= (COUNT - 1) * len(names)


@pytest.mark.usefixtures("_no_time")
async def test_a_computation_ends_with_its_caller() -> None:
    """Nobody's work goes on, and the next one has its turn."""
    share, done, begun = EventLoopShare(), list[str](), asyncio.Event()

    def told() -> Steps[str]:
        begun.set()
        return (yield from computation("gone", done))

    gone = asyncio.create_task(share.run(told()))
    await begun.wait()
    gone.cancel()
    with suppress(asyncio.CancelledError):
        await gone
    assert len(done) < COUNT
    assert "gone ended" == done[-1]
    assert "next" == await share.run(computation("next", done))


async def test_what_goes_wrong_in_a_step_is_told() -> None:
    """As if it had been done in one go."""

    def failing() -> Steps[None]:
        yield
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        await EventLoopShare().run(failing())
