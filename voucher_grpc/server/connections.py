"""How connections to a server behave: bounds, and what networks do to those that are silent.

tests/integration/test_connections.py tries each of them on a real server.
"""

import resource

import structlog

from voucher_grpc.server.config import Config

log = structlog.get_logger(__name__)

# Silent connections are forgotten by mobile networks after 30 to 60 s, by AWS classic and
# application load balancers after 60, by Azure's after 240, by AWS network load balancers
# after 350; neither end notices. So the server pings well within the shortest, and lets
# clients do the same.
_PING_EVERY_MS = 25_000
_PING_ANSWERED_WITHIN_MS = 10_000
_CLIENT_PINGS_AT_MOST_EVERY_MS = 10_000
# Connections that send nothing that is HTTP/2.
_HANDSHAKE_MS = 20_000
# Without a call for so long a connection is closed; its client opens another when needed.
_IDLE_MS = 900_000
_MAX_METADATA_BYTES = 8_192
# Calls that have arrived and that the event loop has not taken yet. Each holds about 15 kB, with
# large headers 25. From the first number on gRPC cancels some at random, from the second on all,
# so bursts of many connections must fit, and no more than that: with 10,000 and 20,000 an attack
# by rapid resets took 1 GB. What waits later has limits of its own, with a reason and RetryInfo.
_MAX_PENDING = 2_000
_MAX_PENDING_HARD = 4_000
# gRPC rejects streams of a connection of which too many have ended and are not yet cleaned up. By
# default that happens to a client with a queue of calls, each time that many are answered at once.
_ENDED_PER_STREAM = 4
# What of a message is received before its call has been admitted. Afterwards gRPC asks for all of
# it at once. Without this it is 64 KiB, and with probing up to 16 MiB, for each stream.
_UNASKED_MESSAGE_BYTES = 4_096
# For the database, the logs, the event loops; callers' connections may not have these.
_OWN_DESCRIPTORS = 200


def server_options(config: Config, *, shared_port: bool) -> list[tuple[str, int]]:
    """The options of gRPC for a server; with a `shared_port` others listen on it too."""
    options = [
        ("grpc.max_receive_message_length", config.max_message_bytes),
        ("grpc.max_metadata_size", _MAX_METADATA_BYTES),
        ("grpc.server.max_pending_requests", _MAX_PENDING),
        ("grpc.server.max_pending_requests_hard_limit", _MAX_PENDING_HARD),
        ("grpc.http2.max_deallocating_streams", _ENDED_PER_STREAM * config.max_connection_streams),
        ("grpc.http2.lookahead_bytes", _UNASKED_MESSAGE_BYTES),
        ("grpc.http2.bdp_probe", 0),
        # A second server on the same port would take half of the calls unnoticed. The
        # port of workers is kept by their supervisor.
        ("grpc.so_reuseport", int(shared_port)),
        ("grpc.max_concurrent_streams", config.max_connection_streams),
        ("grpc.max_allowed_incoming_connections", most_connections(config)),
        ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS),
        ("grpc.max_connection_idle_ms", _IDLE_MS),
        ("grpc.keepalive_time_ms", _PING_EVERY_MS),
        ("grpc.keepalive_timeout_ms", _PING_ANSWERED_WITHIN_MS),
        # What closes a connection through which nothing comes any more; a minute unless set.
        ("grpc.http2.ping_timeout_ms", _PING_ANSWERED_WITHIN_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", _CLIENT_PINGS_AT_MOST_EVERY_MS),
    ]
    if config.max_connection_age_s:
        # Without a grace: a stream that is open keeps its connection until it ends.
        options.append(("grpc.max_connection_age_ms", config.max_connection_age_s * 1000))
    return options


def most_connections(config: Config) -> int:
    """As many connections as are configured, or as there are descriptors for.

    A server that runs out of descriptors could not reach its database any more.
    """
    allowed = raise_descriptors(config)
    if allowed < config.max_connections + _OWN_DESCRIPTORS:
        log.warning("few_descriptors", limit=allowed, max_connections=config.max_connections)
    return max(1, min(config.max_connections, allowed - _OWN_DESCRIPTORS))


def raise_descriptors(config: Config) -> int:
    """Raise the process's soft limit, often 1,024, as far as it may be; how many are of use."""
    wanted = config.max_connections + _OWN_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return allowed
