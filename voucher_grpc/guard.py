"""Who may make a call, asked before anything else of the call is looked at."""

from typing import Any

import grpc

from voucher_grpc.access.principal import ANYBODY, EVERYTHING, Reach, set_caller
from voucher_grpc.access.rates import Rates
from voucher_grpc.access.roles import Scope
from voucher_grpc.access.table import Rule
from voucher_grpc.authentication.authenticator import Authenticator

Context = grpc.aio.ServicerContext[Any, Any]


class Guard:
    """Lets calls in: credentials, then the caller's rate, then the scope."""

    def __init__(self, authenticator: Authenticator, rates: Rates) -> None:
        self._authenticator = authenticator
        self._rates = rates

    async def admit(self, rule: Rule, context: Context) -> Reach:
        """How far the caller's scope reaches; from now on `caller()` is who calls.

        Raises CREDENTIALS_MISSING, _INVALID, _EXPIRED, RATE_LIMITED, ACCESS_DENIED.
        """
        if rule.scope is Scope.NOBODY_IN_PARTICULAR:
            return EVERYTHING
        principal = await self._authenticator.caller(context)
        if principal is ANYBODY:
            return EVERYTHING
        set_caller(principal)
        self._rates.take(principal)
        return principal.reach(rule.scope)
