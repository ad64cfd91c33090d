"""Where calls come in, and how a server that stops empties the queue before it.

The runtime takes calls one at a time; those that have arrived and are not yet taken when a
server is stopped it cancels, under load nearly as many as there are callers. So the calls
that come in are held for a moment, in which nothing is worked on and all that waits is taken
quickly; then clients get GOAWAY, and what is held goes on. Callers that wait for an
answer send nothing new meanwhile.
"""

import asyncio

# Nothing came in for so long, four times one after the other: the queue is empty.
_LOOK_S, _QUIET_LOOKS = 0.005, 4
# A check that took longer found a busy machine: calls take longer to arrive, too, so it
# says nothing.
_LATE_S = 0.01
# Where calls never cease to come those that come last must do without.
_MOST_LOOKS = 50
_LONGEST_HOLD_S = 2


class DrainBarrier:
    """Open until it is held."""

    def __init__(self) -> None:
        self._opened: asyncio.Event | None = None
        self._entered = 0

    async def enter(self) -> None:
        """Each call's first step."""
        self._entered += 1
        if self._opened is not None:
            await self._opened.wait()

    async def hold(self) -> None:
        """Let those that come wait, and return once no more do."""
        self._opened = asyncio.Event()
        loop = asyncio.get_running_loop()
        end_s, looks, quiet = loop.time() + _LONGEST_HOLD_S, 0, 0
        while quiet < _QUIET_LOOKS and looks < _MOST_LOOKS and loop.time() < end_s:
            entered, begun_s = self._entered, loop.time()
            await asyncio.sleep(_LOOK_S)
            if loop.time() - begun_s < _LATE_S:
                looks += 1
                quiet = quiet + 1 if self._entered == entered else 0

    def open(self) -> None:
        """Let all go on."""
        if self._opened is not None:
            self._opened.set()
        self._opened = None
