"""Locations, tariffs and vehicle profiles as documents, in OCPI's form where it has one.

The same reader serves the store and the import of OCPI files: keys of OCPI that
are not needed here are passed over, as OCPI demands of a receiver.
"""

from collections.abc import Mapping
from decimal import ROUND_HALF_UP, Decimal
from functools import lru_cache
from typing import Any

from voucher_grpc.catalogue.conditions import PowerType, VehicleType
from voucher_grpc.catalogue.document import (
    Document,
    decimal_from_value,
    restrictions_from_document,
    restrictions_to_document,
    without_empty,
)
from voucher_grpc.errors import BadInput, bad_field
from voucher_grpc.places.location import Connector, Evse, Location, VehicleProfile
from voucher_grpc.places.tariff import Dimension, PriceComponent, Tariff, TariffElement

_RESERVATION = "reservation"
_DIMENSIONS = frozenset(Dimension)
_PHASES = {"AC_1_PHASE": 1, "AC_2_PHASE": 2, "AC_2_PHASE_SPLIT": 2, "AC_3_PHASE": 3, "DC": 1}


def _mapping(value: object, path: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise bad_field(path or "document", f"must be an object, not {type(value).__name__}")
    return value


def _text(document: Mapping[str, Any], key: str, path: str, *, required: bool = False) -> str:
    value = document.get(key)
    where = f"{path}.{key}" if path else key
    if value is None or value == "":
        if required:
            raise bad_field(where, "is missing")
        return ""
    if not isinstance(value, str):
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
    if isinstance(value, str) and len(value) <= _SHORT_CHARS:
        known = _short_scaled(value, scale)
        if known is not None:
            return known
    return _rounded(decimal_from_value(value, f"{path}.{key}" if path else key), scale)


# As prices and rates are written; they come again and again, and a decimal takes long to check.
_SHORT_CHARS = 12


@lru_cache(maxsize=16_384)
def _short_scaled(text: str, scale: int) -> int | None:
    try:
        return _rounded(decimal_from_value(text, ""), scale)
    except BadInput:  # told with its path by who asks
        return None


def _rounded(number: Decimal, scale: int) -> int:
    return int((number * scale).quantize(Decimal(1), rounding=ROUND_HALF_UP))


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
    if power and power not in set(PowerType):
        raise bad_field(f"{path}.power_type", f"must be one of {', '.join(PowerType)}")
    return Connector(
        connector_id=_text(document, "id", path, required=True),
        standard=_text(document, "standard", path, required=True),
        power_type=PowerType(power) if power else None,
        max_power_w=_max_power_w(document, path, power),
        tariff_ids=tuple(str(t) for t in _list(document, "tariff_ids", path)),
    )


def location_from_document(value: object, path: str = "") -> Location:
    """An OCPI 2.2.1 or 2.3.0 Location. Raises BadInput with the path of what is wrong."""
    document = _mapping(value, path)
    prefix = f"{path}." if path else ""
    evses = []
    for index, item in enumerate(_list(document, "evses", path)):
        where = f"{prefix}evses[{index}]"
        evse = _mapping(item, where)
        if evse.get("status") == "REMOVED":  # OCPI's way to delete an EVSE
            continue
        connectors = tuple(
            _connector(c, f"{where}.connectors[{i}]")
            for i, c in enumerate(_list(evse, "connectors", where))
        )
        evses.append(Evse(_text(evse, "uid", where, required=True), connectors))
    return Location(
        country_code=_text(document, "country_code", path, required=True).upper(),
        party_id=_text(document, "party_id", path, required=True).upper(),
        location_id=_text(document, "id", path, required=True),
        time_zone=_text(document, "time_zone", path, required=True),
        name=_text(document, "name", path),
        evses=tuple(evses),
    )


def location_to_document(location: Location) -> Document:
    """The part of an OCPI Location that is kept."""
    return without_empty(
        {
            "country_code": location.country_code,
            "party_id": location.party_id,
            "id": location.location_id,
            "time_zone": location.time_zone,
            "name": location.name,
            "evses": [
                {
                    "uid": evse.evse_uid,
                    "connectors": [
                        without_empty(
                            {
                                "id": c.connector_id,
                                "standard": c.standard,
                                "power_type": c.power_type and c.power_type.value,
                                "max_electric_power": c.max_power_w or None,
                                "tariff_ids": list(c.tariff_ids),
                            }
                        )
                        for c in evse.connectors
                    ],
                }
                for evse in location.evses
            ],
        }
    )


def _price_component(value: object, path: str) -> PriceComponent:
    document = _mapping(value, path)
    kind = _text(document, "type", path, required=True)
    if kind not in _DIMENSIONS:
        raise bad_field(f"{path}.type", f"must be one of {', '.join(Dimension)}")
    step = _scaled(document, "step_size", path, 1)
    price = _scaled(document, "price", path, 1_000_000)
    if price is None:  # left out, it must not come to mean free
        raise bad_field(f"{path}.price", "is missing")
    return PriceComponent(
        dimension=Dimension(kind),
        price_micros=price,
        vat_basis_points=_scaled(document, "vat", path, 100),
        step_size=1 if step is None else step,
    )


def _price_limit(document: Mapping[str, Any], key: str, path: str) -> int | None:
    """OCPI 2.2.1 has {"excl_vat": ..}, 2.3.0 {"before_taxes": ..}; without VAT in both."""
    if document.get(key) is None:
        return None
    where = f"{path}.{key}" if path else key
    price = _mapping(document[key], where)
    field = "excl_vat" if "excl_vat" in price else "before_taxes"
    return _scaled(price, field, where, 1_000_000)


def tariff_from_document(value: object, path: str = "") -> Tariff:
    """An OCPI 2.2.1 Tariff, with `default_for_country` as an addition of ours.

    Elements that price a reservation are passed over: nothing here reserves.
    """
    document = _mapping(value, path)
    prefix = f"{path}." if path else ""
    elements = []
    for index, item in enumerate(_list(document, "elements", path)):
        where = f"{prefix}elements[{index}]"
        element = _mapping(item, where)
        restrictions = dict(_mapping(element.get("restrictions") or {}, f"{where}.restrictions"))
        if restrictions.pop(_RESERVATION, None):
            continue
        components = tuple(
            _price_component(c, f"{where}.price_components[{i}]")
            for i, c in enumerate(_list(element, "price_components", where))
        )
        elements.append(
            TariffElement(
                components, restrictions_from_document(restrictions, f"{where}.restrictions")
            )
        )
    return Tariff(
        country_code=_text(document, "country_code", path, required=True).upper(),
        party_id=_text(document, "party_id", path, required=True).upper(),
        tariff_id=_text(document, "id", path, required=True),
        currency_code=_text(document, "currency", path, required=True),
        elements=tuple(elements),
        min_price_micros=_price_limit(document, "min_price", path),
        max_price_micros=_price_limit(document, "max_price", path),
        default_for_country=bool(document.get("default_for_country")),
    )


def _decimal_text(value: int | None, places: int) -> str | None:
    return None if value is None else f"{Decimal(value).scaleb(-places).normalize():f}"


def tariff_to_document(tariff: Tariff) -> Document:
    """The part of an OCPI Tariff that is kept; numbers as text, so that they stay exact."""
    return without_empty(
        {
            "country_code": tariff.country_code,
            "party_id": tariff.party_id,
            "id": tariff.tariff_id,
            "currency": tariff.currency_code,
            "elements": [
                without_empty(
                    {
                        "price_components": [
                            without_empty(
                                {
                                    "type": c.dimension.value,
                                    "price": _decimal_text(c.price_micros, 6),
                                    "vat": _decimal_text(c.vat_basis_points, 2),
                                    "step_size": c.step_size,
                                }
                            )
                            for c in element.price_components
                        ],
                        "restrictions": restrictions_to_document(element.restrictions),
                    }
                )
                for element in tariff.elements
            ],
            "min_price": _price_document(tariff.min_price_micros),
            "max_price": _price_document(tariff.max_price_micros),
            "default_for_country": tariff.default_for_country,
        }
    )


def _price_document(micros: int | None) -> Document | None:
    return None if micros is None else {"excl_vat": _decimal_text(micros, 6)}


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
