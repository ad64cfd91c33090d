"""Runs long computations in short steps, so that the event loop serves others in between.

A worker thread would not do: it and the event loop take the interpreter's lock from each
other for 5 ms at a time, and each call gives it up some twenty times.
"""

import asyncio
import time
from typing import TypeVar

from voucher_grpc.steps import Steps

T = TypeVar("T")

# How long a computation has the event loop at a time, in CPU time: on a machine that is busy with
# other things a turn would else be over before anything is done.
_TURN_S = 0.0005
# Where others had more to do than this between two turns they have the event loop for a while.
_BUSY_S = 0.0001
_PAUSE_S = 0.001


class _Running:
    """A computation that has begun."""

    def __init__(self, steps: Steps[object]) -> None:
        self._steps = steps
        self.result: object = None

    def turn(self) -> bool:
        """Go on for a while; whether it has come to its end."""
        until_s = time.thread_time() + _TURN_S
        try:
            next(self._steps)
            while time.thread_time() < until_s:
                next(self._steps)
        except StopIteration as end:
            self.result = end.value
            return True
        return False


class EventLoopShare:
    """Runs long computations with a bounded share of the event loop, however many there are.

    The first turn of a computation is its own, so that a short one does not wait. Further
    turns are taken one at a time by all of a server. Between two of them others are served;
    where there is something to serve, no turn is taken for a while.
    """

    def __init__(self) -> None:
        self._one_at_a_time = asyncio.Lock()

    async def run(self, steps: Steps[T]) -> T:
        """The result of a computation."""
        running = _Running(steps)
        try:
            ended = running.turn()
            while not ended:
                async with self._one_at_a_time:
                    await _others_served()
                    ended = running.turn()
        finally:
            steps.close()
        return running.result  # type: ignore[return-value]


async def _others_served() -> None:
    """Once at least; for longer where others are busy, and are likely to go on."""
    began_s = time.thread_time()
    await asyncio.sleep(0)
    if time.thread_time() - began_s > _BUSY_S:
        await asyncio.sleep(_PAUSE_S)
