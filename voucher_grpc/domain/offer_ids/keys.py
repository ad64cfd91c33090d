"""The keys that sign offers, and their rotation.

As text: `id:hex`, several separated by commas or lines; ids 0 to 255, secrets of at
least 32 bytes. A key may say from when on it signs: `id:hex@2026-11-22T20:00:00Z`.
All keys verify. Of those whose time has come the latest signs, the last of several with
the same time; those without a time come before all others, and the first of them counts.

So a rotation is one change of one file: the new key is there for every server to
verify with before the first one signs with it, and the old one stays until the last
offer it signed has expired.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

MIN_KEY_BYTES = 32
MAX_KEY_ID = 255
# The longest that an offer can live (VOUCHER_OFFER_LIFETIME_S), with an hour for clocks.
LONGEST_USE = timedelta(days=1, hours=1)


@dataclass(frozen=True, slots=True)
class OfferKey:
    """A key; `sign_from` None for one that has always signed. The secret is never shown."""

    key_id: int
    secret: bytes = field(repr=False)
    sign_from: datetime | None = None


OfferKeys = tuple[OfferKey, ...]
_ALWAYS = datetime.min.replace(tzinfo=UTC)


def read_offer_keys(text: str) -> OfferKeys:
    """Keys from text. Raises ValueError, which says what is wrong and quotes no secret."""
    keys: dict[int, OfferKey] = {}
    for part in filter(None, (p.strip() for p in text.replace("\n", ",").split(","))):
        key_id, _, rest = part.partition(":")
        secret, at, instant = rest.partition("@")
        if not key_id.isdigit() or int(key_id) > MAX_KEY_ID or int(key_id) in keys:
            raise ValueError(f"must be id:hex,id:hex with ids 0 to {MAX_KEY_ID}, none twice")
        try:
            raw = bytes.fromhex(secret)
        except ValueError:
            raise ValueError(f"key {key_id} must be hexadecimal") from None
        if len(raw) < MIN_KEY_BYTES:
            raise ValueError(f"key {key_id} must have at least {MIN_KEY_BYTES} bytes")
        sign_from = _instant(key_id, instant) if at else None
        keys[int(key_id)] = OfferKey(int(key_id), raw, sign_from)
    return tuple(keys.values())


def _instant(key_id: str, text: str) -> datetime:
    try:
        instant = datetime.fromisoformat(text)
        if instant.tzinfo is not None:
            return instant.astimezone(UTC)
    except ValueError:
        pass
    raise ValueError(f"key {key_id}: what follows @ must be an instant as RFC 3339 has it")


def write_offer_keys(keys: Sequence[OfferKey]) -> str:
    """The text of keys, one a line."""
    return "".join(
        f"{key.key_id}:{key.secret.hex()}"
        + (f"@{key.sign_from.strftime('%Y-%m-%dT%H:%M:%SZ')}" if key.sign_from else "")
        + "\n"
        for key in keys
    )


def signing_key(keys: Sequence[OfferKey], now: datetime) -> OfferKey:
    """The key that signs at an instant; the earliest one if the time of none has come."""
    started = [key for key in keys if key.sign_from is not None and key.sign_from <= now]
    if started:
        return max(reversed(started), key=lambda key: key.sign_from or _ALWAYS)
    return min(keys, key=lambda key: key.sign_from or _ALWAYS)


def rotated(keys: Sequence[OfferKey], now: datetime, sign_in: timedelta) -> OfferKeys:
    """With a fresh key that signs after `sign_in`, and without those no offer can need any more.

    `sign_in` is the time that all servers need to see the changed file. Raises
    ValueError if all ids are taken.
    """
    kept = [key for key in keys if not _over(key, keys, now)]
    free = set(range(MAX_KEY_ID + 1)) - {key.key_id for key in keys}
    if not free:
        raise ValueError(f"all {MAX_KEY_ID + 1} ids are taken: take out keys that are over")
    sign_from = (now + sign_in).replace(microsecond=0)
    new = OfferKey(min(free - {0}, default=0), secrets.token_bytes(MIN_KEY_BYTES), sign_from)
    return (*kept, new)


def _over(key: OfferKey, keys: Sequence[OfferKey], now: datetime) -> bool:
    """Whether another key has signed in its place for so long that its last offer is over."""
    if key is signing_key(keys, now):
        return False
    own = key.sign_from or _ALWAYS
    later = [k.sign_from for k in keys if k.sign_from is not None and k.sign_from > own]
    if not later:
        return False
    return min(later) + LONGEST_USE < now
