"""Events between the domain and messages, and cursors, which callers pass on unread."""

import re
from typing import Any, NamedTuple
from uuid import UUID

from voucher_grpc.domain.passes.event import Cursor, EventType, Placed, Refund
from voucher_grpc.edge.wire.checks import Checks, enum_number
from voucher_grpc.edge.wire.messages import money_message, timestamp
from voucher_grpc.edge.wire.paging import page_token, token_parts
from voucher_grpc.v1 import event_service_pb2 as pb

MAX_CURSOR_CHARS = 128
MAX_EVENT_TYPES = 20
SPEC_VERSION = "1.0"
TYPE_PREFIX = "voucher_grpc.v1."
_EVENT_TYPE = pb.DESCRIPTOR.enum_types_by_name["EventType"]
_NUMBERS: dict[str, Any] = {kind.value: enum_number(_EVENT_TYPE, kind) for kind in EventType}
# A cursor is not a secret: one that is made up shows nothing that an empty one would not.
_SCOPE = ("StreamEvents",)
_POSITION = re.compile(r"[0-9]{1,18}")


class EventsWanted(NamedTuple):
    """A request for events; no cursor means from the first one."""

    cursor: Cursor | None
    types: tuple[EventType, ...]
    follow: bool


def cursor_text(cursor: Cursor) -> str:
    """A cursor as callers have it."""
    return page_token(_SCOPE, (str(cursor.stream_id), str(cursor.position)))


def _cursor_from_text(text: str) -> Cursor:
    """Raises ValueError for what `cursor_text` has not made."""
    stream_id, position = token_parts(text, _SCOPE, 2)
    if not _POSITION.fullmatch(position):
        raise ValueError("no position")
    cursor = Cursor(UUID(stream_id), int(position))
    if cursor_text(cursor) != text:
        raise ValueError("altered")
    return cursor


def events_wanted(request: pb.StreamEventsRequest) -> EventsWanted:
    """What a request asks for. Raises INVALID_FIELD."""
    checks = Checks()
    cursor = None
    if len(request.cursor) > MAX_CURSOR_CHARS:
        checks.wrong("cursor", f"must be at most {MAX_CURSOR_CHARS} characters")
    elif request.cursor:
        try:
            cursor = _cursor_from_text(request.cursor)
        except ValueError:
            checks.wrong("cursor", "must be a cursor of StreamEvents, unchanged")
    checks.bounded("event_types", request.event_types, MAX_EVENT_TYPES)
    types: list[EventType] = []
    for i, value in enumerate(request.event_types[:MAX_EVENT_TYPES]):
        kind = checks.choice(f"event_types[{i}]", value, _EVENT_TYPE, EventType)
        if kind is not None:
            types.append(kind)
        elif value == 0:
            checks.wrong(f"event_types[{i}]", "is missing")
    checks.done()
    return EventsWanted(cursor, tuple(types), request.follow)


def event_message(stream_id: UUID, placed: Placed) -> pb.Event:
    """An event in its envelope."""
    event, pass_id = placed.event, str(placed.event.pass_id)
    return pb.Event(
        id=str(placed.position),
        source=stream_id.urn,
        specversion=SPEC_VERSION,
        type=TYPE_PREFIX + event.event_type,
        subject=pass_id,
        time=timestamp(event.event_time),
        pass_event=pb.PassEvent(
            user_id=event.user_id,
            pass_id=pass_id,
            event_seq=event.event_seq,
            event_type=_NUMBERS.get(event.event_type, 0),
            refund=_refund_message(placed.refund),
        ),
    )


def _refund_message(refund: Refund | None) -> pb.Refund | None:
    if refund is None:
        return None
    return pb.Refund(
        amount=money_message(refund.amount), payment_reference=refund.payment_reference
    )
