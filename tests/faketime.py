"""libfaketime: processes that live at another time."""

import os
from datetime import datetime
from pathlib import Path

_LIBRARIES = "*/faketime/libfaketime.so.1"


def clock_library() -> Path | None:
    """libfaketime: where FAKETIME_LIB says, or where distributions put it; None if absent."""
    named = os.environ.get("FAKETIME_LIB")
    if named:
        return Path(named) if Path(named).exists() else None
    folders = (Path("/usr/lib"), Path("/usr/local/lib"))
    found = [path for folder in folders for path in sorted(folder.glob(_LIBRARIES))]
    return found[0] if found else None


def moved_clock(library: Path, to: datetime) -> dict[str, str]:
    """The environment of a process and all that it starts whose clocks go on from an instant.

    An offset and no instant, so that all of them agree. The monotonic clock is moved
    too: otherwise sleeps until an instant of it fail. Files keep their times, which
    Python compares with those that it wrote into compiled modules.
    """
    offset_s = (to - datetime.now(to.tzinfo)).total_seconds()
    return {
        "LD_PRELOAD": str(library),
        "FAKETIME": f"{offset_s:+.3f}",
        "NO_FAKE_STAT": "1",
    }


def sweep(pid: int) -> None:
    """Remove what libfaketime leaves of a process that was killed."""
    for left in Path("/dev/shm").glob(f"*faketime_*_{pid}"):
        left.unlink(missing_ok=True)
