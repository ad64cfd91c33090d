"""Postgres' disk is full: nothing is sold, nothing is half-written, and space mends it."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import asyncpg
import grpc
import pytest

from tests.conftest import serving
from tests.fault.postgres import Cluster
from tests.fault.run import findings
from tests.fault.test_database_away import (
    State,
    assert_the_store_is_away,
    once_back,
    passes,
    purchase,
    until_health,
    without_retries,
)
from tests.integration.shop import breaches, create, signed_offer
from voucher_grpc.client import call_failed
from voucher_grpc.v1.voucher_service_pb2 import GetPassRequest, RequestOffersRequest

_DISK = "size=300m"
_MOST_PURCHASES = 5_000


@contextmanager
def small_disk() -> Iterator[Path]:
    """A file system of its own; skips where none may be mounted."""
    folder = Path(tempfile.mkdtemp(prefix="vd-"))
    try:
        mounted = os.geteuid() == 0 and shutil.which("mount") is not None
        if mounted:
            command = ["mount", "-t", "tmpfs", "-o", _DISK, "tmpfs", str(folder)]
            mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
        if not mounted:
            pytest.skip("mounting a small disk needs root and the right to mount")
        try:
            yield folder
        finally:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@asynccontextmanager
async def on_a_small_disk() -> AsyncIterator[tuple[Cluster, Path]]:
    """A Postgres on it, and the folder of the disk."""
    with small_disk() as disk:
        async with Cluster.running(disk) as cluster:
            yield cluster, disk


def fill(disk: Path) -> Path:
    """Take all space that is left; the file that has it."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096):
            with suppress(OSError):
                while file.write(b"\0" * size):
                    pass
    return filler


async def test_a_full_disk_refuses_purchases_and_lets_offers_go_on() -> None:
    """Refused with STORE_UNAVAILABLE, told by health, over by itself when there is space again."""
    async with on_a_small_disk() as (cluster, disk):
        url = await cluster.new_database("full_disk")
        settings = {"db_probe_timeout_s": 2.0}
        async with serving(url, **settings) as service, without_retries(service) as stub:
            product = await create(service.client, "standard", default_offer=True)
            admin = await asyncpg.connect(url)
            # The log of what is written has room: it is the tables that cannot grow.
            await admin.execute("CHECKPOINT")
            await admin.execute("SELECT pg_switch_wal()")
            await admin.close()
            filler = fill(disk)
            bought = []
            for number in range(_MOST_PURCHASES):
                request = purchase(signed_offer(product, f"user-{number}"))
                try:
                    bought.append(getattr(await stub.PurchasePass(request, timeout=20), "pass"))
                except grpc.aio.AioRpcError as error:
                    assert_the_store_is_away(call_failed(error))
                    break
            else:
                pytest.fail("the disk did not get full")
            await until_health(service, State.NOT_SERVING)
            offers = await stub.RequestOffers(
                RequestOffersRequest(user_id="alice", currency_code="NOK")
            )
            assert 1 == len(offers.offers)
            if bought:
                wanted = GetPassRequest(user_id=bought[-1].user_id, pass_id=bought[-1].pass_id)
                assert bought[-1] == getattr(await stub.GetPass(wanted), "pass")
            filler.unlink()
            bought.append(getattr(await once_back(lambda: stub.PurchasePass(request)), "pass"))
            await until_health(service, State.SERVING)
            assert len(bought) == await passes(url)
            assert {} == await findings(url)
            assert {} == await breaches(url)
