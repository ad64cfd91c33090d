"""Commands that run the service. They need the extra `server`, some also `embedded`."""

import asyncio
import importlib
import os
import secrets
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from voucher_grpc.cli import DEFAULT_TARGET, Failed, app, extras, run

if TYPE_CHECKING:
    from voucher_grpc.config import Config
    from voucher_grpc.server import RunningServer

DatabaseUrl = Annotated[
    str | None,
    typer.Option(help="Postgres URL; else VOUCHER_DATABASE_URL.", show_default=False),
]
Listen = Annotated[str | None, typer.Option(help="Address of the gRPC server.")]
MetricsListen = Annotated[str | None, typer.Option(help="Address of /metrics; empty: none.")]


def _config(**overrides: object) -> "Config":
    with extras():
        from voucher_grpc.config import ConfigError, read_config
        from voucher_grpc.logs import configure_logs
    try:
        config = read_config(**overrides)
    except ConfigError as error:
        raise Failed(str(error)) from error
    configure_logs(config.log_format, config.log_level)
    # Two cores of BLAS threads fight with the event loop for nothing.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    return config


def _run_server(work: Coroutine[Any, Any, None]) -> None:
    """Run on uvloop; what keeps a server from starting becomes one line."""
    with extras():
        server = importlib.import_module("voucher_grpc.server")
        database = importlib.import_module("voucher_grpc.store.database")
        migrate = importlib.import_module("voucher_grpc.store.migrate")
    try:
        if sys.platform == "win32":
            run(work)
        else:
            import uvloop

            run(work, uvloop.run)
    except (server.StartError, database.UnsafeDatabase, migrate.MigrationError) as error:
        raise Failed(str(error)) from error


async def _serve(config: "Config", ready: "Callable[[RunningServer], Any] | None" = None) -> None:
    from voucher_grpc.server import running, spare_the_collector

    spare_the_collector()
    stop = asyncio.Event()
    for sent in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(sent, stop.set)
    async with running(config) as server:
        if ready is not None:
            await ready(server)
        else:
            typer.echo(f"voucher-grpc serves on port {server.port}")
        await stop.wait()


async def _migrate(database_url: str) -> list[str]:
    import asyncpg

    from voucher_grpc.errors import StoreUnavailable
    from voucher_grpc.store.database import translated
    from voucher_grpc.store.migrate import migrate

    with translated():
        try:
            return await migrate(database_url)
        except (
            asyncpg.InvalidAuthorizationSpecificationError,
            asyncpg.InvalidCatalogNameError,
            asyncpg.TargetServerAttributeNotMatched,
            ValueError,
        ) as error:
            raise StoreUnavailable(f"cannot connect: {type(error).__name__}") from error


def _required_url(config: "Config") -> str:
    url = config.database_url.get_secret_value()
    if not url:
        raise Failed("VOUCHER_DATABASE_URL is not set; name a database, or try `voucher-grpc dev`")
    return url


@app.command()
def serve(
    database_url: DatabaseUrl = None,
    listen: Listen = None,
    metrics_listen: MetricsListen = None,
    embedded: Annotated[
        Path | None,
        typer.Option(help="Start a Postgres of our own with its data in this folder."),
    ] = None,
) -> None:
    """Serve on a Postgres that has the migrations (see `migrate`)."""
    settings = {"listen": listen, "metrics_listen": metrics_listen}
    if embedded is not None:
        with _postgres(embedded) as url:
            config = _config(database_url=url, **settings)
            run(_migrate(url))
            _run_server(_serve(config))
        return
    config = _config(database_url=database_url, **settings)
    _required_url(config)
    _run_server(_serve(config))


@app.command()
def migrate(database_url: DatabaseUrl = None) -> None:
    """Bring a database up to date; what is there is kept."""
    url = _required_url(_config(database_url=database_url))
    with extras():
        from voucher_grpc.store.migrate import MigrationError
    try:
        applied = run(_migrate(url))
    except MigrationError as error:
        raise Failed(str(error)) from error
    typer.echo("\n".join(f"applied {name}" for name in applied) or "up to date")


@contextmanager
def _postgres(folder: Path) -> Iterator[str]:
    with extras():
        from voucher_grpc.store.embedded import EmbeddedUnavailable, embedded_postgres
    try:
        with embedded_postgres(folder) as url:
            yield url
    except EmbeddedUnavailable as error:
        raise Failed(str(error)) from error


def _development_key(folder: Path) -> str:
    """The key that signs the offers of a development server, made on its first start."""
    path = folder / "offer_key"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(secrets.token_hex(32), encoding="ascii")
    return f"1:{path.read_text(encoding='ascii').strip()}"


@app.command()
def dev(
    data: Annotated[Path, typer.Option(help="Folder of the database.")] = Path(".data"),
    listen: Listen = None,
    metrics_listen: MetricsListen = None,
) -> None:
    """Try it: Postgres, service and, on the first start, demo data. Ctrl-C stops all."""
    with _postgres(data / "postgres") as url:
        config = _config(
            database_url=url,
            listen=listen,
            metrics_listen=metrics_listen,
            offer_keys=_development_key(data),
            log_format="console",
            log_level="warning",
        )
        applied = run(_migrate(url))
        marker = data / "demo_loaded"
        first = bool(applied) or not marker.exists()
        _run_server(_serve(config, lambda server: _welcome(server, marker if first else None)))
    typer.echo("stopped")


async def _welcome(server: "RunningServer", marker: Path | None) -> None:
    """Load the demo data on the first start, then say what to try."""
    target = f"127.0.0.1:{server.port}"
    if marker is not None:
        from voucher_grpc.client import Client
        from voucher_grpc.demo.load import load_demo

        async with Client(target) as client:
            await load_demo(client, datetime.now(UTC))
        marker.touch()  # noqa: ASYNC240 - one file, once
    metrics = f", metrics on http://127.0.0.1:{server.metrics_port}/metrics"
    typer.echo(
        f"ready: gRPC on {target}{metrics if server.metrics_port else ''}. Try:\n"
        f"  voucher-grpc request-offers --user demo-night-owl --target {target}\n"
        f"  grpcurl -plaintext {target} list"
    )


@app.command()
def demo() -> None:
    """Play both signals on a throw-away database; exit 0 only if all of it held."""
    with extras():
        from voucher_grpc.demo.play import DemoFailed, play
        from voucher_grpc.store.embedded import EmbeddedUnavailable, throw_away_postgres
    try:
        with throw_away_postgres() as url:
            config = _config(
                database_url=url,
                listen="127.0.0.1:0",
                metrics_listen="127.0.0.1:0",
                offer_keys=f"1:{secrets.token_hex(32)}",
                log_format="console",
                log_level="error",
            )
            run(_migrate(url))
            _run_server(play(config))
    except EmbeddedUnavailable as error:
        raise Failed(str(error)) from error
    except DemoFailed as error:
        typer.echo(f"voucher-grpc: the demo did not hold: {error}", err=True)
        raise typer.Exit(1) from error


@app.command()
def health(
    target: Annotated[str, typer.Option(envvar="VOUCHER_TARGET")] = DEFAULT_TARGET,
    timeout_s: Annotated[float, typer.Option(min=0.1, max=60)] = 2.0,
) -> None:
    """Exit 0 while the service serves, else 1."""
    with extras():
        import grpc
        from grpc_health.v1 import health_pb2, health_pb2_grpc
    with grpc.insecure_channel(target) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = stub.Check(  # type: ignore[attr-defined]
                health_pb2.HealthCheckRequest(), timeout=timeout_s
            )
        except grpc.RpcError as error:
            typer.echo(f"voucher-grpc: {target}: {error.code().name}", err=True)
            raise typer.Exit(1) from error
    state = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    typer.echo(state)
    if state != "SERVING":
        raise typer.Exit(1)
