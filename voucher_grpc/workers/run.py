"""What the workers of one run share: the port and a folder."""

import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from voucher_grpc.errors import StartError


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2] or 0)


@contextmanager
def reserved_address(address: str) -> Iterator[str]:
    """The address with the number of its port, which is ours until the block is left.

    First without SO_REUSEPORT, since another supervisor's port must not be shared; then with
    it, so that the workers' sockets may join. It never listens, so it gets no connection.
    """
    host, _, port = address.rpartition(":")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
        family, kind, protocol, _, where = found[0]
        kept = socket.socket(family, kind, protocol)
    except OSError as error:
        raise _cannot_listen(address) from error
    with closing(kept):
        try:
            # The last run's connections may still linger (TIME_WAIT).
            kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            kept.bind(where)
            kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
            kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        except OSError as error:
            raise _cannot_listen(address) from error
        yield f"{host}:{kept.getsockname()[1]}"


def _cannot_listen(address: str) -> StartError:
    return StartError(f"cannot listen on {address}: the address is taken or not ours")


@contextmanager
def run_folder() -> Iterator[Path]:
    """A folder that only this user can read."""
    try:
        folder = Path(tempfile.mkdtemp(prefix="voucher-grpc-workers-"))
    except OSError as error:
        raise StartError(
            f"cannot make a folder for the workers (TMPDIR): {error.strerror}"
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
