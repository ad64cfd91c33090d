"""Metrics of several workers as one: stored in files of the run's folder, summed when scraped.

The files are those of prometheus_client's multiprocess mode, one set for each slot and not
for each process: a worker goes on counting where the last one in its slot ended, so that
sums never go down, and there are no more files after a hundred reloads than after one.
"""

import asyncio
import os
import struct
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, disable_created_metrics, values
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector
from prometheus_client.values import MultiProcessValue

from voucher_grpc.runtime.shared_memory import open_shared_memory

# As in telemetry/metrics.py, which the supervisor does not load.
disable_created_metrics()  # type: ignore[no-untyped-call]

WRITE_INTERVAL_S = 0.25
# The files of a slot, which have their space from the start: about twice what all methods with all
# codes and all reasons come to. One that grew beyond would be doubled by the library, with holes.
FILE_BYTES = {
    "counter": 2**20,
    "histogram": 2**19,
    "gauge_livemax": 2**16,
    "gauge_livemin": 2**16,
    "gauge_livesum": 2**16,
}


class Counts:
    """All metrics that this process makes from now on, written to its slot's files now and then.

    Writing at each change, as the library does, costs five times as much as counting; so a
    process that is killed takes the last quarter of a second along. Raises StartError.
    """

    def __init__(self, folder: Path, slot: int) -> None:
        # What the last one in the slot said of its present is over; its counts stay.
        mark_process_dead(slot, str(folder))  # type: ignore[no-untyped-call]
        for kind, length in FILE_BYTES.items():
            os.close(open_shared_memory(folder / f"{kind}_{slot}.db", length))
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
        written: Any = MultiProcessValue(lambda: slot)  # type: ignore[no-untyped-call]
        unwritten: set[Any] = set()

        class Value(written):  # type: ignore[misc]
            def inc(self, amount: float) -> None:
                self._value += amount
                unwritten.add(self)

            def set(self, value: float, timestamp: float | None = None) -> None:
                self._value = value
                unwritten.add(self)

        values.ValueClass = Value
        self._write_one = written.set
        self._unwritten = unwritten

    def write(self) -> None:
        """Write what has changed."""
        while self._unwritten:
            value = self._unwritten.pop()
            self._write_one(value, value.get())

    async def keep_writing(self) -> None:
        """Write again and again, and once more at the end."""
        try:
            while True:
                self.write()
                await asyncio.sleep(WRITE_INTERVAL_S)
        finally:
            self.write()


class MultiprocessMetrics(Collector):
    """Counters and histograms of all slots, gauges of those that serve.

    The next one in a slot removes what the last one said of its present.
    """

    def __init__(self, folder: Path, serving: Callable[[], Collection[int]]) -> None:
        self._folder = folder
        self._serving = serving

    def collect(self) -> Iterable[Any]:
        """The sums as of now."""
        try:
            return self._sums()
        except (FileNotFoundError, struct.error):
            # A worker that ended or began meanwhile took a file along or had made it only half.
            return self._sums()

    def _sums(self) -> Iterable[Any]:
        serving = {str(slot) for slot in self._serving()}
        files = [
            str(path)
            for path in self._folder.glob("*.db")
            if not path.name.startswith("gauge_") or path.stem.rpartition("_")[2] in serving
            if _size(path)
        ]
        return MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call,no-any-return]


def _size(path: Path) -> int:
    """None of a file that is being made, or that is gone since it was found."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


class SupervisorMetrics:
    """What only the supervisor knows."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self.workers = Gauge(
            "voucher_workers", "Worker processes that serve; with several workers only.", registry=r
        )
        self.restarts = Counter(
            "voucher_worker_restarts",
            "Workers that ended by themselves; each is replaced. With several workers only.",
            registry=r,
        )
        self.memory_exceeded = Counter(
            "voucher_workers_memory_exceeded",
            "Workers that were replaced for the memory they used. With several workers only.",
            registry=r,
        )
        self.reloads = Counter(
            "voucher_reloads",
            "Rolling reloads by result: OK or FAILED. With several workers only.",
            ("result",),
            registry=r,
        )
