"""Bounds on what is under way in a server."""

import sys
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any

import grpc

from voucher_grpc.access.principal import Principal
from voucher_grpc.config import Config
from voucher_grpc.errors import Reason, Refusal
from voucher_grpc.fair_places import FairPlaces
from voucher_grpc.metrics import Metrics
from voucher_grpc.peers import address_of

# Watchers of health and readers of reflection have limits of their own: anybody may watch health,
# without end, and a client whose health checking is rejected takes the server for dead. Callers
# with credentials have half of the places, so that strangers cannot take all of them. Health's
# Check has no limit: it costs nothing, and a server must be able to say how it is.
MAX_PROBES_OF_STRANGERS = 1_024
MAX_PROBES_OF_CALLERS = 1_024
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


class ProbeLimit:
    """Streams of health and reflection: at the limit the oldest one of whoever has most ends."""

    def __init__(self, metrics: Metrics) -> None:
        def rejected() -> None:
            metrics.count_shed("probes", "full")

        self._strangers = FairPlaces("probes", MAX_PROBES_OF_STRANGERS, rejected)
        self._callers = FairPlaces("probes", MAX_PROBES_OF_CALLERS, rejected)
        metrics.follow(
            metrics.under_way.labels("probes"), lambda: self._strangers.taken + self._callers.taken
        )

    def place(self, context: Context, known: Principal | None) -> AbstractAsyncContextManager[None]:
        """A place for a stream of a caller with credentials, or else of an address."""
        if known is not None:
            return self._callers.place(known.key)
        return self._strangers.place(address_of(context.peer()))


def is_probe(service: str) -> bool:
    """Whether a service is health or reflection."""
    return not service.startswith(_OWN_SERVICES)


class CallLimits:
    """The limits of a server, by what they are on."""

    def __init__(self, config: Config, metrics: Metrics) -> None:
        def limit(kind: str, bound: int) -> CallLimit:
            return CallLimit(kind, bound, metrics)

        self._calls = limit("calls", config.max_concurrent_calls)
        self._streams = limit("streams", config.max_concurrent_streams)
        self.probes = ProbeLimit(metrics)
        # Its streams take a place of `probes`.
        self._open = limit("checks", sys.maxsize)

    def of(self, service: str, *, streaming: bool) -> CallLimit:
        """The limit for a method of a service."""
        if is_probe(service):
            return self._open
        return self._streams if streaming else self._calls
