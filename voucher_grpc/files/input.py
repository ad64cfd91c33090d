"""The bytes of a file: unpacked if it is gzip, bounded, and never waited for without end."""

import errno
import gzip
import io
import os
import select
import stat
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from voucher_grpc.errors import BadInput, bad_field

# What is unpacked from one file; a national feed of all locations has a few hundred MiB.
MAX_INPUT_BYTES = 16 * 2**30
# For a pipe that nobody writes to.
SILENCE_S = 30.0
_GZIP = b"\x1f\x8b"
_UTF8_MARK = b"\xef\xbb\xbf"
# The marks of UTF-32 begin like those of UTF-16.
_OTHER_MARKS = {b"\xff\xfe\0\0": "UTF-32", b"\0\0\xfe\xff": "UTF-32"}
_SHORT_MARKS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


def file_error(path: Path, message: str) -> BadInput:
    """What is wrong with a whole file."""
    return bad_field(str(path), message)


class _Raw(io.RawIOBase):
    """A descriptor that does not block: a pipe is waited for, but not for ever."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        found = os.fstat(self._descriptor)
        self._waits = stat.S_ISFIFO(found.st_mode) or stat.S_ISSOCK(found.st_mode)
        if stat.S_ISDIR(found.st_mode):
            self.close()
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        self.size_bytes = found.st_size if stat.S_ISREG(found.st_mode) else 0
        self.read_bytes = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "memoryview") -> int:  # type: ignore[override]
        data = self._next(len(buffer))
        buffer[: len(data)] = data
        self.read_bytes += len(data)
        return len(data)

    def _next(self, most: int) -> bytes:
        if not self._waits:
            return os.read(self._descriptor, most)
        until_s = time.monotonic() + SILENCE_S
        while (left_s := until_s - time.monotonic()) > 0:
            if not select.select([self._descriptor], [], [], left_s)[0]:
                break
            data = os.read(self._descriptor, most)
            if data or self.read_bytes:
                return data
            time.sleep(0.02)  # nobody has begun to write yet
        raise file_error(self._path, f"nothing was written to it for {SILENCE_S:.0f} s")

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()


class InputFile:
    """`read` gives the bytes of the text in it, without a byte-order mark.

    `size_bytes` is the size of the file, 0 if it has none; `read_bytes` what was read of that.
    """

    def __init__(self, path: Path, raw: _Raw, content: io.BufferedIOBase) -> None:
        self.path = path
        self._raw = raw
        self._content = content
        self._marked = False
        self.content_bytes = 0

    @property
    def size_bytes(self) -> int:
        return self._raw.size_bytes

    @property
    def read_bytes(self) -> int:
        return self._raw.read_bytes

    def read(self, most: int = -1) -> bytes:
        """At most so many bytes, none at the end. Raises BadInput."""
        try:
            data = self._content.read(most)
            if data and not self._marked:
                data = self._without_mark(data)
        except (gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise file_error(self.path, f"is damaged gzip: {error}") from None
        except OSError as error:
            raise file_error(self.path, f"cannot be read: {error.strerror or error}") from None
        self.content_bytes += len(data)
        if self.content_bytes > MAX_INPUT_BYTES:
            raise file_error(self.path, f"has more than {MAX_INPUT_BYTES // 2**30} GiB")
        return data

    def _without_mark(self, data: bytes) -> bytes:
        self._marked = True
        encoding = _OTHER_MARKS.get(data[:4]) or _SHORT_MARKS.get(data[:2])
        if encoding is None and len(data) >= 2 and 0 in data[:2]:
            encoding = "UTF-16"
        if encoding:
            raise file_error(self.path, f"is {encoding}: save it as UTF-8")
        return data.removeprefix(_UTF8_MARK)


@contextmanager
def open_input(path: Path) -> Iterator[InputFile]:
    """A file, a pipe or a device. Raises BadInput."""
    try:
        raw = _Raw(path)
    except OSError as error:
        raise file_error(path, f"cannot be read: {error.strerror or error}") from None
    with raw:
        buffered = io.BufferedReader(raw, 2**16)
        packed = buffered.peek(2)[:2] == _GZIP
        yield InputFile(path, raw, gzip.GzipFile(fileobj=buffered) if packed else buffered)
