"""OCPI CDRs and Sessions (2.1.1, 2.2.1, 2.3.0) from JSON files, as sessions that count.

A CDR stands for the Session that it names, whichever comes first. A credit CDR takes back the one
that it names. Sessions that are not COMPLETED, and charging at home for which somebody is
compensated, are left out and noted (OCPI 2.2.1, 9.3.1 Session object, 10.3.1 CDR object).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from voucher_grpc.errors import bad_field
from voucher_grpc.files.notes import Notes
from voucher_grpc.files.ocpi_objects import ObjectFile
from voucher_grpc.files.published import NotUnderstood, instant, scaled, text
from voucher_grpc.files.sessions import BATCH_SESSIONS, MAX_ENERGY_KWH, Batch, session_message
from voucher_grpc.ocpi import PlaceKey, folded
from voucher_grpc.v1.tendency_service_pb2 import ChargingSession

_COMPLETED = "COMPLETED"
_WH_PER_KWH = 1_000
# Of more, 200 MB, the later ones are taken as they are spelt.
_MOST_USERS = 1_000_000


@dataclass(frozen=True, slots=True)
class SessionDefaults:
    """What is taken of objects that do not state it: the operator (OCPI 2.1.1 names none), the
    time zone of places that the service does not know; `correction` replaces what is stored."""

    country_code: str = ""
    party_id: str = ""
    time_zone: str = ""
    correction: bool = False


class OcpiSessionFile:
    """A file of CDRs and Sessions. Iterate over `batches` once, then read the counts.

    The user is the token's `uid`, or its `contract_id` where it has no uid, as the file spells it
    first. Times are UTC, with or without a Z.
    """

    def __init__(self, path: Path, defaults: SessionDefaults = SessionDefaults()) -> None:
        self.path = path
        self._spelt: dict[str, str] = {}
        self._file = ObjectFile(path, lambda value, notes: self._read(value, notes, defaults))
        self.refusals = self._file.refusals
        self.noted = self._file.noted

    def _read(
        self, value: object, notes: Notes, defaults: SessionDefaults
    ) -> Sequence[ChargingSession]:
        """With the users as the file spells them first: OCPI compares ids without case."""
        sessions = sessions_of(value, notes, defaults)
        for session in sessions:
            key = folded(session.user_id)
            if len(self._spelt) < _MOST_USERS or key in self._spelt:
                session.user_id = self._spelt.setdefault(key, session.user_id)
        return sessions

    @property
    def rows(self) -> int:
        return self._file.read

    @property
    def bytes_read(self) -> int:
        return self._file.bytes_read

    @property
    def size_bytes(self) -> int:
        return self._file.size_bytes

    def batches(self) -> Iterator[Batch]:
        """The sessions in batches of 1,000. Raises BadInput for what is wrong with the file."""
        batch = Batch()
        for part in self._file.batches():
            for session, position in zip(part.messages, part.positions, strict=True):
                batch.sessions.append(session)
                batch.positions.append(position)
                if len(batch.sessions) == BATCH_SESSIONS:
                    yield batch
                    batch = Batch()
        if batch.sessions:
            yield batch


def sessions_of(
    value: object, notes: Notes, defaults: SessionDefaults = SessionDefaults()
) -> Sequence[ChargingSession]:
    """What a CDR or Session says: a session, and those that do not count because of it.

    Raises BadInput with the key that is wrong.
    """
    if not isinstance(value, Mapping):
        raise bad_field("CDR", f"must be an object, not {type(value).__name__}")
    document = {str(key): item for key, item in value.items() if item not in (None, "")}
    if "total_energy" not in document and ("kwh" in document or "status" in document):
        status = _text(document, "status").upper()
        if status != _COMPLETED:
            notes.skipped("status", "only COMPLETED sessions count", status)
            return []
        return [_session(document, "kwh", defaults)]
    return _of_cdr(document, notes, defaults)


def _of_cdr(
    document: Mapping[str, Any], notes: Notes, defaults: SessionDefaults
) -> Sequence[ChargingSession]:
    cdr_id = _text(document, "id")
    named = _text(document, "session_id", required=False)
    replaced = [named] if named and named.casefold() != cdr_id.casefold() else []
    if _flag(document, "credit"):
        credited = [_text(document, "credit_reference_id"), *replaced]
        return [_cancelled(_user(document), session_id) for session_id in credited]
    if _flag(document, "home_charging_compensation"):
        notes.skipped("home_charging_compensation", "charging at home does not count", True)
        return []
    session = _session(document, "total_energy", defaults)
    return [session, *(_cancelled(session.user_id, session_id) for session_id in replaced)]


def _session(
    document: Mapping[str, Any], energy_key: str, defaults: SessionDefaults
) -> ChargingSession:
    location = document.get("cdr_location", document.get("location", {}))
    if not isinstance(location, Mapping):
        raise bad_field("location", "must be an object")
    evse_uid, connector_id = _evse(document, location)
    end = _instant(document, "end_date_time", "stop_date_time", "end_datetime", required=False)
    start = _instant(document, "start_date_time", "start_datetime")
    if start is None:
        raise bad_field("start_date_time", "is missing")
    return session_message(
        session_id=_text(document, "id"),
        user_id=_user(document),
        place=PlaceKey(
            _owner(document, "country_code", defaults.country_code),
            _owner(document, "party_id", defaults.party_id),
            _text(location, "id", "location.", required="location_id" not in document)
            or _text(document, "location_id"),
            evse_uid,
            connector_id if evse_uid else "",
        ),
        time_zone=defaults.time_zone or _text(location, "time_zone", required=False),
        start=start,
        end=end,
        energy=_energy_wh(document, energy_key),
        correction=defaults.correction,
    )


def _evse(document: Mapping[str, Any], location: Mapping[str, Any]) -> tuple[str, str]:
    """(uid, connector id), where they are stated: in the object, its location, or the only EVSE
    of that (OCPI 2.1.1)."""
    said = document if "location_id" in document else location
    evse_uid = _text(said, "evse_uid", required=False)
    connector_id = _text(said, "connector_id", required=False)
    evses = location.get("evses")
    if not evse_uid and isinstance(evses, list) and len(evses) == 1:
        evse = evses[0] if isinstance(evses[0], Mapping) else {}
        evse_uid = _text(evse, "uid", required=False)
        connectors = evse.get("connectors")
        if isinstance(connectors, list) and len(connectors) == 1:
            only = connectors[0] if isinstance(connectors[0], Mapping) else {}
            connector_id = _text(only, "id", required=False)
    return evse_uid, connector_id


def _cancelled(user_id: str, session_id: str) -> ChargingSession:
    try:
        return ChargingSession(user_id=user_id, session_id=session_id, cancelled=True)
    except ValueError:
        raise bad_field("session_id", "has text that is not Unicode") from None


def _user(document: Mapping[str, Any]) -> str:
    token = document.get("cdr_token")
    if token is None and "auth_id" in document:  # OCPI 2.1.1
        return _text(document, "auth_id")
    if not isinstance(token, Mapping):
        raise bad_field("cdr_token", "is missing" if token is None else "must be an object")
    uid = _text(token, "uid", "cdr_token.", required=False)
    return uid or _text(token, "contract_id", "cdr_token.")


def _owner(document: Mapping[str, Any], key: str, default: str) -> str:
    said = _text(document, key, required=False).upper() or default
    if not said:
        raise bad_field(key, "is missing: name the operator with --country and --party")
    return said


def _text(document: Mapping[str, Any], key: str, path: str = "", *, required: bool = True) -> str:
    value = document.get(key)
    if value in (None, ""):
        if required:
            raise bad_field(f"{path}{key}", "is missing")
        return ""
    try:
        return text(value)
    except NotUnderstood as error:
        raise bad_field(f"{path}{key}", str(error)) from None


def _flag(document: Mapping[str, Any], key: str) -> bool:
    value = document.get(key)
    return value is True or (isinstance(value, str) and value.casefold() == "true")


def _instant(document: Mapping[str, Any], *keys: str, required: bool = True) -> datetime | None:
    key = next((key for key in keys if key in document), None)
    if key is None:
        if required:
            raise bad_field(keys[0], "is missing")
        return None
    try:
        return instant(document[key])
    except NotUnderstood as error:
        raise bad_field(key, str(error)) from None


def _energy_wh(document: Mapping[str, Any], key: str) -> int:
    if key not in document:
        raise bad_field(key, "is missing")
    try:
        energy_wh = scaled(document[key], _WH_PER_KWH)
    except NotUnderstood as error:
        raise bad_field(key, str(error)) from None
    if abs(energy_wh) > MAX_ENERGY_KWH * _WH_PER_KWH:
        raise bad_field(key, "is out of range")
    return energy_wh
