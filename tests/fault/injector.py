"""Does to a running service what a plan says, and mends it."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from random import Random

import asyncpg

from tests.fault.calls import Desk
from tests.fault.links import BUYER, AtCommit, FaultLink
from tests.fault.plan import Fault, Plan, PlannedFault
from tests.fault.postgres import Cluster
from tests.fault.service import Server
from voucher_grpc.client import CallFailed
from voucher_grpc.v1 import voucher_service_pb2 as pb

_CROWD = 5
_READ_S = 2.0
_CONNECT_S = 2.0
_MOST_CONNECTIONS = 80


class Injector:
    """Injects the faults of a plan at their times; `injected` counts what really happened."""

    def __init__(
        self, plan: Plan, cluster: Cluster, servers: list[Server], database_url: str, desk: Desk
    ) -> None:
        self.injected: Counter[Fault] = Counter()
        self.left_out: Counter[str] = Counter()
        self._plan = plan
        self._cluster = cluster
        self._servers = servers
        self._url = database_url
        self._desk = desk
        self._random = Random(f"{plan.seed}/faults")

    async def run(self) -> None:
        """All faults, each at its time; until the last one has been mended."""
        begin_s = asyncio.get_running_loop().time()
        async with asyncio.TaskGroup() as group:
            for planned in self._plan.faults:
                now_s = asyncio.get_running_loop().time() - begin_s
                await asyncio.sleep(max(0.0, planned.at_s - now_s))
                group.create_task(self._inject(planned))

    async def _inject(self, planned: PlannedFault) -> None:
        server = self._servers[planned.server % len(self._servers)]
        if await _DO[planned.fault](self, planned, server):
            self.injected[planned.fault] += 1

    def _leave_out(self, why: str) -> bool:
        self.left_out[why] += 1
        return False

    async def kill_server(self, planned: PlannedFault, server: Server) -> bool:
        await server.kill(planned.for_s)
        return True

    async def stop_server(self, planned: PlannedFault, server: Server) -> bool:
        await server.stop(planned.for_s)
        return True

    async def freeze_server(self, planned: PlannedFault, server: Server) -> bool:
        await server.freeze(planned.for_s)
        return True

    async def kill_postgres(self, planned: PlannedFault, server: Server) -> bool:
        await self._cluster.kill_and_restart(planned.for_s)
        return True

    async def kill_backend(self, planned: PlannedFault, server: Server) -> bool:
        await self._cluster.kill_backend(self._random)
        return True

    async def freeze_postgres(self, planned: PlannedFault, server: Server) -> bool:
        await self._cluster.freeze(planned.for_s)
        return True

    async def cut_store(self, planned: PlannedFault, server: Server) -> bool:
        return await _for_a_while(server.store, server.store.cut, planned.for_s)

    async def freeze_store(self, planned: PlannedFault, server: Server) -> bool:
        return await _for_a_while(server.store, server.store.freeze, planned.for_s)

    async def delay_store(self, planned: PlannedFault, server: Server) -> bool:
        link = server.store
        return await _for_a_while(link, lambda: link.delay(planned.strength_s), planned.for_s)

    async def cut_before_commit(self, planned: PlannedFault, server: Server) -> bool:
        return await self._at_commit(server, AtCommit.CUT_BEFORE, planned.for_s)

    async def cut_after_commit(self, planned: PlannedFault, server: Server) -> bool:
        return await self._at_commit(server, AtCommit.CUT_AFTER, planned.for_s)

    async def late_commit(self, planned: PlannedFault, server: Server) -> bool:
        return await self._at_commit(server, AtCommit.HOLD, planned.for_s)

    async def _at_commit(self, server: Server, what: AtCommit, for_s: float) -> bool:
        met = await server.store.at_commit(what, within_s=3.0, hold_s=for_s)
        return met or self._leave_out(f"{what.name}: no COMMIT came in time")

    async def cut_callers(self, planned: PlannedFault, server: Server) -> bool:
        return await _for_a_while(server.callers, server.callers.cut, planned.for_s)

    async def freeze_callers(self, planned: PlannedFault, server: Server) -> bool:
        return await _for_a_while(server.callers, server.callers.freeze, planned.for_s)

    async def delay_callers(self, planned: PlannedFault, server: Server) -> bool:
        link = server.callers
        return await _for_a_while(link, lambda: link.delay(planned.strength_s), planned.for_s)

    async def lose_answers(self, planned: PlannedFault, server: Server) -> bool:
        """What is done is not heard of, and then the connections break."""
        server.callers.lose_answers()
        await asyncio.sleep(planned.for_s)
        server.callers.cut()
        server.callers.restore()
        return True

    async def fill_pool(self, planned: PlannedFault, server: Server) -> bool:
        """A lock that somebody holds, and readers enough to take every connection of the pool."""
        try:
            locker = await asyncpg.connect(self._url, timeout=_CONNECT_S)
        except (OSError, TimeoutError, asyncpg.PostgresError):
            return self._leave_out("the pool was not filled: Postgres was away")
        try:
            async with asyncio.timeout(planned.for_s + _CONNECT_S):
                async with locker.transaction():
                    await locker.execute("LOCK TABLE passes IN ACCESS EXCLUSIVE MODE")
                    crowd = [self._read() for _ in range(_CROWD * self._plan.pool_size)]
                    await asyncio.gather(asyncio.sleep(planned.for_s), *crowd)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return self._leave_out("the pool was not filled long: Postgres went away")
        finally:
            locker.terminate()
        return True

    async def _read(self) -> None:
        number = self._random.randrange(self._plan.clients)
        request = pb.ListPassesRequest(user_id=f"{BUYER}{number}-0")
        server = self._random.randrange(self._desk.servers)
        with suppress(CallFailed):
            await self._desk.call("ListPasses", request, self._random, server, _READ_S)

    async def take_connections(self, planned: PlannedFault, server: Server) -> bool:
        """All that Postgres gives; who needs a new one then gets none."""
        taken = []
        try:
            for _ in range(_MOST_CONNECTIONS):
                taken.append(await asyncpg.connect(self._url, timeout=_CONNECT_S))  # noqa: PERF401
        except (OSError, TimeoutError, asyncpg.PostgresError):
            pass
        # Those that are connected lose their connection: they have to ask for a new one.
        server.store.cut()
        server.store.restore()
        await asyncio.sleep(planned.for_s)
        for connection in taken:
            connection.terminate()
        return bool(taken) or self._leave_out("no connection was taken: Postgres was away")

    async def slow_disk(self, planned: PlannedFault, server: Server) -> bool:
        if not self._cluster.slow_disk_possible:
            return self._leave_out("the disk was not slowed: there is no C compiler (cc)")
        self._cluster.slow_disk(planned.strength_s)
        await asyncio.sleep(planned.for_s)
        self._cluster.slow_disk(0.0)
        return True

    async def jump_clock(self, planned: PlannedFault, server: Server) -> bool:
        if not server.clock_can_jump:
            return self._leave_out("no clock jumped: libfaketime is absent (FAKETIME_LIB names it)")
        server.jump(planned.strength_s)
        await asyncio.sleep(planned.for_s)
        server.jump(0.0)
        return True


async def _for_a_while(link: FaultLink, hurt: Callable[[], None], for_s: float) -> bool:
    hurt()
    await asyncio.sleep(for_s)
    link.restore()
    return True


_DO: dict[Fault, Callable[[Injector, PlannedFault, Server], Awaitable[bool]]] = {
    Fault.KILL_SERVER: Injector.kill_server,
    Fault.STOP_SERVER: Injector.stop_server,
    Fault.FREEZE_SERVER: Injector.freeze_server,
    Fault.KILL_POSTGRES: Injector.kill_postgres,
    Fault.KILL_BACKEND: Injector.kill_backend,
    Fault.FREEZE_POSTGRES: Injector.freeze_postgres,
    Fault.CUT_STORE: Injector.cut_store,
    Fault.FREEZE_STORE: Injector.freeze_store,
    Fault.DELAY_STORE: Injector.delay_store,
    Fault.CUT_BEFORE_COMMIT: Injector.cut_before_commit,
    Fault.CUT_AFTER_COMMIT: Injector.cut_after_commit,
    Fault.LATE_COMMIT: Injector.late_commit,
    Fault.CUT_CALLERS: Injector.cut_callers,
    Fault.FREEZE_CALLERS: Injector.freeze_callers,
    Fault.DELAY_CALLERS: Injector.delay_callers,
    Fault.LOSE_ANSWERS: Injector.lose_answers,
    Fault.FILL_POOL: Injector.fill_pool,
    Fault.TAKE_CONNECTIONS: Injector.take_connections,
    Fault.SLOW_DISK: Injector.slow_disk,
    Fault.JUMP_CLOCK: Injector.jump_clock,
}
