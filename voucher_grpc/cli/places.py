"""`voucher-grpc locations` and `tariffs`: OCPI objects of operators into the service."""

import csv
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status
from rich.progress import TaskProgressColumn, TimeRemainingColumn

from voucher_grpc.cli import DEFAULT_TARGET, Failed, run
from voucher_grpc.cli.connection import connect
from voucher_grpc.cli.stored_places import (
    LOCATIONS,
    TARIFFS,
    delete_others,
    locations,
    tariffs,
)
from voucher_grpc.client import Client
from voucher_grpc.files.ocpi_objects import (
    ObjectFile,
    TariffDefaults,
    location_file,
    tariff_file,
)
from voucher_grpc.files.reading import MAX_NAME_CHARS, Refusals
from voucher_grpc.printable import printable
from voucher_grpc.terminal import bar, say
from voucher_grpc.v1 import location_service_pb2 as pb

M = TypeVar("M", bound=Message)
_ENTRY = re.compile(r"\b(?:locations|tariffs|sessions)\[\d+\]\.")
Target = Annotated[
    str, typer.Option(envvar="VOUCHER_TARGET", help="Address of the service, host:port.")
]
OcpiFile = Annotated[
    Path,
    typer.Argument(
        help="JSON, also as .gz: a list, one object, an OCPI response with data, or a page."
    ),
]

Country = Annotated[
    str, typer.Option(help="Country of the operator of those that name none (OCPI 2.1.1).")
]
Party = Annotated[
    str, typer.Option(help="Party id of the operator of those that name none (OCPI 2.1.1).")
]

Replace = Annotated[
    bool,
    typer.Option(
        "--replace",
        help="Afterwards delete what the operators in the file have besides what is in it.",
    ),
]
ReportFile = Annotated[
    Path | None,
    typer.Option("--report", help="Write each entry that was refused or repaired here, as CSV."),
]


@asynccontextmanager
async def reported(path: Path | None, objects: ObjectFile[M]) -> AsyncIterator[None]:
    """Write what is refused or noted to a file as it comes. Raises Failed."""
    if path is None:
        yield
        return
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("entry", "id", "treatment", "reason"))
            for refusals, treatment in ((objects.refusals, "refused"), (objects.noted, "noted")):
                refusals.each = lambda entry, treatment=treatment: writer.writerow(
                    (entry.position, printable(entry.name), treatment, printable(entry.reason))
                )
            yield
    except OSError as error:
        raise Failed(f"{path}: cannot be written: {error.strerror}") from error


def refusal_reason(status: Status) -> str:
    """Why the service refused an item: the fields at fault, else the reason and message."""
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    reason, fields = "", ""
    for packed in status.details:
        if packed.Unpack(info):
            reason = info.reason
        elif packed.Unpack(bad):
            fields = "; ".join(f"{v.field}: {v.description}" for v in bad.field_violations)
    # The caller counts by the file: which entry of the call it was says nothing.
    said = _ENTRY.sub("", fields or status.message)
    return f"{reason}: {said}" if reason else said


def show_refusals(refusals: Refusals, what: str) -> None:
    """Reasons with their counts and the first examples; nothing where there is none."""
    for reason, count in refusals.reasons.most_common():
        say(f"  {count:>8,}  {printable(reason)}")
    for entry in refusals.examples:
        name, reason = printable(entry.name), printable(entry.reason)
        say(f"  {what} {entry.position} {name}: {reason}")
    if refusals.total > len(refusals.examples):
        say(f"  and {refusals.total - len(refusals.examples):,} more")


async def send_objects(
    objects: ObjectFile[M],
    send: Callable[[Sequence[M]], Awaitable[Sequence[Status]]],
    name_of: Callable[[M], str],
) -> int:
    """Send objects in batches; how many were stored. Refusals are added to theirs."""
    stored = 0
    with bar(TaskProgressColumn(), TimeRemainingColumn()) as progress:
        task = progress.add_task(printable(objects.path.name, MAX_NAME_CHARS), total=None)
        for batch in objects.batches():
            results = await send(batch.messages)
            for message, position, status in zip(
                batch.messages, batch.positions, results, strict=True
            ):
                if status.code:
                    objects.refusals.add(position, name_of(message), refusal_reason(status))
                else:
                    stored += 1
            progress.update(task, total=objects.size_bytes or None, completed=objects.bytes_read)
    return stored


async def send_locations(client: Client, objects: ObjectFile[pb.Location]) -> int:
    """Upsert locations; how many were stored. Raises CallFailed."""

    async def send(batch: Sequence[pb.Location]) -> Sequence[Status]:
        request = pb.UpsertLocationsRequest(locations=batch)
        response = await client.call(client.location.UpsertLocations, request)
        return list(response.results)

    return await send_objects(objects, send, lambda location: location.location_id)


async def send_tariffs(client: Client, objects: ObjectFile[pb.Tariff]) -> int:
    """Upsert tariffs; how many were stored. Raises CallFailed."""

    async def send(batch: Sequence[pb.Tariff]) -> Sequence[Status]:
        request = pb.UpsertTariffsRequest(tariffs=batch)
        response = await client.call(client.location.UpsertTariffs, request)
        return list(response.results)

    return await send_objects(objects, send, lambda tariff: tariff.tariff_id)


def _report(what: str, objects: ObjectFile[M], stored: int) -> None:
    refused = objects.refusals.total
    say(f"{what}: {objects.read:,} read, {stored:,} stored, {refused:,} refused")
    show_refusals(objects.refusals, "entry")
    if objects.noted.total:
        say(f"{objects.noted.total:,} parts are not as OCPI has them")
        show_refusals(objects.noted, "entry")


def _owned(objects: ObjectFile[M], country: str, party: str) -> Mapping[tuple[str, str], set[str]]:
    """The ids in a file by operator, the named one where an object states none."""
    found: dict[tuple[str, str], set[str]] = {}
    for (country_code, party_id), ids in objects.ids.items():
        owner = country_code or country.upper(), party_id or party.upper()
        found.setdefault(owner, set()).update(ids)
    return found


def _exit(objects: ObjectFile[M]) -> None:
    if objects.refusals.total:
        raise typer.Exit(1)


@locations.command("import")
def import_locations(
    file: OcpiFile,
    *,
    replace: Replace = False,
    country: Country = "",
    party: Party = "",
    report: ReportFile = None,
    target: Target = DEFAULT_TARGET,
) -> None:
    """Add or replace locations of OCPI 2.1.1, 2.2.1 or 2.3.0. Exit code 1 if any was refused.

    An EVSE or connector that is not understood is skipped, and said.
    """

    async def work() -> None:
        objects = location_file(file, country_code=country, party_id=party)
        objects.keeps_ids = replace
        async with connect(target) as client, reported(report, objects):
            stored = await send_locations(client, objects)
            _report("locations", objects, stored)
            if replace:
                await delete_others(client, LOCATIONS, _owned(objects, country, party))
        _exit(objects)

    run(work())


@tariffs.command("import")
def import_tariffs(
    file: OcpiFile,
    *,
    default_for_country: Annotated[
        bool,
        typer.Option(
            "--default-for-country",
            help="Make each the default of its country and currency. The key of that name in a "
            "tariff does it for one.",
        ),
    ] = False,
    replace: Replace = False,
    country: Country = "",
    party: Party = "",
    report: ReportFile = None,
    target: Target = DEFAULT_TARGET,
) -> None:
    """Add or replace tariffs of OCPI 2.1.1, 2.2.1 or 2.3.0. Exit code 1 if any was refused.

    An element that is not understood is skipped, and said.
    """

    async def work() -> None:
        objects = tariff_file(file, TariffDefaults(country, party, default_for_country))
        objects.keeps_ids = replace
        async with connect(target) as client, reported(report, objects):
            stored = await send_tariffs(client, objects)
            if objects.untaxed:
                say(
                    f"{objects.untaxed:,} of {objects.components:,} price components state no VAT:"
                    " they cost what they state, unless the service has a rate for their country"
                )
            _report("tariffs", objects, stored)
            if replace:
                await delete_others(client, TARIFFS, _owned(objects, country, party))
        _exit(objects)

    run(work())
