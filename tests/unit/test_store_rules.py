"""What the store makes of rows, keeps of what it has read, and lets be under way."""

import asyncio
import time
import uuid
from datetime import UTC, timedelta
from typing import Any

import grpc
import numpy as np
import pytest

from tests.unit.builders import NOW, PLACE, make_product, make_session
from voucher_grpc.domain.offers.caches import (
    PlaceConditionCache,
    PriceCache,
    PricedPlace,
    PricesAt,
)
from voucher_grpc.domain.offers.place_tariffs import Found
from voucher_grpc.domain.places.location import Location, VehicleProfile
from voucher_grpc.domain.pricing.tariff import TariffType
from voucher_grpc.domain.tendencies.segments import SegmentKey
from voucher_grpc.domain.tendencies.tendency import Layout, rebuild
from voucher_grpc.edge.rpc.method import _code
from voucher_grpc.errors import Reason, Refusal, StoreUnavailable
from voucher_grpc.ocpi import PlaceKey
from voucher_grpc.runtime.batching import Batcher
from voucher_grpc.runtime.clock import DatabaseClock
from voucher_grpc.store.segments import _members_of
from voucher_grpc.store.stale_reads import Seen, StaleCatalogue, read_or_stale
from voucher_grpc.store.tendencies import places_from_row, tendency_from_row
from voucher_grpc.telemetry.calls import REQUEST_ID_HEADER, request_id_of

DAY = timedelta(days=1)


def tendency_row(sessions: int = 9, silence: timedelta = DAY, **changes: Any) -> dict[str, Any]:
    """A row of a user who has charged by day at home."""
    made = rebuild(
        make_session(str(n), start_time=NOW - silence - n * DAY) for n in range(max(1, sessions))
    )
    return {
        "sessions": sessions,
        "first_session_time": made.first_session_time,
        "last_session_time": made.last_session_time,
        "state": made.state.astype("<f8").tobytes(),
        "forecast": b"f",
        "recent": b"r",
        "country_code": "NO",
        "vehicle_type": "VAN",
        "profile_type": "FAST",
        "database_time": NOW,
        **changes,
    }


def test_a_tendency_is_read_as_it_was_kept() -> None:
    """None without sessions, or if it was kept in another layout."""
    row = tendency_row()
    found = tendency_from_row(row)
    assert found is not None
    assert np.frombuffer(row["state"], "<f8").tolist() == found.state.tolist()
    assert (9, row["first_session_time"], row["last_session_time"], b"f", b"r") == (
        found.sessions,
        found.first_session_time,
        found.last_session_time,
        found.forecast,
        found.recent,
    )
    assert tendency_from_row(tendency_row(0)) is None
    for state in (b"", row["state"][:-8], row["state"] + bytes(8)):
        assert tendency_from_row(tendency_row(state=state)) is None
    assert 8 * Layout.SIZE == len(row["state"])


def test_places_are_read_with_their_weights() -> None:
    """Column by column, in the row's order."""
    row = {
        "country_codes": ["NO", "SE"],
        "party_ids": ["OSL", "STO"],
        "location_ids": ["a", "b"],
        "evse_uids": ["", "E"],
        "weights": [3.0, 1.0],
    }
    expected = [(PlaceKey("NO", "OSL", "a"), 3.0), (PlaceKey("SE", "STO", "b", "E"), 1.0)]
    assert expected == places_from_row(row)
    assert [] == places_from_row(dict.fromkeys(row))


@pytest.mark.parametrize(
    ("sessions", "silence", "counts"),
    [
        (5, DAY, True),
        (4, DAY, False),
        (9, 90 * DAY, False),
        (9, 90 * DAY - timedelta(seconds=1), True),
        (0, DAY, False),
    ],
)
def test_who_has_charged_five_times_and_within_90_days_says_what_is_usual(
    sessions: int, silence: timedelta, counts: bool
) -> None:
    """By the database's clock; of which kind and with which hours."""
    rows: Any = [tendency_row(0), tendency_row(sessions, silence)]
    members = _members_of(rows)
    assert int(counts) == len(members)
    for member in members:
        assert SegmentKey("NO", "VAN", "FAST") == member.key
        assert 1 == pytest.approx(member.hours.sum())
        assert 12 == len(member.energy_kwh)


PRODUCTS = {name: make_product(name) for name in "abcd"}


def test_a_page_of_the_last_catalogue_is_that_of_the_store() -> None:
    """After a product that is known; never of what was not seen."""
    last = StaleCatalogue()
    assert last.page("", show_retired=False, limit=9) is None
    assert last.product("a", 0) is None
    last.saw(PRODUCTS, NOW)

    def page(after: str, limit: int, *, retired: bool = False) -> list[str] | None:
        seen = last.page(after, retired, limit)
        if seen is None:
            return None
        assert seen.stale_since == NOW
        return [product.product_id for product in seen.value]

    assert ["a", "b"] == page("", 2)
    assert ["c", "d"] == page("b", 9)
    assert [] == page("d", 9)
    assert page("x", 9) is None
    assert page("", 9, retired=True) is None


def test_only_the_present_revision_of_a_product_is_known() -> None:
    """0 asks for it."""
    last = StaleCatalogue()
    last.saw(PRODUCTS, NOW)
    for revision in (0, 1):
        assert Seen(PRODUCTS["a"], NOW) == last.product("a", revision)
    assert last.product("a", 2) is None
    assert last.product("x", 0) is None


async def test_what_was_known_last_is_told_only_while_the_database_is_away() -> None:
    """With the instant as of which it was so; another error is not covered by it."""

    async def read(outcome: str | Exception) -> str:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    known = Seen("old", NOW)
    assert Seen("new") == await read_or_stale(read("new"), lambda: known)
    assert known == await read_or_stale(read(StoreUnavailable()), lambda: known)
    with pytest.raises(StoreUnavailable):
        await read_or_stale(read(StoreUnavailable()), lambda: None)
    with pytest.raises(ValueError, match="other"):
        await read_or_stale(read(ValueError("other")), lambda: known)


@pytest.mark.parametrize(("later_s", "follows"), [(9.9, False), (10.1, True)])
def test_a_clock_is_put_back_by_readings_of_ten_seconds_alone(
    later_s: float, follows: bool
) -> None:
    """A reading that says less before that came in late."""
    machine_s = 100.0
    clock = DatabaseClock(lambda: machine_s)
    clock.set(NOW)
    machine_s += later_s
    assert NOW + timedelta(seconds=later_s) == clock.now()
    clock.set(NOW - DAY)
    expected = NOW - DAY if follows else NOW + timedelta(seconds=later_s)
    assert expected == clock.now()
    clock.set(NOW + DAY)
    assert NOW + DAY == clock.now()
    assert UTC == clock.now().tzinfo


def place(name: str) -> Location:
    return Location("NO", "OSL", name, "UTC")


def test_prices_and_coverage_are_kept_while_the_location_is_the_same_object(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At their bounds they begin anew; vehicles are told apart."""
    home, again = place("home"), place("home")
    kept, nothing = PriceCache(), Found(None, {}, by_default=False)

    def prices(priced: PricedPlace, location: Location | None) -> PricesAt | None:
        return kept.get(priced, location, 1, {}, {}, NOW)

    def priced(currency_code: str, vat: int | None) -> PricedPlace:
        return PricedPlace(PLACE, currency_code, vat, TariffType.REGULAR)

    krone, euro, krona = priced("NOK", 2_500), priced("EUR", 2_500), priced("SEK", 2_500)
    assert prices(krone, home) is None
    kept.keep(krone, home, 1, nothing)
    found = prices(krone, home)
    assert found is not None
    assert found.prices is None
    for key, location in (
        (krone, again),
        (priced("NOK", None), home),
        (krone._replace(profile=TariffType.PROFILE_FAST), home),
        (euro, home),
        (krone, None),
    ):
        assert prices(key, location) is None
    monkeypatch.setattr(PriceCache, "MAX_PLACES", 2)
    kept.keep(euro, home, 1, nothing)
    assert prices(krone, home)
    kept.keep(krona, home, 1, nothing)
    assert prices(krone, home) is None
    assert prices(krona, home)
    covered, van = PlaceConditionCache(), VehicleProfile(max_ac_power_w=1)
    inside = np.ones(3)
    covered.keep(van, PLACE, home, inside)
    assert covered.get(van, PLACE, home) is inside
    assert covered.get(van, PLACE, again) is None
    assert covered.get(VehicleProfile(), PLACE, home) is None
    assert covered.get(van, PLACE._replace(evse_uid="E"), home) is None


@pytest.mark.parametrize(
    ("most", "numbers", "place_conditions", "kept"),
    [(2, 100, 3, 2), (9, 6, 3, 2), (9, 7, 0, 7), (9, 5, 3, 1)],
)
def test_what_is_kept_of_places_is_bounded_in_places_and_in_numbers(
    monkeypatch: pytest.MonkeyPatch, most: int, numbers: int, place_conditions: int, kept: int
) -> None:
    """Whichever is reached first."""
    monkeypatch.setattr(PlaceConditionCache, "MAX_PLACES", most)
    monkeypatch.setattr(PlaceConditionCache, "MAX_NUMBERS", numbers)
    covered, home, keys = (
        PlaceConditionCache(),
        place("home"),
        [PLACE._replace(evse_uid=str(n)) for n in range(9)],
    )
    most_at_once = 0
    for key in keys:
        covered.keep(VehicleProfile(), key, home, np.ones(place_conditions))
        found = [k for k in keys if covered.get(VehicleProfile(), k, home) is not None]
        assert key in found
        most_at_once = max(most_at_once, len(found))
    assert kept == most_at_once


class Metadata:
    """A call's context, as far as its request id goes."""

    def __init__(self, *pairs: tuple[str, str | bytes]) -> None:
        self._pairs = pairs

    def invocation_metadata(self) -> Any:
        return self._pairs or None


@pytest.mark.parametrize(
    ("sent", "good"),
    [
        ("call-1._A", True),
        ("x" * 64, True),
        ("x" * 65, False),
        ("", False),
        ("a b", False),
        ("a\n", False),
        (b"call", False),
    ],
)
def test_a_usable_request_id_is_the_callers(sent: str | bytes, good: bool) -> None:
    """Another one is made anew; it stands in logs and trailers."""
    context: Any = Metadata(("other", "x"), (REQUEST_ID_HEADER, sent))
    found = request_id_of(context)
    assert good is (found == sent)
    if not good:
        assert 4 == uuid.UUID(found).version
    nothing: Any = Metadata()
    assert request_id_of(nothing) != request_id_of(nothing)


def test_a_code_of_the_runtime_is_known_by_its_number() -> None:
    """Whatever else is no code."""
    assert grpc.StatusCode.NOT_FOUND is _code(grpc.StatusCode.NOT_FOUND)
    assert grpc.StatusCode.NOT_FOUND is _code(5)
    assert grpc.StatusCode.UNKNOWN is _code(99)


class Line:
    """A batcher whose flushes are held until they are let go."""

    def __init__(self, **options: Any) -> None:
        self.batches: list[list[str]] = []
        self.shed: list[str] = []
        self.open = asyncio.Event()
        settings: dict[str, Any] = {"interval_s": 0.0, "max_batch": 3, "max_waiting": 5, **options}
        self.batcher: Batcher[str, str] = Batcher(
            "line", self._flush, on_shed=lambda _, why: self.shed.append(why), **settings
        )

    async def _flush(self, items: Any) -> list[str]:
        self.batches.append(list(items))
        await self.open.wait()
        return [item.upper() for item in items]


async def test_batches_are_of_those_who_came_first_and_no_larger_than_they_may_be() -> None:
    """Each answered by its own; beyond the bound of the queue nobody waits."""
    line = Line()
    first = line.batcher.put("a")
    await asyncio.sleep(0)
    later = [line.batcher.put(item) for item in "bcdef"]
    assert 5 == line.batcher.waiting
    with pytest.raises(Refusal) as refused:
        line.batcher.put("g")
    assert (Reason.OVERLOADED, ["full"]) == (refused.value.reason, line.shed)
    line.open.set()
    assert list("ABCDEF") == await asyncio.gather(first, *later)
    assert [["a"], ["b", "c", "d"], ["e", "f"]] == line.batches
    assert 0 == line.batcher.waiting


async def test_who_has_no_time_left_is_not_flushed() -> None:
    """Time that is over is over, whether or not the caller has gone; others are served."""
    line = Line()
    line.open.set()
    first, late, patient = (
        line.batcher.put(item, remaining_s)
        for item, remaining_s in (("a", None), ("b", 0.01), ("c", 60.0))
    )
    # The loop stands still, so that the time is over before the first batch is taken.
    time.sleep(0.02)  # noqa: ASYNC251
    assert ["A", "C"] == [await first, await patient]
    with pytest.raises(Refusal) as refused:
        await late
    assert Reason.OVERLOADED is refused.value.reason
    assert ([["a", "c"]], ["too_late"]) == (line.batches, line.shed)


async def test_after_the_end_nothing_new_is_taken() -> None:
    """With the time after which another server will do; what waits is answered."""
    line = Line()
    first = line.batcher.put("a")
    closing = asyncio.create_task(line.batcher.close())
    await asyncio.sleep(0)
    for _ in range(2):
        with pytest.raises(Refusal) as refused:
            line.batcher.check_admission(None)
        assert (Reason.SHUTTING_DOWN, 1.0) == (refused.value.reason, refused.value.retry_after_s)
    line.open.set()
    await closing
    assert "A" == await first
    assert [] == line.shed
