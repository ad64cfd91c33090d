"""Users, and what is stored about them, between messages and the domain."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from google.protobuf.message import Message

from voucher_grpc.domain.passes.event import Event
from voucher_grpc.domain.passes.state import PassWithTerms
from voucher_grpc.domain.personal_data import (
    EventCount,
    LedgerEntry,
    PaymentReference,
    PlaceShare,
    StoredTendency,
    Value,
)
from voucher_grpc.domain.places.location import Vehicle
from voucher_grpc.domain.redemption.charge import Charge
from voucher_grpc.domain.redemption.token import Token
from voucher_grpc.domain.tendencies.recording import Cancellation
from voucher_grpc.domain.tendencies.tendency import Session
from voucher_grpc.domain.users import User
from voucher_grpc.edge.wire.conditions import place_message
from voucher_grpc.edge.wire.messages import timestamp
from voucher_grpc.edge.wire.passes import fill_pass, pass_part
from voucher_grpc.edge.wire.places import vehicle_message
from voucher_grpc.edge.wire.redemption import charge_message
from voucher_grpc.edge.wire.sessions import tendency_message
from voucher_grpc.edge.wire.tokens import token_message
from voucher_grpc.v1 import tendency_service_pb2 as tendency_pb
from voucher_grpc.v1 import user_service_pb2 as pb


def user_message(user: User) -> pb.User:
    """A user as a message."""
    message = pb.User(
        user_id=user.user_id,
        time_zone=user.time_zone,
        currency_code=user.currency_code,
        language=user.language,
        country_code=user.country_code,
    )
    if user.create_time is not None:
        message.create_time.CopyFrom(timestamp(user.create_time))
    if user.update_time is not None:
        message.update_time.CopyFrom(timestamp(user.update_time))
    return message


def cancellation_message(session: Cancellation) -> tendency_pb.ChargingSession:
    """A session that does not count as a message."""
    return tendency_pb.ChargingSession(
        user_id=session.user_id, session_id=session.session_id, cancelled=True
    )


def session_message(session: Session) -> tendency_pb.ChargingSession:
    """A session as it was recorded, its zone settled."""
    message = tendency_pb.ChargingSession(
        session_id=session.session_id,
        user_id=session.user_id,
        location=place_message(session.place),
        time_zone=session.time_zone,
        start_time=timestamp(session.start_time),
        energy_wh=session.energy_wh,
    )
    if session.end_time is not None:
        message.end_time.CopyFrom(timestamp(session.end_time))
    return message


def _tendency_message(known: StoredTendency) -> tendency_pb.Tendency:
    return tendency_message(
        known.user_id,
        known.tendency,
        known.places,
        known.profile_type,
        known.read_time,
    )


def _place_message(found: PlaceShare) -> tendency_pb.PlaceShare:
    return tendency_pb.PlaceShare(location=place_message(found.place), share=found.share)


def _ledger_entry_message(entry: LedgerEntry) -> pb.LedgerEntryRecord:
    return pb.LedgerEntryRecord(
        pass_id=entry.pass_id,
        entry_number=entry.entry_number,
        kind=entry.kind,
        energy_wh=entry.energy_wh,
        sessions=entry.sessions,
        entry_time=timestamp(entry.entry_time),
    )


def _event_message(event: Event) -> pb.EventRecord:
    return pb.EventRecord(
        event_seq=event.event_seq,
        event_type=event.event_type,
        pass_id=str(event.pass_id),
        event_time=timestamp(event.event_time),
    )


def _reference_message(paid: PaymentReference) -> pb.PaymentReferenceRecord:
    return pb.PaymentReferenceRecord(payment_reference=paid.payment_reference, pass_id=paid.pass_id)


def _event_count_message(count: EventCount) -> pb.EventCountRecord:
    return pb.EventCountRecord(last_event_seq=count.last_event_seq)


# The field of UserRecord for each kind of thing, and what fills it.
_FIELDS: Mapping[type, tuple[str, Callable[[Any], Message]]] = {
    User: ("user", user_message),
    Vehicle: ("vehicle", vehicle_message),
    StoredTendency: ("tendency", _tendency_message),
    PlaceShare: ("place", _place_message),
    Session: ("session", session_message),
    Cancellation: ("cancelled_session", cancellation_message),
    LedgerEntry: ("ledger_entry", _ledger_entry_message),
    Charge: ("charge", charge_message),
    Token: ("token", token_message),
    Event: ("event", _event_message),
    PaymentReference: ("payment_reference", _reference_message),
    EventCount: ("event_count", _event_count_message),
}


def record_message(value: Value, now: datetime) -> pb.UserRecord:
    """One thing that is stored about a user; the state of a pass is judged at `now`."""
    record = pb.UserRecord()
    if isinstance(value, PassWithTerms):
        part = pass_part(value.terms, value.owned.product_revision)
        fill_pass(getattr(record, "pass"), part, value.owned, value.terms, now)
        return record
    field, message = _FIELDS[type(value)]
    getattr(record, field).CopyFrom(message(value))
    return record
