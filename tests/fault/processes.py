"""Starting, freezing and killing processes, so that none outlives the run."""

import asyncio
import os
import shutil
import signal
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO

import psutil  # type: ignore[import-untyped]

Process = asyncio.subprocess.Process
_GONE_S = 60.0
# Ends what was started when this process ends, whatever ends it, and changes the user.
# What subprocess offers for both needs a fork without exec, for which gRPC's threads
# are not made: then they hang.
_SETPRIV = shutil.which("setpriv")
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")


class RunFailed(Exception):
    """The run cannot go on for a reason that says nothing of the service."""


async def start(
    command: Sequence[str | Path],
    environment: Mapping[str, str],
    output: IO[bytes],
    user: str | None = None,
) -> Process:
    """Start a process that ends with this one; to be called in the main thread."""
    return await asyncio.create_subprocess_exec(
        *_prefix(user),
        *map(str, command),
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=output,
        stderr=asyncio.subprocess.STDOUT,
        user=None if _SETPRIV else user,
        start_new_session=True,
        cwd="/" if user else None,
    )


def _prefix(user: str | None) -> list[str]:
    if _SETPRIV is None:
        return []
    other_user = [f"--reuid={user}", f"--regid={user}", "--clear-groups"] if user else []
    return [_SETPRIV, *other_user, "--pdeathsig", "KILL", "--"]


def family(pid: int) -> list[psutil.Process]:
    """A process and all that it has started, the eldest first; empty if it is gone."""
    try:
        eldest = psutil.Process(pid)
        return [eldest, *eldest.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def tell(processes: Iterable[psutil.Process], sent: signal.Signals) -> None:
    """Send a signal to those that are still there."""
    for process in processes:
        try:
            os.kill(process.pid, sent)
        except ProcessLookupError:
            continue


def frozen_family(pid: int) -> list[psutil.Process]:
    """SIGSTOP to a process and all that it has started; the eldest first, so it starts no more."""
    tell(family(pid)[:1], signal.SIGSTOP)
    processes = family(pid)
    tell(processes, signal.SIGSTOP)
    return processes


async def kill_family(process: Process) -> None:
    """SIGKILL to a process and all that it has started, at about the same instant."""
    processes = frozen_family(process.pid)
    tell(processes, signal.SIGKILL)
    await process.wait()
    _, alive = await asyncio.to_thread(psutil.wait_procs, _not_buried(processes), _GONE_S)
    if _not_buried(alive):
        raise RunFailed(f"processes do not die: {alive}")


def _not_buried(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Those that run; in a container without an init process nobody buries orphans."""
    found = []
    for process in processes:
        try:
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found
