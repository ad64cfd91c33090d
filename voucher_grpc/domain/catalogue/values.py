"""Plain values of documents: read with the path of what is wrong, and written exactly."""

import re
from collections.abc import Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, NoReturn, TypeVar

from voucher_grpc.errors import bad_field
from voucher_grpc.money import Money, micros_from_decimal
from voucher_grpc.printable import printable

Document = dict[str, Any]
E_ = TypeVar("E_", bound=StrEnum)
WH_PER_KWH = 1000
# Beyond this a decimal is nonsense for any field and could be made to cost memory. With
# micro-units it stays exact in the 28 digits of the decimal context.
MAX_DECIMAL_DIGITS = 20
# Of an unknown key, as a message names it.
MAX_KEY_CHARS = 100
_TIME = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_DECIMAL = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]{1,9})?")


def fail(path: str, message: str) -> NoReturn:
    raise bad_field(path, message)


class Reader:
    """Takes the keys of one mapping by name and at the end refuses those left over."""

    def __init__(self, value: object, path: str) -> None:
        if not isinstance(value, Mapping):
            fail(path, f"must be a mapping, not {type(value).__name__}")
        self.left = {str(key): item for key, item in value.items()}
        self.path = path

    def at(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    def has(self, key: str) -> bool:
        return self.left.get(key) is not None

    def take(self, key: str, *, required: bool = False) -> Any:
        value = self.left.pop(key, None)
        if value is None and required:
            fail(self.at(key), "is missing")
        return value

    def text(self, key: str, *, required: bool = False) -> str:
        value = self.take(key, required=required)
        if value is not None and not isinstance(value, str):
            fail(self.at(key), f"must be text, not {type(value).__name__}; put it in quotes")
        return value or ""

    def integer(self, key: str, default: int | None = None) -> int | None:
        value = self.take(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int):
            fail(self.at(key), "must be a whole number")
        return value

    def boolean(self, key: str) -> bool:
        value = self.take(key)
        if value is not None and not isinstance(value, bool):
            fail(self.at(key), "must be true or false")
        return bool(value)

    def scaled(self, key: str, scale: int) -> int | None:
        """A decimal times `scale`, which must come out whole."""
        value = self.take(key)
        if value is None:
            return None
        exact = exactly_scaled(value, scale)
        if exact is not None:
            return exact
        number = decimal_from_value(value, self.at(key)) * scale
        if number != number.to_integral_value():
            fail(self.at(key), f"has more places than 1/{scale}")
        return int(number)

    def items(self, key: str) -> list[Any]:
        value = self.take(key)
        if value is None:
            return []
        if not isinstance(value, list):
            fail(self.at(key), "must be a list")
        return value

    def choices(self, key: str, kind: type[E_]) -> list[E_]:
        return [
            choice_from_value(item, kind, f"{self.at(key)}[{index}]")
            for index, item in enumerate(self.items(key))
        ]

    def end(self) -> None:
        if self.left:
            key = printable(next(iter(self.left)), MAX_KEY_CHARS)
            fail(self.at(key), "is not a known key")


# The digits of decimals as they are stored: they need no decimal arithmetic.
_PLAIN = re.compile(r"([0-9]{1,12})(?:\.([0-9]{1,6}))?")
_PLACES = {1: 0, 100: 2, 1_000: 3, 1_000_000: 6}
_SMALL = 10**12


def exactly_scaled(value: object, scale: int) -> int | None:
    """A small whole number or the text of a decimal times `scale`, where that is quickly known
    and whole; else None. `scale` is 1, 100, 1,000 or 1,000,000."""
    if type(value) is int:
        return value * scale if -_SMALL < value < _SMALL else None
    plain = _PLAIN.fullmatch(value) if type(value) is str else None
    if plain is None:
        return None
    whole, fraction = plain.groups("")
    places = _PLACES[scale]
    return int(whole + fraction.ljust(places, "0")) if len(fraction) <= places else None


def decimal_from_value(value: object, path: str) -> Decimal:
    """A decimal number of at most 20 digits, also from text. Raises BadInput."""
    if not isinstance(value, (str, int, float, Decimal)):
        fail(path, "must be a number")
    try:
        text = str(value)
    except ValueError:  # an int of thousands of digits
        text = ""
    if not _DECIMAL.fullmatch(text):
        fail(path, f"must be a number of at most {MAX_DECIMAL_DIGITS} digits")
    number = Decimal(text)
    if max(abs(number.adjusted()), len(number.as_tuple().digits)) > MAX_DECIMAL_DIGITS:
        fail(path, f"must be a number of at most {MAX_DECIMAL_DIGITS} digits")
    return number


def choice_from_value(value: object, kind: type[E_], path: str) -> E_:
    try:
        return kind(str(value))
    except ValueError:
        fail(path, f"must be one of {', '.join(kind)}")


def money_from_text(value: object, path: str) -> Money:
    """ "49.00 NOK" as Money."""
    parts = str(value).split()
    if not isinstance(value, str) or len(parts) != 2:
        fail(path, 'must be an amount and a currency, for example "49.00 NOK"')
    return Money(micros_from_decimal(micro_precise(parts[0], path)), parts[1])


def micro_precise(value: object, path: str) -> Decimal:
    number = decimal_from_value(value, path)
    if number.scaleb(6) != number.scaleb(6).to_integral_value():
        fail(path, "has more than 6 places")
    return number


def minute_from_text(value: object, path: str) -> int | None:
    """ "22:30" as minutes after midnight; None for nothing."""
    if value in (None, ""):
        return None
    if match := _TIME.fullmatch(str(value)):
        return int(match[1]) * 60 + int(match[2])
    fail(path, 'must be a time from "00:00" to "23:59"')


def text_from_minute(minute: int | None) -> str | None:
    """Minutes after midnight as "22:30"."""
    return None if minute is None else f"{minute // 60:02d}:{minute % 60:02d}"


def date_from_text(value: object, path: str) -> date | None:
    """ "2026-11-22" as a date; None for nothing."""
    if value in (None, ""):
        return None
    if isinstance(value, date) and not isinstance(value, datetime):
        return value
    try:
        if _DATE.fullmatch(str(value)):  # fromisoformat takes weeks and other forms too
            return date.fromisoformat(str(value))
    except ValueError:
        pass
    fail(path, 'must be a date such as "2026-11-22"')


def instant_from_text(value: object, path: str) -> datetime | None:
    """An RFC 3339 instant as UTC; None for nothing."""
    if value in (None, ""):
        return None
    if not isinstance(value, datetime):
        try:
            value = datetime.fromisoformat(str(value))
        except ValueError:
            fail(path, 'must be an instant such as "2026-11-22T10:00:00Z"')
    if value.tzinfo is None:
        fail(path, "must say its offset from UTC, for example by a Z at its end")
    try:
        return value.astimezone(UTC)
    except OverflowError:
        fail(path, "must be between the years 1 and 9999")


def without_empty(document: Document) -> Document:
    return {
        key: value
        for key, value in document.items()
        if value is not None and value is not False and value not in ("", [], {})
    }


def number_text(value: Decimal) -> str:
    return f"{value.normalize():f}"


def kilo_text(value: int | None) -> str | None:
    return None if value is None else number_text(Decimal(value).scaleb(-3))


def iso_text(value: date | datetime | None) -> str | None:
    return None if value is None else value.isoformat()
