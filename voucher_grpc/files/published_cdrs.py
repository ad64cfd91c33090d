"""OCPI CDRs and Sessions as they are published, as periods for the pricing engine."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from fractions import Fraction
from typing import Any

from voucher_grpc.domain.pricing.charge import SECONDS_PER_HOUR, Bounds, Period, Quantity, seconds
from voucher_grpc.errors import bad_field
from voucher_grpc.files.notes import Notes
from voucher_grpc.files.published import NotUnderstood, instant, number, text
from voucher_grpc.money import round_half_away

# Of a unit of OCPI, how many of ours, and into how many parts ours are cut. Numbers of OCPI have
# four decimals (2.2.1, 16.8 number), of an hour 0.36 s: what is beyond that is noise, which a
# step must not round up.
_UNITS = {
    Quantity.ENERGY: (1_000, 10),
    Quantity.TIME: (SECONDS_PER_HOUR, 1),
    Quantity.PARKING_TIME: (SECONDS_PER_HOUR, 1),
    Quantity.RESERVATION_TIME: (SECONDS_PER_HOUR, 1),
}
_MOMENTARY = ("MIN_POWER", "MAX_POWER", "MIN_CURRENT", "MAX_CURRENT")


@dataclass(frozen=True, slots=True)
class PublishedCharge:
    """What a CDR or Session says of a charge; `tariffs` are the objects inside it."""

    start: datetime
    end: datetime
    currency_code: str
    periods: tuple[Period, ...]
    country: str = ""
    time_zone: str = ""
    credit: bool = False
    tariffs: tuple[object, ...] = field(default=(), repr=False)


def read_charge(value: object, notes: Notes) -> PublishedCharge:
    """A CDR (2.1.1, 2.2.1, 2.3.0) or a Session. Raises BadInput with the key that is wrong."""
    if not isinstance(value, Mapping):
        raise bad_field("CDR", f"must be an object, not {type(value).__name__}")
    document = {str(key): item for key, item in value.items() if item is not None}
    start = _instant(document, "start_date_time")
    end_key = next((k for k in ("end_date_time", "stop_date_time") if k in document), "")
    if not end_key:
        raise bad_field("end_date_time", "is missing")
    end = _instant(document, end_key)
    if end < start:
        raise bad_field(end_key, "must not be before the start")
    rows = document.get("charging_periods")
    if not isinstance(rows, list) or not rows:
        raise bad_field("charging_periods", "must be a list of at least one period")
    location = document.get("cdr_location") or document.get("location") or {}
    tariffs = document.get("tariffs") or []
    return PublishedCharge(
        start=start,
        end=end,
        currency_code=_text(document, "currency"),
        periods=_periods(rows, start, end, notes),
        country=_text(location, "country") if isinstance(location, Mapping) else "",
        time_zone=_text(location, "time_zone") if isinstance(location, Mapping) else "",
        credit=document.get("credit") is True,
        tariffs=tuple(tariffs) if isinstance(tariffs, list) else (),
    )


def _text(document: Mapping[str, Any], key: str) -> str:
    try:
        return text(document.get(key) or "")
    except NotUnderstood as error:
        raise bad_field(key, str(error)) from None


def _instant(document: Mapping[str, Any], key: str, path: str = "") -> datetime:
    if key not in document:
        raise bad_field(f"{path}{key}", "is missing")
    try:
        return instant(document[key])
    except NotUnderstood as error:
        raise bad_field(f"{path}{key}", str(error)) from None


def _periods(rows: list[Any], start: datetime, end: datetime, notes: Notes) -> tuple[Period, ...]:
    """The periods in the order of their starts; each ends where the next one begins."""
    stated: list[tuple[datetime, dict[str, Fraction], str]] = []
    for index, row in enumerate(rows):
        path = f"charging_periods[{index}]"
        if not isinstance(row, Mapping):
            raise bad_field(path, "must be an object")
        at = _instant(row, "start_date_time", f"{path}.")
        stated.append((at, _dimensions(row, path, notes), str(row.get("tariff_id") or "")))
    in_order = sorted(stated, key=lambda row: row[0])
    if in_order != stated:
        notes.repaired("charging_periods", "put in the order of their starts")
    periods: list[Period] = []
    energy_wh = Fraction(0)
    for at, values, tariff_id in in_order:
        later = next((other for other, _, _ in in_order if other > at), end)
        volumes = {q: values[q] for q in Quantity if values.get(q)}
        periods.append(
            Period(
                start=at,
                elapsed_s=max(Fraction(0), seconds(at - start)),
                energy_before_wh=energy_wh,
                volumes=volumes,
                power=_bounds(values, "POWER"),
                current=_bounds(values, "CURRENT"),
                length_s=max(Fraction(0), seconds(later - at)),
                tariff_id=tariff_id,
            )
        )
        energy_wh += volumes.get(Quantity.ENERGY, Fraction(0))
    return tuple(periods)


def _bounds(values: Mapping[str, Fraction], of: str) -> Bounds:
    return Bounds(values.get(f"MIN_{of}"), values.get(f"MAX_{of}"))


def _dimensions(row: Mapping[str, Any], path: str, notes: Notes) -> dict[str, Fraction]:
    """Volumes in Wh and seconds, powers in W, currents in mA, by their CdrDimensionType."""
    found: dict[str, Fraction] = {}
    dimensions = row.get("dimensions") or []
    if not isinstance(dimensions, list):
        raise bad_field(f"{path}.dimensions", "must be a list")
    for index, item in enumerate(dimensions):
        where = f"{path}.dimensions[{index}]"
        if not isinstance(item, Mapping):
            notes.skipped(where, "must be an object", item)
            continue
        kind = str(item.get("type") or "").upper()
        try:
            volume = Fraction(number(item.get("volume")))
        except NotUnderstood as error:
            raise bad_field(f"{where}.volume", str(error)) from None
        if kind in _MOMENTARY:
            found[kind] = volume * 1_000
        elif kind in _UNITS:
            if volume < 0:
                notes.repaired(where, "below 0, read as 0", str(item.get("volume")))
                volume = Fraction(0)
            scale, parts = _UNITS[Quantity(kind)]
            read = Fraction(round_half_away(volume * scale * parts), parts)
            found[kind] = found.get(kind, Fraction(0)) + read
        elif kind != "FLAT":  # of 2.1.1, without a meaning of its own
            notes.skipped(where, f"dimension {kind[:50]} is not billed", str(item.get("volume")))
    return found
