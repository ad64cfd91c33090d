"""Tokens for trying it: an issuer of one's own, in a folder.

`token_key.json` is its private key, `jwks.json` what a server needs to know of it
(VOUCHER_TOKEN_KEYS). For development: a real issuer looks after its keys.
"""

import json
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.algorithms import OKPAlgorithm

from voucher_grpc.access.principal import ClaimedNames
from voucher_grpc.access.roles import Role

ISSUER = "voucher-grpc-development"
_PRIVATE, _PUBLIC = "token_key.json", "jwks.json"


class DevelopmentIssuer:
    """Issues tokens with the key of a folder, which is made when it is first needed.

    Raises OSError, or ValueError for a key that cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.key_set = folder / _PUBLIC
        private = folder / _PRIVATE
        if not private.exists():
            folder.mkdir(parents=True, exist_ok=True)
            _make(private, self.key_set)
        try:
            self._key = jwt.PyJWK(json.loads(private.read_text(encoding="ascii")))
        except (jwt.PyJWTError, ValueError) as error:
            raise ValueError(f"{private} is not a key for tokens") from error

    def token(
        self,
        subject: str,
        roles: Sequence[Role],
        named: ClaimedNames,
        *,
        audience: str,
        lifetime_s: int,
    ) -> str:
        """A token that says these things, good from now on."""
        now = int(time.time())
        claims: dict[str, Any] = {
            "iss": ISSUER,
            "aud": audience,
            "sub": subject,
            "iat": now,
            "exp": now + lifetime_s,
            "roles": [str(role) for role in roles],
            **{claim: list(names) for claim, names in named._asdict().items() if names},
        }
        return jwt.encode(
            claims, self._key.key, self._key.algorithm_name, headers={"kid": self._key.key_id}
        )


def _make(private: Path, public: Path) -> None:
    key = Ed25519PrivateKey.generate()
    common = {"kid": secrets.token_hex(4), "alg": "EdDSA", "use": "sig"}
    private.touch(mode=0o600)
    private.write_text(json.dumps({**OKPAlgorithm.to_jwk(key, as_dict=True), **common}), "ascii")
    key_set = {"keys": [{**OKPAlgorithm.to_jwk(key.public_key(), as_dict=True), **common}]}
    public.write_text(json.dumps(key_set, indent=1), "ascii")
