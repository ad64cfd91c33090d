"""Commands that run the service. They need the extra `server`, some also `embedded`."""

import asyncio
import importlib
import os
import secrets
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from voucher_grpc.cli import DEFAULT_TARGET, Failed, app, extras, run
from voucher_grpc.cli.connection import channel_credentials
from voucher_grpc.cli.database import DatabaseUrl, required_url
from voucher_grpc.server.worker import READY, Supervised, Worker
from voucher_grpc.terminal import say

if TYPE_CHECKING:
    from voucher_grpc.server.config import Config
    from voucher_grpc.server.lifecycle import RunningServer

Workers = Annotated[
    int | None,
    typer.Option(help="Processes that share the port; else VOUCHER_WORKERS.", show_default=False),
]
Listen = Annotated[str | None, typer.Option(help="Address of the gRPC server.")]
MetricsListen = Annotated[str | None, typer.Option(help="Address of /metrics; empty: none.")]


def _config(**overrides: object) -> "Config":
    with extras():
        from voucher_grpc.server.config import ConfigError, read_config
        from voucher_grpc.telemetry.logs import configure_logs
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
        server = importlib.import_module("voucher_grpc.server.lifecycle")
        driver = importlib.import_module("voucher_grpc.store.driver")
        migrate = importlib.import_module("voucher_grpc.store.migrate")
    try:
        if sys.platform == "win32":
            run(work)
        else:
            import uvloop

            run(work, uvloop.run)
    except (server.StartError, driver.UnsafeDatabase, migrate.MigrationError) as error:
        raise Failed(str(error)) from error


async def _serve(
    config: "Config",
    ready: "Callable[[RunningServer], Any] | None" = None,
    supervised: Supervised | None = None,
) -> None:
    from voucher_grpc.server.lifecycle import running
    from voucher_grpc.server.process import prepare_process

    prepare_process()
    stop = asyncio.Event()
    for sent in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(sent, stop.set)
    if supervised is not None:
        supervised.watch(stop)
    async with running(config, supervised.worker if supervised else None) as server:
        if ready is not None:
            await ready(server)
        else:
            _say_port(server.port, server.mtls_port)
        await stop.wait()


def _say_port(port: int, mtls_port: int | None) -> None:
    with_certificates = f", for callers with certificates on port {mtls_port}" if mtls_port else ""
    say(f"voucher-grpc serves on port {port}{with_certificates}")


async def _migrate(database_url: str) -> list[str]:
    import asyncpg

    from voucher_grpc.errors import StoreUnavailable
    from voucher_grpc.store.driver import translated
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


@app.command()
def serve(
    database_url: DatabaseUrl = None,
    listen: Listen = None,
    metrics_listen: MetricsListen = None,
    embedded: Annotated[
        Path | None,
        typer.Option(help="Start a Postgres of our own with its data in this folder."),
    ] = None,
    workers: Workers = None,
) -> None:
    """Serve on a Postgres that has the migrations (see `migrate`).

    With several workers SIGHUP replaces them one after the other.
    """
    settings = {"listen": listen, "metrics_listen": metrics_listen, "workers": workers}
    if embedded is not None:
        with _postgres(embedded) as url:
            config = _config(database_url=url, **settings)
            run(_migrate(url))
            _serve_all(config, {"database_url": url})
        return
    required_url(database_url)
    config = _config(database_url=database_url, **settings)
    _serve_all(config, {} if database_url is None else {"database_url": database_url})


def _serve_all(config: "Config", settings: dict[str, object]) -> None:
    """In this process alone, or in workers that get `settings` too."""
    if config.workers == 1:
        _run_server(_serve(config))
        return
    if sys.platform != "linux":
        raise Failed("VOUCHER_WORKERS: only Linux shares a port out among processes")
    with extras():
        from voucher_grpc.errors import StartError
        from voucher_grpc.workers.supervisor import supervise
    try:
        run(supervise(config, settings, _say_port))
    except StartError as error:
        raise Failed(str(error)) from error


@app.command(hidden=True)
def worker(slot: int, folder: Path, ready_fd: int, life_fd: int) -> None:
    """One of the processes of `serve --workers`, which starts it."""
    supervised = Supervised(Worker(slot, folder), ready_fd, life_fd)
    # One for the supervisor that reaches all of its kind must not end a worker.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        config = _config()
        with extras():
            from structlog.contextvars import bind_contextvars
        bind_contextvars(slot=slot)
        _run_server(_work(config, supervised))
    except Failed as error:
        if supervised.tell(str(error)):
            raise typer.Exit(2) from error
        raise


async def _work(config: "Config", supervised: Supervised) -> None:
    from voucher_grpc.workers.multiprocess_metrics import Counts

    counts = Counts(supervised.worker.folder, supervised.worker.slot)

    async def ready(_server: "RunningServer") -> None:
        # From now on its gauges count.
        counts.write()
        supervised.tell(READY)

    writing = asyncio.create_task(counts.keep_writing())
    try:
        await _serve(config, ready, supervised)
    finally:
        writing.cancel()
        with suppress(asyncio.CancelledError):
            await writing


@app.command()
def migrate(database_url: DatabaseUrl = None) -> None:
    """Bring a database up to date; existing data stays."""
    url = required_url(database_url)
    _config()
    with extras():
        from voucher_grpc.store.migrate import MigrationError
    try:
        applied = run(_migrate(url))
    except MigrationError as error:
        raise Failed(str(error)) from error
    for name in applied:
        say(f"applied {name}")
    if not applied:
        say("up to date")


@contextmanager
def _postgres(folder: Path) -> Iterator[str]:
    with extras():
        from voucher_grpc.dev.postgres import EmbeddedUnavailable, embedded_postgres
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
    with_tokens: Annotated[
        bool, typer.Option("--with-tokens", help="Ask callers for a token (`voucher-grpc token`).")
    ] = False,
) -> None:
    """Try it: Postgres, service and, on the first start, demo data. Ctrl-C stops all."""
    credentials = _development_credentials(data) if with_tokens else {}
    with _postgres(data / "postgres") as url:
        config = _config(
            database_url=url,
            listen=listen,
            metrics_listen=metrics_listen,
            offer_keys=_development_key(data),
            log_format="console",
            log_level="warning",
            **credentials,
        )
        applied = run(_migrate(url))
        marker = data / "demo_loaded"
        first = bool(applied) or not marker.exists()
        token = _demo_token(data) if with_tokens else ""
        _run_server(
            _serve(config, lambda server: _welcome(server, marker if first else None, token))
        )
    say("stopped")


def _development_credentials(folder: Path) -> dict[str, str]:
    """Settings of a server that takes the tokens of `voucher-grpc token`."""
    with extras():
        from voucher_grpc.dev.issuer import ISSUER, DevelopmentIssuer
    try:
        issuer = DevelopmentIssuer(folder)
    except (OSError, ValueError) as error:
        raise Failed(f"{folder}: {error}") from error
    return {"token_keys": str(issuer.key_set), "token_issuer": ISSUER}


def _demo_token(folder: Path) -> str:
    """For loading the demo data: the catalogue, all places, users and their sessions."""
    from voucher_grpc.access.principal import ANY, ClaimedNames
    from voucher_grpc.access.roles import Role
    from voucher_grpc.dev.issuer import DevelopmentIssuer

    return DevelopmentIssuer(folder).token(
        "demo",
        [Role.OPERATOR, Role.GATEWAY, Role.PLATFORM],
        ClaimedNames(users=(ANY,), vehicles=(ANY,), parties=(ANY,)),
        audience="voucher-grpc",
        lifetime_s=600,
    )


async def _welcome(server: "RunningServer", marker: Path | None, token: str) -> None:
    """Load the demo data on the first start, then say what to try."""
    target = f"127.0.0.1:{server.port}"
    if marker is not None:
        from voucher_grpc.client import Client
        from voucher_grpc.dev.demo.load import load_demo

        async with Client(target, token=token) as client:
            await load_demo(client, datetime.now(UTC))
        marker.touch()  # noqa: ASYNC240 - one file, once
    metrics = f", metrics on http://127.0.0.1:{server.metrics_port}/metrics"
    if token:
        say("callers need a token:")
        say("  export VOUCHER_TOKEN=$(voucher-grpc token --role user --subject demo-night-owl)")
    say(f"ready: gRPC on {target}{metrics if server.metrics_port else ''}. Try:")
    say(f"  voucher-grpc request-offers --user demo-night-owl --target {target}")
    say(f"  grpcurl -plaintext {target} list")


@app.command()
def demo() -> None:
    """Request and buy offers on a throw-away database; exit 0 only if all checks passed."""
    with extras():
        from voucher_grpc.dev.demo.play import DemoFailed, play
        from voucher_grpc.dev.postgres import EmbeddedUnavailable, throw_away_postgres
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
        say(f"voucher-grpc: the demo did not hold: {error}", err=True)
        raise typer.Exit(1) from error


@app.command()
def health(
    target: Annotated[str, typer.Option(envvar="VOUCHER_TARGET")] = DEFAULT_TARGET,
    timeout_s: Annotated[float, typer.Option(min=0.1, max=60)] = 2.0,
    server_name: Annotated[
        str, typer.Option(help="The name in its certificate, if that is not the target's.")
    ] = "",
) -> None:
    """Exit 0 while the service serves, else 1. With VOUCHER_CA_FILE it is asked over TLS."""
    with extras():
        import grpc
        from grpc_health.v1 import health_pb2, health_pb2_grpc
    credentials = channel_credentials()
    options = [("grpc.ssl_target_name_override", server_name)] if server_name else []
    with (
        grpc.insecure_channel(target)
        if credentials is None
        else grpc.secure_channel(target, credentials, options)
    ) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = stub.Check(  # type: ignore[attr-defined]
                health_pb2.HealthCheckRequest(), timeout=timeout_s
            )
        except grpc.RpcError as error:
            say(f"voucher-grpc: {target}: {error.code().name}", err=True)
            raise typer.Exit(1) from error
    state = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    say(state)
    if state != "SERVING":
        raise typer.Exit(1)
