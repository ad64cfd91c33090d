"""What is kept about a user can be had as a whole, and forgotten as a whole."""

import asyncio
import itertools
import json
import re
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from tests.conftest import Service, new_database, serving
from tests.integration.shop import (
    breaches,
    buy,
    create,
    fetch,
    get_product,
    outcome,
    outcomes,
    sequenced,
    sessions,
    signed_offer,
    until_waiting,
)
from tests.integration.test_redemption import (
    authorize,
    capture,
    cdr,
    owned,
    register_token,
    station,
)
from tests.integration.test_users import put_user, register, vehicles_of
from voucher_grpc.client import CallFailed, Client
from voucher_grpc.edge.wire.paging import page_token
from voucher_grpc.store import queries
from voucher_grpc.v1.offer_pb2 import Offer
from voucher_grpc.v1.pass_pb2 import Pass, PassState
from voucher_grpc.v1.tendency_service_pb2 import (
    ChargingSession,
    DeclarePreferencesRequest,
    GetTendencyRequest,
    Preferences,
    ProfileType,
    Tendency,
)
from voucher_grpc.v1.user_service_pb2 import (
    EraseUserRequest,
    EraseUserResponse,
    ExportUserRequest,
    ExportUserResponse,
    GetUserRequest,
    UserRecord,
)
from voucher_grpc.v1.voucher_service_pb2 import ListPassesRequest

# The record of an export that stands for a row of each table that has a user_id. A new
# table with one is added here, to sql/export.sql and to sql/erasure.sql.
RECORD_OF = {
    "users": "user",
    "vehicles": "vehicle",
    "tendencies": "tendency",
    "tendency_places": "place",
    "sessions": "session",
    "cancelled_sessions": "cancelled_session",
    "passes": "pass",
    "ledger_entries": "ledger_entry",
    "charges": "charge",
    "tokens": "token",
    "events": "event",
    "payment_references": "payment_reference",
    "user_sequences": "event_count",
}
NOT_OF_A_PURCHASE = {"users", "vehicles", "cancelled_sessions", "charges", "tokens"}
# What repeats a part of a table above.
SHOWN_ELSEWHERE = ("holds", "charge_passes")
# What the law of accounts keeps.
KEPT = ("passes", "ledger_entries", "charges", "events", "payment_references", "user_sequences")
MIB = 2**20
# No two offers are the same, however quickly they are made.
LIFETIMES_S = itertools.count(600)


async def tables(database_url: str) -> set[str]:
    """The tables that have a user_id, whatever migrations have added."""
    rows = await fetch(
        database_url,
        """SELECT table_name FROM information_schema.columns
        JOIN information_schema.tables USING (table_schema, table_name)
        WHERE column_name = 'user_id' AND table_type = 'BASE TABLE'
            AND table_schema NOT IN ('pg_catalog', 'information_schema')""",
    )
    return {row["table_name"] for row in rows}


async def rows_of(database_url: str, user_id: str) -> dict[str, int]:
    """How many rows of each table are the user's."""
    return {
        table: (
            await fetch(database_url, f"SELECT count(*) FROM {table} WHERE user_id = $1", user_id)
        )[0][0]
        for table in sorted(await tables(database_url))
    }


async def dump(database_url: str) -> str:
    """Every row of every table as text, for a search of what must not be there."""
    names = await fetch(database_url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    found = []
    for row in names:
        query = f"SELECT to_jsonb(t)::text FROM {row['tablename']} t"
        found += [str(line[0]) for line in await fetch(database_url, query)]
    return "\n".join(found)


async def offer_of(client: Client, user_id: str, product_id: str = "basic") -> Offer:
    """An offer of its own, whatever the user owns already."""
    product = await get_product(client, product_id)
    return signed_offer(product, user_id, lifetime_s=next(LIFETIMES_S))


async def bought_before(database_url: str, user_id: str, days: int) -> None:
    """Turn the clock of a user's passes back, so that they have ended."""
    connection = await asyncpg.connect(database_url)
    await connection.execute(
        """UPDATE passes SET purchase_time = purchase_time - make_interval(days => $2),
            start_time = start_time - make_interval(days => $2),
            end_time = end_time - make_interval(days => $2)
        WHERE user_id = $1""",
        user_id,
        days,
    )
    await connection.close()


async def settle(service: Service, user_id: str, passes: int = 3) -> list[Pass]:
    """Give a user something in every table; the passes that were bought, the first first."""
    client = service.client
    bought = [
        await buy(client, await offer_of(client, user_id), vehicle_id=f"{user_id}-car0")
        for _ in range(passes)
    ]
    await put_user(client, user_id, time_zone="Asia/Seoul", language="ko", country_code="KR")
    for n in range(3):
        await register(client, f"{user_id}-car{n}", user_id)
    sent = sessions(user_id, days=range(7), location_id=f"{user_id}-home")
    sent += sessions(f"{user_id}", days=range(10, 13), location_id=f"{user_id}-work")
    sent.append(ChargingSession(user_id=user_id, session_id="credited", cancelled=True))
    report = await client.record_sessions([sent])
    assert (10, 1, 0) == (report.recorded, report.cancelled, report.refused)
    await register_token(client, user_id, uuid.uuid4().hex)
    # Before the passes were bought, so that it uses none.
    before = datetime.now(UTC) - timedelta(hours=1)
    await capture(client, cdr(user_id, "station", [1], before))
    wish = Preferences(profile_type=ProfileType.PROFILE_TYPE_GREEN)
    request = DeclarePreferencesRequest(user_id=user_id, preferences=wish)
    await client.call(client.tendency.DeclarePreferences, request)
    return bought


async def export_page(client: Client, user_id: str, size: int, token: str) -> ExportUserResponse:
    request = ExportUserRequest(user_id=user_id, page_size=size, page_token=token)
    page: ExportUserResponse = await client.call(client.user.ExportUser, request)
    return page


async def export(client: Client, user_id: str, size: int = 0) -> list[UserRecord]:
    """The records of all pages."""
    found: list[UserRecord] = []
    token = ""
    while True:
        page = await export_page(client, user_id, size, token)
        assert len(page.records) <= (size or 200)
        found += page.records
        token = page.next_page_token
        if not token:
            return found


def timeless(records: list[UserRecord]) -> list[UserRecord]:
    """Without the rates of the tendency, which decay from one reading to the next."""
    return [
        UserRecord(tendency=Tendency(sessions=record.tendency.sessions))
        if record.HasField("tendency")
        else record
        for record in records
    ]


async def erase(client: Client, user_id: str, forfeit: bool = False) -> EraseUserResponse:
    request = EraseUserRequest(user_id=user_id, forfeit=forfeit)
    done: EraseUserResponse = await client.call(client.user.EraseUser, request)
    return done


async def pass_ids(client: Client, user_id: str) -> list[str]:
    request = ListPassesRequest(user_id=user_id)
    answer = await client.call(client.voucher.ListPasses, request)
    return [found.pass_id for found in answer.passes]


@pytest_asyncio.fixture(loop_scope="session")
async def shop(cluster_url: str) -> AsyncIterator[Service]:
    """A server that sells one product, of which there are 100."""
    async with new_database(cluster_url) as url, serving(url) as service:
        await create(service.client, "basic", stock=100)
        await station(service, "station")
        yield service


async def test_every_table_with_a_user_id_is_exported_and_erased(shop: Service) -> None:
    """A migration that adds one fails here until both statements and this list name it."""
    assert {*RECORD_OF, *SHOWN_ELSEWHERE} == await tables(shop.database_url)
    texts = {area: "\n".join(queries.load(area).values()) for area in ("export", "erasure")}
    for table in RECORD_OF:
        assert re.search(rf"\bDELETE FROM {table}\b|\bUPDATE {table}\b", texts["erasure"]), table


async def test_charges_with_their_passes_move_to_the_pseudonym(shop: Service) -> None:
    """The bill is kept, and what is reserved ends by itself."""
    client, url = shop.client, shop.database_url
    one = await owned(client, "alice")
    await capture(client, cdr("alice", "station", [7], datetime.now(UTC)))
    await authorize(client, "alice", "station", energy_wh=5_000)
    await erase(client, "alice", forfeit=True)
    kept = await fetch(
        url,
        """SELECT c.status, u.energy_wh, u.reserved_energy_wh, p.product_id
        FROM charges c JOIN charge_passes u USING (user_id, charge_id)
        JOIN passes p USING (user_id, pass_id) ORDER BY c.status""",
    )
    assert [("AUTHORIZED", 0, 5_000), ("CAPTURED", 7_000, 0)] == [tuple(r)[:3] for r in kept]
    assert {one.product_id} == {row["product_id"] for row in kept}
    assert "alice" not in json.dumps(await dump(url))


async def test_a_new_table_with_a_user_id_is_noticed(shop: Service) -> None:
    """The check is not merely silent."""
    connection = await asyncpg.connect(shop.database_url)
    await connection.execute("CREATE TABLE wishes (wish text, user_id text)")
    await connection.close()
    assert {"wishes"} == await tables(shop.database_url) - {*RECORD_OF, *SHOWN_ELSEWHERE}


async def test_every_column_of_what_is_kept_moves_to_the_pseudonym(shop: Service) -> None:
    """A column that a migration adds would else be lost without a word."""
    statement = queries.load("erasure")["keep_passes"]
    for table in ("passes", "ledger_entries", "charges", "charge_passes", "events"):
        [into] = re.findall(rf"INSERT INTO {table} \(([^)]*)\)", statement)
        columns = await fetch(
            shop.database_url,
            "SELECT column_name FROM information_schema.columns WHERE table_name = $1",
            table,
        )
        assert {row[0] for row in columns} == {name.strip() for name in into.split(",")}, table


async def test_an_export_has_every_row_of_every_table(shop: Service) -> None:
    """One record for each row, on one page and on many; another user's are not among them."""
    await settle(shop, "alice")
    await settle(shop, "bob")
    found = await export(shop.client, "alice")
    kinds = Counter(record.WhichOneof("record") for record in found)
    rows = await rows_of(shop.database_url, "alice")
    rows = {table: count for table, count in rows.items() if table not in SHOWN_ELSEWHERE}
    assert all(rows.values()), "the user of this test has something in every table"
    assert {RECORD_OF[table]: count for table, count in rows.items()} == kinds
    assert "bob" not in "".join(map(str, found))
    for size in (1, 2, 3, 7, 1000):
        assert timeless(found) == timeless(await export(shop.client, "alice", size))


async def test_an_export_shows_what_the_other_calls_show(shop: Service) -> None:
    """Readable, and whole: all places, not only the greatest; sessions as they were sent."""
    client = shop.client
    bought = await settle(shop, "alice")
    of: dict[str, list[Any]] = {}
    for record in await export(client, "alice"):
        kind = record.WhichOneof("record")
        assert kind is not None
        of.setdefault(kind, []).append(getattr(record, kind))
    user = (await client.call(client.user.GetUser, GetUserRequest(user_id="alice"))).user
    request = GetTendencyRequest(user_id="alice")
    tendency = (await client.call(client.tendency.GetTendency, request)).tendency
    assert [user] == of["user"]
    assert await vehicles_of(client, "alice") == [v.vehicle_id for v in of["vehicle"]]
    assert (tendency.sessions, tendency.preferences) == (
        of["tendency"][0].sessions,
        of["tendency"][0].preferences,
    )
    assert 1 == pytest.approx(sum(place.share for place in of["place"]))
    assert {p.pass_id for p in bought} == {p.pass_id for p in of["pass"]}
    assert {p.payment_reference: p.pass_id for p in bought} == {
        r.payment_reference: r.pass_id for r in of["payment_reference"]
    }
    assert [(1, bought[0].pass_id), (2, bought[1].pass_id), (3, bought[2].pass_id)] == [
        (event.event_seq, event.pass_id) for event in of["event"]
    ]
    assert 3 == of["event_count"][0].last_event_seq
    sent = {s.session_id: s for s in sessions("alice", days=range(7), location_id="alice-home")}
    assert sent.items() <= {session.session_id: session for session in of["session"]}.items()


async def test_a_page_of_an_export_is_bounded_in_bytes(shop: Service) -> None:
    """Passes with long conditions fill a page before its number of records does."""
    client = shop.client
    places = [
        {"country_code": "NO", "party_id": "OSL", "location_id": f"{n:036}", "evse_uid": "x" * 36}
        for n in range(50)
    ]
    terms = {"description": "x" * 1000, "conditions": {"locations": places}}
    await create(client, "long", **terms)
    await put_user(client, "carol")
    connection = await asyncpg.connect(shop.database_url)
    await connection.execute(
        """INSERT INTO passes
        SELECT 'carol', gen_random_uuid(), gen_random_uuid(), uuid_send(gen_random_uuid()),
            'long', 1, '', 1, 'NOK', 'many-' || n, now(), 'UTC', now(), now(), NULL
        FROM generate_series(1, 400) n"""
    )
    await connection.close()
    token, pages, seen = "", 0, 0
    while token or not pages:
        page = await export_page(client, "carol", 1000, token)
        assert page.ByteSize() < MIB + 10_000
        token, pages, seen = page.next_page_token, pages + 1, seen + len(page.records)
    assert pages > 1
    assert 401 == seen  # the user and the passes; they have no ledger


async def test_a_user_of_whom_nothing_is_kept_has_an_empty_export(shop: Service) -> None:
    """And can be erased: there is nothing to do, as in a retry."""
    assert [] == await export(shop.client, "nobody")
    assert EraseUserResponse() == await erase(shop.client, "nobody")
    assert not any((await rows_of(shop.database_url, "nobody")).values())


async def test_a_page_token_is_good_for_its_user_only(shop: Service) -> None:
    """And one that is made up is refused by name."""
    client = shop.client
    await settle(shop, "alice", passes=1)
    token = (await export_page(client, "alice", 1, "")).next_page_token
    made_up = [
        page_token(("ExportUser", "alice"), last)
        for last in (
            ["nothing", "", "", "", ""],
            ["user"],
            ["passes", "yesterday", "7", "", ""],
            ["passes", "2026-01-01T00:00:00+00:00", "7", "", ""],
        )
    ]
    refused = [("bob", token), *(("alice", bad) for bad in (*made_up, "bnVsbA==", "x"))]
    for user_id, bad in refused:
        assert "INVALID_PAGE_TOKEN" == await outcome(export_page(client, user_id, 1, bad))


async def test_an_erased_user_is_found_nowhere(shop: Service) -> None:
    """Neither the id, nor vehicles, places, pass_ids, request_ids, in any table."""
    client = shop.client
    bought = await settle(shop, "alice")
    other = await settle(shop, "bob")
    done = await erase(client, "alice", forfeit=True)
    assert (3, 3, 10) == (done.passes_kept, done.vehicles_deleted, done.sessions_deleted)
    assert not any((await rows_of(shop.database_url, "alice")).values())
    text = await dump(shop.database_url)
    assert "alice" not in text
    for one in bought:
        assert one.pass_id not in text
        assert one.request_id not in text
    digests = await fetch(shop.database_url, "SELECT offer_digest FROM passes")
    assert 6 == len({bytes(row[0]) for row in digests})
    assert [] == await export(client, "alice")
    assert "USER_NOT_FOUND" == await outcome(
        client.call(client.user.GetUser, GetUserRequest(user_id="alice"))
    )
    assert {owned.pass_id for owned in other} == set(await pass_ids(client, "bob"))
    assert {} == await breaches(shop.database_url)


async def test_what_is_kept_is_what_accounts_need(shop: Service) -> None:
    """Product, price, times, ledger and event of each pass, with the payment, under one name."""
    query = """SELECT p.product_id, p.product_revision, p.price_micros, p.currency_code,
        p.payment_reference, p.purchase_time, p.time_zone, p.start_time, p.end_time,
        l.entry_number, l.kind, l.energy_wh, l.sessions, l.entry_time, e.event_seq, e.event_type,
        e.event_time, s.last_event_seq
        FROM passes p JOIN ledger_entries l USING (user_id, pass_id)
        JOIN events e USING (user_id, pass_id) JOIN user_sequences s USING (user_id)
        JOIN payment_references r USING (payment_reference, user_id, pass_id)
        ORDER BY e.event_seq"""
    await settle(shop, "alice")
    before = await fetch(shop.database_url, query)
    await erase(shop.client, "alice", forfeit=True)
    assert 3 == len(before)
    assert before == await fetch(shop.database_url, query)
    names = await fetch(shop.database_url, "SELECT DISTINCT user_id, vehicle_id FROM passes")
    [(name, vehicle_id)] = names
    assert re.fullmatch(r"erased-[0-9a-f]{32}", name)
    assert "" == vehicle_id
    stock = await fetch(shop.database_url, "SELECT sold FROM product_stock")
    assert [3] == [row["sold"] for row in stock]


async def test_a_user_with_a_pass_that_is_good_is_not_erased_unawares(shop: Service) -> None:
    """FAILED_PRECONDITION with what is at stake, and nothing changes; forfeit gives it up."""
    bought = await settle(shop, "alice", passes=2)
    await sequenced(shop.database_url)
    before = await dump(shop.database_url)
    with pytest.raises(CallFailed) as failed:
        await erase(shop.client, "alice")
    assert ("USER_HAS_ACTIVE_PASSES", "FAILED_PRECONDITION", "2") == (
        failed.value.reason,
        failed.value.code.name,
        failed.value.metadata["passes"],
    )
    assert failed.value.metadata["pass_id"] in {owned.pass_id for owned in bought}
    assert failed.value.metadata["usable_until"] > bought[0].purchase_time.ToJsonString()
    assert before == await dump(shop.database_url)
    assert 2 == (await erase(shop.client, "alice", forfeit=True)).passes_kept


async def test_a_pass_that_waits_for_its_first_use_is_good(shop: Service) -> None:
    """Not started is not over."""
    client = shop.client
    validity = {"days": 30, "start": "FIRST_USE", "first_use_within_days": 90}
    await create(client, "later", validity=validity)
    bought = await buy(client, await offer_of(client, "alice", "later"))
    assert PassState.PASS_STATE_NOT_STARTED == bought.state
    assert "USER_HAS_ACTIVE_PASSES" == await outcome(erase(client, "alice"))


async def test_a_user_whose_passes_have_ended_is_erased_without_more(shop: Service) -> None:
    """They are kept, and sold, all the same."""
    await settle(shop, "alice")
    await bought_before(shop.database_url, "alice", 31)
    assert 3 == (await erase(shop.client, "alice")).passes_kept
    assert EraseUserResponse() == await erase(shop.client, "alice")
    assert 97 == (100 - (await fetch(shop.database_url, "SELECT sold FROM product_stock"))[0][0])


async def test_an_id_used_again_is_a_new_user(shop: Service) -> None:
    """An old purchase that is repeated does not find its pass, nor does it buy another."""
    client = shop.client
    offer, key = await offer_of(client, "alice"), str(uuid.uuid4())
    old = await buy(client, offer, payment_reference="once", request_id=key)
    assert old == await buy(client, offer, payment_reference="once", request_id=key)
    await erase(client, "alice", forfeit=True)
    assert "PAYMENT_REFERENCE_USED" == await outcome(
        buy(client, offer, payment_reference="once", request_id=key)
    )
    assert [] == await pass_ids(client, "alice")
    new = await buy(client, await offer_of(client, "alice"))
    assert [new.pass_id] == await pass_ids(client, "alice")
    kinds = Counter(r.WhichOneof("record") for r in await export(client, "alice"))
    assert {"pass", "ledger_entry", "event", "payment_reference", "event_count"} == set(kinds)
    assert {1} == set(kinds.values())
    assert {} == await breaches(shop.database_url)


async def test_what_happens_while_a_user_is_erased_leaves_no_half_user(shop: Service) -> None:
    """Purchases and sessions come before the erasure or after it, never into the middle.

    Whatever they say is true: a pass that was bought is the user's or was kept, and
    what is known afterwards hangs together.
    """
    client, url = shop.client, shop.database_url
    offers = [await offer_of(client, "alice") for _ in range(40)]
    day = iter(range(1000))

    async def later(seconds: float, work: Any) -> Any:
        await asyncio.sleep(seconds)
        return await work

    async def record() -> int:
        [sent] = sessions("alice", days=[next(day)])
        return (await client.record_sessions([[sent]])).recorded

    purchases = outcomes(later(n / 200, buy(client, offer)) for n, offer in enumerate(offers))
    recordings = outcomes(later(n / 200, record()) for n in range(40))
    erasures = outcomes(later(n / 40, erase(client, "alice", forfeit=True)) for n in range(8))
    bought, recorded, erased = await asyncio.gather(purchases, recordings, erasures)
    assert ({"OK": 40}, {"OK": 40}, {"OK": 8}) == (bought, recorded, erased)
    assert {} == await breaches(url)
    [(passes, left)] = await fetch(
        url, "SELECT count(*), count(*) FILTER (WHERE user_id = 'alice') FROM passes"
    )
    assert (40, left) == (passes, len(await pass_ids(client, "alice")))
    assert (await get_product(client, "basic")).stock == 100
    [(stored, counted)] = await fetch(
        url,
        """SELECT (SELECT count(*) FROM sessions),
            coalesce((SELECT sum(sessions) FROM tendencies), 0)""",
    )
    assert stored == counted
    await erase(client, "alice", forfeit=True)
    assert "alice" not in json.dumps(await dump(url))
    assert {} == await breaches(url)


async def test_who_waits_for_an_erasure_finds_a_new_user(shop: Service) -> None:
    """The worst moment: the rows that a purchase and a recording wait to lock are deleted."""
    client, url = shop.client, shop.database_url
    await settle(shop, "alice", passes=1)
    connection = await asyncpg.connect(url)
    transaction = connection.transaction()
    await transaction.start()
    for table in ("user_sequences", "tendencies"):
        await connection.execute(f"SELECT FROM {table} WHERE user_id = 'alice' FOR UPDATE")
    again = asyncio.create_task(buy(client, await offer_of(client, "alice")))
    recording = asyncio.create_task(client.record_sessions([sessions("alice", days=[500])]))
    await until_waiting(url, 2)
    assert not again.done()
    assert not recording.done()
    for table in RECORD_OF:
        await connection.execute(f"DELETE FROM {table} WHERE user_id = 'alice'")
    await transaction.commit()
    await connection.close()
    assert [(await again).pass_id] == await pass_ids(client, "alice")
    assert 1 == (await recording).recorded
    rows = await rows_of(url, "alice")
    expected = {
        "users": 0,
        "vehicles": 0,
        "cancelled_sessions": 0,
        "charges": 0,
        "tokens": 0,
        **dict.fromkeys(SHOWN_ELSEWHERE, 0),
        **dict.fromkeys(set(RECORD_OF) - NOT_OF_A_PURCHASE, 1),
    }
    assert expected == rows
