"""Step 3 of a call: bounds on the calls in flight."""

import sys
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any

import grpc

from voucher_grpc.access.principal import Principal
from voucher_grpc.edge.rpc.peers import address_of
from voucher_grpc.errors import Reason, Refusal
from voucher_grpc.runtime.fair_slots import FairSlots
from voucher_grpc.runtime.quotas import Quotas
from voucher_grpc.telemetry.metrics import Metrics

# Watchers of health and readers of reflection have limits of their own: anybody may watch health,
# without end, and a client whose health checking is rejected takes the server for dead. Callers
# with credentials have half of the slots, so that unauthenticated ones cannot take all of them.
# Health's Check is bounded by address only: it costs nothing, and must be answered under load.
MAX_UNAUTHENTICATED_PROBES = 1_024
MAX_AUTHENTICATED_PROBES = 1_024
_RETRY_AFTER_S = 1.0
_OWN_SERVICES = "voucher_grpc."
Context = grpc.aio.ServicerContext[Any, Any]


# Calls of one address that are in flight, or whose answer it has not taken: gRPC holds that for as
# long as the connection lives, about 30 kB each, and the service cannot end it.
MAX_CALLS_OF_ADDRESS = 2_048


class CallLimit:
    """Bounds the calls in flight; the next one is refused before it is read."""

    def __init__(self, kind: str, bound: int, metrics: Metrics) -> None:
        self._kind = kind
        self._bound = bound
        self._count = 0
        self._on_shed = metrics.count_shed
        metrics.follow(metrics.in_flight.labels(kind), lambda: self._count)

    @contextmanager
    def acquire(self, _context: Context) -> Iterator[None]:
        """A call in flight. Raises Refusal (OVERLOADED) at the bound."""
        if self._count >= self._bound:
            self._refuse(f"{self._bound} {self._kind} are in flight here already")
        self._count += 1
        try:
            yield
        finally:
            self._count -= 1

    def _refuse(self, message: str) -> None:
        self._on_shed(self._kind, "full")
        raise Refusal(Reason.OVERLOADED, message, retry_after_s=_RETRY_AFTER_S)


class SingleCallLimit(CallLimit):
    """Has a bound on each address, too, for which a call counts until its answer has been read."""

    def __init__(self, kind: str, bound: int, metrics: Metrics) -> None:
        super().__init__(kind, bound, metrics)
        self._addresses = Quotas(MAX_CALLS_OF_ADDRESS)

    @contextmanager
    def acquire(self, context: Context) -> Iterator[None]:
        """A call in flight. Raises Refusal (OVERLOADED) at either bound."""
        address = address_of(context.peer())
        if not self._addresses.take(address):
            most = self._addresses.most
            self._refuse(
                f"{most} {self._kind} of this address are in flight, or their answers unread"
            )

        def ended(_context: Any) -> None:
            self._addresses.give_back(address)

        context.add_done_callback(ended)  # type: ignore[arg-type]
        with super().acquire(context):
            yield


class ProbeLimit:
    """Streams of health and reflection: at the limit the oldest one of whoever has most ends."""

    def __init__(self, metrics: Metrics) -> None:
        def rejected() -> None:
            metrics.count_shed("probes", "full")

        self._unauthenticated = FairSlots("probes", MAX_UNAUTHENTICATED_PROBES, rejected)
        self._authenticated = FairSlots("probes", MAX_AUTHENTICATED_PROBES, rejected)
        metrics.follow(
            metrics.in_flight.labels("probes"),
            lambda: self._unauthenticated.taken + self._authenticated.taken,
        )

    def slot(self, context: Context, known: Principal | None) -> AbstractAsyncContextManager[None]:
        """A place for a stream of a caller with credentials, or else of an address."""
        if known is not None:
            return self._authenticated.slot(known.key)
        return self._unauthenticated.slot(address_of(context.peer()))


def is_probe(service: str) -> bool:
    """Whether a service is health or reflection."""
    return not service.startswith(_OWN_SERVICES)


class CallLimits:
    """The limits of a server, by what they are on."""

    def __init__(self, max_calls: int, max_streams: int, metrics: Metrics) -> None:
        self._calls = SingleCallLimit("calls", max_calls, metrics)
        # Counted apart: a proxy with many calls must still get the server's health.
        self._checks = SingleCallLimit("checks", sys.maxsize, metrics)
        self._streams = CallLimit("streams", max_streams, metrics)
        self.probes = ProbeLimit(metrics)

    def of(self, service: str, *, streaming: bool) -> CallLimit:
        """The limit for a method of a service."""
        if is_probe(service):
            # Its streams take a place of `probes`, too.
            return self._checks
        return self._streams if streaming else self._calls
