"""Locations and vehicle profiles as documents, in OCPI's form where it has one.

The same reader serves the store and the import of OCPI files: keys of OCPI that
are not needed here are passed over, as OCPI demands of a receiver.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from voucher_grpc.domain.catalogue.values import (
    Document,
    decimal_from_value,
    exactly_scaled,
    without_empty,
)
from voucher_grpc.domain.places.location import Connector, Evse, Location, VehicleProfile
from voucher_grpc.errors import bad_field
from voucher_grpc.ocpi import PowerType, VehicleType
from voucher_grpc.steps import Steps

_POWER_TYPES = {kind.value: kind for kind in PowerType}
_PHASES = {"AC_1_PHASE": 1, "AC_2_PHASE": 2, "AC_2_PHASE_SPLIT": 2, "AC_3_PHASE": 3, "DC": 1}


def _mapping(value: object, path: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise bad_field(path or "document", f"must be an object, not {type(value).__name__}")
    return value


def _text(document: Mapping[str, Any], key: str, path: str, *, required: bool = False) -> str:
    value = document.get(key)
    if value is None or value == "":
        if required:
            raise bad_field(f"{path}.{key}" if path else key, "is missing")
        return ""
    if not isinstance(value, str):
        where = f"{path}.{key}" if path else key
        raise bad_field(where, f"must be text, not {type(value).__name__}")
    return value


def _list(document: Mapping[str, Any], key: str, path: str) -> list[Any]:
    value = document.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise bad_field(f"{path}.{key}" if path else key, "must be a list")
    return value


def _scaled(document: Mapping[str, Any], key: str, path: str, scale: int) -> int | None:
    """A decimal times `scale`, rounded half up: operators' floats carry noise."""
    value = document.get(key)
    if value is None:
        return None
    exact = exactly_scaled(value, scale)
    if exact is not None:
        return exact
    number = decimal_from_value(value, f"{path}.{key}" if path else key) * scale
    return int(number.quantize(Decimal(1), rounding=ROUND_HALF_UP))


def _max_power_w(document: Mapping[str, Any], path: str, power_type: str) -> int:
    """`max_electric_power`; OCPI leaves it out where voltage times current says it. 0: not known.

    The voltage of three phases is line to neutral.
    """
    said = _scaled(document, "max_electric_power", path, 1)
    if said is not None:
        return said
    volts = _scaled(document, "max_voltage", path, 1) or 0
    amperes = _scaled(document, "max_amperage", path, 1) or 0
    return volts * amperes * _PHASES.get(power_type, 0)


def _connector(value: object, path: str) -> Connector:
    document = _mapping(value, path)
    power = _text(document, "power_type", path)
    if power and power not in _POWER_TYPES:
        raise bad_field(f"{path}.power_type", f"must be one of {', '.join(PowerType)}")
    return Connector(
        connector_id=_text(document, "id", path, required=True),
        standard=_text(document, "standard", path, required=True),
        power_type=_POWER_TYPES[power] if power else None,
        max_power_w=_max_power_w(document, path, power),
        tariff_ids=tuple(str(t) for t in _list(document, "tariff_ids", path)),
    )


def location_from_document(value: object, path: str = "") -> Location:
    """An OCPI 2.2.1 or 2.3.0 Location. Raises BadInput with the path of what is wrong."""
    document = _mapping(value, path)
    evses = tuple(evses_from_documents(_list(document, "evses", path), path))
    return replace(location_head_from_document(document, path), evses=evses)


def location_head_from_document(value: object, path: str = "") -> Location:
    """A location without its EVSEs. Raises BadInput."""
    document = _mapping(value, path)
    return Location(
        country_code=_text(document, "country_code", path, required=True).upper(),
        party_id=_text(document, "party_id", path, required=True).upper(),
        location_id=_text(document, "id", path, required=True),
        time_zone=_text(document, "time_zone", path, required=True),
        name=_text(document, "name", path),
    )


def evses_from_documents(values: Iterable[object], path: str = "") -> Iterator[Evse]:
    """The EVSEs of a location, each read when it is its turn. Raises BadInput."""
    prefix = f"{path}." if path else ""
    for index, item in enumerate(values):
        where = f"{prefix}evses[{index}]"
        evse = _mapping(item, where)
        if evse.get("status") == "REMOVED":  # OCPI's way to delete an EVSE
            continue
        connectors = tuple(
            _connector(c, f"{where}.connectors[{i}]")
            for i, c in enumerate(_list(evse, "connectors", where))
        )
        yield Evse(_text(evse, "uid", where, required=True), connectors)


def location_to_document(location: Location) -> Document:
    """The part of an OCPI Location that is stored."""
    evses = [_evse_document(evse) for evse in location.evses]
    return _location_head(location) | without_empty({"evses": evses})


def location_to_text(location: Location) -> Steps[str]:
    """The document as JSON; a step for each EVSE."""
    evses = []
    for evse in location.evses:
        evses.append(json.dumps(_evse_document(evse)))
        yield
    head = json.dumps(_location_head(location))
    return f'{head[:-1]}, "evses": [{", ".join(evses)}]}}' if evses else head


def _location_head(location: Location) -> Document:
    return without_empty(
        {
            "country_code": location.country_code,
            "party_id": location.party_id,
            "id": location.location_id,
            "time_zone": location.time_zone,
            "name": location.name,
        }
    )


def _evse_document(evse: Evse) -> Document:
    return {"uid": evse.evse_uid, "connectors": [_connector_document(c) for c in evse.connectors]}


def _connector_document(connector: Connector) -> Document:
    return without_empty(
        {
            "id": connector.connector_id,
            "standard": connector.standard,
            "power_type": connector.power_type and connector.power_type.value,
            "max_electric_power": connector.max_power_w or None,
            "tariff_ids": list(connector.tariff_ids),
        }
    )


def vehicle_profile_from_document(document: Mapping[str, Any]) -> VehicleProfile:
    """A stored profile."""
    kind = document.get("type")
    return VehicleProfile(
        type=VehicleType(kind) if kind else None,
        connector_standards=frozenset(document.get("connector_standards", ())),
        max_ac_power_w=document.get("max_ac_power_w", 0),
        max_dc_power_w=document.get("max_dc_power_w", 0),
        battery_capacity_wh=document.get("battery_capacity_wh", 0),
    )


def vehicle_profile_to_document(profile: VehicleProfile) -> Document:
    """What `vehicle_profile_from_document` reads."""
    return without_empty(
        {
            "type": profile.type and profile.type.value,
            "connector_standards": sorted(profile.connector_standards),
            "max_ac_power_w": profile.max_ac_power_w or None,
            "max_dc_power_w": profile.max_dc_power_w or None,
            "battery_capacity_wh": profile.battery_capacity_wh or None,
        }
    )
