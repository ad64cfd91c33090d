"""Which workers are replaced and after which pauses, on real processes."""

import asyncio
import re
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.conftest import server_config
from voucher_grpc.runtime.memory import resident_bytes
from voucher_grpc.workers import supervisor as rules
from voucher_grpc.workers.supervisor import Supervisor, _pause_s, _Process

MIB = 2**20
# Reserves some memory and touches some, says so, and waits for the end of its input.
HOLD = """
import mmap, sys
reserved, touched = (mmap.mmap(-1, int(n) * 2**20 + 1) for n in sys.argv[1:])
for at in range(0, len(touched), 4096):
    touched[at] = 1
print("ready", flush=True)
sys.stdin.read()
"""


@asynccontextmanager
async def process(reserved_mb: int, touched_mb: int) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that uses so much memory beside what Python takes."""
    pipe = asyncio.subprocess.PIPE
    found = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", HOLD, str(reserved_mb), str(touched_mb)), stdin=pipe, stdout=pipe
    )
    try:
        assert found.stdout is not None
        assert b"ready\n" == await found.stdout.readline()
        yield found
    finally:
        found.kill()
        await found.wait()


def status_bytes(pid: int, name: str) -> int:
    """A figure of proc_pid_status(5)."""
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    found = re.search(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


async def test_the_memory_of_a_worker_is_what_it_holds_not_what_it_has_reserved() -> None:
    """Half a GB of addresses cost nothing; a process that has ended uses none."""
    async with process(512, 32) as worker:
        used = resident_bytes(worker.pid)
        assert 32 * MIB < used
        assert used < status_bytes(worker.pid, "VmSize") - 400 * MIB
        # The kernel may count a few pages of each processor later.
        assert abs(used - status_bytes(worker.pid, "VmRSS")) < 8 * MIB
        pid = worker.pid
    assert 0 == resident_bytes(pid)


class Recording(Supervisor):
    """Notes what it would start and replace instead of doing so."""

    def __init__(self, memory_mb: int) -> None:
        config = server_config("postgresql://nowhere/x", workers=2, worker_memory_mb=memory_mb)
        super().__init__(config, Path("/nowhere"), {})
        self.succeeded: list[int] = []
        self.rows: list[int] = []

    async def _replace_with_new(self, old: _Process) -> None:
        self.succeeded.append(old.slot)

    async def _replace(self, consecutive_failures: int) -> None:
        self.rows.append(consecutive_failures)

    def serve(self, slot: int, worker: asyncio.subprocess.Process, age_s: float) -> None:
        """A worker that has served for so long."""
        self._serving[slot] = _Process(slot, worker, began_s=time.monotonic() - age_s)

    async def look(self) -> list[int]:
        """The slots whose workers are replaced by one look at their memory."""
        self.succeeded.clear()
        await self._replace_those_over_memory()
        return list(self.succeeded)


async def test_one_worker_at_a_time_is_replaced_that_is_too_large_and_has_stayed_its_time() -> None:
    """A bound that is too low for what is served does not start workers all the time."""
    stay_s = rules.LEAST_STAY_S
    async with process(512, 1) as small, process(0, 200) as large:
        supervisor = Recording(128)
        supervisor.serve(0, small, 10 * stay_s)
        assert [] == await supervisor.look()
        supervisor.serve(1, large, stay_s / 2)
        assert [] == await supervisor.look()
        supervisor.serve(1, large, 2 * stay_s)
        assert [1] == await supervisor.look()
        supervisor.serve(2, large, 3 * stay_s)
        assert [1] == await supervisor.look()
        assert 2 == supervisor.metrics.memory_exceeded._value.get()
        roomy = Recording(2_048)
        roomy.serve(1, large, 2 * stay_s)
        assert [] == await roomy.look()


async def test_who_dies_after_a_quiet_time_is_replaced_at_once_and_others_in_their_row() -> None:
    """Each place has its own row of deaths; while the supervisor stops nothing is replaced."""
    supervisor = Recording(128)
    quiet_s = rules.QUIET_S
    async with process(0, 1) as worker:
        for age_s, consecutive_failures in ((quiet_s * 2, 5), (quiet_s / 2, 5), (0.0, 0)):
            dead = _Process(
                0,
                worker,
                consecutive_failures=consecutive_failures,
                began_s=time.monotonic() - age_s,
            )
            supervisor._respawn(dead)
            await asyncio.sleep(0)
        assert [0, 5, 0] == supervisor.rows
        assert 3 == supervisor.metrics.restarts._value.get()
        supervisor._stop.set()
        supervisor._respawn(_Process(0, worker))
        await asyncio.sleep(0)
        assert 3 == len(supervisor.rows) == supervisor.metrics.restarts._value.get()


@pytest.mark.parametrize(
    ("consecutive_failures", "pause_s"),
    [(0, 0.0), (1, 0.5), (2, 1.0), (3, 2.0), (6, 16.0), (7, 30.0), (1_000_000, 30.0)],
)
def test_pauses_double_from_half_a_second_to_half_a_minute(
    consecutive_failures: int, pause_s: float
) -> None:
    """None for the first death in a place."""
    assert pause_s == _pause_s(consecutive_failures)


def test_a_worker_has_a_minute_to_start_and_its_drain_and_ten_seconds_to_end() -> None:
    """It is looked at each ten seconds; a minute of life is quiet, and the least stay."""
    config = server_config("postgresql://nowhere/x", workers=3, drain_timeout_s=7.0)
    supervisor = Supervisor(config, Path("/nowhere"), {})
    assert 17.0 == supervisor._patience_s
    assert [0, 1, 2, 3] == supervisor._free
    assert config.worker_memory_mb * MIB == supervisor._memory_bytes
    assert (60.0, 10.0, 60.0, 60.0) == (
        rules.START_TIMEOUT_S,
        rules.CHECK_INTERVAL_S,
        rules.QUIET_S,
        rules.LEAST_STAY_S,
    )
