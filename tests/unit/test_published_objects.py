"""Tariffs and CDRs as operators publish them: what is read, repaired, skipped, and said of it."""

from datetime import UTC, date, datetime, time, timedelta, timezone
from fractions import Fraction
from typing import Any

import pytest

from tests.unit.pricing_builders import (
    START,
    cdr,
    charge,
    component,
    element,
    priced,
    published,
    texts,
    total,
)
from voucher_grpc.domain.pricing.amounts import TaxIncluded
from voucher_grpc.domain.pricing.charge import Quantity
from voucher_grpc.domain.pricing.tariff import TariffType
from voucher_grpc.errors import BadInput
from voucher_grpc.files.notes import Notes
from voucher_grpc.files.published import NotUnderstood, instant
from voucher_grpc.files.published_cdrs import read_charge
from voucher_grpc.files.published_tariffs import read_tariff

ENERGY = component("ENERGY", 2)
PERIOD = {"start_date_time": START.isoformat()}


def read(*elements: dict[str, Any], **more: object) -> tuple[Any, list[str]]:
    notes = Notes()
    return read_tariff(published(*elements, **more), notes), list(texts(notes))


@pytest.mark.parametrize(
    ("said", "minute"),
    [("07:30", 450), ("7:30", 450), ("07:30:00", 450), ("24:00", 0), ("23:59:59", 0), ("0:00", 0)],
)
def test_times_are_read_as_they_are_meant(said: str, minute: int) -> None:
    """With seconds, without a leading zero, and the end of the day in three ways."""
    of, notes = read(element(ENERGY, end_time=said))
    assert minute == of.elements[0].restrictions.end_minute
    expected = (
        f"elements[0].restrictions.end_time: repaired: read as {minute // 60:02d}:{minute % 60:02d}"
    )
    assert ([] if said == "07:30" else [f"{expected} ({said!r})"]) == notes


@pytest.mark.parametrize("said", ["2026-06-01", "2026-6-1", "2026-06-01T00:00:00Z"])
def test_dates_are_read_as_they_are_meant(said: str) -> None:
    """Without zeros, and as the instant of a day."""
    of, notes = read(element(ENERGY, start_date=said))
    assert date(2026, 6, 1) == of.elements[0].restrictions.start_date
    assert (said != "2026-06-01") == bool(notes)


@pytest.mark.parametrize(
    "restrictions",
    [
        {"min_congestion_threshold": 90},
        {"start_time": "25:00"},
        {"start_time": "7"},
        {"start_time": "07:60"},
        {"end_time": "24:01"},
        {"start_date": "2026-13-01"},
        {"start_date": "soon"},
        {"day_of_week": ["MONDAY", "FUNDAY"]},
        {"day_of_week": "MONDAY"},
        {"min_kwh": "many"},
        {"min_kwh": True},
        {"reservation": "MAYBE"},
        ["07:00"],
    ],
)
def test_an_element_with_a_restriction_that_is_not_understood_prices_nothing(
    restrictions: object,
) -> None:
    """It would apply more widely than it was meant; the price says that something is missing."""
    of, notes = read(
        {"price_components": [component("ENERGY", 9)], "restrictions": restrictions},
        element(ENERGY),
    )
    assert (1, 1) == (len(of.elements), of.skipped_elements)
    assert 1 == len(notes)
    assert notes[0].startswith("elements[0]: skipped: restrictions: ")
    assert 40 == total(priced(of, charge(60, 20)))


def test_a_key_that_is_spelt_otherwise_is_the_restriction_it_means() -> None:
    """`dayOfWeek`, `MIN_KWH`: by their letters."""
    of, notes = read(element(ENERGY, dayOfWeek=["SUNDAY"], MIN_KWH=1))
    assert (1_000, 1) == (
        of.elements[0].restrictions.min_energy_wh,
        len(of.elements[0].restrictions.day_of_week),
    )
    assert ["elements[0].restrictions.dayOfWeek: repaired: read as day_of_week"] == notes[:1]
    assert 2 == len(notes)


@pytest.mark.parametrize("key", ["restriction", "Restrictions", "tariff_restrictions"])
def test_restrictions_by_another_key_are_restrictions(key: str) -> None:
    """Passed over, the price would apply always; two of them are not understood."""
    night = {"start_time": "22:00"}
    of, notes = read({**element(ENERGY), key: night})
    assert 22 * 60 == of.elements[0].restrictions.start_minute
    assert [f"elements[0].{key}: repaired: read as restrictions"] == notes
    of, notes = read({**element(ENERGY, end_time="06:00"), key: night}, element(ENERGY))
    assert [1] == [one.index for one in of.elements]
    assert "restrictions: stand there twice" in notes[0]


def test_values_of_enumerations_match_in_any_case() -> None:
    """OCPI's CiString."""
    of, _ = read(
        element(component("Energy", 2), day_of_week=["Monday"]), type="regular", tax_included="yes"
    )
    assert (TariffType.REGULAR, TaxIncluded.YES) == (of.type, of.tax_included)
    assert 1 == len(of.elements)


@pytest.mark.parametrize(
    "bad",
    [component("SESSION_TIME", 4), {"type": "ENERGY"}, {"type": "ENERGY", "price": "x"}, None, 7],
)
def test_a_component_that_is_not_understood_costs_itself_alone(bad: Any) -> None:
    """A price that is left out must not come to mean free."""
    of, notes = read(element(bad, component("TIME", 6)), element(ENERGY))
    assert (1, 2) == (of.skipped_elements, len(of.elements))
    assert notes[0].startswith("elements[0].price_components[0]: skipped: ")
    assert 40 + 6 == total(priced(of, charge(60, 20)))


@pytest.mark.parametrize("bad", [None, 7, "x", {}, {"price_components": None}])
def test_an_element_that_is_none_costs_itself_alone(bad: Any) -> None:
    """Its place in the list is in the note."""
    of, notes = read(element(ENERGY), bad)
    assert (1, 1) == (of.skipped_elements, len(of.elements))
    assert notes[0].startswith("elements[1]: skipped: ")


def test_an_element_that_can_never_apply_is_kept_and_reported() -> None:
    """It is the operator's, and changes nothing."""
    of, notes = read(element(component("ENERGY", 9), max_duration=0), element(ENERGY))
    assert (2, 0) == (len(of.elements), of.skipped_elements)
    assert notes[0].startswith("elements[0].restrictions: kept: can never apply")
    assert 40 == total(priced(of, charge(60, 20)))


def test_a_limit_that_is_a_bare_number_is_before_tax() -> None:
    """So some publish it; and one that is not understood bounds nothing."""
    of, notes = read(element(component("ENERGY", 2, vat=25)), max_price=20)
    assert 20 == total(priced(of, charge(60, 20)))
    assert ["max_price: repaired: read as before tax (20)"] == notes
    other, notes = read(element(ENERGY), min_price={"amount": 3}, max_price={"excl_vat": "x"})
    assert (None, None) == (other.min_price, other.max_price)
    assert 2 == len(notes)


def test_taxes_of_a_component_are_added() -> None:
    """OCPI 2.3.0: several, by name."""
    taxes = [{"name": "state", "percentage": "6.25"}, {"name": "city", "percentage": 2.625}]
    of, _ = read(element(component("ENERGY", 2, taxes=taxes)))
    assert Fraction("0.08875") == of.elements[0].price_components[0].tax_rate


def test_a_tariff_without_an_owner_gets_that_which_is_named() -> None:
    """OCPI 2.1.1."""
    document = published(element(ENERGY))
    del document["country_code"], document["party_id"]
    of = read_tariff(document, Notes(), country_code="nl", party_id="tst")
    assert ("NL", "TST") == (of.country_code, of.party_id)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"id": None}, "id"),
        ({"currency": ""}, "currency"),
        ({"elements": None}, "elements"),
        ({"elements": {}}, "elements"),
        ({"start_date_time": "soon"}, "start_date_time"),
        ({"id": ["T"]}, "id"),
    ],
)
def test_a_tariff_that_cannot_be_used_is_refused_with_the_field(
    change: dict[str, object], field: str
) -> None:
    """Without an id, a currency, elements, or with a validity that nobody can tell."""
    with pytest.raises(BadInput) as refused:
        read_tariff({**published(element(ENERGY)), **change}, Notes(), path="[3]")
    assert [f"[3].{field}"] == [violation.field for violation in refused.value.violations]


def test_null_is_what_was_left_out() -> None:
    """Everywhere."""
    nothing = dict.fromkeys(("start_time", "min_kwh", "max_power", "reservation"))
    of, notes = read(
        {"price_components": [ENERGY], "restrictions": {**nothing, "day_of_week": []}}, type=None
    )
    assert [] == notes
    assert 40 == total(priced(of, charge(60, 20)))


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("2026-06-02T08:00:00Z", START),
        ("2026-06-02T08:00:00", START),
        ("2026-6-2T8:00:00.000Z", START),
        ("2026-06-02 10:00:00+02:00", START),
        ("2026-06-02T10:00+0200", START),
        ("2026-06-02T08:00:00.123456789Z", START + timedelta(microseconds=123_456)),
    ],
)
def test_instants_are_utc_unless_they_say_otherwise(said: str, expected: datetime) -> None:
    """OCPI 2.2.1, 16.5 DateTime."""
    assert expected == instant(said)


def test_a_local_time_is_that_of_the_zone_that_is_given() -> None:
    """For people who type one."""
    assert START == instant("2026-06-02 10:00", timezone(timedelta(hours=2)))


@pytest.mark.parametrize(
    "said",
    [
        "",
        "2026-06-02",
        "2026-02-30T00:00:00Z",
        "0000-01-01T00:00:00Z",
        None,
        "9999-12-31T23:00:00-12:00",
    ],
)
def test_what_is_no_instant_is_not_understood(said: object) -> None:
    """Days without a time, days that are not, and years that are out of range."""
    with pytest.raises(NotUnderstood):
        instant(said)


def test_the_periods_of_a_cdr_are_put_in_order() -> None:
    """And it is said; energy and time before each count from the start."""
    notes = Notes()
    document = cdr((30, {"ENERGY": 5}), (0, {"ENERGY": 10, "TIME": "0.5"}))
    read_ = read_charge(document, notes)
    assert [0, 1_800] == [period.elapsed_s for period in read_.periods]
    assert [0, 10_000] == [period.energy_before_wh for period in read_.periods]
    assert {Quantity.ENERGY: 10_000, Quantity.TIME: 1_800} == read_.periods[0].volumes
    assert ["charging_periods: repaired: put in the order of their starts"] == texts(notes)


def test_dimensions_that_are_not_billed_are_skipped_and_said() -> None:
    """A volume below nothing is nothing."""
    notes = Notes()
    document = cdr((0, {"ENERGY": 10, "SESSION_TIME": 1, "TIME": "-0.0056", "FLAT": 1}))
    [period] = read_charge(document, notes).periods
    assert {Quantity.ENERGY: 10_000} == period.volumes
    assert [
        "charging_periods[0].dimensions[1]: skipped: dimension SESSION_TIME is not billed ('1')",
        "charging_periods[0].dimensions[2]: repaired: below 0, read as 0 ('-0.0056')",
    ] == texts(notes)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"start_date_time": None}, "start_date_time"),
        ({"end_date_time": None}, "end_date_time"),
        ({"end_date_time": "2026-06-01T00:00:00Z"}, "end_date_time"),
        ({"charging_periods": []}, "charging_periods"),
        ({"charging_periods": [7]}, "charging_periods[0]"),
        ({"charging_periods": [{"dimensions": []}]}, "charging_periods[0].start_date_time"),
        ({"charging_periods": [{**PERIOD, "dimensions": 7}]}, "charging_periods[0].dimensions"),
        (
            {"charging_periods": [{**PERIOD, "dimensions": [{"type": "ENERGY", "volume": "x"}]}]},
            "charging_periods[0].dimensions[0].volume",
        ),
        ({"start_date_time": "soon"}, "start_date_time"),
        ({"currency": ["NOK"]}, "currency"),
    ],
)
def test_a_cdr_that_cannot_be_priced_is_refused_with_the_field(
    change: dict[str, object], field: str
) -> None:
    """Nothing is guessed."""
    with pytest.raises(BadInput) as refused:
        read_charge({**cdr((0, {"ENERGY": 1})), **change}, Notes())
    assert [field] == [violation.field for violation in refused.value.violations]


def test_a_dimension_that_is_no_object_is_skipped_and_a_cdr_that_is_none_refused() -> None:
    """The other dimensions count."""
    notes = Notes()
    document = cdr((0, {"ENERGY": 10}))
    document["charging_periods"][0]["dimensions"].append(7)
    [period] = read_charge(document, notes).periods
    assert {Quantity.ENERGY: 10_000} == period.volumes
    assert ["charging_periods[0].dimensions[1]: skipped: must be an object (7)"] == texts(notes)
    with pytest.raises(BadInput, match="must be an object, not list"):
        read_charge([document], Notes())


def test_a_cdr_of_2_1_1_says_when_it_stopped_and_where() -> None:
    """`stop_date_time`, and a location with its time zone."""
    document = cdr((0, {"ENERGY": 1}))
    document["stop_date_time"] = document.pop("end_date_time")
    read_ = read_charge(
        {**document, "location": {"country": "NLD", "time_zone": "Europe/Amsterdam"}}, Notes()
    )
    assert ("NLD", "Europe/Amsterdam") == (read_.country, read_.time_zone)
    assert datetime.combine(date(2026, 6, 2), time(9), UTC) == read_.end
