"""Tokens for trying it, and the keys that sign offers."""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from voucher_grpc.access.principal import ClaimedNames
from voucher_grpc.access.roles import Role
from voucher_grpc.cli import Failed, app, extras
from voucher_grpc.domain.offer_ids.keys import (
    OfferKeys,
    read_offer_keys,
    rotated,
    signing_key,
    write_offer_keys,
)
from voucher_grpc.terminal import say

Folder = Annotated[Path, typer.Option(help="Folder of the development keys, made if absent.")]
Names = Annotated[list[str] | None, typer.Option(help="May be given again; `fleet-7-*` is many.")]
KeyFile = Annotated[Path, typer.Argument(help="The file that VOUCHER_OFFER_KEYS_FILE names.")]
offer_keys = typer.Typer(help="The keys that sign offers.", no_args_is_help=True)
app.add_typer(offer_keys, name="offer-keys")


@app.command()
def token(
    role: Annotated[list[Role], typer.Option(help="What the caller is; may be given again.")],
    *,
    subject: Annotated[str, typer.Option(help="Who the caller is; a user's app: the user.")] = "",
    user: Names = None,
    vehicle: Names = None,
    party: Names = None,
    lifetime_s: Annotated[int, typer.Option(min=1, max=31_536_000)] = 3_600,
    audience: Annotated[str, typer.Option(envvar="VOUCHER_TOKEN_AUDIENCE")] = "voucher-grpc",
    keys: Folder = Path(".data"),
) -> None:
    """Print a token for development, signed by a key of this folder.

    A server takes it with VOUCHER_TOKEN_KEYS=.data/jwks.json and
    VOUCHER_TOKEN_ISSUER=voucher-grpc-development, or as `voucher-grpc dev --with-tokens`.
    """
    with extras():
        from voucher_grpc.dev.issuer import DevelopmentIssuer
    if Role.USER in role and not subject:
        raise Failed("--subject: is missing: a user's token needs the user")
    named = ClaimedNames(tuple(user or ()), tuple(vehicle or ()), tuple(party or ()))
    try:
        issuer = DevelopmentIssuer(keys)
    except (OSError, ValueError) as error:
        raise Failed(f"--keys: {error}") from error
    # As it is: a word of ASCII of any length, for VOUCHER_TOKEN.
    typer.echo(  # noqa: TID251
        issuer.token(
            subject or f"development-{role[0]}",
            role,
            named,
            audience=audience,
            lifetime_s=lifetime_s,
        )
    )


@offer_keys.command()
def rotate(
    file: KeyFile,
    sign_in_s: Annotated[
        int,
        typer.Option(
            min=0,
            max=604_800,
            help="From when on the new key signs; all servers must have the changed file by then.",
        ),
    ] = 600,
) -> None:
    """Add a key that signs from soon on; keys that no offer needs any more go.

    Offers that are out stay good: the old key verifies until the last of them is over.
    Without a file a first one is made, with a key that signs at once.
    """
    now = datetime.now(UTC)
    with _alone(file):
        try:
            before = _read(file) if file.exists() else ()
            keys = rotated(before, now, timedelta(seconds=sign_in_s if before else 0))
        except ValueError as error:
            raise Failed(f"{file}: {error}") from error
        _write(file, write_offer_keys(keys))
    _show(keys, now)
    gone = sorted({key.key_id for key in before} - {key.key_id for key in keys})
    if gone:
        say(f"taken out: {', '.join(map(str, gone))}")


@offer_keys.command()
def show(file: KeyFile) -> None:
    """List the keys without their secrets."""
    try:
        _show(_read(file), datetime.now(UTC))
    except ValueError as error:
        raise Failed(f"{file}: {error}") from error


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Two rotations at once would give the same id to two keys, and one would be lost."""
    try:
        folder = os.open(file.parent, os.O_RDONLY)
    except OSError as error:
        raise Failed(f"{file}: {error.strerror}") from error
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _read(file: Path) -> OfferKeys:
    try:
        keys = read_offer_keys(file.read_text(encoding="ascii"))
    except UnicodeError:
        raise ValueError("must be ASCII") from None
    except OSError as error:
        raise ValueError(error.strerror) from None
    if not keys:
        raise ValueError("has no key")
    return keys


def _write(file: Path, text: str) -> None:
    """In one step: a server that reads it meanwhile sees the old file or the new one."""
    try:
        mode = file.stat().st_mode & 0o777 if file.exists() else 0o600
        handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
        try:
            with os.fdopen(handle, "w", encoding="ascii") as new:
                new.write(text)
                new.flush()
                os.fsync(new.fileno())
            Path(name).chmod(mode)
            Path(name).replace(file)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise Failed(f"{file}: {error.strerror}") from error


def _show(keys: OfferKeys, now: datetime) -> None:
    signs = signing_key(keys, now)
    for key in keys:
        does = "signs" if key is signs else "verifies"
        if key.sign_from is not None and key.sign_from > now:
            does += f", signs from {key.sign_from:%Y-%m-%d %H:%M:%S} UTC on"
        say(f"key {key.key_id}: {does}")
