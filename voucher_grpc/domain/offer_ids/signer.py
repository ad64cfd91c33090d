"""The signed offer_id: who may buy which revision at which price until when.

Layout, base64url without padding:

    version (1 byte) | key id (1) | expire_time (6, ms since 1970) |
    price_micros (8) | revision (4) | nonce (8) | currency (3) |
    length of user_id (1) | user_id | product_id | MAC (16)

The MAC is keyed BLAKE2b (RFC 7693), which costs a microsecond; a cipher would
hide nothing that the caller does not know. That the user stands readable inside
matters after a key rotation: a retry still finds the pass that was bought with
these very bytes, although the key that signed them is gone. Only the canonical
encoding is accepted, so one offer has one name.
"""

import hashlib
import hmac
import os
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import NamedTuple

from voucher_grpc.domain.offer_ids.keys import MAX_KEY_ID, MIN_KEY_BYTES
from voucher_grpc.errors import Reason, Refusal

_VERSION = 1
_HEAD = struct.Struct(">BB6sQI8s3sB")
_MAC_BYTES = 16
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
MAX_OFFER_ID_CHARS = 512


class OfferTerms(NamedTuple):
    """What an offer_id promises."""

    user_id: str
    product_id: str
    product_revision: int
    price_micros: int
    currency_code: str
    expire_time: datetime


@dataclass(frozen=True, slots=True)
class ReadOffer:
    """An offer_id that could be read; `authentic` says whether a known key signed it."""

    terms: OfferTerms
    authentic: bool


class OfferSigner:
    """Makes and reads offer_ids.

    `keys` maps key ids (0 to 255) to secrets of at least 32 bytes;
    `signing_key_id` signs, all verify.
    """

    def __init__(self, keys: Mapping[int, bytes], signing_key_id: int) -> None:
        self.use(keys, signing_key_id)

    def use(self, keys: Mapping[int, bytes], signing_key_id: int) -> None:
        """Go on with other keys, from the next offer on. Raises ValueError."""
        if signing_key_id not in keys:
            raise ValueError("the signing key is not among the keys")
        for key_id, key in keys.items():
            if not 0 <= key_id <= MAX_KEY_ID or len(key) < MIN_KEY_BYTES:
                raise ValueError(
                    f"offer keys need ids of 0 to 255 and at least {MIN_KEY_BYTES} bytes"
                )
        # BLAKE2b takes keys of up to 64 bytes; longer ones are digested first.
        self._keys = {
            key_id: key if len(key) <= 64 else hashlib.blake2b(key).digest()
            for key_id, key in keys.items()
        }
        self._signing_key_id = signing_key_id
        self._signing_key = self._keys[signing_key_id]

    def sign(self, terms: OfferTerms) -> str:
        """A fresh offer_id; two calls with the same terms make two different offers."""
        user = terms.user_id.encode("ascii")
        milliseconds = _milliseconds(terms.expire_time)
        body = (
            _HEAD.pack(
                _VERSION,
                self._signing_key_id,
                milliseconds,
                terms.price_micros,
                terms.product_revision,
                os.urandom(8),
                terms.currency_code.encode("ascii"),
                len(user),
            )
            + user
            + terms.product_id.encode("ascii")
        )
        return urlsafe_b64encode(body + _mac(body, self._signing_key)).rstrip(b"=").decode("ascii")

    def read(self, offer_id: str) -> ReadOffer:
        """What an offer_id says, and whether it is authentic.

        Raises Refusal OFFER_INVALID where it cannot even be read.
        """
        raw = _decode(offer_id)
        body, mac = raw[:-_MAC_BYTES], raw[-_MAC_BYTES:]
        try:
            version, key_id, expire, price, revision, _nonce, currency, user_length = _HEAD.unpack(
                body[: _HEAD.size]
            )
            rest = body[_HEAD.size :].decode("ascii")
            terms = OfferTerms(
                user_id=rest[:user_length],
                product_id=rest[user_length:],
                product_revision=revision,
                price_micros=price,
                currency_code=currency.decode("ascii"),
                expire_time=_EPOCH + int.from_bytes(expire, "big") * _MILLISECOND,
            )
        except (struct.error, UnicodeDecodeError, OverflowError):
            raise invalid_offer() from None
        if version != _VERSION or not _readable(terms):
            raise invalid_offer()
        key = self._keys.get(key_id)
        authentic = key is not None and hmac.compare_digest(mac, _mac(body, key))
        return ReadOffer(terms, authentic)


def to_the_millisecond(instant: datetime) -> datetime:
    """The instant without the digits that an offer_id does not hold."""
    return instant - timedelta(microseconds=instant.microsecond % 1000)


@lru_cache(maxsize=256)
def _milliseconds(expire_time: datetime) -> bytes:
    """Since 1970; cached, since all offers of a batch expire at the same instant."""
    return ((expire_time - _EPOCH) // _MILLISECOND).to_bytes(6, "big")


def _readable(terms: OfferTerms) -> bool:
    """Whether the names are such as are ever signed; a forged one must not reach the store."""
    names = (terms.user_id, terms.product_id, terms.currency_code)
    return all(name and all("!" <= c <= "~" for c in name) for name in names)


def offer_digest(offer_id: str) -> bytes:
    """16 bytes that name an offer in the store, so that no offer_id is stored."""
    return hashlib.blake2b(offer_id.encode("utf-8"), digest_size=16, person=b"offer").digest()


def invalid_offer() -> Refusal:
    """The refusal of a forged or altered offer_id."""
    return Refusal(Reason.OFFER_INVALID, "offer_id was not made by this service, or it was altered")


def _mac(body: bytes, key: bytes) -> bytes:
    return hashlib.blake2b(body, key=key, digest_size=_MAC_BYTES).digest()


def _decode(offer_id: str) -> bytes:
    try:
        encoded = offer_id.encode("ascii")
        raw = urlsafe_b64decode(encoded + b"=" * (-len(encoded) % 4))
    except ValueError:
        raise invalid_offer() from None
    # b64decode skips foreign characters and ignores stray bits; one offer has one name.
    if urlsafe_b64encode(raw).rstrip(b"=") != encoded or len(raw) < _HEAD.size + _MAC_BYTES:
        raise invalid_offer()
    return raw
