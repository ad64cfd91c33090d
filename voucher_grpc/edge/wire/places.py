"""Locations and vehicles between messages and the domain."""

from collections.abc import Iterable
from datetime import datetime

from voucher_grpc.domain.places.location import Connector, Evse, Location, Vehicle, VehicleProfile
from voucher_grpc.edge.wire.checks import MAX_OCPI_ID_CHARS, Checks, enum_number
from voucher_grpc.edge.wire.conditions import (
    MAX_ENERGY_WH,
    MAX_POWER_W,
    POWER_TYPE,
    VEHICLE_TYPE,
    power_type_from_message,
    standard_from_message,
    standards_from_message,
)
from voucher_grpc.edge.wire.encoding import Pieces, part, part_tag
from voucher_grpc.edge.wire.messages import timestamp
from voucher_grpc.ocpi import VehicleType
from voucher_grpc.steps import Steps
from voucher_grpc.v1 import location_service_pb2 as pb
from voucher_grpc.v1 import vehicle_pb2

MAX_NAME_CHARS = 255
MAX_EVSES = 500
MAX_CONNECTORS = 20
MAX_TARIFF_IDS = 10
MAX_VEHICLE_STANDARDS = 10

_EVSES = part_tag(pb.Location.EVSES_FIELD_NUMBER)


def _ocpi_id(checks: Checks, field: str, value: str, *, required: bool = True) -> str:
    return checks.identifier(field, value, required=required, max_chars=MAX_OCPI_ID_CHARS)


def location_from_message(checks: Checks, field: str, message: pb.Location) -> Steps[Location]:
    """An OCPI Location. EVSE uids are unique in it, connector ids in their EVSE.

    A step for each EVSE.
    """
    checks.bounded(f"{field}.evses", message.evses, MAX_EVSES)
    evses = []
    for i, evse in enumerate(message.evses[: MAX_EVSES + 1]):
        evses.append(_evse(checks, f"{field}.evses[{i}]", evse))
        yield
    if len({evse.evse_uid for evse in evses}) != len(evses):
        checks.wrong(f"{field}.evses", "must not have an evse_uid twice")
    return Location(
        country_code=checks.country(f"{field}.country_code", message.country_code, required=True),
        party_id=checks.party(f"{field}.party_id", message.party_id, required=True),
        location_id=_ocpi_id(checks, f"{field}.location_id", message.location_id),
        time_zone=checks.time_zone(f"{field}.time_zone", message.time_zone, required=True),
        name=checks.text(f"{field}.name", message.name, MAX_NAME_CHARS),
        evses=tuple(evses),
        last_updated=checks.optional_instant(message, "last_updated", f"{field}."),
        country=checks.country_alpha_3(f"{field}.country", message.country),
    )


def _evse(checks: Checks, field: str, message: pb.Evse) -> Evse:
    checks.bounded(f"{field}.connectors", message.connectors, MAX_CONNECTORS)
    connectors = tuple(
        _connector(checks, f"{field}.connectors[{i}]", connector)
        for i, connector in enumerate(message.connectors[: MAX_CONNECTORS + 1])
    )
    if len({c.connector_id for c in connectors}) != len(connectors):
        checks.wrong(f"{field}.connectors", "must not have a connector_id twice")
    return Evse(_ocpi_id(checks, f"{field}.evse_uid", message.evse_uid), connectors)


def _connector(checks: Checks, field: str, message: pb.Connector) -> Connector:
    checks.bounded(f"{field}.tariff_ids", message.tariff_ids, MAX_TARIFF_IDS)
    return Connector(
        connector_id=_ocpi_id(checks, f"{field}.connector_id", message.connector_id),
        standard=standard_from_message(checks, f"{field}.standard", message.standard),
        power_type=power_type_from_message(checks, f"{field}.power_type", message.power_type),
        max_power_w=checks.number(f"{field}.max_power_w", message.max_power_w, 0, MAX_POWER_W),
        tariff_ids=tuple(
            _ocpi_id(checks, f"{field}.tariff_ids[{i}]", tariff_id)
            for i, tariff_id in enumerate(message.tariff_ids[: MAX_TARIFF_IDS + 1])
        ),
    )


def location_message(location: Location) -> pb.Location:
    """A location as a message."""
    message = pb.Location(
        country_code=location.country_code,
        party_id=location.party_id,
        location_id=location.location_id,
        name=location.name,
        time_zone=location.time_zone,
        country=location.country,
        evses=[_evse_message(evse) for evse in location.evses],
    )
    if location.last_updated is not None:
        message.last_updated.CopyFrom(timestamp(location.last_updated))
    return message


def _evse_message(evse: Evse) -> pb.Evse:
    return pb.Evse(
        evse_uid=evse.evse_uid,
        connectors=[
            pb.Connector(
                connector_id=c.connector_id,
                standard=c.standard,
                power_type=enum_number(POWER_TYPE, c.power_type),  # type: ignore[arg-type]
                max_power_w=c.max_power_w,
                tariff_ids=c.tariff_ids,
            )
            for c in evse.connectors
        ],
    )


def location_pieces(head: Location, evses: Iterable[Evse], update_time: datetime) -> Pieces:
    """A location's encoded message: without its EVSEs, then each of them."""
    message = location_message(head)
    message.update_time.CopyFrom(timestamp(update_time))
    yield message.SerializeToString()
    for evse in evses:
        yield part(_EVSES, _evse_message(evse).SerializeToString())


def location_key_from_message(
    checks: Checks, message: pb.GetLocationRequest
) -> tuple[str, str, str]:
    """Which location is asked for."""
    return (
        checks.country("country_code", message.country_code, required=True),
        checks.party("party_id", message.party_id, required=True),
        _ocpi_id(checks, "location_id", message.location_id),
    )


def profile_from_message(
    checks: Checks, field: str, message: vehicle_pb2.VehicleProfile
) -> VehicleProfile:
    """What a vehicle can take."""
    return VehicleProfile(
        type=checks.choice(f"{field}.type", message.type, VEHICLE_TYPE, VehicleType),
        connector_standards=standards_from_message(
            checks,
            f"{field}.connector_standards",
            list(message.connector_standards),
            MAX_VEHICLE_STANDARDS,
        ),
        max_ac_power_w=checks.number(
            f"{field}.max_ac_power_w", message.max_ac_power_w, 0, MAX_POWER_W
        ),
        max_dc_power_w=checks.number(
            f"{field}.max_dc_power_w", message.max_dc_power_w, 0, MAX_POWER_W
        ),
        battery_capacity_wh=checks.number(
            f"{field}.battery_capacity_wh", message.battery_capacity_wh, 0, MAX_ENERGY_WH
        ),
    )


def vehicle_from_message(checks: Checks, field: str, message: vehicle_pb2.Vehicle) -> Vehicle:
    """A vehicle to register."""
    return Vehicle(
        checks.identifier(f"{field}.vehicle_id", message.vehicle_id, required=True),
        checks.identifier(f"{field}.user_id", message.user_id, required=True),
        profile_from_message(checks, f"{field}.profile", message.profile),
    )


def vehicle_message(vehicle: Vehicle) -> vehicle_pb2.Vehicle:
    """A registered vehicle as a message."""
    profile = vehicle.profile
    message = vehicle_pb2.Vehicle(
        vehicle_id=vehicle.vehicle_id,
        user_id=vehicle.user_id,
        profile=vehicle_pb2.VehicleProfile(
            type=enum_number(VEHICLE_TYPE, profile.type),  # type: ignore[arg-type]
            connector_standards=sorted(profile.connector_standards),
            max_ac_power_w=profile.max_ac_power_w,
            max_dc_power_w=profile.max_dc_power_w,
            battery_capacity_wh=profile.battery_capacity_wh,
        ),
    )
    if vehicle.create_time is not None:
        message.create_time.CopyFrom(timestamp(vehicle.create_time))
    return message
