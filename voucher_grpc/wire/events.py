"""Events between the domain and messages, and cursors, which callers pass on unread."""

import hashlib
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any, NamedTuple
from uuid import UUID

from voucher_grpc.passes.event import Cursor, Event, EventType
from voucher_grpc.v1 import event_service_pb2 as pb
from voucher_grpc.wire.checks import Checks, enum_number
from voucher_grpc.wire.messages import timestamp

MAX_CURSOR_CHARS = 64
MAX_EVENT_TYPES = 20
SPEC_VERSION = "1.0"
TYPE_PREFIX = "voucher_grpc.v1."
_EVENT_TYPE = pb.DESCRIPTOR.enum_types_by_name["EventType"]
_NUMBERS: dict[str, Any] = {kind.value: enum_number(_EVENT_TYPE, kind) for kind in EventType}
# The stream, the position, and a digest that tells a cursor from what is none. It is not
# a secret: a cursor that is made up shows nothing that an empty one would not.
_CURSOR = struct.Struct(">16sQ6s")
_SCOPE = b"voucher_grpc.v1.StreamEvents"
_MAX_POSITION = 2**63 - 1


class EventsWanted(NamedTuple):
    """A request for events; no cursor means from the first one."""

    cursor: Cursor | None
    types: tuple[EventType, ...]
    follow: bool


def _digest(stream_id: bytes, position: int) -> bytes:
    content = _SCOPE + stream_id + position.to_bytes(8, "big")
    return hashlib.blake2b(content, digest_size=6).digest()


def cursor_text(cursor: Cursor) -> str:
    """A cursor as callers have it."""
    stream_id, position = cursor.stream_id.bytes, cursor.position
    packed = _CURSOR.pack(stream_id, position, _digest(stream_id, position))
    return urlsafe_b64encode(packed).decode("ascii")


def _cursor_from_text(text: str) -> Cursor:
    """Raises ValueError for what `cursor_text` has not made."""
    raw = urlsafe_b64decode(text.encode("ascii"))
    if len(raw) != _CURSOR.size:
        raise ValueError("another length")
    stream_id, position, digest = _CURSOR.unpack(raw)
    cursor = Cursor(UUID(bytes=stream_id), position)
    if digest != _digest(stream_id, position) or cursor_text(cursor) != text:
        raise ValueError("altered")
    if position > _MAX_POSITION:
        raise ValueError("no position")
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


def event_message(stream_id: UUID, event: Event) -> pb.Event:
    """An event in its envelope."""
    pass_id = str(event.pass_id)
    return pb.Event(
        id=str(event.position),
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
        ),
    )
