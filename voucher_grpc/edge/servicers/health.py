"""grpc.health.v1.Health: one state for the server and all of its services.

The library's asyncio servicer loses watchers (one that leaves takes the others'
notifications along), and its watches stay open through a drain, which then
lasts as long as it may. This one ends them.
"""

import asyncio
from collections.abc import AsyncIterator, Collection
from typing import Any

import grpc
from grpc_health.v1 import health_pb2 as pb
from grpc_health.v1 import health_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]


class Health(health_pb2_grpc.HealthServicer):
    """NOT_SERVING until it is set, and for good once the server stops."""

    def __init__(self, services: Collection[str]) -> None:
        self._services = frozenset({"", *services})
        self._status: int = pb.HealthCheckResponse.NOT_SERVING
        self._stopped = False
        # Replaced at each change: those waiting for the old one wake once.
        self._changed = asyncio.Event()

    def set(self, *, serving: bool) -> None:
        """Take over the state, unless the server stops."""
        if self._stopped:
            return
        self._tell(
            pb.HealthCheckResponse.SERVING if serving else pb.HealthCheckResponse.NOT_SERVING
        )

    def stop(self) -> None:
        """NOT_SERVING for good: watchers receive it, then their streams end."""
        self._stopped = True
        self._tell(pb.HealthCheckResponse.NOT_SERVING)

    def _tell(self, status: int) -> None:
        self._status = status
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def Check(self, request: pb.HealthCheckRequest, context: Context) -> Any:
        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, "the service is not known here")
        return pb.HealthCheckResponse(status=self._status)

    async def List(self, request: Any, context: Context) -> Any:
        """All states at once. The library serves it from 1.85 on (which wants protobuf 7)."""
        messages: Any = pb
        state = pb.HealthCheckResponse(status=self._status)
        return messages.HealthListResponse(statuses=dict.fromkeys(self._services, state))

    async def Watch(
        self, request: pb.HealthCheckRequest, context: Context
    ) -> AsyncIterator[pb.HealthCheckResponse]:
        known = request.service in self._services
        told: int | None = None
        while True:
            changed = self._changed
            status = self._status if known else pb.HealthCheckResponse.SERVICE_UNKNOWN
            if status != told:
                told = status
                yield pb.HealthCheckResponse(status=status)
            elif self._stopped:
                return
            else:
                await changed.wait()
