"""Places and what stands there, one rule at a time."""

import pytest

from tests.unit.builders import NOW, element
from voucher_grpc.domain.offers.determine import tariff_at
from voucher_grpc.domain.offers.snapshot import build_snapshot
from voucher_grpc.domain.places.location import (
    Connector,
    Evse,
    Location,
    VehicleProfile,
    connectors_at,
    fits,
    parts_of,
    place_exists,
)
from voucher_grpc.domain.pricing.tariff import Dimension, Tariff
from voucher_grpc.ocpi import PlaceKey

TWO = Evse("A", (Connector("1", "CCS", tariff_ids=("t1", "t2")), Connector("2", "CHADEMO")))
ONE = Evse("B", (Connector("1", "MCS", tariff_ids=("t3",)),))
NONE = Evse("C")
SITE = Location("NO", "OSL", "home", "Europe/Oslo", "Home", (TWO, ONE, NONE))


def at(evse_uid: str = "", connector_id: str = "") -> PlaceKey:
    """The site or a part of it."""
    return PlaceKey("NO", "OSL", "home", evse_uid, connector_id)


@pytest.mark.parametrize(
    ("place", "standards", "exists"),
    [
        (at(), ["CCS", "CHADEMO", "MCS"], True),
        (at("A"), ["CCS", "CHADEMO"], True),
        (at("A", "2"), ["CHADEMO"], True),
        (at("B", "1"), ["MCS"], True),
        (at("C"), [], True),
        (at("C", "1"), [], False),
        (at("A", "3"), [], False),
        (at("B", "2"), [], False),
        (at("D"), [], False),
        (at("D", "1"), [], False),
    ],
)
def test_a_place_is_a_site_an_evse_or_a_connector(
    place: PlaceKey, standards: list[str], exists: bool
) -> None:
    """A connector's id is its EVSE's: the same id elsewhere is another connector."""
    assert standards == [connector.standard for connector in connectors_at(SITE, place)]
    assert exists is place_exists(SITE, place)


def test_parts_are_evses_connectors_and_ids_of_tariffs() -> None:
    """By which the size of a location is bounded."""
    assert 3 + 3 + 3 == parts_of(SITE)
    assert 0 == parts_of(Location("NO", "OSL", "home", "Europe/Oslo"))


def test_a_vehicle_that_says_nothing_fits_everywhere() -> None:
    """One that does fits by standard."""
    assert fits(VehicleProfile(), TWO.connectors[0])
    assert fits(VehicleProfile(connector_standards=frozenset({"CCS"})), TWO.connectors[0])
    assert not fits(VehicleProfile(connector_standards=frozenset({"CCS"})), TWO.connectors[1])


def _tariff(tariff_id: str, currency: str, *, default: bool = False) -> Tariff:
    elements = (element(Dimension.ENERGY, 4),)
    return Tariff("NO", "OSL", tariff_id, currency, elements, default_for_country=default)


def test_the_tariff_of_a_place_is_the_first_of_its_own_in_the_currency_else_the_default() -> None:
    """A tariff in another currency prices nothing, since nothing is converted."""
    own = [_tariff("t1", "EUR"), _tariff("t2", "NOK"), _tariff("t3", "EUR")]
    default = _tariff("any", "NOK", default=True)
    snapshot = build_snapshot(1, [], [*own, default])
    for place, location, currency, expected in [
        (at("A", "1"), SITE, "NOK", own[1]),
        (at("A", "1"), SITE, "EUR", own[0]),
        (at("A", "1"), SITE, "", own[0]),
        (at("B"), SITE, "NOK", default),
        (at("B"), SITE, "EUR", own[2]),
        (at("C"), SITE, "NOK", default),
        (at("C"), SITE, "EUR", None),
        (at("A", "1"), None, "NOK", default),
    ]:
        assert expected is tariff_at(place, location, snapshot, currency, NOW)
