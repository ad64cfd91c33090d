"""A document at a URL: bounded in size and in time, and from no other place than that.

urllib's timeout holds for each wait on a socket: who sends a byte now and then, of the
handshake, of a header or of the document, is waited for without end. So the line is cut.
"""

import asyncio
import http.client
import socket
import ssl
import threading
import urllib.request
from contextlib import suppress
from functools import partial
from typing import Any
from urllib.error import HTTPError

MAX_BYTES = 1_048_576
# From the handshake to the document's end, and for each address that is tried before.
FETCH_S = 5.0


class FetchError(Exception):
    """The document is not to be had; the message says why, in one line."""


async def fetch(url: str, most_s: float = FETCH_S) -> bytes:
    """What stands at an http or https URL. Raises FetchError.

    It is fetched in a thread, which ends with its time, or when the caller is cancelled.
    """
    line = _Line()
    cutting = asyncio.get_running_loop().call_later(most_s, line.cut)
    try:
        content = await asyncio.to_thread(_read, url, line, most_s)
    except (OSError, http.client.HTTPException, ValueError) as error:
        if line.is_cut:
            raise FetchError(f"was not there within {most_s:g} s") from error
        status = f": the answer is {error.code}" if isinstance(error, HTTPError) else ""
        raise FetchError(f"cannot be fetched{status}") from error
    finally:
        cutting.cancel()
        line.cut()
    if len(content) > MAX_BYTES:
        raise FetchError(f"has more than {MAX_BYTES} bytes")
    return content


class _Line:
    """The connection of a fetch, which another thread may cut."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # TLS takes the socket over before its handshake, so this is one more name for it.
        self._socket: socket.socket | None = None
        self.is_cut = False

    def connect(self, address: tuple[str, int], *options: Any) -> socket.socket:
        """A connected socket. Raises OSError."""
        connected = socket.create_connection(address, *options)
        with self._lock:
            if self.is_cut:
                connected.close()
                raise TimeoutError
            self._socket = connected.dup()
        return connected

    def cut(self) -> None:
        """End it: whoever waits for it hears that it has ended."""
        with self._lock:
            self.is_cut = True
            if self._socket is not None:
                with suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)
                self._socket.close()
                self._socket = None


class _Connecting(urllib.request.HTTPSHandler, urllib.request.HTTPHandler):
    """Makes connections whose line can be cut."""

    def __init__(self, line: _Line) -> None:
        self._tls = ssl.create_default_context()
        super().__init__(context=self._tls)
        self._line = line

    def http_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(partial(self._made, http.client.HTTPConnection), req)

    def https_open(self, req: urllib.request.Request) -> Any:
        made = partial(self._made, http.client.HTTPSConnection, context=self._tls)
        return self.do_open(made, req)

    def _made(self, kind: Any, *arguments: Any, **options: Any) -> Any:
        connection = kind(*arguments, **options)
        # http.client keeps it to be replaced: nothing else is asked before the handshake.
        connection._create_connection = self._line.connect
        return connection


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Another place is another issuer."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _read(url: str, line: _Line, most_s: float) -> bytes:
    """At most one byte more than may be."""
    # In clear it is on this machine: nobody in between.
    proxies: dict[str, str] | None = {} if urllib.request.Request(url).type == "http" else None  # noqa: S310
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler(proxies), _NoRedirects(), _Connecting(line)
    )
    try:
        with opener.open(url, timeout=most_s) as response:
            content: bytes = response.read(MAX_BYTES + 1)
    except HTTPError as error:
        error.close()
        raise
    if line.is_cut:  # what has come may look like all of it
        raise TimeoutError
    return content
