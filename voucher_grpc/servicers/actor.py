"""Who makes a change, until credentials say it."""

import re
from typing import Any

import grpc

ACTOR_HEADER = "voucher-actor"
_ACTOR = re.compile(r"[\x21-\x7e]{1,64}")


def actor_of(context: grpc.aio.ServicerContext[Any, Any]) -> str:
    """The name that the caller gives itself in the metadata; "unknown" without one."""
    for key, value in context.invocation_metadata() or ():
        if key == ACTOR_HEADER and isinstance(value, str) and _ACTOR.fullmatch(value):
            return value
    return "unknown"
