"""JSON Web Tokens (RFC 7519, as access tokens RFC 9068) become principals.

Claims: `iss`, `aud`, `exp` and `sub` must be there and right, `nbf` and `iat` if they
are; `roles` says what the caller is (see access/roles.py), `users`, `vehicles` and
`parties` what it may reach, each name in full or the beginning of many as `fleet-7-*`.
`cnf.x5t#S256` binds a token to a client certificate (RFC 8705): without it the token
is worth nothing.
"""

import re
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jwt

from voucher_grpc.access.principal import ClaimedNames, Credentials, Principal
from voucher_grpc.access.roles import Role
from voucher_grpc.edge.authentication.token_keys import ALGORITHMS, TokenKeys
from voucher_grpc.errors import Reason, Refusal

MAX_TOKEN_CHARS = 8_192
MAX_KEPT = 10_000
MAX_NAME_CHARS = 64
_NAME = re.compile(r"[\x21-\x7e]{1,64}")


class TokenRules(NamedTuple):
    """What a token must say of itself."""

    issuer: str
    audience: str
    leeway_s: int


class Verified(NamedTuple):
    """A token that was good: whose it is, until when, and to which certificate it is bound."""

    principal: Principal
    good_until_s: float
    certificate_digest: str | None


class TokenVerifier:
    """Checks tokens. A token that was good is known until it expires or the keys change.

    At most `MAX_KEPT` are kept; beyond that the one longest not used is checked anew.
    """

    def __init__(
        self, keys: TokenKeys, rules: TokenRules, clock: Callable[[], float] = time.time
    ) -> None:
        self._keys = keys
        self._rules = rules
        self._clock = clock
        self._known: OrderedDict[str, Verified] = OrderedDict()
        self._keys_known = keys.keys

    async def verify(self, token: str) -> Verified:
        """Whose a token is. Raises CREDENTIALS_INVALID, CREDENTIALS_EXPIRED."""
        found = self._recall(token)
        if found is None:
            found = await self._check(token)
            self._known[token] = found
            if len(self._known) > MAX_KEPT:
                self._known.popitem(last=False)
        return found

    def _recall(self, token: str) -> Verified | None:
        if self._keys.keys is not self._keys_known:
            # A key that was taken out takes its tokens along.
            self._keys_known = self._keys.keys
            self._known.clear()
        found = self._known.get(token)
        if found is None:
            return None
        if self._clock() >= found.good_until_s:
            del self._known[token]
            raise expired("token")
        self._known.move_to_end(token)
        return found

    async def _check(self, token: str) -> Verified:
        if len(token) > MAX_TOKEN_CHARS:
            raise invalid(f"the token has more than {MAX_TOKEN_CHARS} characters")
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, RecursionError):
            raise invalid("the token is not a JSON Web Token") from None
        key = await self._key(header)
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=[key.algorithm_name],
                audience=self._rules.audience,
                issuer=self._rules.issuer,
                leeway=self._rules.leeway_s,
                options={
                    "require": ["exp", "iss", "aud", "sub"],
                    "enforce_minimum_key_length": True,
                },
            )
        except jwt.ExpiredSignatureError:
            raise expired("token") from None
        except jwt.PyJWTError as error:
            raise invalid(_what_is_wrong(error)) from None
        return Verified(
            principal_from_claims(claims),
            int(claims["exp"]) + self._rules.leeway_s,
            _bound_to(claims),
        )

    async def _key(self, header: Mapping[str, Any]) -> jwt.PyJWK:
        """The key that a token names; the only one if it names none."""
        algorithm = header.get("alg")
        if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
            raise invalid("the token is not signed in a way that is accepted here")
        key_id = header.get("kid", "")
        if key_id not in self._keys.keys and key_id:
            await self._keys.unknown()
        keys = self._keys.keys
        if not keys and self._keys.too_old:
            raise invalid("the keys of tokens' issuers could not be fetched for too long")
        key = keys.get(key_id) if key_id or len(keys) != 1 else next(iter(keys.values()))
        if key is None or key.algorithm_name != algorithm:
            raise invalid("the token is signed by a key that is not known here")
        return key


# What a caller may know of why; the library's words may quote the token.
_WRONG: tuple[tuple[type[Exception], str], ...] = (
    (jwt.InvalidSignatureError, "the token's signature is wrong"),
    (jwt.InvalidAudienceError, "the token is for another audience"),
    (jwt.InvalidIssuerError, "the token has another issuer"),
    (jwt.ImmatureSignatureError, "the token is not valid yet"),
    (jwt.InvalidIssuedAtError, "the token is not valid yet"),
    (jwt.MissingRequiredClaimError, "the token lacks one of exp, iss, aud, sub"),
)


def _what_is_wrong(error: jwt.PyJWTError) -> str:
    for kind, words in _WRONG:
        if isinstance(error, kind):
            return words
    return "the token is not a JSON Web Token"


def principal_from_claims(claims: Mapping[str, Any]) -> Principal:
    """What verified claims say of the caller. Raises CREDENTIALS_INVALID.

    Roles that are not known here grant nothing: an issuer has others too.
    """
    subject = claims["sub"]
    if not _NAME.fullmatch(subject):
        raise invalid(f"the token's sub must be 1 to {MAX_NAME_CHARS} visible ASCII characters")
    known = set(Role)
    roles = [Role(role) for role in _texts(claims, "roles") if role in known]
    named = ClaimedNames(*(_texts(claims, claim) for claim in ClaimedNames._fields))
    return Principal.of(Credentials.TOKEN, subject, roles, named)


def _texts(claims: Mapping[str, Any], claim: str) -> tuple[str, ...]:
    value = claims.get(claim, [])
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise invalid(f"the token's {claim} must be a list of texts")
    return tuple(value)


def _bound_to(claims: Mapping[str, Any]) -> str | None:
    if "cnf" not in claims:
        return None
    confirmation = claims["cnf"]
    digest = confirmation.get("x5t#S256") if isinstance(confirmation, dict) else None
    if not isinstance(digest, str):
        raise invalid("the token is bound in a way that is not known here")
    return digest


def invalid(message: str) -> Refusal:
    """The refusal of credentials that are not good."""
    return Refusal(Reason.CREDENTIALS_INVALID, message)


def expired(what: str) -> Refusal:
    """The refusal of credentials that were good."""
    return Refusal(Reason.CREDENTIALS_EXPIRED, f"the {what} has expired")
