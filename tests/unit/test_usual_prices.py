"""What offers take charging to cost: the user's latest sessions, priced by the engine."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from fractions import Fraction
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from tests.unit import pricing_builders as ocpi
from tests.unit.builders import (
    NOW,
    PLACE,
    element,
    make_product,
    make_session,
    make_tariff,
    paid,
    place_prices_of,
)
from voucher_grpc.domain.catalogue.conditions import Restrictions
from voucher_grpc.domain.catalogue.product import (
    EnergyBundle,
    EnergyPrice,
    PercentageOff,
    SessionBundle,
)
from voucher_grpc.domain.offers.caches import PriceCache
from voucher_grpc.domain.offers.choices import Ranking
from voucher_grpc.domain.offers.determine import determine
from voucher_grpc.domain.offers.knowledge import Knowledge, UserSettings
from voucher_grpc.domain.offers.request import OffersRequest
from voucher_grpc.domain.offers.snapshot import build_snapshot
from voucher_grpc.domain.places.location import Connector, Evse, Location
from voucher_grpc.domain.pricing.charge import charge_between
from voucher_grpc.domain.pricing.tariff import (
    Dimension,
    PriceLimit,
    Reservation,
    Tariff,
)
from voucher_grpc.domain.pricing.usual import UsualSession
from voucher_grpc.domain.tendencies.forecast import default_parameters, forecasts
from voucher_grpc.domain.tendencies.recent import (
    RECENT_SESSIONS,
    place_number,
    recent_sessions,
    with_session,
)
from voucher_grpc.domain.tendencies.tendency import Session, rebuild, shape_weight
from voucher_grpc.domain.tendencies.user_prices import by_hour
from voucher_grpc.ocpi import Day
from voucher_grpc.steps import finished

ENERGY, FLAT, TIME, PARKING = (
    Dimension.ENERGY,
    Dimension.FLAT,
    Dimension.TIME,
    Dimension.PARKING_TIME,
)
OSLO = ZoneInfo("Europe/Oslo")
DAY = timedelta(days=1)
NOON = UsualSession(12 * 60, 10_000, 7_200)  # on Monday


@pytest.mark.parametrize(
    ("dimension", "length_s", "expected"),
    [
        (ENERGY, 7_200, 7.0),
        # 10 kWh a session: a tenth of what is paid once.
        (FLAT, 7_200, 0.7),
        # 10 kWh at 7 kW are 10/7 hours of charging.
        (TIME, 7_200, 1.0),
        (PARKING, 7_200, 0.4),
        # No longer than it is plugged in, and then nothing is parked.
        (TIME, 3_600, 0.7),
        (PARKING, 3_600, 0.0),
        # How long it is plugged in is not known.
        (TIME, 0, 1.0),
        (PARKING, 0, 0.0),
    ],
)
def test_each_dimension_of_a_tariff_is_put_on_a_kwh(
    dimension: Dimension, length_s: int, expected: float
) -> None:
    """Sessions of 10 kWh at 7 NOK for a kWh, a session, an hour of charging or of parking."""
    prices = place_prices_of(make_tariff(element(dimension, 7, step=0)))
    found = paid(prices, NOON._replace(length_s=length_s))
    assert expected == pytest.approx(found.usual[0] / 1e6, abs=1e-4)
    assert [expected] * 168 == pytest.approx((by_hour([found])[0, 0] / 1e6).tolist(), abs=1e-4)


def test_a_session_is_priced_where_it_charges_not_where_it_begins() -> None:
    """From 21:00 to 23:00 half of it is in the night."""
    night = Restrictions(start_minute=22 * 60, end_minute=6 * 60)
    tariff = make_tariff(element(ENERGY, 2, restrictions=night), element(ENERGY, 4))
    found = paid(place_prices_of(tariff), UsualSession(21 * 60, 14_000, 7_200))
    assert 3e6 == pytest.approx(found.usual[0])


def test_hours_without_sessions_take_the_mean_of_the_others() -> None:
    """Two sessions at 2 and 4, each in its own hour."""
    night = Restrictions(start_minute=22 * 60, end_minute=6 * 60)
    tariff = make_tariff(element(ENERGY, 2, restrictions=night), element(ENERGY, 4))
    late = UsualSession(23 * 60, 30_000, 3_600)
    found = by_hour([paid(place_prices_of(tariff, power_w=100_000), NOON, late)])[0, 0]
    assert [4e6, 2e6, 2.5e6] == pytest.approx([found[12], found[23], found[36]])


def test_restrictions_see_no_more_power_than_the_connector_has() -> None:
    """20 kWh in an hour at 11 kW: what was charged is a fact, and no more than 11 kW flows."""
    slow = Restrictions(max_power_w=16_000)
    tariff = make_tariff(element(ENERGY, 9, restrictions=slow), element(ENERGY, 2))
    session = UsualSession(0, 20_000, 3_600)
    for power_w, expected in ((11_000, 9), (22_000, 2)):
        found = paid(place_prices_of(tariff, power_w=power_w), session)
        assert expected == pytest.approx(found.usual.item(0) / 1e6)


@pytest.mark.parametrize(("power_w", "expected"), [(11_000, 1), (50_000, 5), (0, 1)])
def test_the_power_of_the_connector_decides_which_element_applies(
    power_w: int, expected: float
) -> None:
    """A price from 32 kW on; a session that took 20 kWh in one hour took them at 20 kW."""
    fast = Restrictions(min_power_w=32_000)
    tariff = make_tariff(element(ENERGY, 5, restrictions=fast), element(ENERGY, 1))
    found = paid(place_prices_of(tariff, power_w=power_w), UsualSession(0, 20_000, 3_600))
    assert expected * 1e6 == pytest.approx(found.usual[0])


def test_a_change_of_the_tariff_in_the_coming_period_counts_from_its_date() -> None:
    """Ten days at 1 and twenty at 4."""
    later = make_tariff(element(ENERGY, 4), start_time=NOW + 10 * DAY)
    prices = place_prices_of(make_tariff(element(ENERGY, 1)), later)
    week = [UsualSession(day * 1_440 + 600, 10_000, 3_600) for day in range(7)]
    assert 3e6 == pytest.approx(paid(prices, *week).usual[0], rel=0.05)
    assert prices.today(NOW) == NOW.astimezone(OSLO).date()


@pytest.mark.parametrize(("start", "expected"), [(-40, 2), (5, 2), (40, 2), (-1, 7)])
def test_a_price_for_some_dates_counts_on_those_dates(start: int, expected: float) -> None:
    """One that is over does not, and one for a single coming day hardly."""
    today = NOW.astimezone(OSLO).date()
    dates = Restrictions(
        start_date=today + start * DAY, end_date=today + (start + (40 if start == -1 else 1)) * DAY
    )
    tariff = make_tariff(element(ENERGY, 7, restrictions=dates), element(ENERGY, 2))
    week = [UsualSession(day * 1_440 + 600, 10_000, 3_600) for day in range(7)]
    found = paid(place_prices_of(tariff), *week)
    assert expected == pytest.approx(found.usual[0] / 1e6, rel=0.1)


def test_like_sessions_share_a_price() -> None:
    """Of what a tariff does not ask for nothing is told apart."""
    tiers = make_tariff(
        element(ENERGY, 2, restrictions=Restrictions(max_energy_wh=5_000)), element(ENERGY, 1)
    )
    kind = place_prices_of(tiers).kind(UsualSession(754, 10_004, 3_601))
    assert UsualSession(0, 10_000, 0) == kind
    by_time = place_prices_of(make_tariff(element(TIME, 2)))
    assert UsualSession(0, 10_000, 3_600) == by_time.kind(UsualSession(754, 10_004, 3_601))
    window = make_tariff(element(ENERGY, 2, restrictions=Restrictions(start_minute=60)))
    assert UsualSession(754, 10_000, 0) == place_prices_of(window).kind(
        UsualSession(754, 10_004, 0)
    )
    assert 2e6 == place_prices_of(make_tariff(element(ENERGY, 2))).price_per_kwh
    assert 2.5e6 == place_prices_of(make_tariff(element(ENERGY, 2, None)), vat=2_500).price_per_kwh


@pytest.mark.parametrize(
    "tariff",
    [
        make_tariff(element(ENERGY, 2, step=1_000)),
        make_tariff(element(ENERGY, 2), element(FLAT, 1)),
        make_tariff(element(ENERGY, 2), max_price=PriceLimit(1)),
        make_tariff(element(ENERGY, 2), min_price=PriceLimit(1)),
        make_tariff(element(ENERGY, 2, restrictions=Restrictions(max_energy_wh=1))),
        make_tariff(element(ENERGY, 2, reservation=Reservation.RESERVATION)),
        make_tariff(element(ENERGY, 2), start_time=NOW, end_time=NOW + DAY),
    ],
)
def test_a_price_is_the_same_for_each_kwh_only_where_nothing_else_is_asked_for(
    tariff: Tariff,
) -> None:
    """Otherwise sessions are priced one by one."""
    timeline = (tariff, make_tariff(element(ENERGY, 3), start_time=NOW + DAY))
    prices = place_prices_of(*(timeline if tariff.end_time else (tariff,)))
    assert prices.price_per_kwh is None


def test_what_a_user_pays_is_found_once_until_there_is_another_session() -> None:
    """Whose sessions are not known is not kept."""
    cache, prices = PriceCache(), place_prices_of(make_tariff(element(FLAT, 7)))
    asked: list[str] = []

    def found(recent: bytes, places: tuple[int, ...] = (1,)) -> object:
        def sessions() -> list[tuple[UsualSession, float]]:
            asked.append(recent.decode())
            return [(NOON, 1.0)]

        return finished(cache.user_prices(prices, recent, places, sessions, NOW))

    assert found(b"a") is found(b"a")
    assert found(b"a") is not found(b"b")
    assert found(b"a") is not found(b"a", (1, 2))
    assert found(b"") is not found(b"")
    assert ["a", "b", "a", "", ""] == asked


def test_the_latest_sessions_are_kept_whatever_their_order() -> None:
    """32 of them, by their local start."""
    sessions = [
        make_session(str(number), start_time=NOW - number * DAY, energy_wh=1_000 + number)
        for number in range(40)
    ]
    recents = []
    for order in (sessions, sessions[::-1], Random(1).sample(sessions, 40)):
        recent = b""
        for one in order:
            recent = with_session(
                recent, one.start_time, one.end_time, one.time_zone, one.energy_wh, one.place
            )
        recents.append(recent)
    assert recents[0] == recents[1] == recents[2]
    found = recent_sessions(recents[0])
    assert [1_000 + number for number in range(RECENT_SESSIONS - 1, -1, -1)] == [
        session.energy_wh for session in found
    ]
    assert {place_number(PLACE)} == {session.place_number for session in found}
    local = NOW.astimezone(OSLO)
    minute_of_week = local.weekday() * 1_440 + local.hour * 60 + local.minute
    assert minute_of_week == found[-1].minute_of_week
    assert 7_200 == found[-1].length_s


def test_sessions_before_2000_and_of_any_size_are_kept() -> None:
    """Within what a record can hold."""
    start = datetime(1999, 5, 1, tzinfo=OSLO)
    recent = with_session(b"", start, start - DAY, "Europe/Oslo", 2**40, PLACE)
    [found] = recent_sessions(recent)
    assert (0, 0, 2**32 - 1) == found[:3]


PASSES = [
    make_product("percentage", PercentageOff(10_000), price=0),
    make_product("energy", EnergyBundle(10**9), price=0),
    make_product("sessions", SessionBundle(10_000), price=0),
    make_product("price", EnergyPrice(0), price=0),
]


def ranked(tariff: Tariff, sessions: Sequence[Session], power_w: int) -> Ranking:
    """The offers for a user who charges at home only."""
    connector = Connector("1", "IEC_62196_T2", None, power_w, (tariff.tariff_id,))
    location = Location("NO", "OSL", "home", "Europe/Oslo", evses=(Evse("1", (connector,)),))
    tendency = rebuild(sessions)
    [tendency.forecast] = forecasts(default_parameters(), [tendency])
    values: dict[str, Any] = {
        "user_id": "alice",
        "settings": UserSettings(currency_code="NOK"),
        "vehicle": None,
        "tendency": tendency,
        "profile_type": "",
        "places": [(PLACE, 1.0)],
        "bought": (),
        "owned": {},
        "sold_out": frozenset(),
        "snapshot": build_snapshot(1, PASSES, [tariff]),
    }
    request = OffersRequest(currency_code="NOK", max_offers=3)
    locations = {("NO", "OSL", "home"): location}
    return determine(Knowledge(**values), request, locations, {}, NOW).ranking


def random_tariff(random: Random) -> Tariff:
    """Windows, weekdays, tiers, durations, power, steps and limits; energy always has a price."""

    def restrictions() -> Restrictions:
        kinds: list[dict[str, Any]] = [
            {
                "start_minute": random.randrange(0, 1_440, 30),
                "end_minute": random.randrange(0, 1_440, 30),
            },
            {"day_of_week": frozenset(random.sample(list(Day), random.randint(1, 5)))},
            {"max_energy_wh": random.randint(1, 30) * 1_000},
            {"min_duration_s": random.randint(1, 8) * 900},
            {"min_power_w": random.randint(1, 22) * 1_000},
        ]
        asked: dict[str, Any] = {}
        for kind in random.sample(kinds, random.randint(1, 2)):
            asked |= kind
        return Restrictions(**asked)

    def price(most: int) -> float:
        return random.randint(most // 10, most) / 100

    elements = [
        element(
            random.choice([ENERGY, ENERGY, FLAT, TIME, PARKING]),
            price(600),
            random.choice([0, 2_500]),
            random.choice([0, 1, 300]),
            restrictions=restrictions(),
        )
        for _ in range(random.randint(0, 3))
    ]
    limits = {
        name: PriceLimit(random.randint(0, most) * 1_000_000)
        for name, most in (("min_price", 40), ("max_price", 200))
        if random.random() < 0.25
    }
    return make_tariff(
        *elements, element(ENERGY, price(600), 2_500, random.choice([0, 1, 10_000])), **limits
    )


def random_sessions(random: Random) -> list[Session]:
    """Twenty sessions of the last 60 days; night and day as this user is used to."""
    sessions = []
    hour, usual_wh = random.randrange(24), random.randint(3, 60) * 1_000
    for number in range(20):
        start = NOW - timedelta(days=3 * number, hours=hour, minutes=random.randint(0, 240))
        length = timedelta(minutes=random.randint(20, 720))
        energy_wh = round(usual_wh * random.uniform(0.5, 1.5))
        sessions.append(
            make_session(
                str(number), start_time=start, end_time=start + length, energy_wh=energy_wh
            )
        )
    return sessions


def costs_micros(tariff: Tariff, session: Session, power_w: int) -> Fraction:
    """What a recorded session costs by the engine, today's prices."""
    assert session.end_time is not None
    length_s = (session.end_time - session.start_time) // timedelta(seconds=1)
    power = max(Fraction(power_w), Fraction(session.energy_wh * 3_600, length_s))
    wh = Fraction(session.energy_wh)
    charge = charge_between(session.start_time, session.end_time, wh, power)
    # Restrictions see no more than the connector has.
    charging, *parking = charge.phases
    charging = charging._replace(shown_power_w=min(power, Fraction(power_w)))
    charge = charge._replace(phases=(charging, *parking))
    return ocpi.priced(tariff, charge, OSLO).total.after_tax


def test_pay_as_you_go_is_what_the_recorded_sessions_cost_at_the_expected_rate() -> None:
    """Within 2 % on 1,000 random tariffs, each with a user of its own; later sessions count more,
    as in the expected rate. No pass saves more than that."""
    random = Random(14)
    off = []
    for _ in range(1_000):
        tariff, sessions = random_tariff(random), random_sessions(random)
        power_w = random.choice([3_700, 11_000, 22_000, 50_000])
        ranking = ranked(tariff, sessions, power_w)
        found = ranking.pay_as_you_go
        assert found is not None
        weights = [shape_weight(session.start_time) for session in sessions]
        cost = sum(
            weight * float(costs_micros(tariff, session, power_w))
            for weight, session in zip(weights, sessions, strict=True)
        )
        energy_wh = sum(w * s.energy_wh for w, s in zip(weights, sessions, strict=True))
        per_kwh = cost / energy_wh * 1_000
        expected = per_kwh * found.energy_kwh_per_30_days
        off.append(abs(found.cost_per_30_days / expected - 1))
        # No pass for nothing takes off more than all; what is shown is rounded to hundredths.
        saved = [choice.expected_saving_micros or 0 for choice in ranking.choices]
        assert found.cost_per_30_days >= max(saved, default=0) - 5_000
        shown = {c.product.product_id: c.expected_saving_micros for c in ranking.choices}
        assert found.cost_per_30_days == pytest.approx(shown["percentage"], abs=5_001)
    assert 0.02 >= max(off)
