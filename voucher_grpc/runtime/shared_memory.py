"""Files that several processes map into their memory."""

import os
from pathlib import Path

from voucher_grpc.errors import StartError


def open_shared_memory(path: Path, length: int) -> int:
    """Open a file of at least so many bytes that has all of its space. Raises StartError.

    A file with holes would take its space when it is written, and where there is none left
    the kernel kills whoever writes to the mapped file (SIGBUS).
    """
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(file).st_size < length:
                os.posix_fallocate(file, 0, length)
        except OSError:
            os.close(file)
            raise
    except OSError as error:
        raise StartError(f"cannot make a file in {path.parent}: {error.strerror}") from error
    return file
