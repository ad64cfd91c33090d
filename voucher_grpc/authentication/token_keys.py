"""The public keys of token issuers: a JSON Web Key Set (RFC 7517), in a file or at a URL."""

import asyncio
import json
import ssl
import time
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import jwt
import structlog

from voucher_grpc.watched import WatchedFile

log = structlog.get_logger(__name__)

# Only signatures whose check needs no secret: whoever checks a token must not be able to
# make one. No "none" either.
ALGORITHMS = frozenset(
    ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
)
MAX_KEYS = 100
_FETCH_TIMEOUT_S = 5.0
# A token with a key that is not known makes a set at a URL be fetched at once, but not
# more often than this: anybody can write such a token.
SOONEST_FETCH_S = 10.0
MAX_WAITING = 100


class TokenKeysError(Exception):
    """The key set cannot be used; the message says why, in one line."""


Keys = Mapping[str, jwt.PyJWK]


def read_key_set(text: str | bytes) -> Keys:
    """The usable keys by key id; "" for one without. Raises TokenKeysError."""
    try:
        found = jwt.PyJWKSet.from_dict(json.loads(text)).keys
    except (ValueError, AttributeError, TypeError, jwt.PyJWTError) as error:
        raise TokenKeysError("is not a JSON Web Key Set with a usable key") from error
    keys = {
        key.key_id or "": key
        for key in found
        if key.algorithm_name in ALGORITHMS and key.public_key_use in (None, "sig")
    }
    if not keys or len(keys) > MAX_KEYS:
        raise TokenKeysError(f"must have 1 to {MAX_KEYS} keys for signatures, has {len(keys)}")
    return keys


class TokenKeys:
    """Keeps the key set up to date. What cannot be read is logged, and the last good set stays."""

    def __init__(self, source: str, refresh_s: float) -> None:
        is_url = urlsplit(source).scheme in ("https", "http")
        self._file = None if is_url else WatchedFile(Path(source))
        self._client = (
            jwt.PyJWKClient(
                source,
                cache_jwk_set=False,
                timeout=_FETCH_TIMEOUT_S,
                ssl_context=ssl.create_default_context(),
            )
            if is_url
            else None
        )
        self._refresh_s = refresh_s
        self._fetched_s = -1e9
        self._raw: bytes | str = b""
        self._fetching = asyncio.Lock()
        self._waiting = 0
        self.keys: Keys = {}

    async def load(self) -> None:
        """Read the set for the first time. Raises TokenKeysError."""
        if self._file is not None:
            try:
                self._take(self._file.read())
            except OSError as error:
                raise TokenKeysError(f"cannot be read: {error.strerror}") from error
        else:
            await self._fetch()

    async def refresh(self) -> bool:
        """Look whether the set has changed, if it is time; whether it had."""
        before = self.keys
        try:
            if self._file is not None:
                if self._file.changed():
                    self._take(self._file.read())
            elif time.monotonic() - self._fetched_s >= self._refresh_s:
                await self._fetch()
        except (TokenKeysError, OSError) as error:
            log.warning("token_keys_not_read", error=str(error))
        return self.keys is not before

    async def unknown(self) -> bool:
        """A token names a key that is not here: look again, but not all the time.

        Only so many wait for it: anybody can write such a token, and waiting takes room.
        """
        if self._waiting >= MAX_WAITING:
            return False
        self._waiting += 1
        try:
            return await self._look_again()
        finally:
            self._waiting -= 1

    async def _look_again(self) -> bool:
        async with self._fetching:
            if self._client is None or time.monotonic() - self._fetched_s < SOONEST_FETCH_S:
                return False
            before = self.keys
            try:
                await self._fetch()
            except TokenKeysError as error:
                log.warning("token_keys_not_read", error=str(error))
            return self.keys is not before

    async def _fetch(self) -> None:
        if self._client is None:
            return
        self._fetched_s = time.monotonic()
        try:
            document = await asyncio.to_thread(self._client.fetch_data)
        except (jwt.PyJWTError, OSError, ValueError) as error:
            raise TokenKeysError("cannot be fetched") from error
        self._take(json.dumps(document, sort_keys=True))

    def _take(self, raw: bytes | str) -> None:
        if raw != self._raw:
            self.keys = read_key_set(raw)
            self._raw = raw
