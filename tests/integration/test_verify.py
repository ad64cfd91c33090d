"""`voucher-grpc verify`: clean after real sales, and each check fails on what it is for."""

import asyncio
import json
import secrets
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
import pytest_asyncio
from typer.testing import CliRunner

import voucher_grpc.cli.verify  # noqa: F401 - registers the command
from tests.conftest import Service, database_url, new_database, serving
from tests.integration.shop import buy, create, fetch, get_product, outcome, outcomes, sequenced
from tests.integration.test_catalogue import retire, update
from tests.integration.test_cli_files import Ran, command, refused_in_one_line
from tests.integration.test_export_erase import erase
from tests.integration.test_purchase import signed_offer
from voucher_grpc.cli import app
from voucher_grpc.client import Client
from voucher_grpc.store.database import DatabaseOptions
from voucher_grpc.store.verify import CHECKS, MAX_SHOWN, Finding, verify
from voucher_grpc.v1.offer_pb2 import Offer
from voucher_grpc.v1.pass_pb2 import Pass
from voucher_grpc.v1.product_pb2 import Product

# No two offers are the same, however quickly they are made.
LIFETIMES_S = count(600)
BENEFITS: dict[str, dict[str, Any]] = {
    "bundle": {"energy_bundle_kwh": "60.5"},
    "charges": {"session_bundle": 10, "max_energy_kwh_per_session": 40},
    "flat": {"flat_fair_use_kwh": 400},
    "percent": {"percentage_off": 20},
}


def offer(product: Product, user_id: str) -> Offer:
    """An offer of its own."""
    return signed_offer(product, user_id, lifetime_s=next(LIFETIMES_S))


async def sell(client: Client, product: Product, user_id: str, times: int = 1) -> list[Pass]:
    """Passes of a product, one after the other."""
    return [await buy(client, offer(product, user_id)) for _ in range(times)]


async def execute(url: str, statements: str) -> None:
    """Statements straight on the database, in one transaction."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statements)
    finally:
        await connection.close()


async def found(url: str) -> list[Finding]:
    """What the checks find."""
    return await verify(DatabaseOptions(url, 1, 5.0, 60.0, 100), lambda _: None)


async def broken(url: str) -> dict[str, int]:
    """Breaches by check; {} is sound."""
    return {f.check: f.breaches for f in await found(url) if f.breaches}


async def sell_limited(client: Client, database: str) -> None:
    """Products with stock and limits, to their bounds; a limit that was lowered later."""
    stocked = await create(client, "stocked", stock=5)
    works = [buy(client, offer(stocked, f"user-{n}")) for n in range(12)]
    assert Counter(OK=5, SOLD_OUT=7) == await outcomes(works)
    twice = await create(client, "twice", personal_limit={"max_purchases": 2})
    works = [buy(client, offer(twice, "alice")) for _ in range(6)]
    assert Counter(OK=2, PERSONAL_LIMIT_REACHED=4) == await outcomes(works)
    monthly = await create(
        client, "monthly", personal_limit={"max_purchases": 1, "rolling_days": 30}
    )
    await sell(client, monthly, "alice")
    assert "PERSONAL_LIMIT_REACHED" == await outcome(buy(client, offer(monthly, "alice")))
    await execute(
        database,
        "UPDATE passes SET purchase_time = purchase_time - interval '960 hours'"
        " WHERE product_id = 'monthly'",
    )
    await sell(client, monthly, "alice")
    lowered = await create(client, "lowered", personal_limit={"max_purchases": 3})
    await sell(client, lowered, "lou", 3)
    lowered.personal_limit.max_purchases = 1
    lowered = await update(client, lowered)
    assert "PERSONAL_LIMIT_REACHED" == await outcome(buy(client, offer(lowered, "lou")))


async def sell_revised(client: Client) -> None:
    """Two revisions at two prices, each withdrawn at last; one that nobody bought."""
    revised = await create(client, "revised")
    await sell(client, revised, "bob")
    late = offer(revised, "bob")
    revised.price.units = 59
    revised = await update(client, revised, withdraw=True)
    assert "OFFER_WITHDRAWN" == await outcome(buy(client, late))
    await sell(client, revised, "bob")
    late = offer(revised, "bob")
    await retire(client, await get_product(client, "revised"), withdraw=True)
    assert "OFFER_WITHDRAWN" == await outcome(buy(client, late))
    unsold = await create(client, "unsold", stock=0)
    unsold.display_name = "Unsold"
    await update(client, unsold)


async def sell_and_erase(client: Client, plain: Product) -> None:
    """Two users are erased, one of whom comes back."""
    for user_id in ("eve", "ed"):
        await sell(client, plain, user_id, 2)
        await erase(client, user_id, forfeit=True)
    await sell(client, plain, "eve")


async def sell_refused(client: Client, plain: Product) -> None:
    """Retries and refusals; some users have nothing but these."""
    request: dict[str, Any] = {"request_id": str(uuid.uuid4()), "payment_reference": "once"}
    first, other = offer(plain, "carol"), type(plain.price)(currency_code="NOK", units=1)
    works = [client.purchase_pass(first, **request) for _ in range(10)]
    assert Counter(OK=10) == await outcomes(works)
    refused = {
        "REQUEST_ID_REUSED": client.purchase_pass(offer(plain, "carol"), **request),
        "OFFER_ALREADY_BOUGHT": buy(client, first),
        "OFFER_EXPIRED": buy(client, signed_offer(plain, "dan", lifetime_s=-1)),
        "PAYMENT_REFERENCE_USED": buy(client, offer(plain, "dan"), payment_reference="once"),
        "PAYMENT_MISMATCH": buy(client, offer(plain, "dan"), amount=other),
    }
    for reason, work in refused.items():
        assert reason == await outcome(work)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def sold(cluster_url: str) -> AsyncIterator[str]:
    """A database with a varied set of real purchases, which nobody is connected to."""
    async with new_database(cluster_url) as url:
        async with serving(url) as service, serving(url) as second:
            client = service.client
            plain = await create(client, "plain")
            sellers = (client, second.client)
            works = [buy(sellers[n % 2], offer(plain, f"user-{n // 4}")) for n in range(40)]
            assert Counter(OK=40) == await outcomes(works)
            for user_id in ("alice", "bob", "lou"):
                await sell(client, plain, user_id, 3)
            for name, benefit in BENEFITS.items():
                await sell(client, await create(client, name, benefit=benefit), "bob")
            await sell_limited(client, url)
            await sell_revised(client)
            await sell_and_erase(client, plain)
            await sell_refused(client, plain)
            await sequenced(url)
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


def of_pass(columns: str, where: str, number: int = 0) -> str:
    """Columns of one pass, as an expression; the first of those, else the one of that number."""
    return (
        f"(SELECT {columns} FROM passes WHERE {where}"
        f" ORDER BY purchase_time, pass_id LIMIT 1 OFFSET {number})"
    )


def one(where: str) -> str:
    """What belongs to one pass, as a condition."""
    return f"(user_id, pass_id) = {of_pass('user_id, pass_id', where)}"


def moved(user_id: str, product_id: str, revision: int = 1, time: str = "purchase_time") -> str:
    """A plain pass becomes one of another product, and the counters know it."""
    return f"""
        UPDATE passes SET product_id = '{product_id}', product_revision = {revision},
            purchase_time = {time}
        WHERE {one(f"product_id = 'plain' AND user_id = '{user_id}'")};
        UPDATE product_stock SET sold = sold - 1 WHERE product_id = 'plain';
        UPDATE product_stock SET sold = sold + 1 WHERE product_id = '{product_id}';"""


def renamed(user_id: str, new: str) -> str:
    """A user's kept rows under another name."""
    tables = ("passes", "ledger_entries", "events", "payment_references", "user_sequences")
    return "".join(f"UPDATE {t} SET user_id = '{new}' WHERE user_id = '{user_id}';" for t in tables)


def with_first_monthly(before: str) -> str:
    """The first of two rolling purchases, so long before the second."""
    times = "(SELECT max(purchase_time) FROM passes WHERE product_id = 'monthly')"
    first = one("product_id = 'monthly'")
    return f"UPDATE passes SET purchase_time = {times} - {before} WHERE {first}"


def later(product_id: str, revision: int) -> str:
    """Passes of a revision, bought an hour later."""
    return (
        "UPDATE passes SET purchase_time = purchase_time + interval '1 hour'"
        f" WHERE product_id = '{product_id}' AND product_revision = {revision}"
    )


def shown_otherwise(balance: str) -> str:
    """The view adds one to a balance."""
    return f"""DO $$ BEGIN EXECUTE 'CREATE OR REPLACE VIEW owned_passes AS '
        || replace(pg_get_viewdef('owned_passes'), '{balance}', '({balance} + 1)'); END $$"""


def entered(entry: str, where: str) -> str:
    """A second entry in the ledger of a pass."""
    return (
        "INSERT INTO ledger_entries"
        f" SELECT user_id, pass_id, 2, {entry}, purchase_time FROM passes WHERE {where}"
    )


ALICES, BOBS = (f"user_id = '{name}' AND product_id = 'plain'" for name in ("alice", "bob"))
ALICE = one(ALICES)
BUNDLE, CHARGES, FLAT = (one(f"product_id = '{name}'") for name in ("bundle", "charges", "flat"))
PSEUDONYM_A, PSEUDONYM_B = (
    f"user_id = (SELECT {which}(user_id) FROM passes WHERE user_id LIKE 'erased-%')"
    for which in ("min", "max")
)
ANY_KIND = "ALTER TABLE ledger_entries DROP CONSTRAINT ledger_entries_kind_check;"
REVISABLE = "ALTER TABLE product_revisions DISABLE TRIGGER product_revisions_are_immutable;"

# What breaks which check, and it alone. One breach each, but for MORE.
MUTATIONS = {
    "sold_counters: one too many": (
        "UPDATE product_stock SET sold = sold + 1 WHERE product_id = 'plain'"
    ),
    "stock_not_exceeded: a sixth of five": (
        "ALTER TABLE product_stock DROP CONSTRAINT never_oversold;" + moved("bob", "stocked")
    ),
    "sold_out_flags: set": ("UPDATE product_stock SET sold_out = true WHERE product_id = 'plain'"),
    "sold_out_flags: not set": (
        "UPDATE product_stock SET sold_out = false WHERE product_id = 'stocked'"
    ),
    "product_rows: a revision that is not there": (
        "UPDATE products SET revision = 7 WHERE product_id = 'plain'"
    ),
    "product_rows: no stock row": "DELETE FROM product_stock WHERE product_id = 'unsold'",
    "product_rows: a gap in the revisions": (
        REVISABLE + "DELETE FROM product_revisions WHERE product_id = 'unsold' AND revision = 1"
    ),
    "product_rows: no product": "DELETE FROM products WHERE product_id = 'plain'",
    "stock_and_limit_as_revised: stock": (
        "UPDATE product_stock SET stock = 6, sold_out = false WHERE product_id = 'stocked'"
    ),
    "stock_and_limit_as_revised: stock where none is set": (
        "UPDATE product_stock SET stock = 1000 WHERE product_id = 'plain'"
    ),
    "stock_and_limit_as_revised: limit": (
        "UPDATE product_stock SET max_purchases = 3 WHERE product_id = 'twice'"
    ),
    "stock_and_limit_as_revised: days": (
        "UPDATE product_stock SET rolling_days = 29 WHERE product_id = 'monthly'"
    ),
    "personal_limits: a third of two": moved("alice", "twice"),
    "personal_limits: within the days": with_first_monthly("interval '240 hours'"),
    "personal_limits: a microsecond within the days": with_first_monthly(
        "(interval '720 hours' - interval '1 microsecond')"
    ),
    "personal_limits: after the limit was lowered": moved(
        "lou", "lowered", 2, "purchase_time + interval '1 hour'"
    ),
    "withdrawn_not_sold: with an update": later("revised", 1),
    "withdrawn_not_sold: with the retirement": later("revised", 2),
    "withdrawals_as_recorded: lost": (
        "UPDATE product_stock SET withdrawn_before_revision = 2 WHERE product_id = 'revised'"
    ),
    "withdrawals_as_recorded: made up": (
        "UPDATE product_stock SET withdrawn_before_revision = 1 WHERE product_id = 'plain'"
    ),
    "pass_revisions: none": f"UPDATE passes SET product_revision = 99 WHERE {ALICE}",
    "prices: a micro-unit": f"UPDATE passes SET price_micros = price_micros + 1 WHERE {ALICE}",
    "prices: currency": f"UPDATE passes SET currency_code = 'SEK' WHERE {ALICE}",
    "prices: not a number": (
        REVISABLE + "UPDATE product_revisions SET terms = jsonb_set(terms, '{price}', '\"x NOK\"')"
        " WHERE product_id = 'flat'"
    ),
    "balances: energy": shown_otherwise("sum(e.energy_wh)"),
    "balances: sessions": shown_otherwise("sum(e.sessions)"),
    "balances_not_negative: energy": ANY_KIND + entered("'CAPTURE', -60501, NULL", BUNDLE),
    "balances_not_negative: sessions": ANY_KIND + entered("'CAPTURE', NULL, -11", CHARGES),
    "opening_entries: none": f"DELETE FROM ledger_entries WHERE {ALICE}",
    "opening_entries: two": entered("'OPENING', 0, NULL", BUNDLE),
    "opening_entries: not the first": f"UPDATE ledger_entries SET entry_number = 2 WHERE {BUNDLE}",
    "opening_entries: of another kind": (
        f"{ANY_KIND} UPDATE ledger_entries SET kind = 'CAPTURE' WHERE {BUNDLE}"
    ),
    "opening_entries: a watt-hour too many": (
        f"UPDATE ledger_entries SET energy_wh = energy_wh + 1 WHERE {BUNDLE}"
    ),
    "opening_entries: not the fair-use cap": (
        f"UPDATE ledger_entries SET energy_wh = 1 WHERE {FLAT}"
    ),
    "opening_entries: a session too few": (
        f"UPDATE ledger_entries SET sessions = sessions - 1 WHERE {CHARGES}"
    ),
    "opening_entries: energy where there is none": (
        f"UPDATE ledger_entries SET energy_wh = 0 WHERE {ALICE}"
    ),
    "entries_have_passes: made up": (
        "INSERT INTO ledger_entries"
        " VALUES ('alice', gen_random_uuid(), 1, 'OPENING', NULL, NULL, now())"
    ),
    "purchase_events: one told twice, one never": (
        f"UPDATE events SET pass_id = {of_pass('pass_id', ALICES, 1)} WHERE {ALICE}"
    ),
    "purchase_events: of another type": (
        "ALTER TABLE events DROP CONSTRAINT events_event_type_check;"
        f"UPDATE events SET event_type = 'PASS_CANCELLED' WHERE {ALICE}"
    ),
    "events_have_passes: made up": """
        UPDATE user_sequences SET last_event_seq = last_event_seq + 1 WHERE user_id = 'alice';
        INSERT INTO events
        SELECT user_id, last_event_seq, 'PASS_PURCHASED', gen_random_uuid(), now()
        FROM user_sequences WHERE user_id = 'alice'""",
    "event_numbers: a gap": """
        UPDATE events SET event_seq = event_seq + 1 WHERE (user_id, event_seq) = (
            SELECT user_id, last_event_seq FROM user_sequences WHERE user_id = 'alice');
        UPDATE user_sequences SET last_event_seq = last_event_seq + 1 WHERE user_id = 'alice'""",
    "event_numbers: from 0": """
        UPDATE events SET event_seq = 0 WHERE user_id = 'alice' AND event_seq = 1""",
    "event_numbers: a gap and a repeat": """
        ALTER TABLE events DROP CONSTRAINT events_pkey;
        UPDATE events SET event_seq = 2 WHERE user_id = 'alice' AND event_seq = 3""",
    "last_event_numbers: too high": """
        UPDATE user_sequences SET last_event_seq = last_event_seq + 1 WHERE user_id = 'alice'""",
    "last_event_numbers: of a user without events": (
        "INSERT INTO user_sequences VALUES ('nobody', 1)"
    ),
    "last_event_numbers: none": "DELETE FROM user_sequences WHERE user_id = 'alice'",
    "event_positions_unique: given twice": """
        UPDATE events SET position = (SELECT min(position) FROM events WHERE user_id = 'alice')
        WHERE position = (SELECT min(position) FROM events WHERE user_id = 'bob')""",
    "event_positions_unique: beyond the end": """
        UPDATE events SET position = 1000000 WHERE position = (SELECT max(position) FROM events)""",
    "event_positions_in_order: exchanged": """
        UPDATE events SET position = -position
        WHERE user_id = 'alice' AND event_seq IN (1, 2);
        UPDATE events e SET position = -o.position FROM events o
        WHERE e.user_id = 'alice' AND o.user_id = 'alice'
            AND (e.event_seq, o.event_seq) IN ((1, 2), (2, 1))""",
    "pass_ids_unique: two users'": "".join(
        f"UPDATE {table} SET pass_id = {of_pass('pass_id', PSEUDONYM_A)}"
        f" WHERE pass_id = {of_pass('pass_id', PSEUDONYM_B)};"
        for table in ("ledger_entries", "events", "payment_references", "passes")
    ),
    "request_ids_unique: two of a user": (
        f"UPDATE passes SET request_id = {of_pass('request_id', PSEUDONYM_A)} WHERE {PSEUDONYM_A}"
    ),
    "offers_bought_once: by two users": (
        f"UPDATE passes SET offer_digest = {of_pass('offer_digest', BOBS)} WHERE {ALICE}"
    ),
    "references_pay_once: two passes": f"""
        DELETE FROM payment_references WHERE {ALICE};
        UPDATE passes SET payment_reference = {of_pass("payment_reference", BOBS)}
        WHERE {ALICE}""",
    "passes_are_paid: unclaimed": f"DELETE FROM payment_references WHERE {ALICE}",
    "claims_have_passes: made up": (
        "INSERT INTO payment_references VALUES ('pay-secret', 'alice', gen_random_uuid())"
    ),
    "claims_have_passes: another user's": (
        f"UPDATE payment_references SET user_id = 'bob' WHERE {ALICE}"
    ),
    "claims_have_passes: exchanged": f"""
        UPDATE payment_references SET (user_id, pass_id) = (
            SELECT p.user_id, p.pass_id FROM passes p
            WHERE p.user_id IN ('alice', 'bob') AND p.product_id = 'plain'
                AND p.payment_reference <> payment_references.payment_reference
                AND p.payment_reference IN (
                    {of_pass("payment_reference", ALICES)}, {of_pass("payment_reference", BOBS)}))
        WHERE payment_reference IN (
            {of_pass("payment_reference", ALICES)}, {of_pass("payment_reference", BOBS)})""",
    "versions: none": "DELETE FROM versions WHERE name = 'catalogue'",
    "versions: nought": "UPDATE versions SET version = 0 WHERE name = 'locations'",
    "pass_ids: of another request": (
        f"UPDATE passes SET request_id = gen_random_uuid() WHERE {ALICE}"
    ),
    "pass_ids: of another user": renamed("carol", "caroline"),
    "pass_ids: of a user_id that is not ASCII": renamed("carol", "carøl"),
    "pass_ids: under what only looks like a pseudonym": renamed("carol", "erased-carol"),
}
MORE = {
    "balances: energy": 2,
    "purchase_events: one told twice, one never": 2,
    "pass_ids_unique: two users'": 2,
    "event_positions_unique: given twice": 2,
    "request_ids_unique: two of a user": 2,
    "offers_bought_once: by two users": 2,
    "references_pay_once: two passes": 2,
    "claims_have_passes: exchanged": 2,
}


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
    assert (passes, 4) == (counts["checks"]["prices"]["rows"], erased)
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
    ],
)
async def test_what_is_allowed_is_not_a_breach(cluster_url: str, sold: str, change: str) -> None:
    """A purchase exactly as old as the days does not count; a pseudonym has random names."""
    async with copy_of(cluster_url, sold) as url:
        await execute(url, change)
        assert {} == await broken(url)


async def test_breaches_are_told_by_key_with_exit_code_1(cluster_url: str, sold: str) -> None:
    """The first twenty of many, by what they are found by; no reference of a payment."""
    async with copy_of(cluster_url, sold) as url:
        await execute(url, "UPDATE passes SET price_micros = price_micros + 1")
        await execute(url, MUTATIONS["claims_have_passes: made up"])
        ran = await command("", "verify", "--database-url", url)
        rows = await fetch(url, "SELECT user_id || '/' || pass_id AS key FROM passes")
        [[secret]] = await fetch(url, "SELECT payment_reference FROM passes LIMIT 1")
    assert (1, "") == (ran.code, ran.err)
    assert f"prices: {len(rows)} breaches, the first {MAX_SHOWN}" in ran.out
    assert "claims_have_passes: 1 breaches" in ran.out
    keys = {line.strip() for line in ran.out.splitlines() if line.startswith("  ")}
    assert MAX_SHOWN == len(keys & {row["key"] for row in rows})
    assert MAX_SHOWN + 1 == len(keys)
    assert "pay-secret" not in ran.out
    assert secret not in ran.out


async def test_sales_that_run_meanwhile_are_no_breach(fresh_service: Service) -> None:
    """All checks see one instant."""
    client, url = fresh_service.client, fresh_service.database_url
    product = await create(client, "p", stock=10_000)
    buyers = asyncio.gather(
        *(sell(client, product, f"user-{n}", times=25) for n in range(20)),
    )
    looks = 0
    while not buyers.done():
        assert {} == await broken(url)
        looks += 1
    await buyers
    assert looks > 1
    assert {} == await broken(url)
    assert 500 == {f.check: f.rows for f in await found(url)}["prices"]


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
    """A database without the tables, one that is not there, a URL that is none."""
    lines: dict[str, str] = {
        cluster_url: "migrate",
        database_url(cluster_url, "nowhere"): "cannot connect",
        "nonsense": "cannot connect",
    }
    for url, said in lines.items():
        ran: Ran = await command("", "verify", "--database-url", url)
        refused_in_one_line(ran, said)
    ran = await command("", "verify", "--database-url", sold, "--json", "/dev/null/numbers")
    refused_in_one_line(ran, "/dev/null/numbers")
