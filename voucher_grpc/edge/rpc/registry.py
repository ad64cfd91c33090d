"""The methods of a server, wrapped once when generated code registers them.

Health and reflection are among them. (A grpc.aio interceptor would be asked again at each call.)
"""

from collections.abc import AsyncIterator
from typing import Any

import grpc
from prometheus_client import Counter

from voucher_grpc.edge.rpc.method import Handler, Method, SharedByMethods, type_of
from voucher_grpc.telemetry.calls import Context
from voucher_grpc.telemetry.metrics import Metrics, code_label


class Registry:
    """Stands in for the server while generated code registers its handlers."""

    def __init__(self, server: grpc.aio.Server, shared: SharedByMethods) -> None:
        self._shared = shared
        self._handlers: dict[str, dict[str, Handler]] = {}
        self._served = _Served(shared.metrics)
        server.add_generic_rpc_handlers((self._served,))

    @property
    def methods(self) -> tuple[str, ...]:
        """The paths that are served."""
        return self._served.paths()

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """Passed over: the same handlers come by name."""

    def add_registered_method_handlers(
        self, service_name: str, handlers: dict[str, Handler]
    ) -> None:
        """Wrap the handlers of a service and register them.

        Raises KeyError for a method without a rule: nothing is open by being forgotten.
        """
        self._handlers[service_name] = handlers
        for name, handler in handlers.items():
            method = Method(self._shared, service_name, name, handler)
            self._served.add(f"/{service_name}/{name}", method.handler(), method.started)

    def serve_also_as(self, service_name: str, other_name: str) -> None:
        """Serve the methods of a registered service under another name.

        Reflection v1 has the messages of v1alpha, which is what the library has.
        """
        self.add_registered_method_handlers(other_name, self._handlers[service_name])


class _Served(grpc.GenericRpcHandler):
    """Finds the handler of each call, and counts it as begun.

    Here and not in the handler, since a message that the transport refuses (it is too
    large) never gets there. Unknown methods are counted under one name.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._found: dict[str, tuple[Handler, Counter]] = {}
        labels = (type_of(True, True), "unknown", "unknown")
        self._handled = metrics.handled.labels(
            *labels, code_label(grpc.StatusCode.UNIMPLEMENTED.name)
        )
        # As a stream, so that no message is waited for.
        handler: Handler = grpc.stream_stream_rpc_method_handler(self._refuse)
        self._unknown = handler, metrics.started.labels(*labels)

    def add(self, path: str, handler: Handler, started: Counter) -> None:
        """Serve a method."""
        self._found[path] = handler, started

    def paths(self) -> tuple[str, ...]:
        """All methods."""
        return tuple(self._found)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler:
        handler, started = self._found.get(handler_call_details.method, self._unknown)
        started.inc()
        return handler

    async def _refuse(self, _requests: AsyncIterator[bytes], context: Context) -> None:
        self._handled.inc()
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "the method is not served here")
