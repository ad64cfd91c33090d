"""Charging sessions from CSV, a batch at a time, so that a file may be of any size.

Columns (in any order, others are passed over):

    session_id       1 to 64 characters
    user_id          1 to 64 characters
    location_id      OCPI location id, or location/EVSE
    start_date_time  RFC 3339 with an offset, for example 2026-11-22T10:00:00Z; without one,
                     and as 22.11.2026 10:00, in the time zone that is named for the file
    end_date_time    the same; empty if not known
    energy_kwh       kWh, rounded half up to a Wh

Values are separated by commas, or by semicolons: a comma is then the decimal mark. What the file
calls a column can be named.

A row that cannot be read is refused by itself, with its line in the file; bounds
that the service keeps are judged there. What is wrong with the file as a whole
(the header, the encoding, an open quote) is BadInput.
"""

import csv
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal
from itertools import chain
from pathlib import Path
from zoneinfo import ZoneInfo

from voucher_grpc.edge.wire.conditions import place_message
from voucher_grpc.edge.wire.messages import timestamp
from voucher_grpc.errors import BadInput, bad_field
from voucher_grpc.files.input import file_error
from voucher_grpc.files.reading import Refusals, cannot_open
from voucher_grpc.ocpi import PlaceKey
from voucher_grpc.v1.tendency_service_pb2 import ChargingSession

COLUMNS = (
    "session_id",
    "user_id",
    "location_id",
    "start_date_time",
    "end_date_time",
    "energy_kwh",
)
_MAY_BE_EMPTY = frozenset({"end_date_time"})
BATCH_SESSIONS = 1_000
MAX_LINE_CHARS = 65_536
# Far above any session; what exceeds it would not fit into the message.
MAX_ENERGY_KWH = 10**12
# The operator of a location whose file does not name one.
UNKNOWN_PARTY = "XXX"
_NUMBER = re.compile(
    r"[-+]?(?:[0-9]{1,40}(?:\.[0-9]{0,40})?|\.[0-9]{1,40})(?:[eE][-+]?[0-9]{1,3})?"
)
_SURELY_DECIMAL = re.compile(r"[-+]?[0-9]+,(?:[0-9]{1,2}|[0-9]{4,})")
_THOUSANDS = re.compile(r"[-+]?[0-9]{1,3}(?:\.[0-9]{3})+")
_DAY_FIRST = re.compile(r"(\d{1,2})\.(\d{1,2})\.(\d{4})[ T](\d{1,2}):(\d\d(?::\d\d)?)", re.ASCII)
_TIME = re.compile(
    r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:[Zz]|[-+]\d\d:?\d\d)?", re.ASCII
)


@dataclass(slots=True)
class Batch:
    """Sessions to send in one message, and where in the file each of them stands."""

    sessions: list[ChargingSession] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)


def energy_wh(text: str, *, decimal_comma: bool = False) -> int:
    """Wh of a decimal number of kWh, a half rounded up. Raises BadInput.

    With `decimal_comma` "1.234,5" is 1234.5 kWh, and so is "1234.5". Without it "27,4" is 27.4,
    since that can mean nothing else; "1,234" may be a thousand, and is refused.
    """
    decimal_comma = decimal_comma or _SURELY_DECIMAL.fullmatch(text) is not None
    if decimal_comma and "," in text:
        whole, _, decimals = text.partition(",")
        if "." not in whole or _THOUSANDS.fullmatch(whole):
            text = f"{whole.replace('.', '')}.{decimals}"
    if not _NUMBER.fullmatch(text):
        mark = "comma or point" if decimal_comma else "point"
        raise bad_field("energy_kwh", f"must be a number with a decimal {mark}")
    number = Decimal(text)
    if number.adjusted() > len(str(MAX_ENERGY_KWH)):
        raise bad_field("energy_kwh", "is out of range")
    return int((number * 1000).quantize(Decimal(1), rounding=ROUND_HALF_UP))


def instant(name: str, text: str, zone: ZoneInfo | None = None) -> datetime:
    """An RFC 3339 instant; without an offset it is local time in `zone`, or refused.

    Local time may be written as 22.11.2026 10:00 too. An hour that is repeated is its first; one
    that is skipped is refused. Raises BadInput.
    """
    try:
        day_first = _DAY_FIRST.fullmatch(text)
        if day_first is not None:
            day, month, year, hour, rest = day_first.groups()
            text = f"{year}-{int(month):02}-{int(day):02}T{int(hour):02}:{rest}"
        if not _TIME.fullmatch(text):
            raise ValueError(text)
        at = datetime.fromisoformat(text.upper())
        if at.tzinfo is None and zone is not None:
            read = at.replace(tzinfo=zone).astimezone(UTC)
            if read.astimezone(zone).replace(tzinfo=None) != at:
                raise bad_field(name, f"is no time in {zone.key}: the clock is put forward then")
            return read
        if at.tzinfo is not None:
            return at.astimezone(UTC)
    except (ValueError, OverflowError):
        raise bad_field(name, 'must be an instant such as "2026-11-22T10:00:00Z"') from None
    raise bad_field(
        name, "must say its offset from UTC, for example by a Z at its end; else name a time zone"
    )


class SessionFile:
    """A CSV file of sessions. Iterate over `batches` once, then read the counts."""

    def __init__(
        self,
        path: Path,
        *,
        country_code: str,
        party_id: str = UNKNOWN_PARTY,
        time_zone: str = "",
        correction: bool = False,
        columns: Mapping[str, str] | None = None,
    ) -> None:
        """`columns` are the names of columns in the file by ours, where they differ."""
        self.path = path
        self.rows = 0
        self.refusals = Refusals()
        self.bytes_read = 0
        self._country_code = country_code
        self._party_id = party_id
        self._time_zone = time_zone
        self._correction = correction
        self._zone = ZoneInfo(time_zone) if time_zone else None
        self._names = {name: (columns or {}).get(name, name) for name in COLUMNS}
        self._delimiter = ","

    @property
    def size_bytes(self) -> int:
        """The size of the file, 0 if it has none."""
        try:
            return self.path.stat().st_size
        except OSError:
            return 0

    def batches(self) -> Iterator[Batch]:
        """The sessions in batches of 1,000. Raises BadInput for what is wrong with the file."""
        try:
            with self.path.open("rb") as raw:
                yield from self._batches(raw)
        except OSError as error:
            raise cannot_open(self.path, error) from None

    def _batches(self, raw: io.BufferedReader) -> Iterator[Batch]:
        batch = Batch()
        for line, row in self._rows(raw):
            self.rows += 1
            try:
                batch.sessions.append(self._session(row))
                batch.positions.append(line)
            except BadInput as refusal:
                self.refusals.add(line, row.get("session_id") or "", refusal.message)
            if len(batch.sessions) == BATCH_SESSIONS:
                self.bytes_read = raw.tell()
                yield batch
                batch = Batch()
        self.bytes_read = raw.tell()
        if batch.sessions:
            yield batch

    def _rows(self, raw: io.BufferedReader) -> Iterator[tuple[int, dict[str, str]]]:
        """(line, columns) of each row that is not blank."""
        first_bytes = raw.peek(2)[:2]
        text = io.TextIOWrapper(raw, encoding="utf-8-sig", newline="")
        lines = self._lines(text)
        reader = csv.reader(lines, strict=True)
        try:
            first = next(lines, "")
            self._delimiter = self._found_delimiter(first)
            reader = csv.reader(chain([first], lines), strict=True, delimiter=self._delimiter)
            header = self._header(next(reader, None))
            for values in reader:
                if not any(values):
                    continue
                # A row of another length has a column too many or too few: which
                # one is not known, so that nothing in it can be believed.
                same = len(values) == len(header)
                yield reader.line_num, dict(zip(header, values, strict=True)) if same else {}
        except UnicodeDecodeError:
            if first_bytes in (b"\xff\xfe", b"\xfe\xff"):
                raise file_error(self.path, "is in UTF-16: save it as UTF-8") from None
            raise file_error(self.path, f"is not UTF-8 (after line {reader.line_num})") from None
        except csv.Error as error:
            raise file_error(self.path, f"is not CSV: {error} (line {reader.line_num})") from None
        finally:
            text.detach()

    def _lines(self, text: io.TextIOWrapper) -> Iterator[str]:
        number = 0
        while line := text.readline(MAX_LINE_CHARS + 1):
            number += 1
            if len(line) > MAX_LINE_CHARS:
                what = f"has more than {MAX_LINE_CHARS} characters in line {number}"
                raise file_error(self.path, what)
            yield line

    def _found_delimiter(self, header: str) -> str:
        """A comma, unless there are more columns that are known with a semicolon."""

        def known(delimiter: str) -> int:
            names = next(csv.reader([header], delimiter=delimiter), [])
            return len({name.strip() for name in names} & set(self._names.values()))

        return ";" if known(";") > known(",") else ","

    def _header(self, header: list[str] | None) -> list[str]:
        """The columns by our names."""
        if not header:
            raise file_error(self.path, "is empty")
        names = [name.strip() for name in header]
        missing = [theirs for theirs in self._names.values() if theirs not in names]
        if missing:
            mark = "semicolons" if self._delimiter == ";" else "commas"
            names_said = ",".join(self._names.values())
            what = f"lacks the columns {', '.join(missing)}; the header must name {names_said}"
            raise file_error(
                self.path, f"{what} (separated by {mark}; --columns says what it calls them)"
            )
        doubled = next((one for one in self._names.values() if names.count(one) > 1), None)
        if doubled:
            raise file_error(self.path, f"has the column {doubled} twice")
        ours = {theirs: name for name, theirs in self._names.items()}
        return [ours.get(name, f"\0{name}") for name in names]

    def _session(self, row: dict[str, str]) -> ChargingSession:
        if not row:
            raise bad_field("row", "has not as many values as the header")
        for name in COLUMNS:
            if "\0" in row[name]:
                raise bad_field(name, "contains a NUL character")
            if not row[name].strip() and name not in _MAY_BE_EMPTY:
                raise bad_field(name, "is missing")
        values = {name: row[name].strip() for name in COLUMNS}
        location_id, _, evse_uid = values["location_id"].partition("/")
        end = values["end_date_time"]
        return session_message(
            session_id=values["session_id"],
            user_id=values["user_id"],
            place=PlaceKey(self._country_code, self._party_id, location_id, evse_uid),
            time_zone=self._time_zone,
            start=instant("start_date_time", values["start_date_time"], self._zone),
            end=instant("end_date_time", end, self._zone) if end else None,
            energy=energy_wh(values["energy_kwh"], decimal_comma=self._delimiter == ";"),
            correction=self._correction,
        )


def session_message(
    *,
    session_id: str,
    user_id: str,
    place: PlaceKey,
    time_zone: str,
    start: datetime,
    end: datetime | None,
    energy: int,
    correction: bool,
) -> ChargingSession:
    """A session as a message; `energy` in Wh. Raises BadInput for text that is not Unicode."""
    try:
        return ChargingSession(
            session_id=session_id,
            user_id=user_id,
            location=place_message(place),
            time_zone=time_zone,
            start_time=timestamp(start),
            end_time=None if end is None else timestamp(end),
            energy_wh=energy,
            correction=correction,
        )
    except ValueError:
        raise bad_field("session", "has text that is not Unicode") from None
