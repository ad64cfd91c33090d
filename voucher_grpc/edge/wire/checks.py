"""Checks of form: every field that is wrong is named with its bound, before any I/O."""

import re
import unicodedata
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import TypeVar
from uuid import UUID
from zoneinfo import available_timezones

from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.money_pb2 import Money as MoneyMessage

from voucher_grpc.domain.catalogue.values import date_from_text, minute_from_text
from voucher_grpc.errors import BadInput, FieldViolation
from voucher_grpc.money import MICROS, Money

MAX_ID_CHARS = 64
MAX_OCPI_ID_CHARS = 36
MAX_LANGUAGE_CHARS = 35
MAX_PRICE_MICROS = 1_000_000 * MICROS
EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
LATEST = datetime(2100, 1, 1, tzinfo=UTC)
_NANOS_PER_MICRO = 1000
_VISIBLE_ASCII = re.compile(r"[\x21-\x7e]*")
_PRODUCT_ID = re.compile(r"[A-Za-z0-9._-]*")
_COUNTRY = re.compile(r"[A-Z]{2}")
_ALPHA_3 = re.compile(r"[A-Z]{3}")
_PARTY = re.compile(r"[A-Z0-9]{3}")
_CURRENCY = re.compile(r"[A-Z]{3}")
_LANGUAGE = re.compile(r"[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*")
_UUID = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")

E = TypeVar("E", bound=StrEnum)


@lru_cache(maxsize=1)
def _zones() -> frozenset[str]:
    return frozenset(available_timezones())


class Checks:
    """Collects what is wrong with one message; `done` raises it all as one BadInput.

    Each method takes the field's path and the value and gives back the value as
    the domain has it, or a harmless stand-in if it is wrong.
    """

    def __init__(self) -> None:
        self.violations: list[FieldViolation] = []

    def wrong(self, field: str, description: str) -> None:
        """Note a violation."""
        self.violations.append(FieldViolation(field, description))

    def done(self) -> None:
        """Raise BadInput if anything was wrong."""
        if self.violations:
            raise BadInput(self.violations)

    def _matching(
        self, field: str, value: str, pattern: re.Pattern[str], what: str, required: bool
    ) -> str:
        if not value:
            if required:
                self.wrong(field, "is missing")
        elif not pattern.fullmatch(value):
            self.wrong(field, f"must be {what}")
            return ""
        return value

    def identifier(
        self, field: str, value: str, *, required: bool = False, max_chars: int = MAX_ID_CHARS
    ) -> str:
        """1 to `max_chars` visible ASCII characters."""
        if len(value) > max_chars:
            self.wrong(field, f"must be at most {max_chars} characters, has {len(value)}")
            return ""
        return self._matching(
            field, value, _VISIBLE_ASCII, "visible ASCII without spaces", required
        )

    def product_id(self, field: str, value: str) -> str:
        """1 to 64 letters, digits, "-", "_" and "."."""
        if len(value) > MAX_ID_CHARS:
            self.wrong(field, f"must be at most {MAX_ID_CHARS} characters, has {len(value)}")
            return ""
        return self._matching(field, value, _PRODUCT_ID, 'of letters, digits, "-", "_", "."', True)

    def text(self, field: str, value: str, max_chars: int, *, required: bool = False) -> str:
        """Text for people: any characters but control characters other than line ends."""
        if required and not value.strip():
            self.wrong(field, "is missing")
        if len(value) > max_chars:
            self.wrong(field, f"must be at most {max_chars} characters, has {len(value)}")
            return ""
        if any(unicodedata.category(c) == "Cc" and c != "\n" for c in value):
            self.wrong(field, "must not contain control characters")
            return ""
        return value

    def country(self, field: str, value: str, *, required: bool = False) -> str:
        """ISO 3166-1 alpha-2."""
        return self._matching(
            field, value, _COUNTRY, 'an ISO 3166-1 alpha-2 code such as "NO"', required
        )

    def country_alpha_3(self, field: str, value: str) -> str:
        """ISO 3166-1 alpha-3, by form."""
        return self._matching(
            field, value, _ALPHA_3, 'an ISO 3166-1 alpha-3 code such as "NOR"', required=False
        )

    def party(self, field: str, value: str, *, required: bool = False) -> str:
        """An OCPI party id."""
        return self._matching(
            field, value, _PARTY, "an OCPI party id: 3 capital letters or digits", required
        )

    def currency(self, field: str, value: str, *, required: bool = False) -> str:
        """ISO 4217, by form; whether it exists is asked where money is set."""
        return self._matching(field, value, _CURRENCY, 'an ISO 4217 code such as "NOK"', required)

    def language(self, field: str, value: str) -> str:
        """BCP 47."""
        if len(value) > MAX_LANGUAGE_CHARS:
            self.wrong(field, f"must be at most {MAX_LANGUAGE_CHARS} characters, has {len(value)}")
            return ""
        return self._matching(field, value, _LANGUAGE, 'a BCP 47 tag such as "en"', False)

    def time_zone(self, field: str, value: str, *, required: bool = False) -> str:
        """An IANA zone that the time zone database has."""
        if not value:
            if required:
                self.wrong(field, "is missing")
        elif value not in _zones():
            self.wrong(field, 'must be an IANA time zone such as "Europe/Oslo"')
            return "UTC"
        return value

    def number(self, field: str, value: int, low: int, high: int) -> int:
        """A whole number between two bounds, both inclusive."""
        if not low <= value <= high:
            self.wrong(field, f"must be from {low} to {high}, is {value}")
            return low
        return value

    def optional_number(
        self, message: Message, name: str, prefix: str, low: int, high: int
    ) -> int | None:
        """An optional number of a message; None if it is not set."""
        if not message.HasField(name):
            return None
        return self.number(f"{prefix}{name}", getattr(message, name), low, high)

    def uuid(self, field: str, value: str) -> UUID:
        """A UUID in its canonical form with hyphens."""
        if not value:
            self.wrong(field, "is missing")
        elif not _UUID.fullmatch(value):
            self.wrong(field, "must be a UUID such as 123e4567-e89b-12d3-a456-426614174000")
        else:
            return UUID(value)
        return UUID(int=0)

    def money(
        self, field: str, message: MoneyMessage, *, max_micros: int = MAX_PRICE_MICROS
    ) -> Money:
        """Zero or more, exact to a micro-unit."""
        currency = self.currency(f"{field}.currency_code", message.currency_code, required=True)
        stand_in = Money(0, currency or "XXX")
        units, nanos = message.units, message.nanos
        if units < 0 or nanos < 0:
            self.wrong(field, "must not be negative")
            return stand_in
        if nanos > 999_999_999:
            self.wrong(f"{field}.nanos", f"must be from 0 to 999999999, is {nanos}")
            return stand_in
        if nanos % _NANOS_PER_MICRO:
            self.wrong(f"{field}.nanos", "must be a multiple of 1000: amounts are exact to 1e-6")
            return stand_in
        micros = units * MICROS + nanos // _NANOS_PER_MICRO
        if micros > max_micros:
            self.wrong(field, f"must be at most {max_micros // MICROS} units")
            return stand_in
        return Money(micros, currency)

    def instant(self, field: str, message: Timestamp) -> datetime:
        """An instant from 1970 to 2100, to the microsecond."""
        if not 0 <= message.nanos <= 999_999_999:
            self.wrong(f"{field}.nanos", f"must be from 0 to 999999999, is {message.nanos}")
            return EARLIEST
        if not 0 <= message.seconds < (LATEST - EARLIEST).total_seconds():
            self.wrong(field, "must be from 1970-01-01 to 2099-12-31")
            return EARLIEST
        return EARLIEST + timedelta(
            seconds=message.seconds, microseconds=message.nanos // _NANOS_PER_MICRO
        )

    def optional_instant(self, message: Message, name: str, prefix: str) -> datetime | None:
        """An instant of a message; None if it is not set."""
        if not message.HasField(name):
            return None
        return self.instant(f"{prefix}{name}", getattr(message, name))

    def minute(self, field: str, value: str) -> int | None:
        """ "HH:MM" as minutes after midnight."""
        try:
            return minute_from_text(value, field)
        except BadInput as error:
            self.violations += error.violations
            return None

    def date(self, field: str, value: str) -> date | None:
        """ "YYYY-MM-DD"."""
        try:
            return date_from_text(value, field)
        except BadInput as error:
            self.violations += error.violations
            return None

    def choice(self, field: str, value: int, descriptor: EnumDescriptor, kind: type[E]) -> E | None:
        """An enum's value; None for UNSPECIFIED. An unknown number is a violation."""
        if value == 0:
            return None
        known = descriptor.values_by_number.get(value)
        if known is None:
            self.wrong(field, f"must be one of {', '.join(kind)}; {value} is not known")
            return None
        return kind(known.name.removeprefix(enum_prefix(descriptor)))

    def bounded(self, field: str, values: Iterable[object], high: int, low: int = 0) -> None:
        """How many a list may hold."""
        count = len(list(values))
        if not low <= count <= high:
            self.wrong(field, f"must have from {low} to {high} entries, has {count}")


@lru_cache(maxsize=256)
def enum_prefix(descriptor: EnumDescriptor) -> str:
    """What the names of an enum begin with: "POWER_TYPE_" for PowerType."""
    first = descriptor.values_by_number[0].name
    return str(first.removesuffix("UNSPECIFIED"))


def enum_number(descriptor: EnumDescriptor, value: StrEnum | None) -> int:
    """The number of a domain value; 0 for None."""
    if value is None:
        return 0
    return int(descriptor.values_by_name[enum_prefix(descriptor) + value.value].number)
