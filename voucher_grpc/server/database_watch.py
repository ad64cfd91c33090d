"""Health follows the database: it is probed at intervals, also without calls."""

import asyncio

import structlog

from voucher_grpc.edge.servicers.health import Health
from voucher_grpc.errors import StoreUnavailable
from voucher_grpc.runtime.clock import DatabaseClock
from voucher_grpc.server.config import Config
from voucher_grpc.store.database import Database
from voucher_grpc.telemetry.metrics import Metrics

log = structlog.get_logger(__name__)

_AWAY_INTERVAL_S = 0.25


async def watch_database(
    health: Health,
    database: Database,
    clock: DatabaseClock,
    metrics: Metrics,
    config: Config,
) -> None:
    """Probe the database at intervals, also without calls; more often while it is away."""
    up = True
    while True:
        pause_s = config.health_interval_s
        await asyncio.sleep(pause_s if up else min(pause_s, _AWAY_INTERVAL_S))
        try:
            up = await probe_database(health, database, clock, metrics)
        except Exception:  # whatever it is, health must not stay as it was
            log.exception("probe_failed")
            health.set(serving=False)
            up = False


async def probe_database(
    health: Health, database: Database, clock: DatabaseClock, metrics: Metrics
) -> bool:
    """SERVING while the database answers and can be written to; its clock is taken over."""
    try:
        clock.set(await database.probe())
        serving = True
    except StoreUnavailable:
        serving = False
    metrics.database_up.set(serving)
    metrics.pool_measured(*database.pool_sizes())
    metrics.write_followed()
    health.set(serving=serving)
    return serving
