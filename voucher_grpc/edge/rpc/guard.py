"""Step 5 of a call: who may make it, before anything of its message is read."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from voucher_grpc.access.principal import (
    ANONYMOUS,
    EVERYTHING,
    Principal,
    Reach,
    caller,
    set_caller,
)
from voucher_grpc.access.rates import Rates
from voucher_grpc.access.roles import Scope
from voucher_grpc.access.table import Rule
from voucher_grpc.edge.authentication.authenticator import Authenticator
from voucher_grpc.errors import Reason, Refusal
from voucher_grpc.runtime.quotas import Quotas

Context = grpc.aio.ServicerContext[Any, Any]


class Guard:
    """Lets calls in: credentials, then the caller's rate, then the scope."""

    def __init__(self, authenticator: Authenticator, rates: Rates, max_streams: int) -> None:
        self._authenticator = authenticator
        self._rates = rates
        self._streams = Quotas(max_streams)

    async def admit(self, rule: Rule, context: Context) -> Reach:
        """How far the caller's scope reaches; from now on `caller()` is who calls.

        Raises CREDENTIALS_MISSING, _INVALID, _EXPIRED, RATE_LIMITED, ACCESS_DENIED.
        """
        if rule.scope is Scope.PUBLIC:
            return EVERYTHING
        principal = await self._authenticator.caller(context)
        if principal is ANONYMOUS:
            return EVERYTHING
        set_caller(principal)
        self._rates.take(principal)
        return principal.reach(rule.scope)

    async def known(self, rule: Rule, context: Context) -> Principal | None:
        """Who makes a call that was admitted, also a public one; None without valid
        credentials."""
        principal = caller()
        if rule.scope is Scope.PUBLIC:
            try:
                principal = await self._authenticator.caller(context)
            except Refusal:
                return None
        return None if principal is ANONYMOUS else principal

    def take(self) -> None:
        """One more of what the caller's rate allows. Raises RATE_LIMITED."""
        self._rates.take(caller())

    async def recheck(self, rule: Rule, context: Context) -> None:
        """Whether the caller of a stream would be let in now. Raises what `admit` does."""
        if caller() is ANONYMOUS or rule.scope is Scope.PUBLIC:
            return
        principal = await self._authenticator.caller(context)
        principal.reach(rule.scope)

    @asynccontextmanager
    async def one_stream(self) -> AsyncIterator[None]:
        """A stream of the caller's. Raises OVERLOADED for more than its share of all streams."""
        who = caller().key
        if caller() is ANONYMOUS:
            yield
            return
        if not self._streams.take(who):
            message = f"{self._streams.most} streams of this caller are open here already"
            raise Refusal(Reason.OVERLOADED, message, retry_after_s=1.0)
        try:
            yield
        finally:
            self._streams.give_back(who)
