"""Bounds on what is under way in a server, and on what is logged of those who are refused."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from voucher_grpc.config import Config
from voucher_grpc.errors import Reason, Refusal
from voucher_grpc.metrics import Metrics

# Health and reflection have a bound of their own: a server under load must still say how it is.
_MAX_PROBES = 1_000
_RETRY_AFTER_S = 1.0
_REFUSALS_LOGGED_PER_S = 20
_OWN_SERVICES = "voucher_grpc."


class Gate:
    """Lets a bounded number of calls be under way; the next is refused before it is read."""

    def __init__(self, kind: str, bound: int, metrics: Metrics) -> None:
        self._kind = kind
        self._bound = bound
        self._count = 0
        self._on_shed = metrics.count_shed
        metrics.follow(metrics.under_way.labels(kind), lambda: self._count)

    @contextmanager
    def one_more(self) -> Iterator[None]:
        """A call under way. Raises Refusal (OVERLOADED) at the bound."""
        if self._count >= self._bound:
            self._on_shed(self._kind, "full")
            message = f"{self._bound} {self._kind} are under way here already"
            raise Refusal(Reason.OVERLOADED, message, retry_after_s=_RETRY_AFTER_S)
        self._count += 1
        try:
            yield
        finally:
            self._count -= 1


class Gates:
    """The gates of a server, by what passes them."""

    def __init__(self, config: Config, metrics: Metrics) -> None:
        def gate(kind: str, bound: int) -> Gate:
            return Gate(kind, bound, metrics)

        self._calls = gate("calls", config.max_concurrent_calls)
        self._streams = gate("streams", config.max_concurrent_streams)
        self._probes = gate("probes", _MAX_PROBES)

    def of(self, service: str, *, streaming: bool) -> Gate:
        """The gate for a method of a service."""
        if not service.startswith(_OWN_SERVICES):
            return self._probes
        return self._streams if streaming else self._calls


class LogRate:
    """Lets so many lines a second through, and tells how many it has held back."""

    def __init__(
        self, per_s: int = _REFUSALS_LOGGED_PER_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._per_s = per_s
        self._clock = clock
        self._second = -1
        self._lines = self._held_back = 0

    def passes(self) -> int | None:
        """None if the line is held back, else how many were since the last one."""
        second = int(self._clock())
        if second != self._second:
            self._second, self._lines = second, 0
        if self._lines >= self._per_s:
            self._held_back += 1
            return None
        self._lines += 1
        held_back, self._held_back = self._held_back, 0
        return held_back
