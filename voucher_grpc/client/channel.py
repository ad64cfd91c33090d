"""How a channel to the service is set up: retries and keepalive."""

from importlib.resources import files
from typing import Any

# Mobile networks forget a silent connection after 30 to 60 s, load balancers after 60 to 350,
# and notify neither end. A ping in between keeps it, or shows that it is gone, before a call is
# lost to it; so pings go on while there are no calls. The server allows one in 10 s.
KEEPALIVE = (
    ("grpc.keepalive_time_ms", 25_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),  # else a minute, whatever the line above says
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)


def service_config() -> str:
    """The published service config, as JSON."""
    return (files("voucher_grpc") / "service_config.json").read_text(encoding="utf-8")


def channel_options() -> list[tuple[str, Any]]:
    """The options of a channel with retries and keepalive."""
    return [
        ("grpc.service_config", service_config()),
        ("grpc.enable_retries", 1),
        # A connection that was refused or reset is made again before the last retry; at the
        # runtime's own pause of a second it would not be.
        ("grpc.initial_reconnect_backoff_ms", 100),
        *KEEPALIVE,
    ]
