"""Conditions of use as a part of documents: OCPI TariffRestrictions and selectors."""

from voucher_grpc.domain.catalogue.conditions import Restrictions, Selectors, UsageConditions
from voucher_grpc.domain.catalogue.values import (
    WH_PER_KWH,
    Document,
    Reader,
    date_from_text,
    fail,
    iso_text,
    kilo_text,
    minute_from_text,
    text_from_minute,
    without_empty,
)
from voucher_grpc.ocpi import Day, PlaceKey, PowerType, VehicleType


def restrictions_from_document(value: object, path: str) -> Restrictions:
    """OCPI TariffRestrictions (kW, kWh, A, s) as `Restrictions`."""
    reader = Reader(value, path)
    result = Restrictions(
        start_minute=minute_from_text(reader.take("start_time"), reader.at("start_time")),
        end_minute=minute_from_text(reader.take("end_time"), reader.at("end_time")),
        start_date=date_from_text(reader.take("start_date"), reader.at("start_date")),
        end_date=date_from_text(reader.take("end_date"), reader.at("end_date")),
        day_of_week=frozenset(reader.choices("day_of_week", Day)),
        min_energy_wh=reader.scaled("min_kwh", WH_PER_KWH),
        max_energy_wh=reader.scaled("max_kwh", WH_PER_KWH),
        min_current_ma=reader.scaled("min_current", 1000),
        max_current_ma=reader.scaled("max_current", 1000),
        min_power_w=reader.scaled("min_power", 1000),
        max_power_w=reader.scaled("max_power", 1000),
        min_duration_s=reader.integer("min_duration"),
        max_duration_s=reader.integer("max_duration"),
    )
    reader.end()
    return result


def restrictions_to_document(restrictions: Restrictions) -> Document:
    """`Restrictions` as OCPI TariffRestrictions."""
    return without_empty(
        {
            "start_time": text_from_minute(restrictions.start_minute),
            "end_time": text_from_minute(restrictions.end_minute),
            "start_date": iso_text(restrictions.start_date),
            "end_date": iso_text(restrictions.end_date),
            "day_of_week": [day.value for day in Day if day in restrictions.day_of_week],
            "min_kwh": kilo_text(restrictions.min_energy_wh),
            "max_kwh": kilo_text(restrictions.max_energy_wh),
            "min_current": kilo_text(restrictions.min_current_ma),
            "max_current": kilo_text(restrictions.max_current_ma),
            "min_power": kilo_text(restrictions.min_power_w),
            "max_power": kilo_text(restrictions.max_power_w),
            "min_duration": restrictions.min_duration_s,
            "max_duration": restrictions.max_duration_s,
        }
    )


def _party(value: object, path: str) -> tuple[str, str]:
    country, _, party = str(value).partition("*")
    if not isinstance(value, str) or not country:
        fail(path, 'must be a country or an operator, for example "NO" or "NO*OSL"')
    return country, party


def _place(value: object, path: str) -> PlaceKey:
    reader = Reader(value, path)
    place = PlaceKey(
        reader.text("country_code", required=True),
        reader.text("party_id", required=True),
        reader.text("location_id", required=True),
        reader.text("evse_uid"),
        reader.text("connector_id"),
    )
    reader.end()
    return place


def conditions_from_document(value: object, path: str) -> UsageConditions:
    if value is None:
        return UsageConditions()
    reader = Reader(value, path)
    conditions = UsageConditions(
        any_of=tuple(
            restrictions_from_document(item, f"{reader.at('any_of')}[{index}]")
            for index, item in enumerate(reader.items("any_of"))
        ),
        selectors=Selectors(
            parties=tuple(
                _party(item, f"{reader.at('parties')}[{index}]")
                for index, item in enumerate(reader.items("parties"))
            ),
            locations=tuple(
                _place(item, f"{reader.at('locations')}[{index}]")
                for index, item in enumerate(reader.items("locations"))
            ),
            connector_standards=frozenset(str(s) for s in reader.items("connector_standards")),
            power_types=frozenset(reader.choices("power_types", PowerType)),
            min_connector_power_w=reader.scaled("min_connector_power_kw", 1000),
            max_connector_power_w=reader.scaled("max_connector_power_kw", 1000),
            vehicle_types=frozenset(reader.choices("vehicle_types", VehicleType)),
        ),
    )
    reader.end()
    return conditions


def _place_document(place: PlaceKey) -> Document:
    return without_empty(
        {
            "country_code": place.country_code,
            "party_id": place.party_id,
            "location_id": place.location_id,
            "evse_uid": place.evse_uid,
            "connector_id": place.connector_id,
        }
    )


def conditions_to_document(conditions: UsageConditions) -> Document:
    selectors = conditions.selectors
    return without_empty(
        {
            "any_of": [restrictions_to_document(r) for r in conditions.any_of],
            "parties": [
                f"{country}*{party}" if party else country for country, party in selectors.parties
            ],
            "locations": [_place_document(place) for place in selectors.locations],
            "connector_standards": sorted(selectors.connector_standards),
            "power_types": sorted(p.value for p in selectors.power_types),
            "min_connector_power_kw": kilo_text(selectors.min_connector_power_w),
            "max_connector_power_kw": kilo_text(selectors.max_connector_power_w),
            "vehicle_types": sorted(v.value for v in selectors.vehicle_types),
        }
    )
