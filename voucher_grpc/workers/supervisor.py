"""`serve --workers N`: several processes on one port, which the kernel shares out (SO_REUSEPORT).

The supervisor serves nothing itself but the sum of the metrics. It keeps the port, starts the
workers, replaces one that dies or uses too much memory, and on SIGHUP all of them, one after the
other: a new one is ready before an old one drains. There is one slot more than workers, for the
one that is new.
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from voucher_grpc.errors import StartError
from voucher_grpc.runtime.memory import resident_bytes
from voucher_grpc.server.config import ENV_PREFIX, Config
from voucher_grpc.server.connections import raise_descriptors
from voucher_grpc.server.worker import MAX_TOLD_BYTES, READY
from voucher_grpc.telemetry.metrics_server import serve_metrics
from voucher_grpc.workers.multiprocess_metrics import MultiprocessMetrics, SupervisorMetrics
from voucher_grpc.workers.run import port_of, reserved_address, run_folder

log = structlog.get_logger(__name__)

# A worker that has not said anything by then is given up.
START_TIMEOUT_S = 60.0
# What a worker has after its drain for the last batches and its connections.
CLOSE_TIMEOUT_S = 10.0
# Between successive deaths in one place; a worker that has run for a while is replaced at once.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
QUIET_S = 60.0
# How often it checks the workers' memory, and how long a worker stays whatever it uses: a bound
# that is too low for what is served shall not make it start workers all the time.
CHECK_INTERVAL_S = 10.0
LEAST_STAY_S = 60.0


class NotStarted(Exception):
    """A worker did not come up; the message is one line."""


@dataclass(eq=False, slots=True)
class _Process:
    """A worker as the supervisor sees it."""

    slot: int
    process: asyncio.subprocess.Process
    # How many before it, whose place it took, died or did not come up without a quiet time between.
    consecutive_failures: int = 0
    # Its end is wanted, or a successor is on its way: it is not replaced.
    leaving: bool = False
    began_s: float = field(default_factory=time.monotonic)
    ended: asyncio.Event = field(default_factory=asyncio.Event)


async def supervise(
    config: Config, settings: Mapping[str, object], ready: Callable[[int, int | None], None]
) -> None:
    """Serve with `config.workers` processes until SIGTERM or SIGINT.

    `settings` were given by other ways than the environment, and are handed on by it alone.
    `ready` is called with the port, and that for callers with certificates if it is another
    one, once all workers serve. Raises StartError.
    """
    with ExitStack() as stack:
        listen = stack.enter_context(reserved_address(config.listen))
        mtls_listen = config.mtls_listen and stack.enter_context(
            reserved_address(config.mtls_listen)
        )
        folder = stack.enter_context(run_folder())
        environment = {
            **os.environ,
            **{f"{ENV_PREFIX}{name.upper()}": str(value) for name, value in settings.items()},
            # What was given for a secret comes before a file that is named for it.
            **{f"{ENV_PREFIX}{name.upper()}_FILE": "" for name in settings},
            f"{ENV_PREFIX}LISTEN": listen,
            f"{ENV_PREFIX}MTLS_LISTEN": mtls_listen,
            f"{ENV_PREFIX}METRICS_LISTEN": "",
        }
        supervisor = Supervisor(config, folder, environment)
        raise_descriptors(config)
        serve_metrics(config.metrics_listen, supervisor.metrics.registry, stack)
        await supervisor.run(lambda: ready(port_of(listen), port_of(mtls_listen) or None))


class Supervisor:
    """Keeps so many workers serving."""

    def __init__(self, config: Config, folder: Path, environment: Mapping[str, str]) -> None:
        self._count = config.workers
        self._memory_bytes = config.worker_memory_mb * 2**20
        self._patience_s = config.drain_timeout_s + CLOSE_TIMEOUT_S
        self._folder = folder
        self._environment = environment
        self._free = list(range(self._count + 1))
        self._alive: set[_Process] = set()
        self._serving: dict[int, _Process] = {}
        self._watches: set[asyncio.Task[None]] = set()
        self._replacements: set[asyncio.Task[None]] = set()
        self._stop = asyncio.Event()
        self._reload_wanted = asyncio.Event()
        self.metrics = SupervisorMetrics()
        self.metrics.workers.set_function(lambda: len(self._serving))
        self.metrics.registry.register(MultiprocessMetrics(folder, lambda: tuple(self._serving)))

    async def run(self, ready: Callable[[], None]) -> None:
        """Start all, keep them, and let all drain at the end. Raises StartError."""
        # Nothing is written here: its end shows that the supervisor is gone.
        life_fd, held_fd = os.pipe()
        self._life_fd = life_fd
        self._handle_signals()
        keeping = asyncio.create_task(self._keep(ready))
        stopping = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({keeping, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if keeping.done():
                keeping.result()
        except NotStarted as error:
            raise StartError(str(error)) from error
        finally:
            self._stop.set()
            await _cancelled(keeping, stopping, *self._replacements)
            await asyncio.gather(*(self._retire(process) for process in tuple(self._alive)))
            os.close(held_fd)
            os.close(life_fd)

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for sent in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(sent, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload_wanted.set)

    async def _keep(self, ready: Callable[[], None]) -> None:
        """Start the workers, then replace them whenever that is wanted or necessary."""
        # One alone first: what keeps it from starting keeps all, and is reported once.
        await self._start()
        others = [asyncio.create_task(self._start()) for _ in range(self._count - 1)]
        try:
            await asyncio.gather(*others)
        finally:
            await _cancelled(*others)
        ready()
        while True:
            try:
                await self._check()
            except Exception:  # whatever it is, those that serve go on, and so does the keeping
                log.exception("keeping_failed")

    async def _check(self) -> None:
        """Wait for a reload or the time to check the workers' memory, and do it."""
        try:
            async with asyncio.timeout(CHECK_INTERVAL_S):
                await self._reload_wanted.wait()
        except TimeoutError:
            await self._replace_those_over_memory()
            return
        # One that comes from now on is taken after this one.
        self._reload_wanted.clear()
        await self._reload()

    async def _start(self, consecutive_failures: int = 0) -> _Process:
        """Start a worker in a free slot and wait until it serves. Raises NotStarted."""
        slot = self._free.pop(0)
        try:
            process, told_fd = await self._spawned(slot, consecutive_failures)
        except Exception as error:  # whatever it is, the slot is needed again
            self._free.append(slot)
            raise NotStarted(f"a worker cannot be started: {error}") from error
        self._alive.add(process)
        _keep_reference(self._watches, self._watch(process))
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                message = await _read(told_fd)
        except TimeoutError:
            message = f"a worker was not ready after {START_TIMEOUT_S:.0f} s"
        except OSError as error:
            message = f"a worker cannot be heard: {error}"
        finally:
            os.close(told_fd)
        if message != READY:
            with suppress(ProcessLookupError):
                process.process.kill()
            await process.ended.wait()
            raise NotStarted(message or f"a worker ended with {process.process.returncode}")
        if process.ended.is_set():
            raise NotStarted("a worker ended as soon as it was ready")
        self._serving[slot] = process
        log.info("worker_serves", slot=slot, pid=process.process.pid)
        return process

    async def _spawned(self, slot: int, consecutive_failures: int) -> tuple[_Process, int]:
        """A process, and the pipe over which it says once how it goes."""
        told_fd, ready_fd = os.pipe()
        try:
            return _Process(slot, await self._spawn(slot, ready_fd), consecutive_failures), told_fd
        except BaseException:
            os.close(told_fd)
            raise
        finally:
            os.close(ready_fd)

    async def _spawn(self, slot: int, ready_fd: int) -> asyncio.subprocess.Process:
        pipes = (ready_fd, self._life_fd)
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *("-P", "-m", "voucher_grpc.cli", "worker"),
            *(str(slot), str(self._folder), *map(str, pipes)),
            stdin=asyncio.subprocess.DEVNULL,
            env=self._environment,
            pass_fds=pipes,
            # A terminal's Ctrl-C is for the supervisor, which passes it on.
            start_new_session=True,
        )

    async def _watch(self, process: _Process) -> None:
        """Wait for the end of a worker, and see to another one if it was not wanted."""
        code = await process.process.wait()
        served = self._serving.pop(process.slot, None) is not None
        self._alive.discard(process)
        self._free.append(process.slot)
        process.ended.set()
        if process.leaving:
            log.info("worker_ended", slot=process.slot, pid=process.process.pid, code=code)
        elif served:
            log.error("worker_died", slot=process.slot, pid=process.process.pid, code=code)
            self._respawn(process)

    def _respawn(self, dead: _Process) -> None:
        """See to a worker for one that has died."""
        if not self._stop.is_set():
            self.metrics.restarts.inc()
            quiet = time.monotonic() - dead.began_s > QUIET_S
            _keep_reference(
                self._replacements, self._replace(0 if quiet else dead.consecutive_failures)
            )

    async def _replace(self, consecutive_failures: int) -> None:
        """Start a worker until one comes up, with pauses that grow with consecutive failures.

        Each place has a row of its own: those that die together come back together.
        """
        while True:
            pause_s = _pause_s(consecutive_failures)
            log.info("worker_wanted", after_s=pause_s)
            await asyncio.sleep(pause_s)
            consecutive_failures += 1
            try:
                await self._start(consecutive_failures)
            except NotStarted as error:
                log.error("worker_not_started", why=str(error))  # noqa: TRY400 - one line is enough
            except Exception:  # whatever it is, a worker is missing
                log.exception("worker_not_started")
            else:
                return

    async def _reload(self) -> None:
        """Replace those that serve now by new ones, one after the other.

        If a new one does not come up, the old ones that are left stay.
        """
        began_s = time.monotonic()
        for old in list(self._serving.values()):
            if old.ended.is_set():
                continue  # it died meanwhile; its replacement is new
            try:
                await self._replace_with_new(old)
            except NotStarted as error:
                self.metrics.reloads.labels("FAILED").inc()
                log.error("reload_failed", why=str(error))  # noqa: TRY400 - one line is enough
                return
        self.metrics.reloads.labels("OK").inc()
        log.info("reloaded", took_s=round(time.monotonic() - began_s, 3))

    async def _replace_those_over_memory(self) -> None:
        """Replace the first of the workers that use more memory than they may."""
        grown_up_s = time.monotonic() - LEAST_STAY_S
        for old in self._serving.values():
            used_bytes = resident_bytes(old.process.pid)
            if used_bytes > self._memory_bytes and old.began_s < grown_up_s:
                break
        else:
            return
        log.warning(
            "worker_memory_exceeded", slot=old.slot, pid=old.process.pid, used_bytes=used_bytes
        )
        try:
            await self._replace_with_new(old)
        except NotStarted as error:
            log.error("worker_not_started", why=str(error))  # noqa: TRY400 - one line is enough
        else:
            self.metrics.memory_exceeded.inc()

    async def _replace_with_new(self, old: _Process) -> None:
        """Put a new worker in an old one's place. Raises NotStarted; then the old one stays."""
        old.leaving = True
        try:
            await self._start()
        except Exception:
            old.leaving = False
            if old.ended.is_set():
                self._respawn(old)
            raise
        await self._retire(old)

    async def _retire(self, process: _Process) -> None:
        """Let a worker drain; one that takes too long is killed."""
        process.leaving = True
        with suppress(ProcessLookupError):
            process.process.terminate()
        try:
            async with asyncio.timeout(self._patience_s):
                await process.ended.wait()
        except TimeoutError:
            log.error("worker_killed", slot=process.slot, pid=process.process.pid)  # noqa: TRY400
            with suppress(ProcessLookupError):
                process.process.kill()
            await process.ended.wait()


def _pause_s(consecutive_failures: int) -> float:
    """None for the first death in a place, then longer each time."""
    return (
        min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(consecutive_failures - 1, 10))
        if consecutive_failures
        else 0.0
    )


async def _read(pipe_fd: int) -> str:
    """What a worker says; nothing if it ends before."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(pipe_fd, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(pipe_fd)
    return os.read(pipe_fd, MAX_TOLD_BYTES).decode(errors="replace")


def _keep_reference(tasks: set[asyncio.Task[None]], work: Coroutine[Any, Any, None]) -> None:
    """Run beside; the set keeps the task from being collected."""
    task = asyncio.create_task(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)


async def _cancelled(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
