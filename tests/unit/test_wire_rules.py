"""What messages say of passes, places and sessions, and which bounds they are held to."""

import inspect
from collections import deque
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.unit.builders import (
    NOW,
    element,
    make_hold,
    make_pass,
    make_session,
    make_tariff,
    make_terms,
)
from voucher_grpc.domain.catalogue.product import (
    EnergyBundle,
    FlatPeriod,
    PercentageOff,
    SessionBundle,
    Terms,
    ValidityPeriod,
)
from voucher_grpc.domain.passes.refund import refund_micros
from voucher_grpc.domain.passes.state import Balance, ClosedAs, Pass
from voucher_grpc.domain.places.location import Connector, Evse, Location, Vehicle, VehicleProfile
from voucher_grpc.domain.pricing.tariff import Dimension
from voucher_grpc.domain.tendencies.tendency import rebuild
from voucher_grpc.edge.wire.checks import Checks
from voucher_grpc.edge.wire.conditions import (
    conditions_from_message,
    place_from_message,
    place_message,
    restrictions_from_message,
)
from voucher_grpc.edge.wire.messages import instant_of, timestamp
from voucher_grpc.edge.wire.passes import fill_pass, pass_part
from voucher_grpc.edge.wire.places import (
    location_from_message,
    location_message,
    profile_from_message,
    vehicle_message,
)
from voucher_grpc.edge.wire.sessions import session_from_message, tendency_message
from voucher_grpc.edge.wire.tariffs import tariff_from_message, tariff_message
from voucher_grpc.edge.wire.users import session_message
from voucher_grpc.errors import BadInput
from voucher_grpc.ocpi import PlaceKey, PowerType, VehicleType
from voucher_grpc.steps import finished
from voucher_grpc.v1 import conditions_pb2, location_service_pb2, pass_pb2, vehicle_pb2
from voucher_grpc.v1.pass_pb2 import PassState

DAY = timedelta(days=1)


def told(owned: Pass, terms: Terms | None = None, now: datetime = NOW) -> pass_pb2.Pass:
    """A pass as a caller sees it."""
    terms = terms or make_terms()
    message = pass_pb2.Pass()
    fill_pass(message, pass_part(terms, owned.product_revision), owned, terms, now)
    return message


def times(message: pass_pb2.Pass) -> dict[str, datetime]:
    """The instants that are set."""
    return {
        field.name: instant_of(value)
        for field, value in message.ListFields()
        if field.name.endswith(("_time", "_before"))
    }


def test_only_a_cancelled_pass_has_a_cancel_time() -> None:
    """One that expired or lapsed was closed too, but by nobody."""
    start, end = NOW, NOW + 30 * DAY
    always = {"purchase_time": NOW, "start_time": start, "end_time": end}
    closed = {"close_time": NOW + DAY}
    assert always == times(told(make_pass()))
    assert always == times(told(make_pass(closed_as=ClosedAs.EXPIRED, **closed)))
    cancelled = make_pass(closed_as=ClosedAs.CANCELLED, refund_micros=7_500_000, **closed)
    assert {**always, "cancel_time": NOW + DAY} == times(told(cancelled))
    assert (7, 500_000_000, "NOK") == (
        told(cancelled).refund.units,
        told(cancelled).refund.nanos,
        told(cancelled).refund.currency_code,
    )
    assert not told(make_pass()).HasField("refund")
    lapsed = make_hold(closed_as=ClosedAs.LAPSED, **closed)
    held = {"purchase_time": NOW, "hold_expire_time": NOW + timedelta(minutes=10)}
    assert held == times(told(lapsed)) == times(told(make_hold()))


def test_a_pass_tells_its_times_and_until_when_it_can_be_withdrawn() -> None:
    """Days of 24 hours from the payment on: that of the confirmation for a hold."""
    terms = make_terms(withdrawal_days=14)
    assert NOW + 14 * DAY == times(told(make_pass(), terms))["withdrawal_end_time"]
    assert "withdrawal_end_time" not in times(told(make_hold(), terms))
    paid = make_hold(confirm_time=NOW + DAY, period=ValidityPeriod(None, None, NOW + 365 * DAY))
    assert {
        "purchase_time": NOW,
        "confirm_time": NOW + DAY,
        "first_use_before": NOW + 365 * DAY,
        "hold_expire_time": NOW + timedelta(minutes=10),
        "withdrawal_end_time": NOW + 15 * DAY,
    } == times(told(paid, terms))


@pytest.mark.parametrize(
    ("owned", "after", "state"),
    [
        (make_pass(), timedelta(0), "ACTIVE"),
        (make_pass(), -timedelta(microseconds=1), "NOT_STARTED"),
        (make_pass(), 30 * DAY, "EXPIRED"),
        (make_pass(), 30 * DAY - timedelta(microseconds=1), "ACTIVE"),
        (make_hold(), timedelta(minutes=10), "LAPSED"),
        (make_hold(), timedelta(minutes=10, microseconds=-1), "PENDING"),
        (make_pass(period=ValidityPeriod(None, None, NOW + DAY)), timedelta(0), "NOT_STARTED"),
        (make_pass(period=ValidityPeriod(None, None, NOW + DAY)), DAY, "EXPIRED"),
        (make_pass(closed_as=ClosedAs.CANCELLED, close_time=NOW), timedelta(0), "CANCELLED"),
    ],
)
def test_a_pass_is_in_the_state_of_the_instant(owned: Pass, after: timedelta, state: str) -> None:
    """Starts are inclusive, ends exclusive, to the microsecond."""
    assert f"PASS_STATE_{state}" == PassState.Name(told(owned, now=NOW + after).state)


def test_a_balance_has_the_measures_of_its_benefit() -> None:
    """Nothing left is zero, which is not the same as no such measure."""
    empty = told(make_pass(balance=Balance(energy_wh=0))).balance
    assert (True, False) == (empty.HasField("energy_wh"), empty.HasField("sessions"))
    sessions = told(make_pass(balance=Balance(sessions=7))).balance
    assert (False, 7) == (sessions.HasField("energy_wh"), sessions.sessions)
    assert told(make_pass(balance=Balance())).HasField("balance")


def test_the_tax_of_a_price_is_the_part_contained_in_it() -> None:
    """25 % on 39.20 are 9.80 of 49."""
    part = pass_part(make_terms(tax_rate_basis_points=2_500), 3)
    assert (9, 800_000_000, 3) == (part.tax.units, part.tax.nanos, part.product_revision)
    assert (49, 0, 2_500) == (part.price.units, part.price.nanos, part.tax_rate_basis_points)


@pytest.mark.parametrize(
    ("benefit", "balance", "days", "expected"),
    [
        (EnergyBundle(100_000), Balance(energy_wh=25_000), 29, 15),
        (SessionBundle(10), Balance(sessions=4), 29, 24),
        (FlatPeriod(100_000), Balance(energy_wh=25_000), 3, 15),
        (FlatPeriod(100_000), Balance(energy_wh=95_000), 27, 6),
        (PercentageOff(1), Balance(), 10, 40),
        (PercentageOff(1), Balance(), 0, 60),
        (PercentageOff(1), Balance(), -1, 60),
        (PercentageOff(1), Balance(), 30, 0),
        (PercentageOff(1), Balance(), 31, 0),
    ],
)
def test_what_was_not_used_is_given_back(
    benefit: Any, balance: Balance, days: int, expected: float
) -> None:
    """Of 60: by what a bundle has left, of a flat period the lesser, else by time."""
    terms = make_terms(benefit=benefit, price=60)
    owned = make_pass(price=terms.price, balance=balance)
    assert expected * 1_000_000 == refund_micros(terms, owned, NOW + days * DAY)


def test_a_refund_is_rounded_to_what_can_be_paid() -> None:
    """A third of 0.05 is 0.02 in a currency of hundredths; a half goes up."""
    terms = make_terms(benefit=SessionBundle(3), price=0.05)
    owned = make_pass(price=terms.price, balance=Balance(sessions=1))
    assert 20_000 == refund_micros(terms, owned, NOW)
    terms = make_terms(benefit=SessionBundle(2), price=0.05)
    assert 30_000 == refund_micros(terms, make_pass(price=terms.price, balance=owned.balance), NOW)


def wrong(check: Any) -> list[str]:
    """The fields that a check objects to."""
    checks = Checks()
    check(checks)
    return [violation.field for violation in checks.violations]


@pytest.mark.parametrize(
    ("selectors", "fields"),
    [
        ({"min_connector_power_w": 50_000, "max_connector_power_w": 50_000}, []),
        (
            {"min_connector_power_w": 50_001, "max_connector_power_w": 50_000},
            ["max_connector_power_w"],
        ),
        ({"min_connector_power_w": 0}, []),
        ({"max_connector_power_w": 0}, ["max_connector_power_w"]),
        ({"max_connector_power_w": 10_000_000}, []),
        ({"max_connector_power_w": 10_000_001}, ["max_connector_power_w"]),
        ({"power_types": [5, 5]}, ["power_types"]),
        ({"power_types": [0]}, ["power_types"]),
        ({"power_types": [1, 2, 3, 4, 5]}, []),
        ({"vehicle_types": [1, 1]}, ["vehicle_types"]),
        ({"vehicle_types": [0]}, ["vehicle_types"]),
    ],
)
def test_selectors_have_bounds_that_may_be_equal(
    selectors: dict[str, Any], fields: list[str]
) -> None:
    """Both bounds of a connector's power are inclusive: one power is a range."""
    message = conditions_pb2.UsageConditions(selectors=conditions_pb2.Selectors(**selectors))
    found = wrong(lambda checks: conditions_from_message(checks, "c", message))
    assert [f"c.selectors.{field}" for field in fields] == found


@pytest.mark.parametrize(
    ("restrictions", "fields"),
    [
        ({"min_energy_wh": 5, "max_energy_wh": 6}, []),
        ({"min_energy_wh": 5, "max_energy_wh": 5}, ["max_energy_wh"]),
        ({"min_power_w": 6, "max_power_w": 5}, ["max_power_w"]),
        ({"max_current_ma": 0}, ["max_current_ma"]),
        ({"min_current_ma": 0, "max_current_ma": 1}, []),
        ({"max_duration_s": 31 * 86_400}, []),
        ({"max_duration_s": 31 * 86_400 + 1}, ["max_duration_s"]),
        ({"max_energy_wh": 100_000_000, "max_current_ma": 100_000_000}, []),
        ({"max_energy_wh": 100_000_001}, ["max_energy_wh"]),
        ({"max_power_w": 10_000_001}, ["max_power_w"]),
        ({"start_time": "10:00", "end_time": "10:00"}, ["end_time"]),
        ({"start_time": "10:00", "end_time": "09:59"}, []),
        ({"start_time": "00:00", "end_time": "00:00"}, []),
        ({"start_date": "2026-11-16", "end_date": "2026-11-17"}, []),
        ({"start_date": "2026-11-16", "end_date": "2026-11-16"}, ["end_date"]),
        ({"day_of_week": [1, 7]}, []),
        ({"day_of_week": [0]}, ["day_of_week"]),
        ({"day_of_week": [8]}, ["day_of_week"]),
        ({"day_of_week": [1, 1]}, ["day_of_week"]),
    ],
)
def test_restrictions_leave_something_between_their_bounds(
    restrictions: dict[str, Any], fields: list[str]
) -> None:
    """Upper bounds are exclusive, so equal ones would be empty."""
    message = conditions_pb2.Restrictions(**restrictions)
    found = wrong(lambda checks: restrictions_from_message(checks, "r", message))
    assert [f"r.{field}" for field in fields] == found


def test_a_connector_needs_its_evse() -> None:
    """In a place that is named; the EVSE alone is one."""
    place = {"country_code": "NO", "party_id": "OSL", "location_id": "L1"}
    for more, fields in (
        ({}, []),
        ({"evse_uid": "E1"}, []),
        ({"evse_uid": "E1", "connector_id": "1"}, []),
        ({"connector_id": "1"}, ["p.evse_uid"]),
        ({"evse_uid": "x" * 36}, []),
        ({"evse_uid": "x" * 37}, ["p.evse_uid"]),
    ):
        message = conditions_pb2.LocationReference(**place, **more)
        assert fields == wrong(lambda checks, m=message: place_from_message(checks, "p", m))
    key = PlaceKey("NO", "OSL", "L1", "E1", "1")
    assert key == place_from_message(Checks(), "p", place_message(key))


LISTS = [
    (conditions_from_message, conditions_pb2.UsageConditions, "any_of", 20),
    (conditions_from_message, conditions_pb2.UsageConditions, "selectors.parties", 50),
    (conditions_from_message, conditions_pb2.UsageConditions, "selectors.locations", 200),
    (conditions_from_message, conditions_pb2.UsageConditions, "selectors.connector_standards", 50),
    (location_from_message, location_service_pb2.Location, "evses", 500),
    (location_from_message, location_service_pb2.Location, "evses[0].connectors", 20),
    (location_from_message, location_service_pb2.Location, "evses[0].connectors[0].tariff_ids", 10),
    (tariff_from_message, location_service_pb2.Tariff, "elements", 500),
    (tariff_from_message, location_service_pb2.Tariff, "elements[0].price_components", 10),
    (profile_from_message, vehicle_pb2.VehicleProfile, "connector_standards", 10),
]


@pytest.mark.parametrize(("reader", "kind", "path", "most"), LISTS, ids=[case[2] for case in LISTS])
def test_each_list_is_bounded_and_full_it_is_good(
    reader: Any, kind: Any, path: str, most: int
) -> None:
    """The number itself is still allowed, one more is named with it."""

    def objections(count: int) -> list[str]:
        message = kind()
        *parents, name = path.split(".")
        values = message
        for parent in parents:
            attribute, _, index = parent.partition("[")
            values = getattr(values, attribute)
            if index:
                values.add()
                values = values[0]
        values = getattr(values, name)
        text = name in ("connector_standards", "tariff_ids")
        values.extend(["MCS"] * count) if text else [values.add() for _ in range(count)]
        checks = Checks()
        read: Any = reader(checks, "f", message)
        if inspect.isgenerator(read):  # what may be large is read in steps
            deque(read, maxlen=0)
        return [
            v.description
            for v in checks.violations
            if v.field == f"f.{path}" and "twice" not in v.description
        ]

    assert [] == objections(most)
    [description] = objections(most + 1)
    assert f"to {most} entries, has {most + 1}" in description


def test_places_are_read_back_unchanged() -> None:
    """All that a location, a vehicle and a tariff hold."""
    connectors = (
        Connector("1", "IEC_62196_T2", PowerType.AC_3_PHASE, 22_000, ("T1", "T2")),
        Connector("2", "CHADEMO", None, 0),
    )
    evses = (Evse("E1", connectors), Evse("E2", connectors[:1]), Evse("E3"))
    place = Location("NO", "OSL", "L1", "Europe/Oslo", "Torget", evses)
    checks = Checks()
    assert place == finished(location_from_message(checks, "l", location_message(place)))
    profile = VehicleProfile(
        VehicleType.VAN, frozenset({"MCS", "CHADEMO"}), 11_000, 150_000, 77_000
    )
    message = vehicle_message(Vehicle("car", "alice", profile, NOW))
    assert profile == profile_from_message(checks, "p", message.profile)
    assert ("car", "alice", NOW) == (
        message.vehicle_id,
        message.user_id,
        instant_of(message.create_time),
    )
    assert [] == checks.violations


def test_ids_of_a_location_are_unique_where_they_must_be() -> None:
    """EVSEs in the location, connectors in their EVSE."""
    one = Connector("1", "MCS")
    twice = Location("NO", "OSL", "L", "UTC", evses=(Evse("E"), Evse("E")))
    inner = Location("NO", "OSL", "L", "UTC", evses=(Evse("E", (one, one)), Evse("F", (one,))))
    for place, field in ((twice, "l.evses"), (inner, "l.evses[0].connectors")):
        message = location_message(place)
        assert [field] == wrong(
            lambda checks, m=message: finished(location_from_message(checks, "l", m))
        )


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({"min_price_micros": 5, "max_price_micros": 5}, []),
        ({"min_price_micros": 6, "max_price_micros": 5}, ["max_price_micros"]),
        ({"max_price_micros": 10**12}, []),
        ({"max_price_micros": 10**12 + 1}, ["max_price_micros"]),
        ({"min_price_micros": -1}, ["min_price_micros"]),
        (
            {"min_price_after_tax_micros": 6, "max_price_after_tax_micros": 5},
            ["max_price_after_tax_micros"],
        ),
        ({"min_price_after_tax_micros": 6, "max_price_micros": 5}, []),
    ],
)
def test_a_tariffs_bounds_may_be_equal(changes: dict[str, int], fields: list[str]) -> None:
    """Then each session costs the same."""
    message = tariff_message(make_tariff(element(Dimension.ENERGY, 4)))
    for name, value in changes.items():
        setattr(message, name, value)
    found = wrong(lambda checks: finished(tariff_from_message(checks, "t", message)))
    assert [f"t.{field}" for field in fields] == found


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"start_time": datetime(2010, 1, 1, tzinfo=UTC)}, None),
        ({"start_time": datetime(2009, 12, 31, 23, 59, 59, tzinfo=UTC)}, "start_time"),
        ({"start_time": NOW + DAY, "end_time": None}, None),
        ({"start_time": NOW + DAY + timedelta(microseconds=1)}, "start_time"),
        ({"start_time": NOW - DAY, "end_time": NOW - DAY}, None),
        ({"start_time": NOW - DAY, "end_time": NOW - DAY - timedelta(microseconds=1)}, "end_time"),
        ({"start_time": NOW - 31 * DAY, "end_time": NOW}, None),
        ({"start_time": NOW - 31 * DAY, "end_time": NOW + timedelta(microseconds=1)}, "end_time"),
        ({"start_time": NOW, "end_time": NOW + DAY}, None),
        ({"start_time": NOW, "end_time": NOW + DAY + timedelta(microseconds=1)}, "end_time"),
        ({"energy_wh": 0}, None),
        ({"energy_wh": 10_000_000}, None),
        ({"energy_wh": 10_000_001}, "energy_wh"),
        ({"energy_wh": -1}, "energy_wh"),
    ],
)
def test_a_session_is_from_2010_to_a_day_ahead_and_a_month_long_at_most(
    changes: dict[str, Any], field: str | None
) -> None:
    """Each bound itself is still allowed."""
    session = make_session(**changes)
    message = session_message(session)
    message.correction = True
    if field is None:
        read = session_from_message(message, NOW)
        assert (session, True) == (read.session, read.correction)
    else:
        with pytest.raises(BadInput) as refused:
            session_from_message(message, NOW)
        assert [field] == [v.field for v in refused.value.violations]


def test_a_session_must_say_where_and_when() -> None:
    """Its end may be unknown."""
    message = session_message(make_session(end_time=None))
    assert session_from_message(message, NOW).session.end_time is None
    for field in ("location", "start_time"):
        message = session_message(make_session())
        message.ClearField(field)
        with pytest.raises(BadInput) as refused:
            session_from_message(message, NOW)
        assert [field] == [v.field for v in refused.value.violations]


def test_a_tendency_is_told_in_its_units() -> None:
    """Operators by their shares, the greatest first, of two equal ones by name."""
    tendency = rebuild(
        make_session(str(n), start_time=NOW - n * DAY, energy_wh=8_000) for n in range(40)
    )
    shares = [("OSL", "a", 0.3), ("ABC", "b", 0.3), ("XYZ", "c", 0.25), ("XYZ", "d", 0.15)]
    places = [(PlaceKey("NO", party, name), share) for party, name, share in shares]
    message = tendency_message("alice", tendency, places, "FAST", NOW)
    assert [0.3, 0.3, 0.25, 0.15] == pytest.approx([p.share for p in message.places])
    assert ["XYZ", "ABC", "OSL"] == [operator.party_id for operator in message.operators]
    assert [0.4, 0.3, 0.3] == pytest.approx([operator.share for operator in message.operators])
    assert (40, 8_000, 7_200, 4_000) == (
        message.sessions,
        message.energy_wh_per_session,
        message.dwell_s,
        message.mean_power_w,
    )
    assert message.sessions_per_30_days == pytest.approx(30, rel=0.1)
    assert message.energy_wh_per_30_days == pytest.approx(240_000, rel=0.1)
    assert (timestamp(NOW - 39 * DAY), timestamp(NOW)) == (
        message.first_session_time,
        message.last_session_time,
    )
    forecast = message.forecast
    assert 0 < forecast.energy_low_wh < forecast.energy_wh < forecast.energy_high_wh
