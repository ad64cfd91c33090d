"""HTTP/2 by hand (RFC 9113), for what no library sends: half a message, floods, silence."""

import asyncio
import struct
from collections.abc import Sequence
from contextlib import suppress

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, CONTINUATION = 0, 1, 3, 4, 6, 9
END_STREAM, END_HEADERS = 1, 4
CANCEL = 8
# Settings (RFC 9113, 6.5.2).
MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE = 3, 4


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A frame."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _integer(value: int) -> bytes:
    """An integer with a prefix of seven bits (RFC 7541, 5.1)."""
    if value < 127:
        return bytes([value])
    rest, parts = value - 127, [127]
    while rest >= 128:
        parts.append(rest & 127 | 128)
        rest >>= 7
    return bytes([*parts, rest])


def field(name: bytes, value: bytes) -> bytes:
    """A header field as it is, which is kept in no table."""
    return b"\x00" + _integer(len(name)) + name + _integer(len(value)) + value


def call_headers(path: str, *more: tuple[bytes, bytes]) -> bytes:
    """The header block of a gRPC call."""
    fields: Sequence[tuple[bytes, bytes]] = (
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path.encode()),
        (b":authority", b"localhost"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
        *more,
    )
    return b"".join(field(name, value) for name, value in fields)


class Connection:
    """A connection that says what it is told to, and reads only when asked."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, port: int) -> "Connection":
        """Connected, with the preface sent."""
        connection = cls(*await asyncio.open_connection("127.0.0.1", port))
        await connection.send(PREFACE + frame(SETTINGS, 0, 0))
        return connection

    async def send(self, raw: bytes) -> bool:
        """Send bytes; False if the server has closed."""
        try:
            self._writer.write(raw)
            await asyncio.wait_for(self._writer.drain(), 10)
        except (ConnectionError, TimeoutError):
            return False
        return True

    async def settings(self) -> dict[int, int]:
        """What the server's first frame says, by the settings' numbers (RFC 9113, 6.5.2)."""
        head = await asyncio.wait_for(self._reader.readexactly(9), 60)
        payload = await asyncio.wait_for(
            self._reader.readexactly(int.from_bytes(head[:3], "big")), 60
        )
        return dict(struct.iter_unpack(">HI", payload)) if head[3] == SETTINGS else {}

    async def closed(self, within_s: float) -> bool:
        """Whether the server closes within a time; what it says until then is dropped."""
        try:
            async with asyncio.timeout(within_s):
                while await self._reader.read(65_536):
                    pass
        except ConnectionError:
            return True
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """Hang up."""
        self._writer.close()
        with suppress(ConnectionError, TimeoutError):
            await asyncio.wait_for(self._writer.wait_closed(), 5)
