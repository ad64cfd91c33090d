"""OCPI Locations of 2.1.1, 2.2.1 and 2.3.0 as operators publish them.

A bad EVSE or connector is skipped and noted; the location stays. What is not known of a
connector limits nothing, so a value that is not understood is left out.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any, TypeVar
from zoneinfo import available_timezones

from voucher_grpc.domain.places.location import Connector, Evse, Location
from voucher_grpc.edge.wire.checks import MAX_OCPI_ID_CHARS
from voucher_grpc.edge.wire.conditions import MAX_POWER_W
from voucher_grpc.edge.wire.places import (
    MAX_CONNECTORS,
    MAX_EVSES,
    MAX_NAME_CHARS,
    MAX_TARIFF_IDS,
)
from voucher_grpc.errors import bad_field
from voucher_grpc.files.notes import Notes
from voucher_grpc.files.published import NotUnderstood, choice, read_last_updated, scaled, text
from voucher_grpc.ocpi import CONNECTOR_STANDARDS, PowerType

T = TypeVar("T")
_PHASES = {
    PowerType.AC_1_PHASE: 1,
    PowerType.AC_2_PHASE: 2,
    PowerType.AC_2_PHASE_SPLIT: 2,
    PowerType.AC_3_PHASE: 3,
    PowerType.DC: 1,
}
_ID = re.compile(r"[!-~]+")
_ALPHA_3 = re.compile(r"[A-Z]{3}")
_STANDARDS = {name.casefold(): name for name in CONNECTOR_STANDARDS}
_REMOVED = "removed"


def read_location(
    value: object, notes: Notes, *, country_code: str = "", party_id: str = ""
) -> Location:
    """A location; `country_code` and `party_id` are of those that name no owner (OCPI 2.1.1).

    Raises BadInput if it has no id, no owner or no time zone.
    """
    if not isinstance(value, Mapping):
        raise bad_field("location", f"must be an object, not {type(value).__name__}")
    evses = value.get("evses") or []
    if not isinstance(evses, list):
        raise bad_field("evses", "must be a list")
    return Location(
        country_code=_owner(value, "country_code", country_code),
        party_id=_owner(value, "party_id", party_id),
        location_id=_required(value, "id"),
        time_zone=_time_zone(_required(value, "time_zone"), notes),
        name=_name(value.get("name"), notes),
        evses=_distinct(
            evses, "evses", MAX_EVSES, _evse, lambda evse: evse.evse_uid, notes, _is_removed
        ),
        last_updated=read_last_updated(value, notes),
        country=_country(value.get("country"), notes),
    )


def _required(document: Mapping[str, Any], key: str) -> str:
    try:
        said = text(document[key]) if document.get(key) is not None else ""
    except NotUnderstood as error:
        raise bad_field(key, str(error)) from None
    if not said:
        raise bad_field(key, "is missing")
    return said


def _owner(document: Mapping[str, Any], key: str, otherwise: str) -> str:
    if document.get(key):
        return _required(document, key).upper()
    if not otherwise:
        raise bad_field(key, "is missing: name the owner with --country and --party")
    return otherwise.upper()


def _country(value: object, notes: Notes) -> str:
    """The place's country, ISO 3166-1 alpha-3; "" where it is not stated so."""
    if value is None:
        return ""
    said = str(value).strip().upper()
    if not _ALPHA_3.fullmatch(said):
        notes.skipped("country", "must be an ISO 3166-1 alpha-3 code", value)
        return ""
    return said


@lru_cache(maxsize=1)
def _zones() -> Mapping[str, str]:
    return {name.casefold(): name for name in available_timezones()}


def _time_zone(said: str, notes: Notes) -> str:
    known = _zones().get(said.casefold())
    if known is None:
        raise bad_field("time_zone", f"must be an IANA time zone, is {said[:50]!r}")
    if known != said:
        notes.repaired("time_zone", f"read as {known}", said)
    return known


def _name(value: object, notes: Notes) -> str:
    """Without control characters, and not longer than what is stored."""
    if value is None:
        return ""
    try:
        said = text(value)
    except NotUnderstood as error:
        notes.skipped("name", str(error), value)
        return ""
    cleaned = "".join(" " if unicodedata.category(c) == "Cc" else c for c in said)
    cleaned = " ".join(cleaned.split())[:MAX_NAME_CHARS]
    if cleaned != value:
        notes.repaired("name", "read without control characters", value)
    return cleaned


def _distinct(
    values: list[object],
    path: str,
    most: int,
    read: Callable[[Mapping[str, Any], str, Notes], T],
    key_of: Callable[[T], str],
    notes: Notes,
    left_out: Callable[[Mapping[str, Any]], bool] = lambda _: False,
) -> tuple[T, ...]:
    """Those that are understood, the first of each key, so many at most."""
    found: dict[str, T] = {}
    for index, value in enumerate(values):
        where = f"{path}[{index}]"
        try:
            if not isinstance(value, Mapping):
                raise NotUnderstood("must be an object")
            if left_out(value):
                continue
            one = read(value, where, notes)
            if key_of(one) in found:
                raise NotUnderstood("has an id that is there already")
            if len(found) == most:
                raise NotUnderstood(f"is beyond the {most} that are stored")
        except NotUnderstood as error:
            notes.skipped(where, str(error), value)
        else:
            found[key_of(one)] = one
    return tuple(found.values())


def _is_removed(evse: Mapping[str, Any]) -> bool:
    """OCPI 2.2.1, 8.4.22: an EVSE is deleted by its status."""
    return str(evse.get("status")).casefold() == _REMOVED


def _evse(document: Mapping[str, Any], path: str, notes: Notes) -> Evse:
    connectors = document.get("connectors") or []
    if not isinstance(connectors, list):
        raise NotUnderstood("connectors must be a list")
    return Evse(
        _id(document, "uid"),
        _distinct(
            connectors,
            f"{path}.connectors",
            MAX_CONNECTORS,
            _connector,
            lambda connector: connector.connector_id,
            notes,
        ),
    )


def _connector(document: Mapping[str, Any], path: str, notes: Notes) -> Connector:
    said = text(document.get("standard", ""))
    standard = _STANDARDS.get(said.casefold())
    if standard is None:
        raise NotUnderstood("standard must be an OCPI ConnectorType")
    if standard != said:
        notes.repaired(f"{path}.standard", f"read as {standard}", said)
    power_type = None
    if document.get("power_type"):
        try:
            power_type = choice(document["power_type"], PowerType, f"{path}.power_type", notes)
        except NotUnderstood as error:
            notes.skipped(f"{path}.power_type", str(error), document["power_type"])
    return Connector(
        connector_id=_id(document, "id"),
        standard=standard,
        power_type=power_type,
        max_power_w=_max_power_w(document, path, power_type, notes),
        tariff_ids=tuple(_tariff_ids(document, path, notes)),
    )


def _id(document: Mapping[str, Any], key: str) -> str:
    if document.get(key) is None:
        raise NotUnderstood(f"{key} is missing")
    said = text(document[key])
    if not _ID.fullmatch(said) or len(said) > MAX_OCPI_ID_CHARS:
        raise NotUnderstood(
            f"{key} must be 1 to {MAX_OCPI_ID_CHARS} visible ASCII characters without spaces"
        )
    return said


def _max_power_w(
    document: Mapping[str, Any], path: str, power_type: PowerType | None, notes: Notes
) -> int:
    """`max_electric_power`; OCPI leaves it out where voltage times current says it. 0: not known.

    The voltage of three phases is line to neutral (OCPI 2.2.1, 8.3.3). OCPI 2.1.1 has `voltage`
    and `amperage`.
    """
    stated = _whole(document, "max_electric_power", path, notes)
    if stated is None:
        volts = _whole(document, "max_voltage", path, notes)
        amperes = _whole(document, "max_amperage", path, notes)
        if volts is None:
            volts = _whole(document, "voltage", path, notes)
        if amperes is None:
            amperes = _whole(document, "amperage", path, notes)
        phases = 0 if power_type is None else _PHASES[power_type]
        stated = (volts or 0) * (amperes or 0) * phases
    if not 0 <= stated <= MAX_POWER_W:
        notes.skipped(f"{path}.max_electric_power", f"must be from 0 to {MAX_POWER_W} W", stated)
        return 0
    return stated


def _whole(document: Mapping[str, Any], key: str, path: str, notes: Notes) -> int | None:
    if document.get(key) is None:
        return None
    try:
        return scaled(document[key], 1)
    except NotUnderstood as error:
        notes.skipped(f"{path}.{key}", str(error), document[key])
        return None


def _tariff_ids(document: Mapping[str, Any], path: str, notes: Notes) -> Iterator[str]:
    """`tariff_ids`; OCPI 2.1.1 has one `tariff_id`."""
    values = document.get("tariff_ids") or [document.get("tariff_id")]
    if not isinstance(values, list):
        notes.skipped(f"{path}.tariff_ids", "must be a list", values)
        return
    stored = 0
    for index, value in enumerate(values):
        if value is None:
            continue
        try:
            said = _id({"tariff id": value}, "tariff id")
            if stored == MAX_TARIFF_IDS:
                raise NotUnderstood(f"is beyond the {MAX_TARIFF_IDS} that are stored")
        except NotUnderstood as error:
            notes.skipped(f"{path}.tariff_ids[{index}]", str(error), value)
        else:
            stored += 1
            yield said
