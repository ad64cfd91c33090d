"""Child processes that are told what to do over a pipe, and the CPU that trees of them use."""

import multiprocessing
import multiprocessing.connection
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import psutil  # type: ignore[import-untyped]

_SPAWN = multiprocessing.get_context("spawn")
Pipe = multiprocessing.connection.Connection
_ANSWER_TIMEOUT_S = 300


class RunFailed(Exception):
    """The run cannot go on; the message says why."""


class Child:
    """A process that runs `work(pipe, *arguments)`.

    `work` ends when the pipe does, so that no child outlives the run even if that
    is killed.
    """

    def __init__(self, name: str, work: Callable[..., None], *arguments: Any) -> None:
        self._name = name
        self._pipe, theirs = _SPAWN.Pipe()
        self._process = _SPAWN.Process(
            target=_run, args=(theirs, work, *arguments), name=name, daemon=True
        )
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        return int(self._process.pid or 0)

    def send(self, message: Any) -> None:
        """Tell the child something."""
        self._pipe.send(message)

    def receive(self) -> Any:
        """What the child says. Raises RunFailed if it failed, is gone or hangs."""
        try:
            if not self._pipe.poll(_ANSWER_TIMEOUT_S):
                raise RunFailed(f"{self._name} has not answered for {_ANSWER_TIMEOUT_S} s")
            message = self._pipe.recv()
        except EOFError:
            raise RunFailed(f"{self._name} has ended by itself") from None
        if isinstance(message, RunFailed):
            raise message
        return message

    def ask(self, message: Any) -> Any:
        """Send and receive."""
        self.send(message)
        return self.receive()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pipe.close()
        self._process.join(15)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _run(pipe: Pipe, work: Callable[..., None], *arguments: Any) -> None:
    try:
        work(pipe, *arguments)
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        return
    except RunFailed as error:
        pipe.send(error)
    except Exception:  # noqa: BLE001 - told to the parent, which ends the run
        pipe.send(RunFailed(traceback.format_exc()))


def tree_cpu_s(pid: int) -> float:
    """User and system time of a process, its children, and those that have ended.

    Postgres answers each connection in a child; one that ends is waited for by
    the postmaster, which then carries its time.
    """
    total = 0.0
    root = psutil.Process(pid)
    for process in (root, *root.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def parent_pid(pid: int) -> int:
    """The process that started another."""
    return int(psutil.Process(pid).ppid())


def memory_mb(pid: int) -> float:
    """Resident memory."""
    return float(psutil.Process(pid).memory_info().rss / 1e6)
