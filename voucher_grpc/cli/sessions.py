"""`voucher-grpc sessions`: charging sessions from a file into the service's tendencies."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import TaskProgressColumn, TimeRemainingColumn

from voucher_grpc.cli import DEFAULT_TARGET, Failed, app, run
from voucher_grpc.cli.connection import connect
from voucher_grpc.cli.places import refusal_reason, show_refusals
from voucher_grpc.edge.wire.checks import Checks
from voucher_grpc.errors import Refusal
from voucher_grpc.files.ocpi_sessions import OcpiSessionFile, SessionDefaults
from voucher_grpc.files.reading import Refusals
from voucher_grpc.files.sessions import COLUMNS, UNKNOWN_PARTY, Batch, SessionFile
from voucher_grpc.printable import printable
from voucher_grpc.terminal import bar, say
from voucher_grpc.v1.tendency_service_pb2 import RecordSessionsResponse

commands = typer.Typer(help="Charging sessions.", no_args_is_help=True)
app.add_typer(commands, name="sessions")

_JSON = (".json", ".json.gz")
# Of a file, beside its bar.
MAX_NAME_CHARS = 40


class _Report:
    """What became of a file; refusals here and by the service count together."""

    def __init__(self, refusals: Refusals) -> None:
        self.recorded = 0
        self.unchanged = 0
        self.corrected = 0
        self.cancelled = 0
        self.refusals = refusals

    def add(self, batch: Batch, response: RecordSessionsResponse) -> None:
        self.recorded += response.recorded
        self.unchanged += response.unchanged
        self.corrected += response.corrected
        self.cancelled += response.cancelled
        for refusal in response.refusals:
            # One call holds one batch, so its index is the one in the batch.
            position = batch.positions[refusal.index]
            self.refusals.add(position, refusal.session_id, refusal_reason(refusal.status))

    @property
    def kept(self) -> int:
        return self.recorded + self.unchanged + self.corrected + self.cancelled

    def show(self, rows: int, what: str) -> None:
        say(
            f"{rows:,} read: {self.recorded:,} recorded, {self.unchanged:,} unchanged, "
            f"{self.corrected:,} corrected, {self.refusals.total:,} refused"
            + (f"; {self.cancelled:,} cancelled" if self.cancelled else "")
        )
        show_refusals(self.refusals, what)


@commands.command("import")
def import_sessions(
    file: Annotated[
        Path,
        typer.Argument(
            help="CSV (columns: docs/catalogue-file.md), or OCPI CDRs and Sessions as .json."
        ),
    ],
    *,
    time_zone: Annotated[
        str,
        typer.Option(
            help="IANA zone of locations that the service does not know, and of a CSV file's times "
            "without an offset."
        ),
    ] = "",
    country: Annotated[
        str,
        typer.Option(help="Country of locations that name none (CSV, OCPI 2.1.1), such as NO."),
    ] = "",
    party: Annotated[
        str, typer.Option(help="OCPI party id of the operator of locations that name none.")
    ] = UNKNOWN_PARTY,
    columns: Annotated[
        str,
        typer.Option(
            help="What a CSV file calls its columns: start_date_time=Startzeit,energy_kwh=Energie"
        ),
    ] = "",
    corrections: Annotated[
        bool, typer.Option("--corrections", help="Replace sessions known with other content.")
    ] = False,
    target: Annotated[
        str, typer.Option(envvar="VOUCHER_TARGET", help="Address of the service, host:port.")
    ] = DEFAULT_TARGET,
) -> None:
    """Record the sessions of a file. The same file again changes nothing.

    Rows that are refused are reported and the others stored; the exit code is 1 if
    none could be stored. A CDR replaces the Session that it names, and a credit
    CDR takes back the one it names, in any order and across files.
    """
    source = _source(file, time_zone, country, party, columns, corrections=corrections)
    run(_import(source, target))


def _source(
    file: Path, time_zone: str, country: str, party: str, columns: str, *, corrections: bool
) -> SessionFile | OcpiSessionFile:
    is_json = file.name.lower().endswith(_JSON)
    checks = Checks()
    checks.time_zone("--time-zone", time_zone)
    checks.country("--country", country, required=not is_json)
    checks.party("--party", party, required=True)
    try:
        checks.done()
    except Refusal as refusal:
        raise Failed(str(refusal)) from None
    if is_json:
        party = "" if party == UNKNOWN_PARTY else party
        return OcpiSessionFile(file, SessionDefaults(country, party, time_zone, corrections))
    return SessionFile(
        file,
        country_code=country,
        party_id=party,
        time_zone=time_zone,
        correction=corrections,
        columns=_columns(columns),
    )


def _columns(said: str) -> Mapping[str, str]:
    """Names in the file by our names. Raises Failed."""
    found: dict[str, str] = {}
    for part in said.split(",") if said else ():
        ours, _, theirs = part.partition("=")
        if ours.strip() not in COLUMNS or not theirs.strip() or ours.strip() in found:
            raise Failed(
                f"--columns: {part!r} must be one of {', '.join(COLUMNS)}, = and its name in the "
                "file, each once"
            )
        found[ours.strip()] = theirs.strip()
    return found


async def _import(source: SessionFile | OcpiSessionFile, target: str) -> None:
    report = _Report(source.refusals)
    progress = bar(TaskProgressColumn(), TimeRemainingColumn())
    try:
        async with connect(target) as client:
            with progress:
                task = progress.add_task(printable(source.path.name, MAX_NAME_CHARS), total=None)
                for batch in source.batches():
                    report.add(batch, await client.record_sessions([batch.sessions]))
                    progress.update(
                        task,
                        total=source.size_bytes or None,
                        completed=source.bytes_read,
                        description=f"{source.rows:,} rows",
                    )
    except Exception:
        # What was sent is stored; the message says that sending all of it again is safe.
        if report.kept:
            say(f"{report.kept:,} sessions were stored before this", err=True)
        raise
    what = "entry" if isinstance(source, OcpiSessionFile) else "line"
    report.show(source.rows, what)
    if isinstance(source, OcpiSessionFile) and source.noted.total:
        say(f"{source.noted.total:,} were left out or repaired")
        show_refusals(source.noted, what)
    if report.refusals.total and not report.kept:
        raise typer.Exit(1)
