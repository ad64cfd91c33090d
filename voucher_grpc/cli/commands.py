"""All commands, registered by being imported."""

from voucher_grpc.cli import (
    catalogue,
    credentials,
    evaluate,
    offers,
    places,
    pricing,
    server,
    sessions,
    verify,
)

__all__ = [
    "catalogue",
    "credentials",
    "evaluate",
    "offers",
    "places",
    "pricing",
    "server",
    "sessions",
    "verify",
]
