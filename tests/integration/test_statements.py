"""Statements on rows that are set by hand: each condition, order, bound and unit."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio

from tests.conftest import new_database
from voucher_grpc.store import queries

KNOWLEDGE = queries.load("knowledge")
EVENTS = queries.load("events")
SEGMENTS = queries.load("segments")
SESSIONS = queries.load("sessions")
USERS = queries.load("users")
PASSES = queries.load("passes")
CATALOGUE = queries.load("catalogue")

DAY, HOUR, SECOND = timedelta(days=1), timedelta(hours=1), timedelta(seconds=1)
# The rows of asyncpg's own types may be None at each call.
Db: TypeAlias = Any


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def tables(cluster_url: str) -> AsyncIterator[str]:
    """A database whose tables stay empty: each test takes back what it wrote."""
    async with new_database(cluster_url) as url:
        yield url


@pytest_asyncio.fixture(loop_scope="session")
async def db(tables: str) -> AsyncIterator[Db]:
    """A connection in a transaction that is rolled back."""
    connection = await asyncpg.connect(tables)
    transaction = connection.transaction()
    await transaction.start()
    try:
        yield connection
    finally:
        await transaction.rollback()
        await connection.close()


async def now(db: Db) -> datetime:
    found: datetime = await db.fetchval("SELECT clock_timestamp()")
    return found


async def insert(db: Db, table: str, **values: Any) -> None:
    """One row."""
    names = ", ".join(values)
    places = ", ".join(f"${n}" for n in range(1, len(values) + 1))
    await db.execute(f"INSERT INTO {table} ({names}) VALUES ({places})", *values.values())


async def add_pass(db: Db, number: int, **changes: Any) -> UUID:
    """A pass that alice bought an hour ago for 30 days."""
    at = await now(db)
    pass_id = UUID(int=number)
    values = {
        "user_id": "alice",
        "pass_id": pass_id,
        "request_id": UUID(int=1000 + number),
        "offer_digest": number.to_bytes(16, "big"),
        "product_id": f"p{number}",
        "product_revision": 1,
        "vehicle_id": "",
        "price_micros": 49_000_000,
        "currency_code": "NOK",
        "payment_reference": f"pay-{number}",
        "purchase_time": at - HOUR,
        "time_zone": "UTC",
        "start_time": at - HOUR,
        "end_time": at + 30 * DAY,
    }
    await insert(db, "passes", **{**values, **changes})
    return pass_id


async def known(db: Db, *keys: tuple[str, str]) -> list[Any]:
    """The rows of knowledge of users and vehicles, in order."""
    users, vehicles = [user for user, _ in keys], [vehicle for _, vehicle in keys]
    rows = await db.fetch(KNOWLEDGE["knowledge"], users, vehicles)
    return sorted(rows, key=lambda row: row["position"])


# --- knowledge ---


async def test_what_a_user_owns_is_paid_or_held_and_not_ended(db: Db) -> None:
    """A hold that was confirmed stays bought after its time; one that was not is over then."""
    at = await now(db)
    past, coming = at - SECOND, at + HOUR
    held = {"start_time": None, "end_time": None, "payment_reference": ""}
    await add_pass(db, 1)
    await add_pass(db, 2, hold_expire_time=past, confirm_time=at - HOUR)
    await add_pass(db, 3, hold_expire_time=past, **held)
    await add_pass(db, 4, hold_expire_time=coming, **held)
    await add_pass(db, 5, close_time=at, closed_as="EXPIRED")
    await add_pass(db, 6, close_time=at, closed_as="CANCELLED")
    await add_pass(db, 7, close_time=at, closed_as="LAPSED", hold_expire_time=past, **held)
    await add_pass(db, 8, user_id="bob")
    [alice, bob, nobody] = await known(db, ("alice", ""), ("bob", ""), ("carol", ""))
    assert {"p1", "p2", "p4", "p5"} == set(alice["product_ids"])
    assert ["p8"] == bob["product_ids"]
    assert nobody["product_ids"] is None


async def test_passes_come_newest_first_with_the_days_to_their_ends(db: Db) -> None:
    """In days; one without an end is good until its first use must have come."""
    at = await now(db)
    await add_pass(
        db, 1, purchase_time=at - 3 * DAY, start_time=at - 3 * DAY, end_time=at + 27 * DAY
    )
    await add_pass(db, 2, purchase_time=at - DAY, start_time=at + 2 * DAY, end_time=at + 9 * DAY)
    first_use = {"start_time": None, "end_time": None, "first_use_before": at + 365 * DAY}
    await add_pass(db, 3, purchase_time=at - 2 * DAY, **first_use)
    begun = {"first_use_before": at + 365 * DAY, "end_time": at + 4 * DAY}
    await add_pass(db, 4, purchase_time=at - 4 * DAY, **begun)
    [alice] = await known(db, ("alice", ""))
    assert ["p2", "p3", "p1", "p4"] == alice["product_ids"]
    assert [at - n * DAY for n in (1, 2, 3, 4)] == alice["purchase_times"]
    assert [9, 365, 27, 4] == pytest.approx(alice["days_to_end"], abs=0.01)
    assert [False, True, False, False] == alice["unused"]
    starts = alice["days_to_start"]
    assert starts[1] is None
    assert [2, -3] == pytest.approx([starts[0], starts[2]], abs=0.01)


async def test_the_newest_200_passes_are_read(db: Db) -> None:
    """What a user may have is bounded, and so is a request."""
    at = await now(db)
    for number in range(1, 203):
        await add_pass(db, number, purchase_time=at - number * SECOND)
    [alice] = await known(db, ("alice", ""))
    assert [f"p{n}" for n in range(1, 201)] == alice["product_ids"]


async def test_the_eight_places_of_the_greatest_weight_are_read(db: Db) -> None:
    """Those of the user, the greatest first, of equal ones by name."""
    await insert(db, "tendencies", user_id="alice", sessions=3, profile_type="FAST")
    weights = {"a": 1.0, "b": 5.0, "c": 5.0, "d": 2.0, "e": 3.0, "f": 9.0, "g": 0.5, "h": 4.0}
    for user, places in (("alice", {**weights, "i": 0.4}), ("bob", {"z": 99.0})):
        for name, weight in places.items():
            await insert(
                db,
                "tendency_places",
                user_id=user,
                country_code="NO",
                party_id="OSL",
                location_id=name,
                evse_uid="",
                energy_weight=weight,
            )
    [alice, bob] = await known(db, ("alice", ""), ("bob", ""))
    assert list("fbchedag") == alice["location_ids"]
    assert [9, 5, 5, 4, 3, 2, 1, 0.5] == alice["weights"]
    assert (3, "FAST", None) == (alice["sessions"], alice["profile_type"], bob["location_ids"])
    await db.execute("UPDATE tendency_places SET party_id = 'ABC' WHERE location_id = 'c'")
    await db.execute("UPDATE tendency_places SET country_code = 'DK' WHERE location_id = 'i'")
    [alice] = await known(db, ("alice", ""))
    assert list("fcbhedag") == alice["location_ids"]
    [tendency] = await db.fetch(SESSIONS["tendency"], "alice")
    assert list("fcbhedag") == tendency["location_ids"]
    assert 29.9 == pytest.approx(tendency["total_weight"])


async def test_a_vehicle_names_its_user_and_the_batch_is_told_once(db: Db) -> None:
    """Each row in its place; the clock, the versions and what is sold out in the first only."""
    at = await now(db)
    for user in ("alice", "bob"):
        await db.fetch(USERS["upsert_user"], user, "Europe/Oslo", "NOK", "nb", "NO")
    await insert(
        db, "vehicles", vehicle_id="car", user_id="bob", profile='{"type": "CAR"}', create_time=at
    )
    await insert(db, "product_stock", product_id="gone", stock=0, sold_out=True)
    await insert(db, "product_stock", product_id="left", stock=9)
    await db.execute("UPDATE versions SET version = 7 WHERE name = 'catalogue'")
    await db.execute("UPDATE versions SET version = 5 WHERE name = 'locations'")
    rows = await known(db, ("carol", ""), ("", "car"), ("alice", "car"), ("alice", "van"))
    assert ["carol", "bob", "bob", "alice"] == [row["user_id"] for row in rows]
    assert [None, "bob", "bob", None] == [row["vehicle_user_id"] for row in rows]
    assert [False, True, True, True] == [row["known"] for row in rows]
    assert {"type": "CAR"} == json.loads(rows[1]["vehicle_profile"])
    settings = ("time_zone", "currency_code", "language", "country_code")
    assert ["Europe/Oslo", "NOK", "nb", "NO"] == [rows[1][name] for name in settings]
    batch = ("catalogue_version", "locations_version", "sold_out")
    assert [7, 5, ["gone"]] == [rows[0][name] for name in batch]
    assert rows[0]["database_time"] >= at
    assert {None} == {row[name] for row in rows[1:] for name in (*batch, "database_time")}


# --- events ---


async def add_event(
    db: Db, user: str, seq: int, age: timedelta, position: int | None = None
) -> None:
    await insert(
        db,
        "events",
        user_id=user,
        event_seq=seq,
        event_type="PASS_PURCHASED",
        pass_id=UUID(int=seq),
        event_time=await now(db) - age,
        position=position,
    )


async def positions(db: Db) -> dict[tuple[str, int], int | None]:
    rows = await db.fetch("SELECT user_id, event_seq, position FROM events")
    return {(row["user_id"], row["event_seq"]): row["position"] for row in rows}


EVER = datetime(2000, 1, 1, tzinfo=UTC)


async def sequence(db: Db, limit: int, last: int = 0, after: Any = (EVER, "", 0)) -> Any:
    return await db.fetchrow(EVENTS["sequence"], *after, limit, last)


async def test_events_get_positions_in_each_users_order_after_the_last_one(db: Db) -> None:
    """However their times stand; the stream's end moves by as many."""
    await db.execute("UPDATE event_stream SET last_position = 10")
    for user, seq, age in (("a", 1, 5), ("a", 2, 9), ("b", 1, 7), ("b", 2, 1)):
        await add_event(db, user, seq, age * SECOND)
    row = await sequence(db, 9, 10)
    assert (4, 4, "b", 2) == tuple(row[n] for n in ("picked", "positioned", "user_id", "event_seq"))
    assert {("a", 1): 11, ("a", 2): 12, ("b", 1): 13, ("b", 2): 14} == await positions(db)
    assert 14 == await db.fetchval("SELECT last_position FROM event_stream")
    row = await sequence(db, 9, 14)
    assert (0, 0, None) == (row["picked"], row["positioned"], row["user_id"])
    assert 14 == await db.fetchval("SELECT last_position FROM event_stream")


async def test_what_follows_a_waiting_event_that_is_not_in_the_batch_waits_too(db: Db) -> None:
    """The oldest of the batch first; a user's later event does not overtake an earlier one."""
    for user, seq, age in (("a", 1, 1), ("a", 2, 9), ("b", 1, 8), ("b", 2, 7), ("c", 5, 6)):
        await add_event(db, user, seq, age * SECOND)
    row = await sequence(db, 4)
    assert (4, 3) == (row["picked"], row["positioned"])
    assert {
        ("a", 1): None,
        ("a", 2): None,
        ("b", 1): 1,
        ("b", 2): 2,
        ("c", 5): 3,
    } == await positions(db)
    row = await sequence(db, 4, 3)
    assert {("a", 1): 4, ("a", 2): 5} == {
        k: v for k, v in (await positions(db)).items() if k[0] == "a"
    }


async def test_a_run_behind_a_gap_is_judged_by_the_event_before_it(db: Db) -> None:
    """3 and 4 wait for 2, which is not in the batch; 1 has its position already."""
    await add_event(db, "a", 1, 9 * SECOND, position=1)
    for seq, age in ((2, 1), (3, 8), (4, 7)):
        await add_event(db, "a", seq, age * SECOND)
    row = await sequence(db, 2, 1)
    assert (2, 0) == (row["picked"], row["positioned"])
    row = await sequence(db, 3, 1)
    assert (3, 3) == (row["picked"], row["positioned"])
    assert [1, 2, 3, 4] == [(await positions(db))["a", n] for n in (1, 2, 3, 4)]


async def test_a_batch_goes_on_after_the_last_event_it_has_seen(db: Db) -> None:
    """By time, then user, then number; that event itself is not taken again."""
    at = await now(db)
    for user, seq in (("a", 1), ("a", 2), ("b", 1)):
        await add_event(db, user, seq, timedelta())
    await db.execute("UPDATE events SET event_time = $1", at)
    for after, picked in (
        ((at, "", 0), 3),
        ((at, "a", 0), 3),
        ((at, "a", 1), 2),
        ((at, "a", 2), 1),
        ((at, "b", 1), 0),
        ((at - SECOND, "z", 9), 3),
        ((at + SECOND, "", 0), 0),
    ):
        row = await sequence(db, 0 if picked == 3 else 9, 0, after)
        if picked < 3:
            assert picked == row["picked"], after
            await db.execute("UPDATE events SET position = NULL")
        else:
            assert 0 == row["picked"]


async def test_the_end_of_the_stream_and_whether_young_events_wait(db: Db) -> None:
    """Not older than so many seconds; those that have a position do not wait."""
    await db.execute("UPDATE event_stream SET last_position = 9, dropped_position = 4")
    await add_event(db, "a", 1, 60 * SECOND)
    await add_event(db, "b", 1, SECOND, position=9)
    for seconds, waiting in ((30, False), (90, True)):
        row = await db.fetchrow(EVENTS["end_of_stream"], float(seconds))
        assert (9, 4, waiting) == (row["last_position"], row["dropped_position"], row["waiting"])
        since: timedelta = await db.fetchval("SELECT now()") - row["since"]
        assert seconds == since.total_seconds()
    await db.execute("UPDATE events SET event_time = now() - interval '45 s' WHERE user_id = 'a'")
    assert not (await db.fetchrow(EVENTS["end_of_stream"], 45.0))["waiting"]
    turn = await db.fetchrow(EVENTS["turn"])
    assert (9, "10s") == tuple(turn)


async def test_waiting_events_are_counted_and_the_oldest_is_timed(db: Db) -> None:
    """In seconds; up to a bound; nothing waits: nothing lags."""
    row = await db.fetchrow(EVENTS["measure"], 10)
    assert (0, 0.0) == (row["waiting"], row["lag_s"] or 0.0)
    await add_event(db, "a", 1, 300 * SECOND, position=1)
    await add_event(db, "a", 2, 120 * SECOND)
    for seq in range(3, 6):
        await add_event(db, "a", seq, SECOND)
    row = await db.fetchrow(EVENTS["measure"], 10)
    assert 4 == row["waiting"]
    assert 120 <= row["lag_s"] < 300
    row = await db.fetchrow(EVENTS["measure"], 2)
    assert 2 == row["waiting"]
    assert row["lag_s"] >= 120
    await db.execute("UPDATE events SET event_time = clock_timestamp() + interval '1 hour'")
    assert 0 == (await db.fetchrow(EVENTS["measure"], 10))["lag_s"]


async def mark(db: Db, position: int, age: timedelta) -> None:
    await insert(db, "event_marks", position=position, mark_time=await now(db) - age)


async def test_an_event_a_day_younger_than_the_retention_stays(db: Db) -> None:
    """Retention is in days: of 30 the mark of 31 days goes, that of 29 stays."""
    await db.execute("UPDATE event_stream SET last_position = 50")
    for position, days in ((10, 40), (20, 31), (30, 29), (40, 1)):
        await mark(db, position, days * DAY)
    await db.execute(EVENTS["drop"], 30)
    assert 20 == await db.fetchval("SELECT dropped_position FROM event_stream")
    # It never goes back, and a longer retention brings nothing again.
    await db.execute(EVENTS["drop"], 35)
    assert 20 == await db.fetchval("SELECT dropped_position FROM event_stream")
    for limit, left in ((0, [10, 20, 30, 40]), (9, [20, 30, 40])):
        await db.execute(EVENTS["forget_marks"], limit)
        rows = await db.fetch("SELECT position FROM event_marks ORDER BY position")
        assert left == [row["position"] for row in rows]
    await db.execute(EVENTS["drop"], 0)
    await db.execute(EVENTS["forget_marks"], 1)
    rows = await db.fetch("SELECT position FROM event_marks ORDER BY position")
    assert [30, 40] == [row["position"] for row in rows]


async def test_a_mark_is_made_where_the_stream_has_grown(db: Db) -> None:
    """Of its end, now, and once."""
    await db.execute(EVENTS["mark"])
    assert 0 == await db.fetchval("SELECT count(*) FROM event_marks")
    await db.execute("UPDATE event_stream SET last_position = 5")
    await mark(db, 3, HOUR)
    await db.execute(EVENTS["mark"])
    await db.execute(EVENTS["mark"])
    rows = await db.fetch("SELECT position, mark_time FROM event_marks ORDER BY position")
    assert [3, 5] == [row["position"] for row in rows]
    assert abs(rows[1]["mark_time"] - await now(db)) < HOUR


async def test_a_page_has_the_events_at_the_positions_after_one(db: Db) -> None:
    """As many positions as asked for, of the types wanted, in order, with what was refunded."""
    pass_id = await add_pass(
        db, 3, user_id="a", refund_micros=7, closed_as="CANCELLED", close_time=await now(db)
    )
    for seq in range(1, 7):
        await add_event(db, "a", seq, SECOND, position=seq + 10)
    await db.execute("UPDATE events SET event_type = 'PASS_CANCELLED' WHERE event_seq IN (3, 5)")
    await db.execute("UPDATE event_stream SET last_position = 16, dropped_position = 2")

    async def page(after: int, size: int, *types: str) -> list[int | None]:
        rows = await db.fetch(EVENTS["page"], after, size, list(types))
        assert {(16, 2)} == {(row["last_position"], row["dropped_position"]) for row in rows}
        return [row["position"] for row in rows]

    assert [11, 12, 13] == await page(10, 3)
    assert [12, 13, 14, 15, 16] == await page(11, 99)
    assert [13, 15] == await page(10, 99, "PASS_CANCELLED")
    assert [13] == await page(10, 3, "PASS_CANCELLED", "PASS_HELD")
    assert [None] == await page(16, 5)
    assert [None] == await page(13, 1, "PASS_CANCELLED")
    rows = await db.fetch(EVENTS["page"], 10, 9, [])
    refunds = [(r["refund_micros"], r["currency_code"], r["payment_reference"]) for r in rows]
    assert [(7, "NOK", "pay-3")] == [refund for refund in refunds if refund[0] is not None]
    assert pass_id == rows[2]["pass_id"]
    assert refunds[2][0] == 7


# --- segments ---


async def member(db: Db, user: str, **changes: Any) -> None:
    await insert(db, "tendencies", user_id=user, sessions=9, **changes)


async def charges_at(db: Db, user: str, **weights: float) -> None:
    for country, weight in weights.items():
        await insert(
            db,
            "tendency_places",
            user_id=user,
            country_code=country,
            party_id="OSL",
            location_id="x",
            evse_uid="",
            energy_weight=weight,
        )


async def test_a_member_belongs_to_the_country_declared_or_charged_in_most(db: Db) -> None:
    """And to the type of the first vehicle; users after one, in order."""
    at = await now(db)
    for user in ("ann", "ben", "cat", "dan"):
        await member(db, user, profile_type="CHEAP" if user == "ben" else "")
    await charges_at(db, "ann", NO=2.0, SE=5.0, DK=1.0)
    await charges_at(db, "ben", NO=9.0)
    await charges_at(db, "dan", NO=9.0)
    await db.fetch(USERS["upsert_user"], "ben", "", "", "", "FI")
    await db.fetch(USERS["upsert_user"], "dan", "", "", "", "")
    for vehicle, age, kind in (("v1", 1, "VAN"), ("v2", 5, "CAR"), ("v3", 3, "BUS")):
        await insert(
            db,
            "vehicles",
            vehicle_id=vehicle,
            user_id="ann",
            profile=json.dumps({"type": kind}),
            create_time=at - age * DAY,
        )
    for vehicle, kind in (("w2", "TRUCK"), ("w1", "BOAT")):
        await insert(
            db,
            "vehicles",
            vehicle_id=vehicle,
            user_id="ben",
            profile=json.dumps({"type": kind}),
            create_time=at,
        )
    await insert(db, "vehicles", vehicle_id="x", user_id="cat", profile="{}", create_time=at)
    rows = await db.fetch(SEGMENTS["page_of_members"], "")
    columns = ("user_id", "country_code", "vehicle_type", "profile_type")
    assert [
        ("ann", "SE", "CAR", ""),
        ("ben", "FI", "BOAT", "CHEAP"),
        ("cat", "", "", ""),
        ("dan", "NO", "", ""),
    ] == [tuple(row[name] for name in columns) for row in rows]
    rows = await db.fetch(SEGMENTS["page_of_members"], "ben")
    assert ["cat", "dan"] == [row["user_id"] for row in rows]


async def test_members_come_in_pages_of_500(db: Db) -> None:
    """Those of a rebuild in pages of 200; the next page begins after the last one's user."""
    await db.execute(
        "INSERT INTO tendencies (user_id) SELECT 'u' || lpad(n::text, 4, '0')"
        " FROM generate_series(1, 501) n"
    )
    rows = await db.fetch(SEGMENTS["page_of_members"], "")
    assert (500, "u0001", "u0500") == (len(rows), rows[0]["user_id"], rows[-1]["user_id"])
    assert ["u0501"] == [r["user_id"] for r in await db.fetch(SEGMENTS["page_of_members"], "u0500")]
    rows = await db.fetch(SESSIONS["page_of_users"], "u0007")
    assert (200, "u0008", "u0207") == (len(rows), rows[0]["user_id"], rows[-1]["user_id"])


async def test_the_largest_segments_are_read_and_written_anew_as_a_whole(db: Db) -> None:
    """Of equal ones by name; no more than a snapshot takes."""
    for key, users in ((("NO", "", ""), 30), (("", "", ""), 90), (("DK", "", ""), 30)):
        await db.execute(SEGMENTS["write_segments"], *key, users, [1.0, 2.0], [0.5])
    for limit, expected in ((9, ["", "DK", "NO"]), (2, ["", "DK"])):
        rows = await db.fetch(SEGMENTS["segments"], limit)
        assert expected == [row["country_code"] for row in rows]
    assert (90, [1.0, 2.0], [0.5]) == tuple(rows[0][n] for n in ("users", "energy_kwh", "hours"))
    await db.execute(SEGMENTS["forget_segments"])
    assert [] == await db.fetch(SEGMENTS["segments"], 9)


# --- purchases ---


async def test_what_counts_against_a_limit_is_not_cancelled_and_not_a_hold_that_is_over(
    db: Db,
) -> None:
    """Judged at an instant: a hold counts until it ends, exclusive."""
    at = await now(db)
    held = {"start_time": None, "end_time": None, "payment_reference": ""}
    same = {"product_id": "p"}
    await add_pass(db, 1, **same)
    await add_pass(db, 2, hold_expire_time=at, confirm_time=at, **same)
    await add_pass(db, 3, hold_expire_time=at, **same, **held)
    await add_pass(db, 4, hold_expire_time=at + SECOND, **same, **held)
    await add_pass(db, 5, close_time=at, closed_as="EXPIRED", **same)
    await add_pass(db, 6, close_time=at, closed_as="CANCELLED", **same)
    await add_pass(db, 7, close_time=at, closed_as="LAPSED", hold_expire_time=at, **same, **held)
    await add_pass(db, 8, product_id="q")
    await add_pass(db, 9, user_id="bob", **same)
    for judged_at, count in ((at, 4), (at - SECOND, 5), (at + SECOND, 3)):
        rows = await db.fetch(PASSES["bought"], ["alice"], ["p"], judged_at)
        assert count == len(rows), judged_at
    rows = await db.fetch(PASSES["bought"], ["alice", "bob"], ["q", "p"], at)
    assert {("alice", "q"), ("bob", "p")} == {(row["user_id"], row["product_id"]) for row in rows}


async def test_passes_are_due_by_the_end_of_what_they_are(db: Db) -> None:
    """Validity, then first use, then hold; those that wait the longest first, open ones only."""
    at = await now(db)
    unset = {"start_time": None, "end_time": None}
    await add_pass(db, 1, end_time=at - 20 * SECOND)
    await add_pass(db, 2, end_time=at + HOUR, hold_expire_time=at - HOUR, confirm_time=at - HOUR)
    await add_pass(db, 3, first_use_before=at - 30 * SECOND, **unset)
    await add_pass(db, 4, hold_expire_time=at - 40 * SECOND, payment_reference="", **unset)
    await add_pass(db, 5, end_time=at - HOUR, close_time=at, closed_as="EXPIRED")
    await add_pass(db, 6, first_use_before=at - HOUR, end_time=at + HOUR)
    await add_pass(
        db, 7, first_use_before=at + HOUR, hold_expire_time=at - HOUR, confirm_time=at, **unset
    )
    rows = await db.fetch(PASSES["due"], 9)
    assert [4, 3, 1] == [row["pass_id"].int for row in rows]
    late = [row["late_s"] for row in rows]
    assert [20, 10, 0] == pytest.approx([s - late[2] for s in late], abs=0.5)
    assert late[2] >= 20
    assert [4, 3] == [row["pass_id"].int for row in await db.fetch(PASSES["due"], 2)]


async def stock_of(db: Db, product: str = "p") -> tuple[int | None, int, bool]:
    """(stock, sold, whether it is sold out)."""
    query = "SELECT stock, sold, sold_out FROM product_stock WHERE product_id = $1"
    row = await db.fetchrow(query, product)
    return row["stock"], row["sold"], row["sold_out"]


async def test_places_of_holds_that_are_over_are_taken_back(db: Db) -> None:
    """Of the products asked for, those that ended first, and no more than so many."""
    at = await now(db)
    for product, stock in (("p", 5), ("q", 2), ("r", None)):
        await insert(
            db, "product_stock", product_id=product, stock=stock, sold=2, sold_out=product == "q"
        )
    await db.execute("UPDATE product_stock SET sold = 5, sold_out = true WHERE product_id = 'p'")
    for product, user, ends in (
        ("p", "a", at - 2 * SECOND),
        ("p", "b", at - SECOND),
        ("p", "c", at),
        ("p", "d", at + SECOND),
        ("q", "e", at - HOUR),
        ("r", "f", at - HOUR),
    ):
        await insert(
            db,
            "holds",
            product_id=product,
            hold_expire_time=ends,
            user_id=user,
            pass_id=UUID(int=1),
        )
    rows = await db.fetch(PASSES["free_expired"], ["p", "r"], at, 2)
    assert {("p", 3), ("r", 1)} == {tuple(row) for row in rows}
    assert [(5, 3, False), (2, 2, True), (None, 1, False)] == [
        await stock_of(db, product) for product in "pqr"
    ]
    left = await db.fetch("SELECT user_id FROM holds ORDER BY user_id")
    assert ["c", "d", "e"] == [row["user_id"] for row in left]
    assert [("p", 2)] == [
        tuple(row) for row in await db.fetch(PASSES["free_expired"], ["p"], at, 9)
    ]


async def test_the_passes_of_a_list_are_the_newest_first(db: Db) -> None:
    """Of equal times by id; after a pass come those that were bought before it."""
    at = await now(db)
    for number, age in ((1, 3), (2, 1), (4, 2), (3, 2), (5, 2)):
        await add_pass(db, number, purchase_time=at - age * SECOND)
    await add_pass(db, 9, user_id="bob")
    query = PASSES["list_passes"]
    everything = await db.fetch(query, "alice", None, UUID(int=0), 9)
    assert [2, 3, 4, 5, 1] == [row["pass_id"].int for row in everything]
    rest = await db.fetch(query, "alice", at - 2 * SECOND, UUID(int=4), 9)
    assert [5, 1] == [row["pass_id"].int for row in rest]
    assert [2, 3] == [
        row["pass_id"].int for row in await db.fetch(query, "alice", None, UUID(int=0), 2)
    ]


async def test_references_belong_to_who_claimed_them_first(db: Db) -> None:
    """A claim is given back by its own purchase only, and taken over where it is settled."""
    ids = [UUID(int=n) for n in range(4)]
    claim = PASSES["claim_references"]
    assert ["x", "y"] == [
        row[0] for row in await db.fetch(claim, ["y", "x"], ["a", "b"], [ids[0], ids[1]])
    ]
    assert ["z"] == [
        row[0] for row in await db.fetch(claim, ["x", "z"], ["c", "c"], [ids[2], ids[3]])
    ]

    async def owners() -> dict[str, tuple[str, int]]:
        rows = await db.fetch(PASSES["references"], ["x", "y", "z", "w"])
        return {r["payment_reference"]: (r["user_id"], r["pass_id"].int) for r in rows}

    assert {"x": ("b", 1), "y": ("a", 0), "z": ("c", 3)} == await owners()
    give_back = PASSES["give_back_references"]
    await db.execute(give_back, ["x", "x", "z"], ["c", "b", "c"], [ids[1], ids[2], ids[3]])
    assert {"x": ("b", 1), "y": ("a", 0)} == await owners()
    await db.execute(PASSES["settle_references"], ["y"], ["d"], [ids[2]])
    assert {"x": ("b", 1), "y": ("d", 2)} == await owners()


# --- the catalogue ---


async def test_a_product_is_sold_out_when_as_many_are_sold_as_there_are(db: Db) -> None:
    """Also when it is made or changed; without a stock it never is."""
    for product, stock, sold_out in (("a", 0, True), ("b", 1, False), ("c", None, False)):
        await db.execute(CATALOGUE["insert_stock"], product, stock, 2, 30)
        assert (stock, 0, sold_out) == await stock_of(db, product)
    await db.execute("UPDATE product_stock SET stock = NULL, sold = 5, sold_out = false")
    for stock, sold_out in ((5, True), (6, False), (None, False)):
        await db.execute(CATALOGUE["update_stock"], "b", stock, 4, 7)
        assert (stock, 5, sold_out) == await stock_of(db, "b")
    row = await db.fetchrow(PASSES["lock_stock"], ["b"])
    assert (4, 7) == (row["max_purchases"], row["rolling_days"])
    assert (None, 5, False) == await stock_of(db, "a")


async def test_offers_stay_withdrawn(db: Db) -> None:
    """Of revisions before the highest one that was named."""
    await db.execute(CATALOGUE["insert_stock"], "p", 9, None, 0)
    for before, expected in ((3, 3), (2, 3), (5, 5)):
        await db.execute(CATALOGUE["withdraw_offers"], "p", before)
        row = await db.fetchrow(PASSES["lock_stock"], ["p"])
        assert expected == row["withdrawn_before_revision"]


async def test_a_revision_is_found_by_its_number_and_0_is_the_present_one(db: Db) -> None:
    """With the counters of the product."""
    await db.execute(CATALOGUE["insert_product"], "p", "one", 5)
    assert [] == await db.fetch(CATALOGUE["insert_product"], "p", "again", 6)
    await db.execute(CATALOGUE["insert_stock"], "p", 9, 2, 30)
    for revision in (1, 2):
        await db.execute(CATALOGUE["insert_revision"], "p", revision, "{}", f"by-{revision}")
    await db.execute(CATALOGUE["update_product"], "p", 2, "RETIRED", "two", 6)
    for asked, found in ((0, 2), (1, 1), (2, 2)):
        row = await db.fetchrow(CATALOGUE["product"], "p", asked)
        assert (found, f"by-{found}", "RETIRED", "two", 9, 2, 30) == tuple(
            row[name]
            for name in (
                *("revision", "created_by", "state", "etag"),
                *("stock", "max_purchases", "rolling_days"),
            )
        )
    assert await db.fetchrow(CATALOGUE["product"], "p", 3) is None
    rows = await db.fetch(CATALOGUE["revisions"], ["p", "p", "q"], [1, 3, 1])
    assert [("p", 1)] == [(row["product_id"], row["revision"]) for row in rows]


# --- users, vehicles, sessions ---


async def test_a_user_has_so_many_vehicles_and_keeps_those_there_are(db: Db) -> None:
    """A new one beyond is refused, a known one is changed, a foreign one is not."""
    register = USERS["register_vehicle"]

    async def registered(vehicle: str, user: str, profile: str = "{}", most: int = 2) -> Any:
        row = await db.fetchrow(register, vehicle, user, profile, most)
        return row["is_left"], row["vehicle_id"]

    assert [(True, "a"), (True, "b")] == [await registered(v, "alice") for v in ("a", "b")]
    assert (False, None) == await registered("c", "alice")
    assert (True, "a") == await registered("a", "alice", '{"type": "VAN"}')
    assert (True, None) == await registered("a", "bob", '{"type": "CAR"}')
    assert (True, "c") == await registered("c", "alice", most=3)
    assert (True, "d") == await registered("d", "bob", most=1)
    assert "bob" == await db.fetchval(USERS["owner_of_vehicle"], "d")
    rows = await db.fetch(USERS["vehicles"], "alice", "", 2)
    assert [("a", {"type": "VAN"}), ("b", {})] == [
        (row["vehicle_id"], json.loads(row["profile"])) for row in rows
    ]
    rows = await db.fetch(USERS["vehicles"], "alice", "b", 2)
    assert ["c"] == [row["vehicle_id"] for row in rows]
    assert await db.fetchval(USERS["deregister_vehicle"], "bob", "a") is None
    assert "a" == await db.fetchval(USERS["deregister_vehicle"], "alice", "a")


async def test_a_user_is_replaced_and_keeps_the_time_it_was_made(db: Db) -> None:
    """Every setting, also one that is now empty."""
    await db.fetchrow(USERS["upsert_user"], "alice", "UTC", "EUR", "de", "DE")
    await db.execute("UPDATE users SET create_time = $1, update_time = $1", EVER)
    row = await db.fetchrow(USERS["upsert_user"], "alice", "Europe/Oslo", "NOK", "", "NO")
    assert ("alice", "Europe/Oslo", "NOK", "", "NO", EVER) == tuple(row)[:6]
    assert row["update_time"] > EVER
    assert tuple(row) == tuple(await db.fetchrow(USERS["user"], "alice"))


async def test_weights_of_places_are_added_up(db: Db) -> None:
    """For each place of each user; forgotten for whom a rebuild is made."""
    arrays = (["NO"] * 2, ["OSL"] * 2, ["x", "y"], [""] * 2)
    await db.execute(SESSIONS["add_places"], ["a", "a"], *arrays, [1.0, 2.0])
    await db.execute(SESSIONS["add_places"], ["a", "b"], *arrays, [0.5, 8.0])
    query = "SELECT user_id, location_id, energy_weight FROM tendency_places ORDER BY 1, 2"
    assert [("a", "x", 1.5), ("a", "y", 2.0), ("b", "y", 8.0)] == [
        tuple(row) for row in await db.fetch(query)
    ]
    await db.execute(SESSIONS["forget_places"], ["a"])
    assert [("b", "y", 8.0)] == [tuple(row) for row in await db.fetch(query)]


async def test_a_tendency_is_of_who_has_sessions_or_a_wish(db: Db) -> None:
    """A row that was only made to be locked says nothing; a wish stays when sessions come."""
    await db.execute(SESSIONS["make_tendencies"], ["a", "b", "c"])
    await db.execute("UPDATE tendencies SET sessions = 1 WHERE user_id = 'a'")
    await db.execute(SESSIONS["declare_preferences"], "b", "FAST")
    await db.execute(SESSIONS["declare_preferences"], "d", "CHEAP")
    await db.execute(SESSIONS["declare_preferences"], "d", "GREEN")
    await db.execute(SESSIONS["make_tendencies"], ["a", "b", "c", "d"])
    found = {user: await db.fetchrow(SESSIONS["tendency"], user) for user in "abcd"}
    assert {"a": "", "b": "FAST", "c": None, "d": "GREEN"} == {
        user: row and row["profile_type"] for user, row in found.items()
    }
    rows = await db.fetch(SESSIONS["page_of_users"], "b")
    assert ["c", "d"] == [row["user_id"] for row in rows]


async def test_of_holds_that_end_together_only_so_many_are_taken_back(db: Db) -> None:
    """Each is told by its user and pass; the first of them by name."""
    at = await now(db)
    await insert(db, "product_stock", product_id="p", stock=9, sold=4)
    for user, number in (("a", 1), ("a", 2), ("b", 1), ("b", 2)):
        await insert(
            db,
            "holds",
            product_id="p",
            hold_expire_time=at,
            user_id=user,
            pass_id=UUID(int=number),
        )
    await db.fetch(PASSES["free_expired"], ["p"], at, 1)
    left = await db.fetch("SELECT user_id, pass_id FROM holds ORDER BY 1, 2")
    assert [("a", 2), ("b", 1), ("b", 2)] == [(r["user_id"], r["pass_id"].int) for r in left]
    assert (9, 3, False) == await stock_of(db)
    keys = (["p", "p", "q"], [at, at, at], ["a", "b", "b"], [UUID(int=1), UUID(int=2), UUID(int=1)])
    held = await db.fetch(PASSES["holds"], *keys)
    assert [("b", 2)] == [(row["user_id"], row["pass_id"].int) for row in held]


async def write(db: Db, *rows: dict[str, Any]) -> Any:
    """Write purchases as a batch does."""
    at = await now(db)
    names = (
        *("user_id", "pass_id", "request_id", "offer_digest", "product_id", "product_revision"),
        *("vehicle_id", "price_micros", "currency_code", "payment_reference", "purchase_time"),
        *("time_zone", "start_time", "end_time", "first_use_before", "energy_wh", "sessions"),
        *("hold_expire_time", "event_seq", "event_type"),
    )
    usual = {
        "request_id": UUID(int=9),
        "product_revision": 1,
        "vehicle_id": "car",
        "price_micros": 49_000_000,
        "currency_code": "NOK",
        "payment_reference": "",
        "purchase_time": at,
        "time_zone": "UTC",
        "start_time": None,
        "end_time": None,
        "first_use_before": None,
        "energy_wh": None,
        "sessions": None,
        "hold_expire_time": None,
        "event_type": "PASS_PURCHASED",
    }
    filled = [{**usual, "offer_digest": row["pass_id"].bytes, **row} for row in rows]
    return await db.fetchrow(PASSES["write"], *([row[n] for row in filled] for n in names))


async def sequences(db: Db) -> dict[str, int]:
    return dict(await db.fetch("SELECT user_id, last_event_seq FROM user_sequences"))


async def two_users_and_two_products(db: Db) -> datetime:
    """Three purchases of two users: a bundle of energy, one of sessions, and a hold."""
    at: datetime = await now(db)
    for user in ("alice", "bob", "carol"):
        await insert(db, "user_sequences", user_id=user, last_event_seq=4)
    for product, stock in (("p", 2), ("q", None), ("r", 9)):
        await insert(db, "product_stock", product_id=product, stock=stock)
    one = {"user_id": "alice", "product_id": "p"}
    row = await write(
        db,
        {**one, "pass_id": UUID(int=1), "event_seq": 5, "energy_wh": 100, "end_time": at + DAY},
        {**one, "pass_id": UUID(int=2), "event_seq": 6, "sessions": 8, "product_id": "q"},
        {
            "user_id": "bob",
            "product_id": "p",
            "pass_id": UUID(int=3),
            "event_seq": 5,
            "hold_expire_time": at + HOUR,
            "event_type": "PASS_HELD",
        },
    )
    assert (3, 3, 2) == tuple(row)
    return at


async def test_a_purchase_writes_pass_entry_event_and_counters(db: Db) -> None:
    """A hold has a place in the stock and no entry; the counts say what was written."""
    at = await two_users_and_two_products(db)
    entries = await db.fetch(
        "SELECT user_id, pass_id, entry_number, kind, energy_wh, sessions FROM ledger_entries"
        " ORDER BY pass_id"
    )
    assert [
        ("alice", UUID(int=1), 1, "OPENING", 100, None),
        ("alice", UUID(int=2), 1, "OPENING", None, 8),
    ] == [tuple(entry) for entry in entries]
    holds = await db.fetch("SELECT product_id, hold_expire_time, user_id, pass_id FROM holds")
    assert [("p", at + HOUR, "bob", UUID(int=3))] == [tuple(hold) for hold in holds]
    events = await db.fetch(
        "SELECT user_id, event_seq, event_type, pass_id FROM events ORDER BY user_id, event_seq"
    )
    assert [
        ("alice", 5, "PASS_PURCHASED", UUID(int=1)),
        ("alice", 6, "PASS_PURCHASED", UUID(int=2)),
        ("bob", 5, "PASS_HELD", UUID(int=3)),
    ] == [tuple(event) for event in events]
    assert {"alice": 6, "bob": 5, "carol": 4} == await sequences(db)
    assert [(2, 2, True), (None, 1, False), (9, 0, False)] == [
        await stock_of(db, product) for product in "pqr"
    ]
    passes = await db.fetch(PASSES["known_passes"], ["alice", "bob"], [UUID(int=1), UUID(int=3)])
    found = {row["pass_id"].int: row for row in passes}
    assert (100, None, 1) == (
        found[1]["balance_energy_wh"],
        found[1]["balance_sessions"],
        found[1]["ledger_entries"],
    )
    assert (None, 0, at + HOUR) == (
        found[3]["balance_energy_wh"],
        found[3]["ledger_entries"],
        found[3]["hold_expire_time"],
    )
    assert [] == await db.fetch(PASSES["known_passes"], ["bob"], [UUID(int=1)])


async def test_a_pass_is_found_by_its_key_and_by_its_offer_of_its_user(db: Db) -> None:
    """Once, if both name it; another user's is not found by either."""
    await two_users_and_two_products(db)
    digest = UUID(int=2).bytes
    for user, expected in (("alice", {1, 2}), ("bob", set())):
        rows = await db.fetch(
            PASSES["user_passes"], [user, user], [UUID(int=1), UUID(int=2)], [user], [digest]
        )
        assert sorted(expected) == sorted(row["pass_id"].int for row in rows)


async def test_users_are_locked_in_order_with_their_numbers_and_zones(db: Db) -> None:
    """Who has no row gets one; who has one keeps its number."""
    await insert(db, "user_sequences", user_id="bob", last_event_seq=7)
    await insert(db, "user_sequences", user_id="alice", last_event_seq=3)
    await db.fetch(USERS["upsert_user"], "alice", "Europe/Oslo", "", "", "")
    rows = await db.fetch(PASSES["lock_users"], ["bob", "carol", "alice"])
    assert [("alice", 3, "Europe/Oslo"), ("bob", 7, None)] == [tuple(row) for row in rows]
    rows = await db.fetch(PASSES["make_sequences"], ["carol", "bob"])
    assert {("carol", 0, None), ("bob", 7, None)} == {tuple(row) for row in rows}


async def test_a_change_writes_what_has_become_of_passes_and_gives_places_back(db: Db) -> None:
    """One cancelled, one hold lapsed: entries, events, counters, and no other row."""
    at = await two_users_and_two_products(db)
    one, three = UUID(int=1), UUID(int=3)
    others = [
        ("q", at + HOUR, "bob", three),
        ("p", at + DAY, "bob", three),
        ("p", at + HOUR, "carol", three),
        ("p", at + HOUR, "bob", UUID(int=4)),
    ]
    await db.executemany("INSERT INTO holds VALUES ($1, $2, $3, $4)", others)
    row = await db.fetchrow(
        PASSES["change"],
        *(["alice", "bob"], [one, three], ["pay", ""], [None, None], [at, None], [at + DAY, None]),
        *([None, None], [at, at], ["CANCELLED", "LAPSED"], [7, None]),
        *(["alice"], [one], [2], ["CANCELLATION"], [-100], [None]),
        at,
        *(["alice", "bob"], [7, 6], ["PASS_CANCELLED", "PASS_LAPSED"], [one, three]),
        *(["p"], [at + HOUR], ["bob"], [three]),
        ["p", "q", "p"],
    )
    assert (2, 2, 1, 3) == tuple(row)
    assert {"alice": 7, "bob": 6, "carol": 4} == await sequences(db)
    assert [(2, 0, False), (None, 0, False), (9, 0, False)] == [
        await stock_of(db, product) for product in "pqr"
    ]
    assert set(others) == {tuple(row) for row in await db.fetch("SELECT * FROM holds")}
    columns = ("closed_as", "refund_micros", "payment_reference", "balance_energy_wh")
    found = {}
    for user, pass_id in (("alice", one), ("alice", UUID(int=2)), ("bob", three)):
        owned = await db.fetchrow(PASSES["pass"], user, pass_id)
        found[pass_id.int] = tuple(owned[name] for name in columns)
    assert {
        1: ("CANCELLED", 7, "pay", 0),
        2: (None, None, "", None),
        3: ("LAPSED", None, "", None),
    } == found
    assert await db.fetchrow(PASSES["pass"], "bob", one) is None
    events = await db.fetch("SELECT user_id, event_seq FROM events WHERE event_time = $1", at)
    assert {("alice", 7), ("bob", 6)} <= {tuple(event) for event in events}


async def test_time_zones_and_sessions_are_those_of_their_keys(db: Db) -> None:
    """Of a location by all three names, of a session by user and id."""
    at = await now(db)
    for party, zone in (("OSL", "Europe/Oslo"), ("ABC", "UTC")):
        await insert(
            db,
            "locations",
            country_code="NO",
            party_id=party,
            location_id="x",
            document=json.dumps({"time_zone": zone}),
            update_time=at,
        )
    rows = await db.fetch(
        SESSIONS["time_zones"], ["NO", "NO", "SE"], ["OSL", "ABC", "OSL"], ["x", "y", "x"]
    )
    assert [("NO", "OSL", "x", "x", "Europe/Oslo")] == [tuple(row) for row in rows]
    arrays: list[Any] = [
        ["a", "b"],
        ["s", "s"],
        *([value] * 2 for value in ("NO", "OSL", "x", "E", "1")),
    ]
    times: list[Any] = [["UTC", "UTC"], [at, at], [None, at + HOUR], [1, 2]]
    await db.execute(SESSIONS["write_sessions"], *arrays, *times)
    await db.execute(SESSIONS["write_sessions"], *([v[1]] for v in (*arrays, *times[:3])), [5])
    rows = await db.fetch(SESSIONS["stored_sessions"], ["a", "b", "a"], ["s", "s", "t"])
    assert {"a": 1, "b": 5} == {row["user_id"]: row["energy_wh"] for row in rows}
    [bob] = await db.fetch(SESSIONS["users_sessions"], ["b", "c"])
    assert ("b", "s", "NO", "OSL", "x", "E", "1", "UTC", at, at + HOUR, 5) == tuple(bob)
