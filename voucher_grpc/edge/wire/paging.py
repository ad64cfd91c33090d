"""Page tokens: opaque to callers, bound to the method and its parameters."""

import hashlib
import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

from voucher_grpc.errors import BadInput, FieldViolation, Reason

_DIGEST_BYTES = 6
MAX_TOKEN_CHARS = 1024
# What lists are ordered by are ids and instants; nothing else goes to the store.
_VISIBLE_ASCII = re.compile(r"[\x21-\x7e]*")


def _digest(scope: Sequence[str]) -> bytes:
    return hashlib.blake2b(json.dumps(list(scope)).encode(), digest_size=_DIGEST_BYTES).digest()


def page_token(scope: Sequence[str], last: Sequence[str]) -> str:
    """A token that stands for "after `last`" within `scope` (method and parameters)."""
    body = _digest(scope) + json.dumps(list(last)).encode()
    return urlsafe_b64encode(body).decode("ascii")


def read_page_token(token: str, scope: Sequence[str], parts: int) -> list[str] | None:
    """The `last` of a token; None for the first page. Raises INVALID_PAGE_TOKEN."""
    if not token:
        return None
    try:
        return token_parts(token, scope, parts)
    except ValueError:
        raise invalid_page_token() from None


def token_parts(token: str, scope: Sequence[str], parts: int) -> list[str]:
    """What `page_token` was made of. Raises ValueError for what it has not made in this scope."""
    if len(token) > MAX_TOKEN_CHARS:
        raise ValueError("too long")
    raw = urlsafe_b64decode(token.encode("ascii"))
    try:
        last = json.loads(raw[_DIGEST_BYTES:])
    except RecursionError:
        raise ValueError("another shape") from None
    if raw[:_DIGEST_BYTES] != _digest(scope):
        raise ValueError("another method or other parameters")
    if not isinstance(last, list) or len(last) != parts:
        raise ValueError("another shape")
    if not all(isinstance(part, str) and _VISIBLE_ASCII.fullmatch(part) for part in last):
        raise ValueError("another shape")
    return last


def invalid_page_token() -> BadInput:
    """The refusal of a token that was not made here for these parameters."""
    violation = FieldViolation(
        "page_token", "must be the next_page_token of a page with the same parameters"
    )
    return BadInput([violation], Reason.INVALID_PAGE_TOKEN)


def instant_and_id(last: Sequence[str]) -> tuple[datetime, UUID]:
    """The `last` of a list by time. Raises INVALID_PAGE_TOKEN if it is none."""
    try:
        instant = datetime.fromisoformat(last[0])
        if instant.tzinfo is None:
            raise ValueError("no offset")
        return instant.astimezone(UTC), UUID(last[1])
    except (ValueError, OverflowError):
        raise invalid_page_token() from None


def number_of(last: Sequence[str] | None) -> int:
    """The `last` of a list by a number from 1, 0 for the first page. Raises INVALID_PAGE_TOKEN."""
    if last is None:
        return 0
    if not re.fullmatch("[0-9]{1,9}", last[0]):
        raise invalid_page_token()
    return int(last[0])
