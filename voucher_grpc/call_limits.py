"""Bounds on what is under way in a server."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from voucher_grpc.config import Config
from voucher_grpc.errors import Reason, Refusal
from voucher_grpc.metrics import Metrics
from voucher_grpc.shares import Shares

# Watchers of health and readers of reflection have bounds of their own, also on one connection:
# anybody may watch, without end, and clients whose health checking is refused take a server for
# dead. Health's Check has none: it costs nothing, and a server must be able to say how it is,
# whoever watches.
_MAX_PROBES = 4_096
_MAX_PROBES_OF_CONNECTION = 16
_HEALTH = "grpc.health.v1.Health"
_RETRY_AFTER_S = 1.0
_OWN_SERVICES = "voucher_grpc."
Context = grpc.aio.ServicerContext[Any, Any]


class CallLimit:
    """Lets a bounded number of calls be under way; the next is refused before it is read."""

    def __init__(self, kind: str, bound: int, metrics: Metrics) -> None:
        self._kind = kind
        self._bound = bound
        self._count = 0
        self._on_shed = metrics.count_shed
        metrics.follow(metrics.under_way.labels(kind), lambda: self._count)

    @contextmanager
    def one_more(self, _context: Context) -> Iterator[None]:
        """A call under way. Raises Refusal (OVERLOADED) at the bound."""
        if self._count >= self._bound:
            self._refuse(f"{self._bound} {self._kind} are under way here already")
        self._count += 1
        try:
            yield
        finally:
            self._count -= 1

    def _refuse(self, message: str) -> None:
        self._on_shed(self._kind, "full")
        raise Refusal(Reason.OVERLOADED, message, retry_after_s=_RETRY_AFTER_S)


class ProbeLimit(CallLimit):
    """Has a bound on each connection, too."""

    def __init__(self, metrics: Metrics) -> None:
        super().__init__("probes", _MAX_PROBES, metrics)
        self._by_connection = Shares(_MAX_PROBES_OF_CONNECTION)

    @contextmanager
    def one_more(self, context: Context) -> Iterator[None]:
        """A call under way. Raises Refusal (OVERLOADED) at either bound."""
        connection = context.peer()
        if not self._by_connection.take(connection):
            bound = self._by_connection.most
            self._refuse(f"{bound} {self._kind} of this connection are under way already")
        try:
            with super().one_more(context):
                yield
        finally:
            self._by_connection.give_back(connection)


class CallLimits:
    """The limits of a server, by what they are on."""

    def __init__(self, config: Config, metrics: Metrics) -> None:
        def limit(kind: str, bound: int) -> CallLimit:
            return CallLimit(kind, bound, metrics)

        self._calls = limit("calls", config.max_concurrent_calls)
        self._streams = limit("streams", config.max_concurrent_streams)
        self._probes = ProbeLimit(metrics)
        self._open = limit("checks", sys.maxsize)

    def of(self, service: str, *, streaming: bool) -> CallLimit:
        """The limit for a method of a service."""
        if not service.startswith(_OWN_SERVICES):
            return self._probes if streaming or service != _HEALTH else self._open
        return self._streams if streaming else self._calls
