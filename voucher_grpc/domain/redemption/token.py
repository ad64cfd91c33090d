"""OCPI Tokens: a card, an app, a contract or a vehicle that a station knows a user by."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from voucher_grpc.ocpi import folded

# An EMAID (ISO 15118-1, annex H): country, provider, instance, and perhaps a check digit.
_EMAID_CHARS = 14


class TokenType(StrEnum):
    """OCPI 2.2.1, 12.4.4 TokenType, and EMAID of OCPI 2.3.0. Autocharge (the EVCCID of a vehicle)
    is OTHER."""

    AD_HOC_USER = "AD_HOC_USER"
    APP_USER = "APP_USER"
    EMAID = "EMAID"
    OTHER = "OTHER"
    RFID = "RFID"


class Whitelist(StrEnum):
    """OCPI 2.2.1, 12.4.5 WhitelistType: whether a station may allow a token by itself."""

    ALWAYS = "ALWAYS"
    ALLOWED = "ALLOWED"
    ALLOWED_OFFLINE = "ALLOWED_OFFLINE"
    NEVER = "NEVER"


class TokenKey(NamedTuple):
    """A token as its issuer names it."""

    country_code: str
    party_id: str
    type: TokenType
    uid: str

    @property
    def compared(self) -> str:
        """The same text for all spellings: ids do not differ by case alone, an EMAID is the same
        with and without hyphens and check digit."""
        uid = self.uid
        if self.type is TokenType.EMAID:
            uid = uid.replace("-", "").replace("*", "")[:_EMAID_CHARS]
        return folded(f"{self.country_code}*{self.party_id}*{self.type}*{uid}")


@dataclass(frozen=True, slots=True)
class Token:
    """A token of a user. One that is not `valid` is blocked."""

    key: TokenKey
    user_id: str
    contract_id: str
    valid: bool
    whitelist: Whitelist
    update_time: datetime | None = None
