"""OCPI Locations, and which of their connectors a vehicle and a pass can use."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from voucher_grpc.ocpi import PlaceKey, PowerType, VehicleType, folded


@dataclass(frozen=True, slots=True)
class Connector:
    """An OCPI Connector; `max_power_w` 0 means not known."""

    connector_id: str
    standard: str
    power_type: PowerType | None = None
    max_power_w: int = 0
    tariff_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Evse:
    """An OCPI EVSE."""

    evse_uid: str
    connectors: tuple[Connector, ...] = ()


@dataclass(frozen=True, slots=True)
class Location:
    """An OCPI Location; `time_zone` is an IANA name, `country` that of the place (ISO 3166-1
    alpha-3, "" if it is not stated), `country_code` that of the operator."""

    country_code: str
    party_id: str
    location_id: str
    time_zone: str
    name: str = ""
    evses: tuple[Evse, ...] = ()
    last_updated: datetime | None = None
    country: str = ""

    @property
    def key(self) -> PlaceKey:
        return PlaceKey(self.country_code, self.party_id, self.location_id)


@dataclass(frozen=True, slots=True)
class VehicleProfile:
    """What a vehicle can take; 0, None and empty mean not known, which limits nothing."""

    type: VehicleType | None = None
    connector_standards: frozenset[str] = frozenset()
    max_ac_power_w: int = 0
    max_dc_power_w: int = 0
    battery_capacity_wh: int = 0


class Vehicle(NamedTuple):
    """A moving object registered with its user."""

    vehicle_id: str
    user_id: str
    profile: VehicleProfile
    create_time: datetime | None = None


def parts_of(location: Location) -> int:
    """How many EVSEs, connectors and ids of tariffs it has."""
    connectors = [connector for evse in location.evses for connector in evse.connectors]
    return len(location.evses) + len(connectors) + sum(len(c.tariff_ids) for c in connectors)


def connectors_at(location: Location, place: PlaceKey) -> Iterator[Connector]:
    """The connectors of a location that are `place` or a part of it."""
    evse_uid, connector_id = folded(place.evse_uid), folded(place.connector_id)
    for evse in location.evses:
        if evse_uid in ("", folded(evse.evse_uid)):
            for connector in evse.connectors:
                if connector_id in ("", folded(connector.connector_id)):
                    yield connector


def place_exists(location: Location, place: PlaceKey) -> bool:
    """Whether the location has the EVSE and connector that `place` names."""
    if not place.evse_uid:
        return True
    uid = folded(place.evse_uid)
    evse = next((e for e in location.evses if folded(e.evse_uid) == uid), None)
    if evse is None:
        return False
    ids = {folded(connector.connector_id) for connector in evse.connectors}
    return not place.connector_id or folded(place.connector_id) in ids


def fits(vehicle: VehicleProfile, connector: Connector) -> bool:
    """Whether the vehicle can be plugged into the connector."""
    return not vehicle.connector_standards or connector.standard in vehicle.connector_standards


def usable_power_w(connector: Connector, vehicle: VehicleProfile) -> int:
    """What the vehicle can draw at the connector; 2^62 where neither's power is known."""
    dc = connector.power_type is PowerType.DC
    limit = vehicle.max_dc_power_w if dc else vehicle.max_ac_power_w
    return min(p for p in (connector.max_power_w, limit, 1 << 62) if p)
