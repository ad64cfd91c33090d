"""Who makes a change."""

import re
from typing import Any

import grpc

from voucher_grpc.access.principal import ANONYMOUS, caller

ACTOR_HEADER = "voucher-actor"
_ACTOR = re.compile(r"[\x21-\x7e]{1,64}")


def actor_of(context: grpc.aio.ServicerContext[Any, Any]) -> str:
    """The caller's name as its credentials have it.

    Where none are asked for it is the name that the caller gives itself in the
    metadata; "unknown" without one.
    """
    if caller() is not ANONYMOUS:
        return caller().name
    for key, value in context.invocation_metadata() or ():
        if key == ACTOR_HEADER and isinstance(value, str) and _ACTOR.fullmatch(value):
            return value
    return "unknown"
