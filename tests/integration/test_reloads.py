"""Workers are replaced one by one, at a reload and when they use too much memory."""

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Iterator, MutableMapping
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.conftest import OFFER_KEYS
from tests.integration.credentials import (
    ISSUER,
    Authority,
    Certificate,
    Issuer,
    channel_credentials,
    write_key_set,
)
from tests.integration.operating import PATIENCE_S, until
from tests.integration.shop import breaches, create, fetch, get_product, signed_offer
from tests.integration.workers import refused, working
from voucher_grpc.client import CallFailed, Client
from voucher_grpc.server.config import read_config
from voucher_grpc.telemetry.logs import configure_logs
from voucher_grpc.v1.voucher_service_pb2 import (
    ListPassesRequest,
)
from voucher_grpc.workers import supervisor
from voucher_grpc.workers.supervisor import supervise

LIFE = ("worker_serves", "worker_memory_exceeded", "worker_ended", "worker_died")


async def buy_until(stop: asyncio.Event, client: Client, created: Any, name: str) -> int:
    """Buy one after the other; the first failure is raised."""
    bought = 0
    while not stop.is_set():
        offer = signed_offer(created, f"{name}-{bought}")
        await client.purchase_pass(offer, payment_reference=f"pay-{name}-{bought}")
        bought += 1
    return bought


@contextmanager
def lines_logged() -> Iterator[list[MutableMapping[str, Any]]]:
    """What this process logs meanwhile."""
    configure_logs("console", "info")
    try:
        with capture_logs() as lines:
            yield lines
    finally:
        configure_logs("console", "error")


async def test_a_worker_that_uses_too_much_memory_is_replaced_without_a_failed_call(
    fresh_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a library loses by the call does not add up until the system kills somebody."""
    monkeypatch.setattr(supervisor, "CHECK_INTERVAL_S", 0.1)
    monkeypatch.setattr(supervisor, "LEAST_STAY_S", 4.0)
    settings = {
        "database_url": fresh_database,
        "listen": "127.0.0.1:0",
        "metrics_listen": "",
        "offer_keys": OFFER_KEYS,
        "workers": 2,
        "worker_memory_mb": 64,  # less than any has from the start
    }
    serving_at: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    with lines_logged() as logged:
        supervising = asyncio.create_task(
            supervise(
                read_config(**settings), settings, lambda port, _: serving_at.set_result(port)
            )
        )
        try:
            port = await asyncio.wait_for(serving_at, PATIENCE_S)
            stop = asyncio.Event()
            async with Client(f"127.0.0.1:{port}", timeout_s=30) as client:
                created = await create(client, "p")
                buying = [
                    asyncio.create_task(buy_until(stop, client, created, f"user-{number}"))
                    for number in range(4)
                ]
                await until(lambda: sum(e["event"] == "worker_ended" for e in logged) >= 2)
                stop.set()
                bought = sum(await asyncio.gather(*buying))
                assert bought == (await get_product(client, "p")).sold
        finally:
            supervising.cancel()
            await asyncio.gather(supervising, return_exceptions=True)
    pids = {name: [e["pid"] for e in logged if e["event"] == name] for name in LIFE}
    first = pids["worker_serves"][:2]
    assert set(first) == set(pids["worker_memory_exceeded"][:2])
    assert pids["worker_memory_exceeded"][:2] == pids["worker_ended"][:2]
    assert all(
        e["used_bytes"] > 64 * 2**20 for e in logged if e["event"] == "worker_memory_exceeded"
    )
    assert [] == pids["worker_died"]


async def test_reloads_under_load_fail_no_call_and_change_every_process(
    fresh_database: str,
) -> None:
    """With the published service config; a reload asked for during a reload is taken after it."""
    async with AsyncExitStack() as stack:
        workers = await stack.enter_async_context(working(fresh_database, 2))
        clients = [
            await stack.enter_async_context(Client(workers.target, timeout_s=30)) for _ in range(4)
        ]
        created = await create(clients[0], "p")
        before, stop = workers.pids(), asyncio.Event()
        buying = [
            asyncio.create_task(buy_until(stop, clients[number % 4], created, f"user-{number}"))
            for number in range(12)
        ]
        workers.send(signal.SIGHUP)
        await workers.until_logged("worker_serves", 3)
        workers.send(signal.SIGHUP)
        await workers.until_logged("reloaded", 2)
        stop.set()
        bought = sum(await asyncio.gather(*buying))
        assert 2 == len(workers.pids())
        assert before.isdisjoint(workers.pids())
        # Four have been started anew, in one slot more than there are workers.
        slots = sorted(file.name for file in workers.folder().glob("counter_*.db"))
        assert ["counter_0.db", "counter_1.db", "counter_2.db"] == slots
        found = await workers.metrics()
        assert 2 == found["voucher_reloads_total{result=OK}"]
        assert 0 == found["voucher_worker_restarts_total"]
        assert bought == (await get_product(clients[0], "p")).sold
    assert {} == await breaches(fresh_database)


async def test_workers_that_cannot_be_replaced_stay(fresh_database: str) -> None:
    """A new one that does not come up is told, with its reason; the next reload may do better."""
    async with working(fresh_database, 2) as workers:
        before = workers.pids()
        await fetch(fresh_database, "ALTER TABLE schema_migrations RENAME TO kept_away")
        workers.send(signal.SIGHUP)
        await workers.until_logged("reload_failed")
        assert "lacks migrations" in workers.events("reload_failed")[0]["why"]
        assert before == workers.pids()
        await refused(workers.target)
        assert 1 == (await workers.metrics())["voucher_reloads_total{result=FAILED}"]
        # Whoever dies meanwhile is missing until one comes up.
        os.kill(min(before), signal.SIGKILL)
        await workers.until_logged("worker_not_started")
        await refused(workers.target)
        assert 1 == (await workers.metrics())["voucher_workers"]
        await fetch(fresh_database, "DROP TABLE IF EXISTS schema_migrations")
        await fetch(fresh_database, "ALTER TABLE kept_away RENAME TO schema_migrations")
        await until(lambda: 2 == len(workers.events("worker_serves")) - 1)
        workers.send(signal.SIGHUP)
        await workers.until_logged("reloaded")
        assert before.isdisjoint(workers.pids())


async def test_a_callers_rate_holds_over_all_workers_and_reloads(
    fresh_database: str, tmp_path: Path
) -> None:
    """Twenty calls at once and no more, whichever worker takes them, by token or certificate."""
    issuer, authority = Issuer(), Authority()
    certificate, key = authority.issue("server").write(tmp_path, "server")
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    settings = {
        "VOUCHER_TOKEN_KEYS": str(write_key_set(tmp_path / "jwks.json", issuer)),
        "VOUCHER_TOKEN_ISSUER": ISSUER,
        "VOUCHER_TLS_CERTIFICATE_FILE": str(certificate),
        "VOUCHER_TLS_KEY_FILE": str(key),
        "VOUCHER_TLS_CLIENT_CA_FILE": str(tmp_path / "ca.pem"),
        "VOUCHER_MTLS_LISTEN": "127.0.0.1:0",
        "VOUCHER_RATE_LIMITS": "user:0.001/20,support:0.001/20",
    }
    own = authority.issue("helpdesk", "urn:voucher-grpc:role:support")
    async with working(fresh_database, 2, **settings) as workers:

        async def call(port: int, certificate: Certificate | None, token: str) -> str:
            credentials = channel_credentials(authority, certificate)
            target = f"localhost:{port}"
            async with Client(target, credentials=credentials, token=token) as client:
                try:
                    request = ListPassesRequest(user_id="alice")
                    await client.call(client.voucher.ListPasses, request)
                except CallFailed as failed:
                    return failed.reason or failed.code.name
            return ""

        alice = issuer.token("alice", "user")
        told = [await call(workers.port, None, alice) for _ in range(15)]
        workers.send(signal.SIGHUP)
        await workers.until_logged("reloaded")
        told += [await call(workers.port, None, alice) for _ in range(15)]
        assert {"": 20, "RATE_LIMITED": 10} == Counter(told)
        told = [await call(workers.mtls_port, own, "") for _ in range(30)]
        assert {"": 20, "RATE_LIMITED": 10} == Counter(told)
