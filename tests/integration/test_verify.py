"""`voucher-grpc verify`: clean after real sales, and each check fails on what it is for."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
import pytest_asyncio
from typer.testing import CliRunner

import voucher_grpc.cli.verify  # noqa: F401 - registers the command
from tests.conftest import database_url, serving
from tests.integration.sale_mutations import (
    LAPSED,
    MORE,
    MUTATIONS,
    SECOND,
    renamed,
    told,
    used,
    with_first_monthly,
)
from tests.integration.sales import offer, varied_sales
from tests.integration.shop import (
    breaches,
    buy,
    create,
    execute,
    fetch,
    outcome,
)
from tests.integration.test_cli_files import Ran, command, refused_in_one_line
from tests.integration.test_holds import (
    confirm,
    hold,
)
from voucher_grpc.cli import app
from voucher_grpc.client import Client
from voucher_grpc.store.driver import DatabaseOptions
from voucher_grpc.store.verify import CHECKS, MAX_SHOWN, Finding, verify
from voucher_grpc.v1.product_pb2 import Product


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def sold(cluster_url: str) -> AsyncIterator[str]:
    """A database with a varied set of real sales."""
    async with varied_sales(cluster_url) as url:
        yield url


@asynccontextmanager
async def copy_of(cluster_url: str, url: str) -> AsyncIterator[str]:
    """A copy of a database, dropped afterwards."""
    name = f"copy_{secrets.token_hex(6)}"
    admin = await asyncpg.connect(cluster_url)
    try:
        await admin.execute(f"CREATE DATABASE {name} TEMPLATE {urlsplit(url).path[1:]}")
        yield database_url(cluster_url, name)
    finally:
        await admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        await admin.close()


async def found(url: str) -> list[Finding]:
    """What the checks find."""
    return await verify(DatabaseOptions(url, 1, 5.0, 60.0, 100), lambda _: None)


async def broken(url: str) -> dict[str, int]:
    """Breaches by check; {} is sound."""
    return {f.check: f.breaches for f in await found(url) if f.breaches}


async def test_a_varied_set_of_real_sales_is_clean(sold: str, tmp_path: Path) -> None:
    """As people run it: exit code 0, every check with what it looked at."""
    numbers = tmp_path / "new" / "numbers.json"
    ran = await command("", "verify", "--database-url", sold, "--json", str(numbers))
    assert (0, "") == (ran.code, ran.err), ran
    counts = json.loads(numbers.read_text(encoding="utf-8"))
    assert 0 == counts["breaches"]
    assert list(CHECKS) == list(counts["checks"])
    assert all(c["rows"] > 0 and c["breaches"] == 0 for c in counts["checks"].values()), counts
    assert all(check in ran.out for check in CHECKS)
    [[passes]] = await fetch(sold, "SELECT count(*) FROM passes")
    [[erased]] = await fetch(sold, "SELECT count(*) FROM passes WHERE user_id LIKE 'erased-%'")
    assert (passes, 6) == (counts["checks"]["prices"]["rows"], erased)
    assert passes - erased == counts["checks"]["pass_ids"]["rows"]


def test_each_check_has_a_mutation() -> None:
    """One that cannot fail is worthless."""
    assert set(CHECKS) == {name.partition(":")[0] for name in MUTATIONS}
    assert set(MORE) <= set(MUTATIONS)


@pytest.mark.parametrize("mutation", MUTATIONS)
async def test_a_mutation_breaks_exactly_its_check(
    cluster_url: str, sold: str, mutation: str, tmp_path: Path
) -> None:
    """Exit code 1; no other check cries with it, and each breach has its line."""
    check, count = mutation.partition(":")[0], MORE.get(mutation, 1)
    numbers = tmp_path / "numbers.json"
    async with copy_of(cluster_url, sold) as url:
        await execute(url, MUTATIONS[mutation])
        arguments = ["verify", "--database-url", url, "--json", str(numbers)]
        ran = await asyncio.to_thread(CliRunner().invoke, app, arguments)
    counts = json.loads(numbers.read_text(encoding="utf-8"))["checks"]
    assert {check: count} == {name: c["breaches"] for name, c in counts.items() if c["breaches"]}
    assert 1 == ran.exit_code
    said = ran.stdout[ran.stdout.index(f"{check}: {count} breaches") :].splitlines()
    assert 1 + count == len(said)


@pytest.mark.parametrize(
    "change",
    [
        with_first_monthly("interval '720 hours'"),
        renamed("carol", f"erased-{'0a' * 16}"),
        used("price_micros / 2"),
        "ALTER TABLE events DROP CONSTRAINT events_event_type_check;"
        + told("PASS_USED", "product_id = 'confirmed'"),
        f"UPDATE passes SET close_time = hold_expire_time - {SECOND} WHERE {LAPSED}",
    ],
)
async def test_what_is_allowed_is_not_a_breach(cluster_url: str, sold: str, change: str) -> None:
    """A purchase exactly as old as the days does not count; a pseudonym has random names.

    A bundle's refund goes by what was left of it; a newer version tells of more; servers'
    readings of the clock differ.
    """
    async with copy_of(cluster_url, sold) as url:
        await execute(url, change)
        assert {} == await broken(url)


async def test_breaches_are_told_by_key_with_exit_code_1(cluster_url: str, sold: str) -> None:
    """The first twenty of many, by what they are found by; no reference of a payment."""
    async with copy_of(cluster_url, sold) as url:
        await execute(
            url,
            "UPDATE passes SET price_micros = price_micros + 1, refund_micros = refund_micros + 1",
        )
        await execute(url, MUTATIONS["claims_have_passes: made up"])
        ran = await command("", "verify", "--database-url", url)
        rows = await fetch(url, "SELECT user_id || '/' || pass_id AS key FROM passes")
        [[secret]] = await fetch(url, "SELECT max(payment_reference) FROM passes")
    assert (1, "") == (ran.code, ran.err)
    assert f"prices: {len(rows)} breaches, the first {MAX_SHOWN}" in ran.out
    assert "claims_have_passes: 1 breaches" in ran.out
    keys = {line.strip() for line in ran.out.splitlines() if line.startswith("  ")}
    assert MAX_SHOWN == len(keys & {row["key"] for row in rows})
    assert MAX_SHOWN + 1 == len(keys)
    assert "pay-secret" not in ran.out
    assert secret not in ran.out


async def live(client: Client, product: Product, user_id: str, number: int) -> None:
    """One pass of a kind that goes by the number; at the limit and the stock, maybe none."""
    wanted = offer(product, user_id)
    if number % 5 == 0:
        await outcome(buy(client, wanted))
        return
    held = await outcome(hold(client, wanted))
    if isinstance(held, str):
        return
    if number % 5 in (1, 2):
        await outcome(confirm(client, held))
    if number % 5 in (2, 3):
        await outcome(client.cancel_pass(user_id, held.pass_id))


async def test_sales_that_run_meanwhile_are_no_breach(fresh_database: str) -> None:
    """All checks see one instant, also while holds end and their places are sold again."""
    url = fresh_database
    async with (
        serving(url, hold_lifetime_s=1) as service,
        serving(url, hold_lifetime_s=1) as second,
    ):
        clients, limit = (service.client, second.client), {"max_purchases": 2}
        free = await create(service.client, "free", withdrawal_days=1)
        scarce = await create(service.client, "scarce", stock=60, withdrawal_days=1)
        limited = await create(
            service.client, "limited", personal_limit=limit, withdrawal_days=1, stock=5_000
        )

        async def shop(user: int) -> None:
            for n in range(60):
                product = (free, scarce, limited)[n % 3]
                await live(clients[(user + n) % 2], product, f"user-{user}", user + n // 3)

        buyers = asyncio.gather(*(shop(user) for user in range(20)))
        looks = 0
        while not buyers.done():
            assert {} == await broken(url)
            looks += 1
        await buyers
        assert looks > 1
        assert {} == await broken(url)
        assert {} == await breaches(url)
    rows = await fetch(url, "SELECT DISTINCT closed_as FROM passes")
    assert {None, "CANCELLED", "LAPSED"} == {row["closed_as"] for row in rows}


async def test_nothing_is_written(cluster_url: str, sold: str) -> None:
    """Not even where the role could: a database that refuses writing is verified as well."""
    async with copy_of(cluster_url, sold) as url:
        name = urlsplit(url).path[1:]
        await execute(url, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        assert {} == await broken(url)


async def test_an_empty_database_is_clean(fresh_database: str) -> None:
    """Migrated, and nothing sold yet."""
    ran = await command("", "verify", "--database-url", fresh_database)
    assert (0, "") == (ran.code, ran.err)


async def test_what_cannot_be_read_is_said_in_one_line(cluster_url: str, sold: str) -> None:
    """A database without the tables or a column, one that is not there, a URL that is none."""
    lines: dict[str, str] = {
        cluster_url: "migrate",
        database_url(cluster_url, "nowhere"): "cannot connect",
        "nonsense": "cannot connect",
    }
    for url, said in lines.items():
        ran: Ran = await command("", "verify", "--database-url", url)
        refused_in_one_line(ran, said)
    async with copy_of(cluster_url, sold) as url:
        await execute(url, "ALTER TABLE passes DROP COLUMN hold_expire_time CASCADE")
        ran = await command("", "verify", "--database-url", url)
        refused_in_one_line(ran, "migrate")
    ran = await command("", "verify", "--database-url", sold, "--json", "/dev/null/numbers")
    refused_in_one_line(ran, "/dev/null/numbers")


async def test_gaps_in_the_stream_are_told_by_their_first_and_last_position(
    cluster_url: str, sold: str
) -> None:
    """The ones between two events, and the one before the end; each is one breach."""
    async with copy_of(cluster_url, sold) as url:
        [[last]] = await fetch(url, "SELECT last_position FROM event_stream")
        await execute(
            url,
            "UPDATE events SET position = position + 2 WHERE position > 3;"
            "UPDATE event_stream SET last_position = last_position + 5",
        )
        [gaps] = [one for one in await found(url) if one.check == "event_positions_without_gaps"]
    assert (2, ("4-5", f"{last + 3}-{last + 5}")) == (gaps.breaches, gaps.first)
