"""The released code goes on working on the schema of the code that comes after it.

Both run during a deployment. The released commit is the one that the newest release in CHANGELOG.md
names; `released_server` starts the code of any commit since the module layout of 0.1.0.
"""

import asyncio
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from io import BytesIO
from pathlib import Path

import asyncpg
import pytest

from tests.integration.operating import PATIENCE_S, environment
from tests.integration.shop import create
from voucher_grpc.client import CallFailed, Client

ROOT = Path(__file__).resolve().parents[2]
# `## 0.1.0 (2026-11-26, commit 0123abc)`
_RELEASE = re.compile(r"^## [0-9.]+ \([0-9-]+, commit ([0-9a-f]{7,40})\)$", re.MULTILINE)
_SERVES = re.compile(rb"serves on port (\d+)")


def _git(*arguments: str) -> bytes:
    """What git says. Raises OSError, CalledProcessError."""
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=True)
    return done.stdout


def released_commit() -> str:
    """The commit of the newest release, or a skip with the reason."""
    named = _RELEASE.search((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    if named is None:
        pytest.skip("CHANGELOG.md names no released commit")
    try:
        _git("cat-file", "-e", f"{named[1]}^{{commit}}")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip(f"the history of git is not here, or has no commit {named[1]}")
    return named[1]


def unpack(commit: str, folder: Path) -> None:
    """The package as it was in a commit."""
    with tarfile.open(fileobj=BytesIO(_git("archive", commit, "voucher_grpc"))) as archive:
        archive.extractall(folder)  # our own archive; `filter` came with Python 3.11.4


@asynccontextmanager
async def released_server(commit: str, folder: Path, url: str) -> AsyncIterator[str]:
    """The address of a server with the code of a commit, on a database as it is."""
    await asyncio.to_thread(unpack, commit, folder)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "voucher_grpc.cli", "serve"),
        cwd=folder,
        env={**environment(url), "PYTHONPATH": str(folder)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with asyncio.timeout(PATIENCE_S):
            line = await process.stdout.readline()
        port = _SERVES.search(line)
        if port is None:
            raise AssertionError(f"{line!r} {(await process.stderr.read())!r}")
        yield f"127.0.0.1:{int(port[1])}"
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def sells(target: str) -> str:
    """A product made, offered, reserved and paid, and another pass given back; its id."""
    async with Client(target) as client:
        await create(client, "standard", default_offer=True)
        offers = (await client.request_offers(user_id="alice", currency_code="NOK")).offers
        held = await client.purchase_pass(offers[0])
        paid = await client.confirm_purchase(held, payment_reference="payment-1")
        assert paid.pass_id == (await client.get_pass("alice", held.pass_id)).pass_id
        offers = (await client.request_offers(user_id="bob", currency_code="NOK")).offers
        other = await client.purchase_pass(offers[0])
        return (await client.cancel_pass("bob", other.pass_id)).pass_id


async def test_the_released_code_sells_on_the_new_schema(
    fresh_database: str, tmp_path: Path
) -> None:
    """Else a deployment would stop the sale until the last old server is gone."""
    async with released_server(released_commit(), tmp_path, fresh_database) as target:
        assert await sells(target)


async def test_a_schema_that_the_released_code_cannot_use_is_noticed(
    fresh_database: str, tmp_path: Path
) -> None:
    """What is shown here is that the test above can fail."""
    commit = released_commit()
    connection = await asyncpg.connect(fresh_database)
    try:
        await connection.execute("ALTER TABLE passes RENAME COLUMN vehicle_id TO vehicle")
    finally:
        await connection.close()
    async with released_server(commit, tmp_path, fresh_database) as target:
        with pytest.raises(CallFailed, match="INTERNAL"):
            await sells(target)


def test_the_code_that_is_started_is_that_of_the_commit(tmp_path: Path) -> None:
    """And not the one that is installed beside it."""
    unpack(released_commit(), tmp_path)
    where = "import voucher_grpc; print(voucher_grpc.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", where],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert str(tmp_path / "voucher_grpc" / "__init__.py") == done.stdout.strip()
