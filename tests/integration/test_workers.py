"""Several workers serve as one: on one port, through deaths, until the stop."""

import asyncio
import os
import resource
import signal
import socket
import stat
import struct
import threading
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import asyncpg
import grpc
import psutil  # type: ignore[import-untyped]
import pytest

from tests.conftest import serving
from tests.integration.operating import (
    PATIENCE_S,
    held_up,
    read_metrics,
    refusal_to_start,
    until,
)
from tests.integration.shop import breaches, create, fetch, get_product, signed_offer, until_waiting
from tests.integration.test_many_servers import buy_all
from tests.integration.workers import Workers, connection, refused, spawn, working
from voucher_grpc.client import CallFailed, Client, call_failed
from voucher_grpc.runtime.shared_memory import open_shared_memory
from voucher_grpc.v1.voucher_service_pb2 import (
    RequestOffersRequest,
    StreamOffersRequest,
)
from voucher_grpc.workers.multiprocess_metrics import FILE_BYTES, MultiprocessMetrics

GET_PASS = (
    "grpc_server_handled_total{grpc_code=NotFound,grpc_method=GetPass,"
    "grpc_service=voucher_grpc.v1.VoucherService,grpc_type=unary}"
)


async def until_counted(workers: Workers, calls: int) -> None:
    """Wait until so many calls are counted; never are there more."""

    async def counted() -> bool:
        found = (await workers.metrics())[GET_PASS]
        assert found <= calls
        return found == calls

    await until(counted)


async def test_all_workers_get_calls_and_are_counted_as_one(fresh_database: str) -> None:
    """The kernel shares connections out; the metrics are the sum, which a death does not lower."""
    async with working(fresh_database, 3) as workers:
        calls = 0
        while len({line["slot"] for line in workers.events("refused")}) < 3:
            await refused(workers.target)
            calls += 1
            assert calls < 500
        await until_counted(workers, calls)
        found = await workers.metrics()
        assert 3 == found["voucher_workers"]
        assert 1 == found["voucher_database_up"]
        assert 3 <= found["voucher_pool_connections{state=open}"]

        os.kill(min(workers.pids()), signal.SIGKILL)
        await workers.until_logged("worker_serves", 4)
        await refused(workers.target)
        await until_counted(workers, calls + 1)
        found = await workers.metrics()
        assert (3, 1) == (found["voucher_workers"], found["voucher_worker_restarts_total"])


async def test_a_killed_worker_is_replaced_and_its_clients_go_on(fresh_database: str) -> None:
    """Each client that was connected to it finds another one; nothing that was bought is lost."""
    async with working(fresh_database, 2) as workers, Client(workers.target) as client:
        created = await create(client, "p")
        before = workers.pids()
        async with AsyncExitStack() as stack:
            connected = [connection(workers.target, retries=True) for _ in range(8)]
            stubs = [await stack.enter_async_context(one) for one in connected]
            first = [signed_offer(created, f"user-{n}") for n in range(32)]
            assert Counter(OK=32) == await buy_all(stubs, first)
            os.kill(max(before), signal.SIGKILL)
            second = [signed_offer(created, f"other-{n}") for n in range(32)]
            assert Counter(OK=32) == await buy_all(stubs, second, prefix="again")
        await workers.until_logged("worker_serves", 3)
        assert min(before) in workers.pids()
        assert 2 == len(workers.pids())
        assert 64 == (await get_product(client, "p")).sold
    assert {} == await breaches(fresh_database)


def test_metrics_are_summed_while_workers_end_and_begin(tmp_path: Path) -> None:
    """A scrape that finds a file gone or half made is no failure; now and then each would be."""
    files = [tmp_path / f"gauge_livesum_{slot}.db" for slot in range(30)]
    for path in files:
        os.close(open_shared_memory(path, FILE_BYTES["gauge_livesum"]))
    ended = threading.Event()

    def change() -> None:
        while not ended.wait(0.02):
            for path in files[::10]:
                path.unlink()
                os.close(open_shared_memory(path, FILE_BYTES["gauge_livesum"]))

    with ThreadPoolExecutor() as beside:
        changing = beside.submit(change)
        summed, end_s = MultiprocessMetrics(tmp_path, lambda: range(30)), time.monotonic() + 2
        try:
            while time.monotonic() < end_s:
                assert [] == list(summed.collect())
        finally:
            ended.set()
        changing.result()


def test_metrics_are_summed_without_a_file_that_is_gone(tmp_path: Path) -> None:
    """It was found, and then it was not there: as one that names a file which is not."""
    (tmp_path / "counter_0.db").symlink_to(tmp_path / "gone")
    assert [] == list(MultiprocessMetrics(tmp_path, lambda: [0]).collect())


async def test_what_workers_map_has_its_space_from_the_start(fresh_database: str) -> None:
    """A disk that is full later kills nobody: a file with holes would, when one is written."""
    async with working(fresh_database, 2) as workers, Client(workers.target) as client:
        await client.request_offers(user_id="alice", currency_code="NOK")
        files = {file.name: file.stat() for file in workers.folder().iterdir()}
        named = {f"{kind}_{slot}.db" for kind in FILE_BYTES for slot in range(2)}
        assert {"rates", *named} == set(files)
        assert [] == [name for name, at in files.items() if at.st_blocks * 512 < at.st_size]


async def test_workers_that_die_together_come_back_together(fresh_database: str) -> None:
    """The system that is out of memory kills several; none waits for the others' sake."""
    async with working(fresh_database, 3) as workers:
        for pid in workers.pids():
            os.kill(pid, signal.SIGKILL)
        await workers.until_logged("worker_serves", 6)
        assert [0.0] * 3 == [line["after_s"] for line in workers.events("worker_wanted")]


async def test_a_worker_that_dies_again_and_again_comes_back_ever_later(
    fresh_database: str,
) -> None:
    """In whichever slot: what kills it at once would else do nothing but start interpreters."""
    async with working(fresh_database, 2) as workers:
        kept = min(workers.pids())
        for deaths in range(1, 4):
            os.kill(next(iter(workers.pids() - {kept})), signal.SIGKILL)
            await workers.until_logged("worker_serves", 2 + deaths)
        pauses = [line["after_s"] for line in workers.events("worker_wanted")]
        assert [0.0, 0.5, 1.0] == pauses
        assert len({line["slot"] for line in workers.events("worker_died")}) > 1


async def test_a_supervisor_without_descriptors_goes_on(fresh_database: str) -> None:
    """Nobody can be started meanwhile; who serves stays, and who is missing comes afterwards."""
    async with working(fresh_database, 2) as workers:
        before, supervisor_process = workers.pids(), psutil.Process(workers.process.pid)
        _, most = supervisor_process.rlimit(psutil.RLIMIT_NOFILE)
        supervisor_process.rlimit(psutil.RLIMIT_NOFILE, (1, most))
        os.kill(min(before), signal.SIGKILL)
        await workers.until_logged("worker_not_started", 2)
        workers.send(signal.SIGHUP)
        await workers.until_logged("reload_failed")
        for line in workers.events("worker_not_started") + workers.events("reload_failed"):
            assert line["why"].startswith("a worker cannot be started: [Errno 24]")
        assert {max(before)} == workers.pids()
        await refused(workers.target)
        supervisor_process.rlimit(psutil.RLIMIT_NOFILE, (most, most))
        await workers.until_logged("worker_serves", 3)
        workers.send(signal.SIGHUP)
        await workers.until_logged("reloaded")
        assert before.isdisjoint(workers.pids())
        assert 2 == (await workers.metrics())["voucher_workers"]


async def test_a_supervisor_has_as_many_descriptors_as_it_may(fresh_database: str) -> None:
    """As its workers: the usual soft limit of 1,024 is not enough for everybody."""
    soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, most))
    try:
        process = await spawn(fresh_database, 2, VOUCHER_MAX_CONNECTIONS="100")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, most))
    assert process.stdout is not None
    try:
        await asyncio.wait_for(process.stdout.readline(), PATIENCE_S)
        assert (300, most) == psutil.Process(process.pid).rlimit(psutil.RLIMIT_NOFILE)
    finally:
        process.terminate()
        await process.communicate()


async def test_a_stop_lets_calls_under_way_finish(fresh_database: str) -> None:
    """A purchase that waits for a lock gets its pass after SIGTERM; the exit code is 0."""
    async with working(fresh_database, 2, VOUCHER_DRAIN_TIMEOUT_S="300") as workers:
        async with Client(workers.target) as client:
            offer = signed_offer(await create(client, "p"), "alice")
            async with held_up(fresh_database):
                buying = asyncio.create_task(client.purchase_pass(offer, payment_reference="pay-1"))
                await until_waiting(fresh_database)
                workers.send(signal.SIGTERM)
                # The other worker has nothing to wait for.
                await until(lambda: 1 == len(workers.pids()))
                assert not buying.done()
            assert "alice" == (await buying).user_id
        assert 0 == await workers.ended()
    assert {} == await breaches(fresh_database)


async def test_a_stop_ends_streams_that_wait_for_a_question(fresh_database: str) -> None:
    """What was asked before is answered first, and the caller hears why no more is taken."""
    request = RequestOffersRequest(user_id="alice", currency_code="NOK")
    async with (
        working(fresh_database, 2, VOUCHER_DRAIN_TIMEOUT_S="300") as workers,
        connection(workers.target, retries=False) as stub,
    ):
        call = stub.StreamOffers(timeout=300)
        await call.write(StreamOffersRequest(tag="1", request=request))
        assert "1" == (await call.read()).tag
        lock = await asyncpg.connect(fresh_database)
        async with lock.transaction():
            await lock.execute("LOCK TABLE vehicles IN ACCESS EXCLUSIVE MODE")
            await call.write(StreamOffersRequest(tag="2", request=request))
            await until_waiting(fresh_database)
            workers.send(signal.SIGTERM)
            # The other worker has nothing to wait for.
            await until(lambda: 1 == len(workers.pids()))
        await lock.close()
        assert "2" == (await call.read()).tag
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert "SHUTTING_DOWN" == call_failed(caught.value).reason
        assert 0 == await workers.ended()


async def test_a_stop_does_not_wait_for_ever(fresh_database: str) -> None:
    """A call that does not end is cut off after VOUCHER_DRAIN_TIMEOUT_S; exit code 0."""
    async with (
        working(fresh_database, 2, VOUCHER_DRAIN_TIMEOUT_S="0.5") as workers,
        connection(workers.target, retries=False) as stub,
    ):
        async with Client(workers.target) as client:
            offer = signed_offer(await create(client, "p"), "alice")
        folder = workers.folder()
        async with held_up(fresh_database):
            buying = asyncio.create_task(buy_all([stub], [offer]))
            await until_waiting(fresh_database)
            workers.send(signal.SIGTERM)
            assert 0 == await workers.ended()
            # Cut off by the runtime, which knows no reason.
            assert Counter({"": 1}) == await buying
    assert {0} == {line["code"] for line in workers.events("worker_ended")}
    assert not folder.exists()


def gone(pid: int) -> bool:
    """Whether a process has ended, also if nobody takes note of it."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


async def test_a_killed_supervisor_leaves_nothing_behind(fresh_database: str) -> None:
    """Its workers drain and end by themselves, and take the private folder along."""
    async with working(fresh_database, 2) as workers:
        pids, folder = workers.pids(), workers.folder()
        assert 0o700 == stat.S_IMODE(folder.stat().st_mode)
        workers.process.kill()
        await until(lambda: all(gone(pid) for pid in pids))
        assert not folder.exists()
        with socket.socket() as free:
            free.bind(("127.0.0.1", workers.port))


async def test_a_port_of_another_supervisor_is_told(fresh_database: str) -> None:
    """Though its workers share the port with each other, nobody else gets a part of their calls."""
    async with working(fresh_database, 2) as workers:
        told = await refusal_to_start(
            fresh_database, VOUCHER_WORKERS="2", VOUCHER_LISTEN=workers.target
        )
        address = f"cannot listen on {workers.target}: the address is taken or not ours"
        assert f"voucher-grpc: {address}" == told
        alone = await refusal_to_start(fresh_database, VOUCHER_LISTEN=workers.target)
        assert f"voucher-grpc: {address}" == alone


async def test_a_port_of_somebody_else_is_told(fresh_database: str) -> None:
    """As with one process."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        told = await refusal_to_start(fresh_database, VOUCHER_WORKERS="2", VOUCHER_LISTEN=address)
    assert f"voucher-grpc: cannot listen on {address}: the address is taken or not ours" == told


async def test_what_keeps_all_workers_from_starting_is_told_once(fresh_database: str) -> None:
    """One line and exit code 2, as with one process."""
    await fetch(fresh_database, "ALTER TABLE schema_migrations RENAME TO kept_away")
    told = await refusal_to_start(fresh_database, VOUCHER_WORKERS="3")
    assert told.startswith("voucher-grpc: the database lacks migrations")


async def test_no_worker_is_told_a_secret_on_its_command_line(fresh_database: str) -> None:
    """Anybody on the machine can read those. What was given by an option goes on as a variable."""
    process = await spawn("", 2, "--database-url", fresh_database)
    assert process.stdout is not None
    try:
        await asyncio.wait_for(process.stdout.readline(), 60)
        children = psutil.Process(process.pid).children()
        assert 2 == len(children)
        assert not [c for c in children if "postgresql" in " ".join(c.cmdline())]
    finally:
        process.terminate()
        await process.communicate()


async def test_the_metrics_are_those_of_one_process(fresh_database: str) -> None:
    """After the same calls there are the same names and labels, and those of the supervisor."""

    async def calls(client: Client) -> None:
        await client.request_offers(user_id="alice", currency_code="NOK")
        with pytest.raises(CallFailed):
            await client.get_pass("alice", str(uuid.uuid4()))

    async with serving(fresh_database) as service:
        await calls(service.client)
        alone = await asyncio.to_thread(read_metrics, service.server.metrics_port or 0)
    async with working(fresh_database, 2) as workers:
        async with Client(workers.target) as client:
            await calls(client)
        await until_counted(workers, 1)
        together = await workers.metrics()
    added = {
        "voucher_workers",
        "voucher_worker_restarts_total",
        "voucher_workers_memory_exceeded_total",
    }
    assert {*alone, *added} == set(together)


@asynccontextmanager
async def resetting(target: str, times: int) -> AsyncIterator[str]:
    """A way to a server that resets so many connections first, as a listener does that closes."""
    left = times

    async def move(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.transport.abort()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal left
        if left:
            left -= 1
            # Closed with a reset and not in order.
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
            return
        host, _, port = target.partition(":")
        there_reader, there_writer = await asyncio.open_connection(host, int(port))
        await asyncio.gather(move(reader, there_writer), move(there_reader, writer))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def test_a_client_whose_connection_is_reset_goes_on(fresh_database: str) -> None:
    """A listener that closes resets those that have just come; the client's retries outlast it."""
    async with (
        serving(fresh_database) as service,
        resetting(service.target, 2) as target,
        Client(target) as client,
    ):
        await create(service.client, "p", default_offer=True)
        answer = await client.request_offers(user_id="alice", currency_code="NOK")
        assert ["p"] == [offer.product_id for offer in answer.offers]


async def test_a_thousand_buyers_of_a_stock_of_a_hundred(fresh_database: str) -> None:
    """Three workers share nothing but the database: a hundred passes, the others hear SOLD_OUT."""
    async with AsyncExitStack() as stack:
        workers = await stack.enter_async_context(working(fresh_database, 3))
        client = await stack.enter_async_context(Client(workers.target))
        created = await create(client, "p", stock=100)
        connected = [connection(workers.target, retries=False) for _ in range(12)]
        stubs = [await stack.enter_async_context(one) for one in connected]
        offers = [signed_offer(created, f"user-{number}") for number in range(1_000)]
        assert Counter(OK=100, SOLD_OUT=900) == await buy_all(stubs, offers)
        assert 100 == (await get_product(client, "p")).sold
    rows = await fetch(fresh_database, "SELECT count(*) FROM passes")
    assert 100 == rows[0][0]
    assert {} == await breaches(fresh_database)
