"""OCPI Tokens in the store."""

from collections.abc import Sequence

import asyncpg

from voucher_grpc.domain.redemption.token import Token, TokenKey, TokenType, Whitelist
from voucher_grpc.errors import Reason, Refusal, bad_field
from voucher_grpc.store import queries
from voucher_grpc.store.database import Database

_SQL = queries.load("tokens")
MAX_TOKENS_OF_A_USER = 1_000


def _token(row: asyncpg.Record) -> Token:
    key = TokenKey(row["country_code"], row["party_id"], TokenType(row["token_type"]), row["uid"])
    return Token(
        key,
        row["user_id"],
        row["contract_id"],
        row["valid"],
        Whitelist(row["whitelist"]),
        row["update_time"],
    )


def token_not_found() -> Refusal:
    """Of a token that nobody has registered, or that is not the user's."""
    return Refusal(Reason.TOKEN_NOT_FOUND, "the token is not registered")


class TokenStore:
    """Tokens."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def register(self, token: Token) -> Token:
        """Register or replace a user's token.

        Raises TOKEN_OF_ANOTHER_USER, and BadInput for one more than a user may have.
        """
        key = token.key
        async with self._database.transaction() as connection:
            await connection.execute(_SQL["lock_tokens"], token.user_id)
            row = await connection.fetchrow(
                _SQL["register"],
                key.compared,
                token.user_id,
                key.country_code,
                key.party_id,
                key.type.value,
                key.uid,
                token.contract_id,
                token.valid,
                token.whitelist.value,
                MAX_TOKENS_OF_A_USER,
            )
        if row is None:
            raise LookupError("the statement returned no row")
        if not row["is_left"]:
            raise bad_field("token.user_id", f"must have at most {MAX_TOKENS_OF_A_USER} tokens")
        if row["token_key"] is None:
            raise Refusal(Reason.TOKEN_OF_ANOTHER_USER, "the token is another user's")
        return _token(row)

    async def get(self, key: TokenKey) -> Token:
        """A token. Raises TOKEN_NOT_FOUND."""
        async with self._database.acquire() as connection:
            row = await connection.fetchrow(_SQL["token"], key.compared)
        if row is None:
            raise token_not_found()
        return _token(row)

    async def page(self, user_id: str, after: str, limit: int) -> Sequence[Token]:
        """Up to `limit` of a user's tokens after one (`TokenKey.compared`)."""
        async with self._database.acquire() as connection:
            rows = await connection.fetch(_SQL["tokens"], user_id, after, limit)
        return [_token(row) for row in rows]

    async def delete(self, user_id: str, key: TokenKey) -> None:
        """Remove a user's token. Raises TOKEN_NOT_FOUND."""
        async with self._database.acquire() as connection:
            if not await connection.fetchval(_SQL["delete"], user_id, key.compared):
                raise token_not_found()
