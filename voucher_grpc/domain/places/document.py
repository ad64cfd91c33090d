"""Locations and vehicle profiles as they are stored, in OCPI's form where it has one.

What operators publish is read by `files/published_locations.py`.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from voucher_grpc.domain.catalogue.values import (
    Document,
    instant_from_text,
    iso_text,
    without_empty,
)
from voucher_grpc.domain.places.location import Connector, Evse, Location, VehicleProfile
from voucher_grpc.ocpi import PowerType, VehicleType
from voucher_grpc.steps import Steps


def location_from_document(document: Mapping[str, Any]) -> Location:
    """A stored location."""
    evses = tuple(evses_from_documents(document.get("evses", ())))
    return replace(location_head_from_document(document), evses=evses)


def location_head_from_document(document: Mapping[str, Any]) -> Location:
    """A stored location without its EVSEs."""
    return Location(
        country_code=document["country_code"],
        party_id=document["party_id"],
        location_id=document["id"],
        time_zone=document["time_zone"],
        name=document.get("name", ""),
        country=document.get("country", ""),
        last_updated=instant_from_text(document.get("last_updated"), "last_updated"),
    )


def evses_from_documents(documents: Iterable[Mapping[str, Any]]) -> Iterator[Evse]:
    """The EVSEs of a stored location, each read when it is its turn."""
    for document in documents:
        yield Evse(document["uid"], tuple(map(_connector, document["connectors"])))


def _connector(document: Mapping[str, Any]) -> Connector:
    power_type = document.get("power_type")
    return Connector(
        connector_id=document["id"],
        standard=document["standard"],
        power_type=PowerType(power_type) if power_type else None,
        max_power_w=document.get("max_electric_power", 0),
        tariff_ids=tuple(document.get("tariff_ids", ())),
    )


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
            "country": location.country,
            "last_updated": iso_text(location.last_updated),
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
