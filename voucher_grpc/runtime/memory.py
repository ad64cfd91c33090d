"""Gives memory that is free again back to the operating system."""

import asyncio
import ctypes
import os
import resource
from pathlib import Path

_INTERVAL_S = 10.0
# Below this a trim returns little, and what it returned would soon be asked for again. With four
# times as much, what was freed after the last growth of an attack stayed.
_WORTH_BYTES = 8_000_000

# mallopt(3). gRPC has a dozen threads; with an arena for each (the default is eight a core) what an
# attack leaves behind is scattered over all of them.
_M_ARENA_MAX = -8
_ARENAS = 2


def use_few_arenas() -> None:
    """For a process that does nothing but serve: let threads share the C heap.

    Before any of them is started. Does nothing where the C library has no arenas.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, _ARENAS)


def resident_bytes(pid: int) -> int:
    """What a process has resident, proc_pid_statm(5); 0 if it has ended or /proc is missing."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
    except (OSError, IndexError):
        return 0


async def trim_memory() -> None:
    """Trim the C heap whenever it has grown, for ever. Returns where the C library cannot.

    glibc keeps what was freed for the next time. After an attack over HTTP/2 that was 400 MB.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is None:
        return
    pid = os.getpid()
    least = resident_bytes(pid)
    while True:
        await asyncio.sleep(_INTERVAL_S)
        if resident_bytes(pid) >= least + _WORTH_BYTES:
            # Tens of milliseconds, in which the event loop goes on.
            await asyncio.to_thread(trim, 0)
            least = resident_bytes(pid)
        least = min(least, resident_bytes(pid))
