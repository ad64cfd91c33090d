"""Conditions of use between messages and the domain."""

from collections.abc import Iterable
from enum import StrEnum
from typing import Any

from google.protobuf.descriptor import EnumDescriptor

from voucher_grpc.domain.catalogue.conditions import Restrictions, Selectors, UsageConditions
from voucher_grpc.domain.catalogue.values import text_from_minute
from voucher_grpc.edge.wire.checks import MAX_OCPI_ID_CHARS, Checks, enum_number
from voucher_grpc.ocpi import CONNECTOR_STANDARDS, DAYS, Day, PlaceKey, PowerType, VehicleType
from voucher_grpc.v1 import conditions_pb2 as pb

MAX_ALTERNATIVES = 20
MAX_PARTIES = 50
MAX_LOCATIONS = 200
MAX_STANDARDS = 50
# Above what any charger, battery or session will have.
MAX_ENERGY_WH = 100_000_000
MAX_CURRENT_MA = 100_000_000
MAX_POWER_W = 10_000_000
MAX_DURATION_S = 31 * 86_400

POWER_TYPE = pb.PowerType.DESCRIPTOR
VEHICLE_TYPE = pb.VehicleType.DESCRIPTOR

_RANGES = {
    "energy_wh": MAX_ENERGY_WH,
    "current_ma": MAX_CURRENT_MA,
    "power_w": MAX_POWER_W,
    "duration_s": MAX_DURATION_S,
}


def restrictions_from_message(
    checks: Checks, field: str, message: pb.Restrictions, *, may_be_empty: bool = False
) -> Restrictions:
    """OCPI TariffRestrictions.

    Every pair of bounds must leave something between them, unless they `may_be_empty`: what
    operators publish is stored as it is.
    """
    ranges: dict[str, int | None] = {}
    for name, top in _RANGES.items():
        low = checks.optional_number(message, f"min_{name}", f"{field}.", 0, top)
        high = checks.optional_number(message, f"max_{name}", f"{field}.", not may_be_empty, top)
        if low is not None and high is not None and low >= high and not may_be_empty:
            checks.wrong(f"{field}.max_{name}", f"must be above min_{name}, which is {low}")
        ranges[f"min_{name}"], ranges[f"max_{name}"] = low, high
    start = checks.minute(f"{field}.start_time", message.start_time)
    end = checks.minute(f"{field}.end_time", message.end_time)
    if start is not None and start == end and start != 0 and not may_be_empty:
        checks.wrong(f"{field}.end_time", "must not be start_time: the window would be empty")
    first = checks.date(f"{field}.start_date", message.start_date)
    last = checks.date(f"{field}.end_date", message.end_date)
    if first is not None and last is not None and first >= last and not may_be_empty:
        checks.wrong(f"{field}.end_date", "must be after start_date; it is exclusive")
    return Restrictions(
        start_minute=start,
        end_minute=end,
        start_date=first,
        end_date=last,
        day_of_week=_days(checks, f"{field}.day_of_week", list(message.day_of_week)),
        **ranges,
    )


def _days(checks: Checks, field: str, numbers: list[int]) -> frozenset[Day]:
    """google.type.DayOfWeek counts from MONDAY = 1."""
    if any(not 1 <= n <= 7 for n in numbers) or len(set(numbers)) != len(numbers):
        checks.wrong(field, "must be days from MONDAY to SUNDAY, none twice")
        return frozenset()
    return frozenset(DAYS[n - 1] for n in numbers)


def place_from_message(checks: Checks, field: str, message: pb.LocationReference) -> PlaceKey:
    """A location, EVSE or connector."""
    chars = MAX_OCPI_ID_CHARS
    place = PlaceKey(
        checks.country(f"{field}.country_code", message.country_code, required=True),
        checks.party(f"{field}.party_id", message.party_id, required=True),
        checks.identifier(
            f"{field}.location_id", message.location_id, required=True, max_chars=chars
        ),
        checks.identifier(f"{field}.evse_uid", message.evse_uid, max_chars=chars),
        checks.identifier(f"{field}.connector_id", message.connector_id, max_chars=chars),
    )
    if message.connector_id and not message.evse_uid:
        checks.wrong(f"{field}.evse_uid", "is missing: a connector_id needs it")
    return place


def place_message(place: PlaceKey) -> pb.LocationReference:
    """A place as a message."""
    return pb.LocationReference(
        country_code=place.country_code,
        party_id=place.party_id,
        location_id=place.location_id,
        evse_uid=place.evse_uid,
        connector_id=place.connector_id,
    )


def standards_from_message(
    checks: Checks, field: str, names: list[str], high: int
) -> frozenset[str]:
    """OCPI ConnectorType names."""
    checks.bounded(field, names, high)
    for index, name in enumerate(names[: high + 1]):
        standard_from_message(checks, f"{field}[{index}]", name)
    return frozenset(names)


def standard_from_message(checks: Checks, field: str, name: str) -> str:
    """An OCPI ConnectorType name."""
    if name not in CONNECTOR_STANDARDS:
        checks.wrong(field, 'must be an OCPI ConnectorType such as "IEC_62196_T2"')
    return name


def power_type_from_message(checks: Checks, field: str, value: int) -> PowerType | None:
    """An OCPI PowerType."""
    return checks.choice(field, value, POWER_TYPE, PowerType)


def _selectors(checks: Checks, field: str, message: pb.Selectors) -> Selectors:
    checks.bounded(f"{field}.parties", message.parties, MAX_PARTIES)
    checks.bounded(f"{field}.locations", message.locations, MAX_LOCATIONS)
    checks.bounded(f"{field}.power_types", message.power_types, len(PowerType))
    checks.bounded(f"{field}.vehicle_types", message.vehicle_types, len(VehicleType))
    parties = tuple(
        (
            checks.country(f"{field}.parties[{i}].country_code", p.country_code, required=True),
            checks.party(f"{field}.parties[{i}].party_id", p.party_id),
        )
        for i, p in enumerate(message.parties[: MAX_PARTIES + 1])
    )
    power_types = [
        power_type_from_message(checks, f"{field}.power_types[{i}]", value)
        for i, value in enumerate(message.power_types[: len(PowerType) + 1])
    ]
    vehicle_types = [
        checks.choice(f"{field}.vehicle_types[{i}]", value, VEHICLE_TYPE, VehicleType)
        for i, value in enumerate(message.vehicle_types[: len(VehicleType) + 1])
    ]
    low = checks.optional_number(message, "min_connector_power_w", f"{field}.", 0, MAX_POWER_W)
    high = checks.optional_number(message, "max_connector_power_w", f"{field}.", 1, MAX_POWER_W)
    if low is not None and high is not None and low > high:
        checks.wrong(f"{field}.max_connector_power_w", f"must be at least {low}, the minimum")
    for name, values in (("power_types", power_types), ("vehicle_types", vehicle_types)):
        if None in values or len(set(values)) != len(values):
            checks.wrong(f"{field}.{name}", "must not contain UNSPECIFIED, nor one twice")
    return Selectors(
        parties=parties,
        locations=tuple(
            place_from_message(checks, f"{field}.locations[{i}]", place)
            for i, place in enumerate(message.locations[: MAX_LOCATIONS + 1])
        ),
        connector_standards=standards_from_message(
            checks,
            f"{field}.connector_standards",
            list(message.connector_standards),
            MAX_STANDARDS,
        ),
        power_types=frozenset(p for p in power_types if p is not None),
        min_connector_power_w=low,
        max_connector_power_w=high,
        vehicle_types=frozenset(v for v in vehicle_types if v is not None),
    )


def conditions_from_message(
    checks: Checks, field: str, message: pb.UsageConditions
) -> UsageConditions:
    """Conditions of use."""
    checks.bounded(f"{field}.any_of", message.any_of, MAX_ALTERNATIVES)
    return UsageConditions(
        any_of=tuple(
            restrictions_from_message(checks, f"{field}.any_of[{i}]", r)
            for i, r in enumerate(message.any_of[: MAX_ALTERNATIVES + 1])
        ),
        selectors=_selectors(checks, f"{field}.selectors", message.selectors),
    )


def restrictions_message(restrictions: Restrictions) -> pb.Restrictions:
    """OCPI TariffRestrictions as a message."""
    return pb.Restrictions(
        start_time=text_from_minute(restrictions.start_minute) or "",
        end_time=text_from_minute(restrictions.end_minute) or "",
        start_date=restrictions.start_date.isoformat() if restrictions.start_date else "",
        end_date=restrictions.end_date.isoformat() if restrictions.end_date else "",
        day_of_week=[n for n, day in enumerate(DAYS, 1) if day in restrictions.day_of_week],
        min_energy_wh=restrictions.min_energy_wh,
        max_energy_wh=restrictions.max_energy_wh,
        min_current_ma=restrictions.min_current_ma,
        max_current_ma=restrictions.max_current_ma,
        min_power_w=restrictions.min_power_w,
        max_power_w=restrictions.max_power_w,
        min_duration_s=restrictions.min_duration_s,
        max_duration_s=restrictions.max_duration_s,
    )


def _numbers(descriptor: EnumDescriptor, values: Iterable[StrEnum]) -> list[Any]:
    """Enum numbers in a fixed order; mypy-protobuf has a type of its own for them."""
    return sorted(enum_number(descriptor, value) for value in values)


def conditions_message(conditions: UsageConditions) -> pb.UsageConditions:
    """Conditions of use as a message."""
    selectors = conditions.selectors
    message = pb.UsageConditions(any_of=[restrictions_message(r) for r in conditions.any_of])
    if selectors != Selectors():
        message.selectors.CopyFrom(
            pb.Selectors(
                parties=[
                    pb.Party(country_code=country, party_id=party)
                    for country, party in selectors.parties
                ],
                locations=[place_message(place) for place in selectors.locations],
                connector_standards=sorted(selectors.connector_standards),
                power_types=_numbers(POWER_TYPE, selectors.power_types),
                min_connector_power_w=selectors.min_connector_power_w,
                max_connector_power_w=selectors.max_connector_power_w,
                vehicle_types=_numbers(VEHICLE_TYPE, selectors.vehicle_types),
            )
        )
    return message
