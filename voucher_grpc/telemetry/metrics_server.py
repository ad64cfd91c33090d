"""The port on which /metrics is served.

The library's own server has no bound on connections and waits for a silent one without end; each
is a thread and a descriptor.
"""

import socket
import sys
import threading
from contextlib import AsyncExitStack, ExitStack
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler

import structlog
from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from voucher_grpc.errors import StartError

log = structlog.get_logger(__name__)

# At most so many scrapes at a time, and no connection that is silent for longer.
MOST_SCRAPES = 20
SCRAPE_SILENCE_S = 10.0

Stack = ExitStack | AsyncExitStack


class _Connection(WSGIRequestHandler):
    """One request for /metrics."""

    timeout = SCRAPE_SILENCE_S

    def log_message(self, *_: Any) -> None:
        """Requests are not logged."""


class _MetricsServer(ThreadingWSGIServer):
    """Answers each connection in a thread, so many at a time; more are closed at once."""

    # How many may wait to be accepted; with the usual 5 others would connect a second later.
    request_queue_size = MOST_SCRAPES

    def __init__(self, host: str, port: int) -> None:
        wanted = host.strip("[]") or None
        found = socket.getaddrinfo(wanted, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        self.address_family, _, _, _, address = found[0]
        self._places = threading.BoundedSemaphore(MOST_SCRAPES)
        super().__init__((str(address[0]), port), _Connection)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._places.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that is silent or has gone is not an error.
        error = sys.exception()
        if not isinstance(error, OSError):
            log.error("scrape_failed", exc_info=error)


def serve_metrics(address: str, registry: CollectorRegistry, stack: Stack) -> int | None:
    """Serve /metrics until the stack is closed; the port, None for no address.

    Raises StartError.
    """
    if not address:
        return None
    host, _, port = address.rpartition(":")
    try:
        httpd = _MetricsServer(host, int(port))
    except OSError as error:
        raise StartError(f"cannot serve metrics on {address}: {error.strerror}") from error
    httpd.set_app(make_wsgi_app(registry))
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()

    def stop() -> None:
        httpd.shutdown()
        httpd.server_close()
        thread.join()

    stack.callback(stop)
    return int(httpd.server_port)
