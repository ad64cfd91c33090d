"""Plain values of published OCPI objects: tolerant where the meaning is clear, and then noted.

Raises NotUnderstood where it is not; the reader of the object then skips the smallest part that
can be left out without a price applying more widely.
"""

import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta, tzinfo
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from typing import Any, TypeVar

from voucher_grpc.domain.catalogue.values import decimal_from_value
from voucher_grpc.errors import BadInput
from voucher_grpc.files.notes import Notes

E_ = TypeVar("E_", bound=StrEnum)
_TIME = re.compile(r"(\d{1,2}):(\d{1,2})(?::(\d{1,2})(?:\.\d+)?)?")
_DATE = re.compile(r"(\d{4})-(\d{1,2})-(\d{1,2})(?:[T ].*)?")
_INSTANT = re.compile(
    r"(\d{4})-(\d{1,2})-(\d{1,2})[Tt ](\d{1,2}):(\d{1,2})(?::(\d{1,2})(?:[.,](\d{1,9}))?)?"
    r"\s*([Zz]|[+-]\d{2}:?\d{2})?"
)
_MINUTES_PER_DAY = 1_440


class NotUnderstood(ValueError):
    """A value that is not what OCPI says, and nothing near it."""


def number(value: object) -> Decimal:
    """A finite decimal of at most 20 digits, also from text."""
    if isinstance(value, bool):
        raise NotUnderstood("must be a number")
    try:
        return decimal_from_value(value, "value")
    except BadInput as error:
        raise NotUnderstood(error.violations[0].description) from None


def scaled(value: object, scale: int) -> int:
    """A decimal times `scale`, rounded half up: published floats carry noise."""
    exact = Fraction(number(value)) * scale
    return (2 * exact.numerator + exact.denominator) // (2 * exact.denominator)


def text(value: object) -> str:
    """A text, or a number that stands for one."""
    if isinstance(value, (int, Decimal)) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise NotUnderstood(f"must be text, not {type(value).__name__}")
    return value.strip()


def choice(value: object, kind: type[E_], path: str, notes: Notes) -> E_:
    """A value of an enumeration, in capitals or not (OCPI 2.2.1, 16.1 CiString)."""
    said = text(value)
    for member in kind:
        if said.casefold() == member.casefold():
            if said != member:
                notes.repaired(path, f"read as {member.value}", said)
            return member
    raise NotUnderstood(f"must be one of {', '.join(kind)}")


def minute(value: object, path: str, notes: Notes) -> int:
    """ "07:30" as minutes after midnight; also "7:30", "07:30:00" and "24:00"."""
    said = text(value)
    match = _TIME.fullmatch(said)
    if match is None:
        raise NotUnderstood('must be a time such as "07:30"')
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    if minutes > 59 or seconds > 59 or hours * 60 + minutes > _MINUTES_PER_DAY:
        raise NotUnderstood('must be a time from "00:00" to "24:00"')
    # 23:59:59 is how some write the end of the day.
    whole = (hours * 60 + minutes + (1 if seconds >= 30 else 0)) % _MINUTES_PER_DAY
    read = f"{whole // 60:02d}:{whole % 60:02d}"
    if said != read:
        notes.repaired(path, f"read as {read}", said)
    return whole


def day(value: object, path: str, notes: Notes) -> date:
    """ "2026-06-01" as a date; also "2026-6-1" and an instant of that day."""
    said = text(value)
    match = _DATE.fullmatch(said)
    try:
        read = date(*map(int, match.groups())) if match else None
    except ValueError:
        read = None
    if read is None:
        raise NotUnderstood('must be a date such as "2026-06-01"')
    if said != read.isoformat():
        notes.repaired(path, f"read as {read.isoformat()}", said)
    return read


def instant(value: object, zone: tzinfo | None = None) -> datetime:
    """A date and time; without an offset in `zone`, else UTC (OCPI 2.2.1, 16.5 DateTime)."""
    match = _INSTANT.fullmatch(text(value))
    if match is None:
        raise NotUnderstood('must be a time such as "2026-06-01T08:00:00Z"')
    year, month, of_month, hours, minutes, seconds, fraction, offset = match.groups()
    try:
        local = datetime(
            int(year),
            int(month),
            int(of_month),
            int(hours),
            int(minutes),
            int(seconds or 0),
            int((fraction or "0")[:6].ljust(6, "0")),
            tzinfo=(zone or UTC) if offset is None else UTC,
        )
        return local.astimezone(UTC) if offset is None else local - _offset(offset)
    except (ValueError, OverflowError) as error:
        raise NotUnderstood(f"is no time: {error}") from None


def read_last_updated(document: Mapping[str, Any], notes: Notes) -> datetime | None:
    """When an object was last changed; None where it is not stated, or not understood."""
    value = document.get("last_updated")
    if value is None:
        return None
    try:
        return instant(value)
    except NotUnderstood as error:
        notes.skipped("last_updated", str(error), value)
        return None


def _offset(said: str) -> timedelta:
    if said in "Zz":
        return timedelta(0)
    sign = -1 if said[0] == "-" else 1
    return sign * timedelta(hours=int(said[1:3]), minutes=int(said[-2:]))


def known_keys(
    document: Mapping[str, Any], keys: Mapping[str, str], path: str, notes: Notes
) -> dict[str, Any]:
    """What a mapping states, by known key; a key that is spelt otherwise is repaired.

    `keys` are the known ones, by their letters alone. Raises NotUnderstood for another one.
    """
    found: dict[str, Any] = {}
    for key, value in document.items():
        if value is None or value == [] or value == "":
            continue
        known = keys.get(re.sub(r"[^a-z]", "", str(key).casefold()))
        if known is None:
            raise NotUnderstood(f"{str(key)[:50]!r} is not known")
        if known != key:
            notes.repaired(f"{path}.{key}", f"read as {known}")
        found[known] = value
    return found
