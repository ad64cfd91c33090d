"""OCPI 2.2.1 and 2.3.0 objects from JSON files as operators give them.

A file holds a list of objects, one object, or an OCPI response with its `data`.
Each object is read by itself: one that is wrong is refused with its position,
counted from 1, and the others are read. Keys that are not needed are ignored.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Generic, TypeVar

from voucher_grpc.domain.places.document import location_from_document, tariff_from_document
from voucher_grpc.edge.wire.places import location_message, tariff_message
from voucher_grpc.errors import BadInput, bad_field
from voucher_grpc.files.reading import Refusals, file_error, read_json
from voucher_grpc.files.sessions import BATCH_SESSIONS, Batch, energy_wh, instant, session_message
from voucher_grpc.ocpi import PlaceKey
from voucher_grpc.printable import printable
from voucher_grpc.v1.location_service_pb2 import Location, Tariff
from voucher_grpc.v1.tendency_service_pb2 import ChargingSession

M = TypeVar("M")
_OCPI_SUCCESS = range(1000, 2000)


@dataclass(slots=True)
class Objects(Generic[M]):
    """The messages of a file with the positions of their objects, and what was refused."""

    messages: list[M] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    refusals: Refusals = field(default_factory=Refusals)

    @property
    def read(self) -> int:
        """How many objects the file has."""
        return len(self.messages) + self.refusals.total


def read_objects(path: Path) -> list[Any]:
    """The objects of a file. Raises BadInput for what is wrong with the file as a whole."""
    value = read_json(path)
    if isinstance(value, Mapping) and "data" in value and "id" not in value:
        status = value.get("status_code")
        if isinstance(status, int) and status not in _OCPI_SUCCESS:
            said = printable(value.get("status_message") or "no message")
            raise file_error(path, f"is an OCPI error, status_code {status}: {said}")
        value = value["data"]
    if isinstance(value, Mapping):
        return [value]
    if isinstance(value, list):
        return value
    raise file_error(path, "must hold OCPI objects: a list, one object, or a response with data")


def read_locations(path: Path) -> Objects[Location]:
    """The locations of a file."""
    return _each(read_objects(path), lambda value: location_message(location_from_document(value)))


def read_tariffs(path: Path, *, default_for_country: bool = False) -> Objects[Tariff]:
    """The tariffs of a file.

    `default_for_country` makes every one of them the default of its country and
    currency; without it the key of that name decides, an addition to OCPI.
    """

    def message(value: object) -> Tariff:
        tariff = tariff_from_document(value)
        return tariff_message(
            replace(tariff, default_for_country=default_for_country or tariff.default_for_country)
        )

    return _each(read_objects(path), message)


def _each(
    values: Sequence[Any], message: Callable[[Any], M], first: int = 1, into: Refusals | None = None
) -> Objects[M]:
    """The messages of objects whose positions begin at `first`; refusals are added to `into`."""
    objects: Objects[M] = Objects(refusals=Refusals() if into is None else into)
    for position, value in enumerate(values, first):
        try:
            objects.messages.append(message(value))
            objects.positions.append(position)
        except BadInput as refusal:
            objects.refusals.add(position, _name(value), refusal.message)
        except (ValueError, OverflowError):
            reason = "has a number out of range or text that is not Unicode"
            objects.refusals.add(position, _name(value), reason)
    return objects


def _name(value: object) -> str:
    return str(value.get("id") or "") if isinstance(value, Mapping) else ""


class CdrFile:
    """A file of OCPI CDRs, read as sessions. Iterate over `batches` once, then read the counts.

    The user is the token's `uid`, or its `contract_id` where it has no uid. Times
    are UTC, with or without a Z. A CDR does not say its time zone: `time_zone` is
    for locations that the service does not know.
    """

    def __init__(self, path: Path, *, time_zone: str = "", correction: bool = False) -> None:
        self.path = path
        self.rows = 0
        self.refusals = Refusals()
        self.bytes_read = 0
        self.size_bytes = 0
        self._time_zone = time_zone
        self._correction = correction

    def batches(self) -> Iterator[Batch]:
        """The sessions in batches of 1,000. Raises BadInput for what is wrong with the file."""
        values = read_objects(self.path)
        self.size_bytes = len(values)
        for first in range(0, len(values), BATCH_SESSIONS):
            part = values[first : first + BATCH_SESSIONS]
            objects = _each(part, self._session, first + 1, self.refusals)
            self.rows += len(part)
            self.bytes_read = self.rows
            if objects.messages:
                yield Batch(objects.messages, objects.positions)

    def _session(self, value: object) -> ChargingSession:
        return session_from_cdr(value, self._time_zone, correction=self._correction)


def _part(document: Mapping[str, Any], key: str, path: str = "") -> Mapping[str, Any]:
    value = document.get(key)
    if not isinstance(value, Mapping):
        raise bad_field(f"{path}{key}", "is missing" if value is None else "must be an object")
    return value


def _text(document: Mapping[str, Any], key: str, path: str = "", *, required: bool = True) -> str:
    value = document.get(key)
    if value is None or value == "":
        if required:
            raise bad_field(f"{path}{key}", "is missing")
        return ""
    if not isinstance(value, str):
        raise bad_field(f"{path}{key}", "must be text")
    return value


def _energy_wh(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float, str, Decimal)):
        raise bad_field("total_energy", "must be a number of kWh")
    try:
        return energy_wh(str(value))
    except BadInput as refusal:
        raise bad_field("total_energy", refusal.violations[0].description) from None


def session_from_cdr(value: object, time_zone: str, *, correction: bool) -> ChargingSession:
    """A CDR as a session. Raises BadInput with the key that is wrong."""
    if not isinstance(value, Mapping):
        raise bad_field("CDR", "must be an object")
    location, token = _part(value, "cdr_location"), _part(value, "cdr_token")
    evse_uid = _text(location, "evse_uid", "cdr_location.", required=False)
    connector_id = _text(location, "connector_id", "cdr_location.", required=False)
    user_id = _text(token, "uid", "cdr_token.", required=False)
    end = _text(value, "end_date_time", required=False)
    return session_message(
        session_id=_text(value, "session_id", required=False) or _text(value, "id"),
        user_id=user_id or _text(token, "contract_id", "cdr_token."),
        place=PlaceKey(
            _text(value, "country_code").upper(),
            _text(value, "party_id").upper(),
            _text(location, "id", "cdr_location."),
            evse_uid,
            connector_id if evse_uid else "",
        ),
        time_zone=time_zone,
        start=instant("start_date_time", _text(value, "start_date_time"), assume_utc=True),
        end=instant("end_date_time", end, assume_utc=True) if end else None,
        energy=_energy_wh(value.get("total_energy")),
        correction=correction,
    )
