"""The public keys of token issuers: a JSON Web Key Set (RFC 7517), in a file or at a URL."""

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jwt
import structlog
from cryptography.exceptions import UnsupportedAlgorithm

from voucher_grpc.edge.authentication.fetching import FetchError, fetch
from voucher_grpc.runtime.reloadable_file import ReloadableFile

log = structlog.get_logger(__name__)

# Only signatures whose check needs no secret: whoever checks a token must not be able to
# make one. No "none" either.
ALGORITHMS = frozenset(
    ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
)
MAX_KEYS = 100
# A token with a key that is not known makes a set at a URL be fetched at once, but not
# more often than this: anybody can write such a token.
SOONEST_FETCH_S = 10.0
MAX_WAITING = 100
# A set at a URL that cannot be fetched is trusted for so long: an attacker who
# blocks the issuer must not keep a key in use that the issuer has withdrawn.
MAX_AGE_S = 86_400.0


class TokenKeysError(Exception):
    """The key set cannot be used; the message says why, in one line."""


Keys = Mapping[str, jwt.PyJWK]


def read_key_set(text: str | bytes) -> list[Any]:
    """What a key set lists, usable here or not. Raises TokenKeysError for what is none."""
    try:
        listed = json.loads(text)["keys"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise TokenKeysError("is not a JSON Web Key Set") from error
    if not isinstance(listed, list):
        raise TokenKeysError("is not a JSON Web Key Set")
    if len(listed) > MAX_KEYS:
        raise TokenKeysError(f"must have 1 to {MAX_KEYS} keys, has {len(listed)}")
    return listed


def usable_keys(listed: list[Any]) -> Keys:
    """Those that signatures are checked with, by key id; "" for one without."""
    keys = [key for key in map(_usable_key, listed) if key is not None]
    return {key.key_id or "": key for key in keys}


def _usable_key(listed: Any) -> jwt.PyJWK | None:
    """None for what is not understood: it is ignored (RFC 7517, section 5)."""
    try:
        key = jwt.PyJWK(listed)
    except (jwt.PyJWTError, UnsupportedAlgorithm, ValueError, TypeError, AttributeError):
        return None
    named = key.key_id is None or isinstance(key.key_id, str)
    signs = key.algorithm_name in ALGORITHMS and key.public_key_use in (None, "sig")
    return key if named and signs else None


class TokenKeys:
    """Keeps the key set up to date.

    What cannot be read is logged, and the last set stays: one at a URL for `MAX_AGE_S`. A
    set without a usable key is taken over like any other: its issuer has withdrawn the last.
    """

    def __init__(
        self, source: str, refresh_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        is_url = urlsplit(source).scheme in ("https", "http")
        self._file = None if is_url else ReloadableFile(Path(source))
        self._url = source
        self._refresh_s = refresh_s
        self._clock = clock
        self._fetched_s = self._read_s = clock()
        self._listed: list[Any] | None = None
        self._fetching = asyncio.Lock()
        self._looking: asyncio.Task[None] | None = None
        self._waiting = 0
        self.keys: Keys = {}

    @property
    def age_s(self) -> float:
        """For how long a set at a URL has not been read; 0 for a file."""
        return 0.0 if self._file is not None else self._clock() - self._read_s

    @property
    def too_old(self) -> bool:
        """Whether nothing is known any more of what the issuer's keys are."""
        return self.age_s > MAX_AGE_S

    async def load(self) -> None:
        """Read the set for the first time. Raises TokenKeysError."""
        await self._read()
        if not self.keys:
            raise TokenKeysError(f"must have 1 to {MAX_KEYS} keys for signatures, has 0")

    async def refresh(self) -> None:
        """Look whether the set has changed, if it is time."""
        if self._file is not None:
            if self._file.changed():
                await self._renew()
            return
        try:
            async with self._fetching:
                if self._clock() - self._fetched_s >= self._refresh_s:
                    await self._renew()
        finally:
            if self.keys and self.too_old:
                log.error("token_keys_too_old", age_s=round(self.age_s), most_s=MAX_AGE_S)
                self.keys, self._listed = {}, None

    async def unknown(self) -> None:
        """A token names an unknown key: read the key set again, but not at each such token.

        Only so many wait for it: anybody can write such a token, and waiting takes memory.
        """
        if self._file is not None or self._waiting >= MAX_WAITING:
            return
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look_again())
        self._waiting += 1
        try:
            # A caller that gives up must not end it: fetches that begin and end every ten seconds
            # would put off for ever the one that is due.
            await asyncio.shield(self._looking)
        finally:
            self._waiting -= 1

    async def _look_again(self) -> None:
        async with self._fetching:
            if self._clock() - self._fetched_s >= SOONEST_FETCH_S:
                await self._renew()

    async def _renew(self) -> None:
        """Read the set again; what cannot be read is logged."""
        before = self.keys
        try:
            await self._read()
        except TokenKeysError as error:
            log.warning("token_keys_not_read", error=str(error))
        if self.keys is not before and not self.keys:
            log.error("token_keys_withdrawn")

    async def _read(self) -> None:
        if self._file is not None:
            try:
                raw = self._file.read()
            except OSError as error:
                raise TokenKeysError(f"cannot be read: {error.strerror}") from error
        else:
            self._fetched_s = self._clock()
            try:
                raw = await fetch(self._url)
            except FetchError as error:
                raise TokenKeysError(str(error)) from error
        listed = read_key_set(raw)
        self._read_s = self._clock()
        if listed != self._listed:
            self.keys, self._listed = usable_keys(listed), listed
