"""PriceCharge: what a charge costs at a place without a pass, itemized."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.conftest import Service
from tests.integration.requests import location
from tests.integration.shop import outcome
from tests.integration.test_places import default_tariff, put_locations, put_tariffs
from voucher_grpc.edge.wire.messages import timestamp
from voucher_grpc.v1.conditions_pb2 import Restrictions
from voucher_grpc.v1.location_service_pb2 import (
    Connector,
    CostAmount,
    Evse,
    PriceChargeRequest,
    PriceChargeResponse,
    PriceComponent,
    PriceDimension,
    PriceLimit,
    Tariff,
    TariffElement,
    TariffType,
)

START = datetime(2026, 6, 2, 18, tzinfo=UTC)  # 20:00 in Oslo
ENERGY, FLAT, PARKING, TIME = (
    PriceDimension.PRICE_DIMENSION_ENERGY,
    PriceDimension.PRICE_DIMENSION_FLAT,
    PriceDimension.PRICE_DIMENSION_PARKING_TIME,
    PriceDimension.PRICE_DIMENSION_TIME,
)
UNITS = 1_000_000


def component(dimension: Any, units: float, step_size: int = 1, vat: int = 2_500) -> PriceComponent:
    return PriceComponent(
        dimension=dimension,
        price_micros=round(units * UNITS),
        vat_basis_points=vat,
        step_size=step_size,
    )


def tariff(tariff_id: str, *elements: TariffElement, **more: Any) -> Tariff:
    return Tariff(
        country_code="NO",
        party_id="OSL",
        tariff_id=tariff_id,
        currency_code=more.pop("currency_code", "NOK"),
        elements=elements,
        **more,
    )


def element(*components: PriceComponent, **restrictions: Any) -> TariffElement:
    made = TariffElement(price_components=components)
    if restrictions:
        made.restrictions.CopyFrom(Restrictions(**restrictions))
    return made


async def put(service: Service, name: str, *tariffs: Tariff, power_w: int = 11_000) -> None:
    """A location with one connector that names these tariffs."""
    place = location(name)
    del place.evses[0].connectors[0].tariff_ids[:]
    place.evses[0].connectors[0].tariff_ids.extend(one.tariff_id for one in tariffs)
    place.evses[0].connectors[0].max_power_w = power_w
    assert [0] == await put_locations(service.client, place)
    if tariffs:
        assert [0] * len(tariffs) == await put_tariffs(service.client, *tariffs)


async def price(
    service: Service, name: str, hours: float = 2, energy_wh: int = 11_000, **more: Any
) -> PriceChargeResponse:
    start = more.pop("start", START)
    request = PriceChargeRequest(
        country_code="NO",
        party_id="OSL",
        location_id=name,
        start_time=timestamp(start),
        end_time=timestamp(start + timedelta(hours=hours)),
        energy_wh=energy_wh,
        **more,
    )
    found: PriceChargeResponse = await service.client.call(
        service.client.location.PriceCharge, request
    )
    return found


def amount(before: float, after: float) -> CostAmount:
    return CostAmount(
        before_tax_micros=round(before * UNITS), after_tax_micros=round(after * UNITS)
    )


def codes(found: PriceChargeResponse) -> list[str]:
    return [remark.code for remark in found.remarks]


async def test_a_charge_is_priced_item_by_item(shared_service: Service, unique: str) -> None:
    """11 kWh at 11 kW take one hour of two: 10 kWh at 2 and one at 3, parking at 6 an hour from
    then on, 5 for the session; 25 % VAT."""
    await put(
        shared_service,
        unique,
        tariff(
            unique,
            element(component(ENERGY, 2), component(FLAT, 5), max_energy_wh=10_000),
            element(component(ENERGY, 3), component(PARKING, 6)),
        ),
    )
    found = await price(shared_service, unique)
    assert (unique, "NOK") == (found.tariff_id, found.currency_code)
    assert amount(34, 42.5) == found.total_cost
    assert amount(23, 28.75) == found.energy_cost
    assert amount(6, 7.5) == found.parking_cost
    assert amount(5, 6.25) == found.fixed_cost
    assert not found.HasField("time_cost")
    billed = [
        (item.dimension, item.element_index, item.volume_micros, item.price_micros)
        for period in found.periods
        for item in period.items
    ]
    assert [
        (FLAT, 0, UNITS, 5 * UNITS),
        (ENERGY, 0, 10 * UNITS, 2 * UNITS),
        (ENERGY, 1, UNITS, 3 * UNITS),
        (PARKING, 1, UNITS, 6 * UNITS),
    ] == billed
    starts = [period.start_time.ToDatetime(UTC) - START for period in found.periods]
    assert [0, 54 * 60 + 32, 60 * 60] == [int(start.total_seconds()) for start in starts]
    assert ["ASSUMED_POWER"] == codes(found)


async def test_steps_bounds_and_local_time_count(shared_service: Service, unique: str) -> None:
    """From 22:00 in Oslo half of the price; 10.4 kWh are billed as 11; at most 20 without tax."""
    night = element(component(ENERGY, 1, step_size=1_000), start_time="22:00", end_time="06:00")
    day = element(component(ENERGY, 2, step_size=1_000))
    await put(shared_service, unique, tariff(unique, night, day, max_price_micros=20 * UNITS))
    by_night = await price(
        shared_service, unique, energy_wh=10_400, start=START + timedelta(hours=2), power_w=11_000
    )
    assert amount(11, 13.75) == by_night.total_cost
    item = by_night.periods[0].items[0]
    assert (10_400_000, 11 * UNITS) == (item.volume_micros, item.billed_volume_micros)
    assert PriceLimit.PRICE_LIMIT_UNSPECIFIED == by_night.limit
    by_day = await price(shared_service, unique, energy_wh=10_400, power_w=11_000)
    assert amount(20, 25) == by_day.total_cost
    assert amount(22, 27.5) == by_day.energy_cost
    assert PriceLimit.PRICE_LIMIT_MAX_PRICE == by_day.limit
    assert [] == codes(by_day)


async def test_the_tariff_is_chosen_by_time_currency_and_wish(
    shared_service: Service, unique: str
) -> None:
    """Valid at the start, in the currency, of the wished type, else REGULAR; ad hoc at last."""
    ids = [f"{unique}-{n}" for n in range(5)]
    noon = timestamp(datetime(2026, 7, 1, 12, tzinfo=UTC))
    await put(
        shared_service,
        unique,
        tariff(ids[0], element(component(ENERGY, 9)), type=TariffType.TARIFF_TYPE_AD_HOC_PAYMENT),
        tariff(ids[1], element(component(ENERGY, 2)), end_time=noon),
        tariff(
            ids[2],
            element(component(ENERGY, 1)),
            end_time=noon,
            type=TariffType.TARIFF_TYPE_PROFILE_GREEN,
        ),
        tariff(ids[3], element(component(ENERGY, 0.3)), currency_code="EUR"),
        tariff(ids[4], element(component(ENERGY, 4)), start_time=noon),
    )
    later = datetime(2026, 7, 1, 12, tzinfo=UTC)
    asked: list[tuple[dict[str, Any], int]] = [
        ({"currency_code": "NOK"}, 1),
        ({"profile": TariffType.TARIFF_TYPE_PROFILE_GREEN}, 2),
        ({"profile": TariffType.TARIFF_TYPE_PROFILE_FAST, "currency_code": "NOK"}, 1),
        ({"currency_code": "EUR"}, 3),
        ({"currency_code": "NOK", "start": later}, 4),
        ({"currency_code": "NOK", "start": later - timedelta(hours=1)}, 1),
        ({"tariff_id": ids[0]}, 0),
    ]
    for more, expected in asked:
        found = await price(shared_service, unique, **more)
        assert ids[expected] == found.tariff_id, more
        assert ("AD_HOC_ONLY" in codes(found)) == (expected == 0)
    assert "TARIFF_NOT_FOUND" == await outcome(price(shared_service, unique, currency_code="SEK"))
    assert "TARIFF_NOT_FOUND" == await outcome(price(shared_service, unique, tariff_id="none"))
    early = await price(shared_service, unique, tariff_id=ids[4])
    assert "TARIFF_NOT_VALID" in codes(early)


async def test_without_a_tariff_of_its_own_a_place_has_its_countrys(
    fresh_service: Service, unique: str
) -> None:
    """In the currency asked for, else the first there is; without any: TARIFF_NOT_FOUND."""
    await put(fresh_service, unique)
    assert "TARIFF_NOT_FOUND" == await outcome(price(fresh_service, unique))
    assert [0] == await put_tariffs(fresh_service.client, default_tariff("D", 3))
    asked: list[dict[str, Any]] = [{}, {"currency_code": "NOK"}]
    for more in asked:
        assert amount(33, 41.25) == (await price(fresh_service, unique, **more)).total_cost
    assert "TARIFF_NOT_FOUND" == await outcome(price(fresh_service, unique, currency_code="EUR"))


async def test_a_connector_that_is_not_there_is_not_found(
    shared_service: Service, unique: str
) -> None:
    """Each connector has its own tariff and power."""
    place = location(unique)
    place.evses[0].connectors[0].tariff_ids[0] = f"{unique}-1"
    fast = Connector(
        connector_id="2",
        standard="CHADEMO",
        max_power_w=50_000,
        tariff_ids=[f"{unique}-2"],
    )
    place.evses.append(Evse(evse_uid="2", connectors=[fast]))
    assert [0] == await put_locations(shared_service.client, place)
    slow_tariff = tariff(f"{unique}-1", element(component(TIME, 6)))
    fast_tariff = tariff(f"{unique}-2", element(component(TIME, 60)))
    assert [0, 0] == await put_tariffs(shared_service.client, slow_tariff, fast_tariff)
    found = await price(shared_service, unique, evse_uid="2", connector_id="2", energy_wh=25_000)
    assert amount(30, 37.5) == found.total_cost
    assert amount(6, 7.5) == (await price(shared_service, unique, evse_uid="1")).total_cost
    unknown: list[dict[str, Any]] = [
        {"evse_uid": "3"},
        {"evse_uid": "1", "connector_id": "2"},
    ]
    for more in unknown:
        assert "LOCATION_NOT_FOUND" == await outcome(price(shared_service, unique, **more))
    assert "INVALID_FIELD" == await outcome(price(shared_service, unique, connector_id="1"))


async def test_more_energy_than_the_connector_gives_was_charged_all_the_same(
    shared_service: Service, unique: str
) -> None:
    """What was charged is a fact; a stated power is one too, and bounds the energy."""
    await put(shared_service, unique, tariff(unique, element(component(ENERGY, 1))), power_w=1_000)
    assert amount(11, 13.75) == (await price(shared_service, unique)).total_cost
    assert amount(2, 2.5) == (await price(shared_service, unique, power_w=1_000)).total_cost


async def test_a_charge_of_too_many_periods_is_refused(
    shared_service: Service, unique: str
) -> None:
    """A tariff that changes every hour cuts 80 days into 1,920 periods; three days are priced."""
    hours = [
        element(component(ENERGY, 1 + n), start_time=f"{n:02}:00", end_time=f"{n + 1:02}:00")
        for n in range(23)
    ]
    await put(shared_service, unique, tariff(unique, *hours, element(component(ENERGY, 9))))
    assert "INVALID_FIELD" == await outcome(price(shared_service, unique, hours=80 * 24))
    found = await price(shared_service, unique, hours=3 * 24, energy_wh=100_000, power_w=2_000)
    assert 72 == len(found.periods)


@pytest.mark.parametrize("power_w", [0, 11_000])
async def test_a_charge_without_energy_costs_what_is_left(
    shared_service: Service, unique: str, power_w: int
) -> None:
    """It is parked from its start."""
    await put(
        shared_service,
        unique,
        tariff(unique, element(component(ENERGY, 2), component(PARKING, 6), component(FLAT, 1))),
    )
    found = await price(shared_service, unique, energy_wh=0, power_w=power_w)
    assert amount(13, 16.25) == found.total_cost
    assert not found.HasField("energy_cost")
