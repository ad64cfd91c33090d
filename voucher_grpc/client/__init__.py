"""A client with deadlines, safe retries and idempotency keys.

    async with Client("127.0.0.1:50051") as client:
        answer = await client.request_offers(user_id="alice")
        bought = await client.purchase_pass(answer.offers[0], payment_reference="pay-1")

Retries are gRPC's own, by the service config that is shipped with the package
(`service_config.json`, for other languages too): UNAVAILABLE is tried again with
back-off where a repetition cannot do harm, and so is CANCELLED, which is the status of calls that
reach a server in the moment in which it stops. A purchase may be repeated because its
request_id is made before the first try.
"""

from voucher_grpc.client.channel import KEEPALIVE, channel_options, service_config
from voucher_grpc.client.client import DEFAULT_TIMEOUT_S, IMPORT_TIMEOUT_S, Client
from voucher_grpc.client.failures import CallFailed, call_failed

__all__ = [
    "DEFAULT_TIMEOUT_S",
    "IMPORT_TIMEOUT_S",
    "KEEPALIVE",
    "CallFailed",
    "Client",
    "call_failed",
    "channel_options",
    "service_config",
]
