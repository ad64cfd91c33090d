"""Which database a command works on."""

from typing import Annotated
from urllib.parse import parse_qs, urlsplit

import typer

from voucher_grpc.cli import Failed, extras


def _without_password(url: str | None) -> str | None:
    """What is given on the command line: everybody on the machine can read it (`ps`)."""
    try:
        parts = urlsplit(url or "")
        secret = bool(parts.password) or any("password" in key for key in parse_qs(parts.query))
    except ValueError:
        secret = True  # what cannot be read may hide one
    if secret:
        raise Failed(
            "--database-url: must not hold a password, which `ps` would show: use "
            "VOUCHER_DATABASE_URL or VOUCHER_DATABASE_URL_FILE"
        )
    return url


DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        callback=_without_password,
        help="Postgres URL; else VOUCHER_DATABASE_URL or what VOUCHER_DATABASE_URL_FILE holds.",
        show_default=False,
    ),
]


def required_url(given: str | None) -> str:
    """The URL that was given, else the environment's. Raises Failed without one."""
    with extras():
        from voucher_grpc.server.config import ConfigError, read_config
        from voucher_grpc.telemetry.logs import configure_logs
    # Until a server says how its logs shall be: for people, and not on standard output.
    configure_logs("console", "warning")
    try:
        url = given or read_config().database_url.get_secret_value()
    except ConfigError as error:
        raise Failed(str(error)) from error
    if not url:
        raise Failed("VOUCHER_DATABASE_URL is not set; name a database, or try `voucher-grpc dev`")
    return url
