"""`voucher-grpc catalogue`: bring the service's catalogue to what a file says, and back."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from voucher_grpc.cli import DEFAULT_TARGET, Failed, app, refused, run
from voucher_grpc.cli.connection import connect
from voucher_grpc.client import CallFailed, Client
from voucher_grpc.domain.catalogue.product import Terms
from voucher_grpc.edge.wire.products import terms_message
from voucher_grpc.files.catalogue import (
    Difference,
    catalogue_text,
    difference,
    read_catalogue,
    terms_of,
)
from voucher_grpc.printable import printable
from voucher_grpc.terminal import say
from voucher_grpc.v1 import catalogue_service_pb2 as pb
from voucher_grpc.v1 import product_pb2

commands = typer.Typer(
    help="The catalogue as a file (docs/catalogue-file.md).", no_args_is_help=True
)
app.add_typer(commands, name="catalogue")

Target = Annotated[
    str, typer.Option(envvar="VOUCHER_TARGET", help="Address of the service, host:port.")
]
ACTOR_HEADER = "voucher-actor"
PAGE_SIZE = 100
STANDARD_OUTPUT = "-"
MAX_NAMES = 10


@dataclass(frozen=True, slots=True)
class Present:
    """The service's products by product_id."""

    active: dict[str, product_pb2.Product]
    retired: frozenset[str]

    def difference(self, wanted: list[Terms]) -> Difference:
        """What a file changes in it."""
        terms = {name: terms_of(product) for name, product in self.active.items()}
        return difference(wanted, terms, self.retired)


async def read_present(client: Client) -> Present:
    """All products of the service. Raises CallFailed."""
    active: dict[str, product_pb2.Product] = {}
    retired: set[str] = set()
    request = pb.ListProductsRequest(page_size=PAGE_SIZE, show_retired=True)
    while True:
        page: pb.ListProductsResponse = await client.call(client.catalogue.ListProducts, request)
        for product in page.products:
            if product.state == product_pb2.PRODUCT_STATE_RETIRED:
                retired.add(product.product_id)
            else:
                active[product.product_id] = product
        if not page.next_page_token:
            return Present(active, frozenset(retired))
        request.page_token = page.next_page_token


async def apply_difference(
    client: Client, present: Present, change: Difference, *, prune: bool
) -> int:
    """Create, update and, with `prune`, retire; how many products were changed.

    One product at a time: where one is refused, those before it stay changed.
    Raises Failed, which says how far it came.
    """
    done = 0
    product_id = ""
    try:
        for terms in change.added:
            product_id = terms.product_id
            create = pb.CreateProductRequest(product=terms_message(terms))
            await client.call(client.catalogue.CreateProduct, create)
            done += 1
        for terms, _ in change.changed:
            product_id = terms.product_id
            message = terms_message(terms)
            message.etag = present.active[product_id].etag
            update = pb.UpdateProductRequest(product=message)
            await client.call(client.catalogue.UpdateProduct, update)
            done += 1
        for product_id in change.missing if prune else ():
            etag = present.active[product_id].etag
            retire = pb.RetireProductRequest(product_id=product_id, etag=etag)
            await client.call(client.catalogue.RetireProduct, retire)
            done += 1
    except CallFailed as error:
        told = f"{product_id}: {refused(error)} (products changed before it: {done})"
        raise Failed(told) from error
    return done


def _show(change: Difference, *, prune: bool) -> None:
    for terms in change.added:
        say(f"+ {terms.product_id}  {printable(terms.display_name)}, {terms.price}", "green")
    for terms, fields in change.changed:
        say(f"~ {terms.product_id}", "yellow")
        for field in fields:
            old, new = printable(field.old or "(none)"), printable(field.new or "(none)")
            say(f"    {field.field}: {old} -> {new}")
    for product_id in change.missing:
        if prune:
            say(f"- {product_id}  is retired, for good", "red")
        else:
            say(f"  {product_id}  is not in the file and stays (--prune retires it)")
    say(
        f"{len(change.added)} new, {len(change.changed)} changed, "
        f"{len(change.missing) if prune else 0} retired, {len(change.unchanged)} unchanged"
    )


def _confirm(count: int) -> None:
    if not sys.stdin.isatty():
        raise Failed("nothing was changed: add --yes to apply it without being asked")
    if not typer.confirm(f"Apply this ({count})?"):
        raise typer.Exit(1)


def _check_actor(actor: str) -> None:
    if len(actor) > 64 or not all("!" <= c <= "~" for c in actor):
        raise Failed("--actor: must be 1 to 64 visible ASCII characters")


@commands.command("apply")
def apply(
    file: Annotated[Path, typer.Argument(help="Catalogue file, YAML.")],
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Retire, for good, what the file lacks.")
    ] = False,
    target: Target = DEFAULT_TARGET,
    actor: Annotated[
        str, typer.Option(envvar=["VOUCHER_ACTOR", "USER"], help="Kept with each change.")
    ] = "unknown",
) -> None:
    """Show what a file changes in the catalogue, then change it.

    The whole file is checked before anything is changed. A product that someone
    else changes meanwhile is not overwritten.
    """
    run(_apply(file, target, actor, dry_run=dry_run, yes=yes, prune=prune))


async def _apply(
    file: Path, target: str, actor: str, *, dry_run: bool, yes: bool, prune: bool
) -> None:
    _check_actor(actor)
    wanted = read_catalogue(file)
    async with connect(target, [(ACTOR_HEADER, actor)]) as client:
        present = await read_present(client)
        change = present.difference(wanted)
        if change.retired:
            names = ", ".join(change.retired[:MAX_NAMES])
            more = len(change.retired) - MAX_NAMES
            names += f" and {more:,} more" if more > 0 else ""
            raise Failed(f"retired for good: {names}; give them a new product_id")
        _show(change, prune=prune)
        count = len(change.added) + len(change.changed) + (len(change.missing) if prune else 0)
        if dry_run or not count:
            return
        if not yes:
            _confirm(count)
        done = await apply_difference(client, present, change, prune=prune)
        say(f"products changed: {done}")


@commands.command("export")
def export(
    file: Annotated[str, typer.Argument(help="Where to write; - is standard output.")] = "-",
    *,
    target: Target = DEFAULT_TARGET,
) -> None:
    """Write the products on sale as a catalogue file, which `apply` reads back."""
    text = run(_catalogue_text(target))
    if file == STANDARD_OUTPUT:
        sys.stdout.buffer.write(text.encode())  # a catalogue file is UTF-8, whatever the locale
        return
    try:
        Path(file).write_text(text, encoding="utf-8")
    except OSError as error:
        raise Failed(f"{file}: cannot be written: {error.strerror}") from error


async def _catalogue_text(target: str) -> str:
    async with connect(target) as client:
        present = await read_present(client)
    return catalogue_text(terms_of(present.active[name]) for name in sorted(present.active))
