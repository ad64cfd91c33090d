"""Files whose content is changed under a running server: certificates, keys."""

from pathlib import Path

MAX_BYTES = 1_048_576


class ReloadableFile:
    """A file, and whether it has changed since it was read.

    A changed link counts too: that is how Kubernetes replaces a mounted secret.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, ...] | None = None

    def changed(self) -> bool:
        """Whether it is another one than when it was read; one that is away is not."""
        try:
            return self._state() != self._seen
        except OSError:
            return False

    def read(self) -> bytes:
        """Its content. Raises OSError, also where it is larger than `MAX_BYTES`."""
        seen = self._state()
        with self.path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise OSError(27, f"larger than {MAX_BYTES} bytes")
        self._seen = seen
        return content

    def _state(self) -> tuple[int, ...]:
        found = self.path.stat()
        # The time of its attributes too: its permissions may have been what was wrong.
        return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino
