"""The id of a call, and how a call begins to be measured."""

import re
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

import grpc

from voucher_grpc.telemetry.work import Call

REQUEST_ID_HEADER = "x-request-id"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
Context = grpc.aio.ServicerContext[Any, Any]


def request_id_of(context: Context) -> str:
    """The caller's request id if it sent a usable one, else a new one."""
    for key, value in context.invocation_metadata() or ():
        if key == REQUEST_ID_HEADER and isinstance(value, str) and _REQUEST_ID.fullmatch(value):
            return value
    return uuid.uuid4().hex


def new_call(context: Context) -> Call:
    """A call that begins."""
    return Call(partial(request_id_of, context))


def untraced(_service: str, _method: str) -> Callable[[Context], Call]:
    """How the calls of a method begin while nothing is traced."""
    return new_call
