"""Terms as a document: read back unchanged, and every wrong key named."""

import json
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.builders import NOW, SPEC, element, make_tariff
from tests.unit.terms_strategy import all_terms, restrictions
from voucher_grpc.domain.catalogue.conditions import Restrictions
from voucher_grpc.domain.catalogue.conditions_document import (
    restrictions_from_document,
    restrictions_to_document,
)
from voucher_grpc.domain.catalogue.document import terms_from_document, terms_to_document
from voucher_grpc.domain.catalogue.product import Terms
from voucher_grpc.domain.catalogue.values import (
    date_from_text,
    exactly_scaled,
    instant_from_text,
    minute_from_text,
    text_from_minute,
)
from voucher_grpc.domain.places.document import (
    location_from_document,
    location_to_document,
    location_to_text,
    vehicle_profile_from_document,
    vehicle_profile_to_document,
)
from voucher_grpc.domain.places.location import Connector, Evse, Location, VehicleProfile
from voucher_grpc.domain.pricing.amounts import TaxIncluded
from voucher_grpc.domain.pricing.document import tariff_from_document, tariff_to_text
from voucher_grpc.domain.pricing.tariff import (
    Dimension,
    PriceComponent,
    PriceLimit,
    Reservation,
    Tariff,
    TariffElement,
    TariffType,
)
from voucher_grpc.errors import BadInput
from voucher_grpc.ocpi import PowerType, VehicleType
from voucher_grpc.steps import finished

GOOD: dict[str, Any] = {
    "product_id": "night",
    "display_name": "Night",
    "price": "49.00 NOK",
    "benefit": {"energy_price_per_kwh": "3.00"},
    "validity": {"days": 30},
    "time_zone": "Europe/Oslo",
}


@SPEC
@given(all_terms())
def test_terms_are_read_back_unchanged(terms: Terms) -> None:
    """Through JSON, which the database keeps, and through YAML, which people write."""
    document = terms_to_document(terms)
    assert terms == terms_from_document(json.loads(json.dumps(document)))
    assert terms == terms_from_document(yaml.safe_load(yaml.safe_dump(document)))


@SPEC
@given(restrictions())
def test_restrictions_are_read_back_unchanged(r: Restrictions) -> None:
    """A bound of 0 is a bound."""
    assert r == restrictions_from_document(restrictions_to_document(r), "r")


micros = st.one_of(st.none(), st.integers(0, 10**12))
limits = st.one_of(
    st.none(),
    st.builds(PriceLimit, micros, micros).filter(lambda limit: limit != PriceLimit()),
)
tariffs = st.builds(
    make_tariff,
    st.builds(
        element,
        st.sampled_from(list(Dimension)),
        st.integers(0, 10**9).map(lambda p: p / 1000),
        st.one_of(st.none(), st.integers(0, 10_000)),
        st.integers(0, 1_000_000),
        restrictions=restrictions(),
        reservation=st.one_of(st.none(), st.sampled_from(list(Reservation))),
    ),
    min_price=limits,
    max_price=limits,
    type=st.one_of(st.none(), st.sampled_from(list(TariffType))),
    tax_included=st.sampled_from(list(TaxIncluded)),
    start_time=st.one_of(st.none(), st.just(NOW)),
    end_time=st.one_of(st.none(), st.just(NOW + timedelta(days=1, microseconds=1))),
    skipped_elements=st.integers(0, 3),
    default_for_country=st.booleans(),
)


@SPEC
@given(tariffs)
def test_tariffs_are_read_back_unchanged(tariff: Tariff) -> None:
    """Exact to the micro-unit, zeros included."""
    assert tariff == tariff_from_document(json.loads(finished(tariff_to_text(tariff))))


@given(
    st.one_of(
        st.integers(-(10**13), 10**13),
        st.from_regex(r"[0-9]{1,14}(\.[0-9]{0,8})?", fullmatch=True),
        st.from_regex(r"[-+]?[0-9]{1,4}(\.[0-9]{1,3})?(e[0-9])?", fullmatch=True),
        st.booleans(),
        st.floats(allow_nan=False),
    ),
    st.sampled_from([1, 100, 1_000, 1_000_000]),
)
def test_what_is_scaled_quickly_is_what_decimal_arithmetic_gives(value: Any, scale: int) -> None:
    """Where it is not known quickly, and exactly, nothing is said."""
    quick = exactly_scaled(value, scale)
    if quick is not None:
        assert not isinstance(value, bool)
        assert quick == Decimal(str(value)) * scale
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**12:
        assert quick is not None


@pytest.mark.parametrize("evses", [0, 1, 3])
def test_a_location_is_written_as_text_in_steps_as_in_one_go(evses: int) -> None:
    """The text is the document."""
    made = tuple(Evse(str(n), (Connector("1", 'a "quoted" \u00e9'),)) for n in range(evses))
    location = Location("NO", "OSL", "home", "Europe/Oslo", "N\u00e5r", made)
    assert location_to_document(location) == json.loads(finished(location_to_text(location)))


def test_locations_and_profiles_are_read_back_unchanged() -> None:
    """What is not known stays unknown."""
    connectors = (
        Connector("1", "IEC_62196_T2", PowerType.AC_3_PHASE, 22_000, ("t1", "t2")),
        Connector("2", "CHADEMO"),
    )
    for location in (
        Location("NO", "OSL", "home", "Europe/Oslo"),
        Location(
            "NO",
            "OSL",
            "home",
            "Europe/Oslo",
            "Home",
            (Evse("1", connectors), Evse("2")),
            NOW,
            "NOR",
        ),
    ):
        assert location == location_from_document(location_to_document(location))
    for profile in (
        VehicleProfile(),
        VehicleProfile(VehicleType.DRONE, frozenset({"MCS"}), 1, 2, 3),
    ):
        assert profile == vehicle_profile_from_document(vehicle_profile_to_document(profile))


def test_a_rate_finer_than_a_basis_point_is_stored_exactly() -> None:
    """8.375 % is a sales tax that there is."""
    component = PriceComponent(Dimension.ENERGY, 300_000, Fraction(8_375, 100_000))
    tariff = make_tariff(TariffElement((component,)))
    assert tariff == tariff_from_document(json.loads(finished(tariff_to_text(tariff))))


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"prise": "49.00 NOK"}, "prise"),
        ({"benefit": {"energy_price_per_kwh": "3", "cap": 1}}, "benefit.cap"),
        ({"benefit": {}}, "benefit"),
        ({"benefit": {"energy_price_per_kwh": 3, "session_bundle": 1}}, "benefit"),
        ({"benefit": {"energy_price_per_kwh": "x"}}, "benefit.energy_price_per_kwh"),
        ({"benefit": {"energy_price_per_kwh": True}}, "benefit.energy_price_per_kwh"),
        ({"tax_rate_percent": False}, "tax_rate_percent"),
        ({"benefit": {"energy_bundle_kwh": "1.0005"}}, "benefit.energy_bundle_kwh"),
        ({"benefit": {"session_bundle": 1.5}}, "benefit.session_bundle"),
        ({"benefit": {"session_bundle": True}}, "benefit.session_bundle"),
        ({"validity": {"days": 30, "weeks": 4}}, "validity.weeks"),
        ({"validity": {"days": "30"}}, "validity.days"),
        ({"validity": {"days": 30, "start": "NOW"}}, "validity.start"),
        ({"validity": {"days": 1, "start_time": "2026-01-01T00:00:00"}}, "validity.start_time"),
        ({"conditions": {"hours": []}}, "conditions.hours"),
        ({"conditions": {"any_of": {}}}, "conditions.any_of"),
        ({"conditions": {"any_of": [{}, {"from": "22:00"}]}}, "conditions.any_of[1].from"),
        ({"conditions": {"any_of": [{"start_time": "24:00"}]}}, "conditions.any_of[0].start_time"),
        (
            {"conditions": {"any_of": [{"day_of_week": ["MO"]}]}},
            "conditions.any_of[0].day_of_week[0]",
        ),
        ({"conditions": {"parties": [7]}}, "conditions.parties[0]"),
        (
            {"conditions": {"locations": [{"country_code": "NO"}]}},
            "conditions.locations[0].party_id",
        ),
        ({"personal_limit": {"max": 1}}, "personal_limit.max"),
        ({"personal_limit": 1}, "personal_limit"),
        ({"price": 49}, "price"),
        ({"price": "49.00"}, "price"),
        ({"price": None}, "price"),
        ({"product_id": 7}, "product_id"),
        ({"default_offer": "yes"}, "default_offer"),
        ({"stock": "many"}, "stock"),
        ({"sale_end_time": "tomorrow"}, "sale_end_time"),
        ({"time_zone": None}, "time_zone"),
        ({"tax_rate_percent": "nan"}, "tax_rate_percent"),
        ({"tax_rate_percent": "1e999999"}, "tax_rate_percent"),
    ],
)
def test_a_wrong_key_is_named_by_its_path(change: dict[str, Any], path: str) -> None:
    """The first that is missing, unknown or ill-typed."""
    with pytest.raises(BadInput) as refused:
        terms_from_document({**GOOD, **change})
    assert [path] == [violation.field for violation in refused.value.violations]


@SPEC
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists))
def test_any_value_at_any_key_is_taken_or_refused(value: object) -> None:
    """Never an error of another kind."""
    for key in (*GOOD, "conditions", "personal_limit", "stock", "sale_end_time"):
        try:
            terms_from_document({**GOOD, key: value})
        except BadInput:
            continue


@pytest.mark.parametrize(
    "text", ["24:00", "9:00", "0:012", "012:5", "12:60", "\uff11\uff12:00", "12:00 ", "-1:30"]
)
def test_a_time_has_one_form(text: str) -> None:
    """HH:MM, from 00:00 to 23:59."""
    with pytest.raises(BadInput):
        minute_from_text(text, "t")


@pytest.mark.parametrize("text", ["20260101", "2026-W01-1", "2026-1-1", "2026-02-30", "0000-01-01"])
def test_a_date_has_one_form(text: str) -> None:
    """YYYY-MM-DD, a day that there is."""
    with pytest.raises(BadInput):
        date_from_text(text, "d")


@pytest.mark.parametrize(
    "text", ["2026-01-01", "2026-01-01T00:00:00", "0001-01-01T00:00:00+14:00", "now"]
)
def test_an_instant_says_its_offset_and_exists(text: str) -> None:
    """RFC 3339, within the calendar."""
    with pytest.raises(BadInput):
        instant_from_text(text, "i")


def test_every_minute_is_written_and_read() -> None:
    """All 1,440, and nothing for nothing."""
    assert list(range(1440)) == [minute_from_text(text_from_minute(m), "t") for m in range(1440)]
    assert (None, None) == (minute_from_text("", "t"), text_from_minute(None))


def test_what_a_vehicle_profile_does_not_say_is_not_known() -> None:
    """Nothing is assumed of a vehicle."""
    assert VehicleProfile() == vehicle_profile_from_document({})
