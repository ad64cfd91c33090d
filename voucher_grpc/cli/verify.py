"""`verify`: whether a database keeps what the service promises."""

import json
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import MofNCompleteColumn, TimeElapsedColumn
from rich.table import Table

from voucher_grpc.cli import Failed, app, extras, run
from voucher_grpc.cli.database import DatabaseUrl, required_url
from voucher_grpc.terminal import bar, say, show

if TYPE_CHECKING:
    from voucher_grpc.store.verify import Finding

_CONNECT_TIMEOUT_S = 5.0
# Of one check: on a large database each reads whole tables.
_CHECK_TIMEOUT_S = 3600.0

JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the counts here.")]


@app.command()
def verify(database_url: DatabaseUrl = None, json_file: JsonFile = None) -> None:
    """Check what must always hold on a database (docs/guarantees.md); servers may go on serving.

    Reads only, in one transaction. Exit code 1 if anything does not hold.
    """
    with extras():
        from voucher_grpc.store.driver import DatabaseOptions
        from voucher_grpc.store.verify import CHECKS
        from voucher_grpc.store.verify import verify as verify_database

        options = DatabaseOptions(
            required_url(database_url), 1, _CONNECT_TIMEOUT_S, _CHECK_TIMEOUT_S, 0
        )
        with bar(MofNCompleteColumn(), TimeElapsedColumn()) as progress:
            task, done = progress.add_task("connecting", total=len(CHECKS)), count()

            def step(check: str) -> None:
                progress.update(task, description=check, completed=next(done))

            findings = run(verify_database(options, step))
    _show(findings)
    if json_file is not None:
        _write(json_file, findings)
    if any(finding.breaches for finding in findings):
        raise typer.Exit(1)


def _show(findings: "list[Finding]") -> None:
    table = Table("check")
    for title in ("rows checked", "breaches"):
        table.add_column(title, justify="right")
    for finding in findings:
        table.add_row(finding.check, f"{finding.rows:,}", f"{finding.breaches:,}")
    show(table)
    for finding in findings:
        if not finding.breaches:
            continue
        shown = len(finding.first)
        more = f", the first {shown}" if shown < finding.breaches else ""
        say(f"{finding.check}: {finding.breaches:,} breaches{more}")
        for key in finding.first:
            say(f"  {key}")


def _write(path: Path, findings: "list[Finding]") -> None:
    numbers: dict[str, Any] = {
        "breaches": sum(finding.breaches for finding in findings),
        "checks": {f.check: {"rows": f.rows, "breaches": f.breaches} for f in findings},
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise Failed(f"{path}: {error}") from error
