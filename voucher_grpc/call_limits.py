"""Bounds on what is under way in a server."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from voucher_grpc.config import Config
from voucher_grpc.errors import Reason, Refusal
from voucher_grpc.metrics import Metrics

# Watchers of health and readers of reflection have a bound of their own. Health's Check has
# none: it costs nothing, and a server must be able to say how it is, whoever watches.
_MAX_PROBES = 1_000
_HEALTH = "grpc.health.v1.Health"
_RETRY_AFTER_S = 1.0
_OWN_SERVICES = "voucher_grpc."


class CallLimit:
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


class CallLimits:
    """The limits of a server, by what they are on."""

    def __init__(self, config: Config, metrics: Metrics) -> None:
        def limit(kind: str, bound: int) -> CallLimit:
            return CallLimit(kind, bound, metrics)

        self._calls = limit("calls", config.max_concurrent_calls)
        self._streams = limit("streams", config.max_concurrent_streams)
        self._probes = limit("probes", _MAX_PROBES)
        self._open = limit("checks", sys.maxsize)

    def of(self, service: str, *, streaming: bool) -> CallLimit:
        """The limit for a method of a service."""
        if not service.startswith(_OWN_SERVICES):
            return self._probes if streaming or service != _HEALTH else self._open
        return self._streams if streaming else self._calls
