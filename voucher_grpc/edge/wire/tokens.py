"""OCPI Tokens between messages and the domain."""

from voucher_grpc.domain.redemption.token import Token, TokenKey, TokenType, Whitelist
from voucher_grpc.edge.wire.checks import MAX_OCPI_ID_CHARS, Checks, enum_number
from voucher_grpc.edge.wire.messages import timestamp
from voucher_grpc.v1 import token_pb2 as pb

_TYPE = pb.TokenType.DESCRIPTOR
_WHITELIST = pb.WhitelistType.DESCRIPTOR


def token_key_from_message(checks: Checks, field: str, message: pb.TokenReference) -> TokenKey:
    """Which token is meant."""
    kind = checks.choice(f"{field}.type", message.type, _TYPE, TokenType)
    if not message.type:
        checks.wrong(f"{field}.type", "is missing")
    return TokenKey(
        checks.country(f"{field}.country_code", message.country_code, required=True),
        checks.party(f"{field}.party_id", message.party_id, required=True),
        kind or TokenType.OTHER,
        checks.identifier(f"{field}.uid", message.uid, required=True, max_chars=MAX_OCPI_ID_CHARS),
    )


def token_from_message(checks: Checks, field: str, message: pb.Token) -> Token:
    """A token to register."""
    whitelist = checks.choice(f"{field}.whitelist", message.whitelist, _WHITELIST, Whitelist)
    return Token(
        token_key_from_message(checks, f"{field}.reference", message.reference),
        checks.identifier(f"{field}.user_id", message.user_id, required=True),
        checks.identifier(f"{field}.contract_id", message.contract_id, max_chars=MAX_OCPI_ID_CHARS),
        not message.blocked,
        whitelist or Whitelist.NEVER,
    )


def token_message(token: Token) -> pb.Token:
    """A token as a message."""
    key = token.key
    message = pb.Token(
        reference=pb.TokenReference(
            country_code=key.country_code,
            party_id=key.party_id,
            type=enum_number(_TYPE, key.type),  # type: ignore[arg-type]
            uid=key.uid,
        ),
        user_id=token.user_id,
        contract_id=token.contract_id,
        blocked=not token.valid,
        whitelist=enum_number(_WHITELIST, token.whitelist),  # type: ignore[arg-type]
    )
    if token.update_time is not None:
        message.update_time.CopyFrom(timestamp(token.update_time))
    return message
