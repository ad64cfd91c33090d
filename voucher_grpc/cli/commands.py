"""All commands, registered by being imported."""

from voucher_grpc.cli import catalogue, evaluate, offers, places, server, sessions, verify

__all__ = ["catalogue", "evaluate", "offers", "places", "server", "sessions", "verify"]
