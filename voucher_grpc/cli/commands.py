"""All commands, registered by being imported."""

from voucher_grpc.cli import catalogue, offers, places, server, sessions

__all__ = ["catalogue", "offers", "places", "server", "sessions"]
