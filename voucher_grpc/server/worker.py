"""One of several processes on one port: what it knows, and what it says to its supervisor.

It says once over a pipe that it is ready, or why it could not start. Another pipe is held
open by the supervisor and never written: when that one is gone, however it ended, the
worker reads the end of the pipe and drains.
"""

import asyncio
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

READY = "ready"
# What a pipe takes in one piece.
MAX_TOLD_BYTES = 4_096


@dataclass(frozen=True, slots=True)
class Worker:
    """A place among the workers.

    No two processes have the same slot at a time, and a later one has it again, so that
    what is stored by slot stays bounded. `folder` is private to the workers of one run and
    removed at its end.
    """

    slot: int
    folder: Path


class Supervised:
    """The worker's ends of the two pipes."""

    def __init__(self, worker: Worker, ready_fd: int, life_fd: int) -> None:
        self.worker = worker
        self._ready_fd: int | None = ready_fd
        self._life_fd = life_fd

    def tell(self, what: str) -> bool:
        """Say READY or what went wrong, the first time; False if it was said already."""
        if self._ready_fd is None:
            return False
        # A supervisor that is gone does not have to know.
        with suppress(BrokenPipeError):
            os.write(self._ready_fd, what.encode(errors="backslashreplace")[:MAX_TOLD_BYTES])
        os.close(self._ready_fd)
        self._ready_fd = None
        return True

    def watch(self, stop: asyncio.Event) -> None:
        """Set `stop` when the supervisor is gone; the folder, which it cannot remove, goes too."""

        def gone() -> None:
            asyncio.get_running_loop().remove_reader(self._life_fd)
            shutil.rmtree(self.worker.folder, ignore_errors=True)
            stop.set()

        asyncio.get_running_loop().add_reader(self._life_fd, gone)
