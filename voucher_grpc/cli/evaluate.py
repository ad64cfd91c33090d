"""`evaluate`: what offers are worth on real sessions; `tendencies fit`: learn from them."""

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import TimeElapsedColumn
from rich.table import Table

from voucher_grpc.cli import Failed, app, extras, run
from voucher_grpc.cli.database import DatabaseUrl, required_url
from voucher_grpc.cli.places import show_refusals
from voucher_grpc.errors import Refusal
from voucher_grpc.files.catalogue import read_catalogue, read_pay_as_you_go
from voucher_grpc.files.sessions import SessionFile
from voucher_grpc.terminal import bar, cell, say, show

if TYPE_CHECKING:
    from voucher_grpc.evaluation.months import UserMonth

COLD_START_SESSIONS = (0, 1, 3, 10)
TimeZone = Annotated[str, typer.Option(help="IANA zone of the places.")]
CatalogueFile = Annotated[Path, typer.Option(help="Catalogue file with a pay_as_you_go_per_kwh.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the numbers here.")]
SessionsFile = Annotated[Path, typer.Argument(help="CSV (columns: docs/catalogue-file.md).")]

tendencies = typer.Typer(help="What is learned from sessions.", no_args_is_help=True)
app.add_typer(tendencies, name="tendencies")


def database_options(url: str) -> Any:
    """How a command that works beside the servers connects."""
    from voucher_grpc.store.driver import DatabaseOptions

    return DatabaseOptions(url, 2, 5.0, 60.0, 100)


def _months(path: Path, time_zone: str) -> "list[UserMonth]":
    """The user-months of a file; rows that the service would refuse are left out, and said."""
    from voucher_grpc.edge.wire.sessions import session_from_message
    from voucher_grpc.evaluation.months import all_months
    from voucher_grpc.evaluation.session_ids import SessionIds

    now, ids = datetime.now(UTC), SessionIds()
    sessions = []
    file = SessionFile(path, country_code="XX", time_zone=time_zone)
    for batch in file.batches():
        for message, line in zip(batch.sessions, batch.positions, strict=True):
            name = message.session_id
            ids.replace(message)
            try:
                sessions.append(session_from_message(message, now).session)
            except Refusal as refusal:
                file.refusals.add(line, name, refusal.message)
    if file.refusals.total:
        say(f"{file.refusals.total:,} of {file.rows:,} rows were refused and are not judged:")
        show_refusals(file.refusals, "line")
    months = all_months(sessions)
    if not months:
        raise Failed(f"{path}: no user has sessions over 60 days, so there is nothing to judge")
    return months


@app.command()
def evaluate(
    sessions: SessionsFile,
    catalogue: CatalogueFile,
    time_zone: TimeZone = "Europe/Oslo",
    json_file: JsonFile = None,
    plot: Annotated[Path | None, typer.Option(help="Draw them here, PNG.")] = None,
) -> None:
    """Backtest offers on real sessions, with no look ahead (docs/evaluation.md).

    Users whom the shipped parameters have not seen are judged by these; if any
    user was seen, all are judged by parameters fitted without them (10 folds).
    """
    with extras("evaluate"):
        from voucher_grpc.evaluation.evaluate import evaluate_months
        from voucher_grpc.evaluation.report import draw
    try:
        products, price = read_catalogue(catalogue), read_pay_as_you_go(catalogue)
        months = _months(sessions, time_zone)
    except Refusal as refusal:
        raise Failed(str(refusal)) from refusal
    with bar(TimeElapsedColumn()) as progress, extras("evaluate"):
        task = progress.add_task("deciding", total=1.0)
        step = partial(progress.update, task)
        numbers = evaluate_months(
            months, products, price.micros, COLD_START_SESSIONS, lambda x: step(completed=x)
        )
    _show(numbers)
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    if plot is not None:
        with extras("evaluate"):
            draw(numbers, plot)


def _percent(value: float) -> str:
    return f"{value * 100:.1f} %"


def _show(numbers: dict[str, Any]) -> None:
    table = Table("choice", "captured saving", "harm")
    rows: Sequence[tuple[str, dict[str, Any]]] = [
        ("first offer if recommended", numbers),
        *((name.replace("_", " "), v) for name, v in numbers["baselines"].items()),
        *((f"{count} sessions known", v) for count, v in numbers["cold_start"].items()),
        *numbers["groups"].items(),
    ]
    for name, values in rows:
        table.add_row(
            cell(name), f"{values['captured_saving']:.3f}", _percent(values["harm_share"])
        )
    show(table)
    captured, harm = numbers["paired"]["captured_saving"], numbers["paired"]["harm_share"]
    say(
        f"{numbers['user_months']} user-months of {numbers['users']} users, parameters: "
        f"{numbers['parameters']}; hindsight saves {_percent(numbers['hindsight_share'])} of "
        f"pay-as-you-go; best of three offers {numbers['best_of_3_captured_saving']:.3f}; "
        f"savings inside their range {_percent(numbers['range_share'])}"
    )
    say(
        f"against last 30 days: captured {captured['value']:+.3f} "
        f"[{captured['low']:+.3f}, {captured['high']:+.3f}], harm "
        f"{100 * harm['value']:+.1f} points [{100 * harm['low']:+.1f}, {100 * harm['high']:+.1f}]"
    )


@app.command()
def simulate(
    sessions: SessionsFile,
    catalogue: CatalogueFile,
    changed: Annotated[Path, typer.Option(help="The changed catalogue file.")],
    time_zone: TimeZone = "Europe/Oslo",
) -> None:
    """What a changed catalogue would have done to users and revenue over real sessions."""
    with extras("evaluate"):
        from voucher_grpc.evaluation.simulate import simulate as simulate_months
    try:
        before, after = (
            (read_catalogue(path), read_pay_as_you_go(path).micros) for path in (catalogue, changed)
        )
        months = _months(sessions, time_zone)
    except Refusal as refusal:
        raise Failed(str(refusal)) from refusal
    with bar(TimeElapsedColumn()) as progress, extras("evaluate"):
        step = partial(progress.update, progress.add_task("simulating", total=1.0))
        old, new = simulate_months(months, before, after, lambda x: step(completed=x))
    table = Table("", "before", "after", "change")
    for name, a, b in (
        ("revenue from these users", old.revenue_micros / 1e6, new.revenue_micros / 1e6),
        ("saved by users", old.saved_micros / 1e6, new.saved_micros / 1e6),
        ("harm, % of user-months", 100 * old.harm_share, 100 * new.harm_share),
    ):
        table.add_row(name, f"{a:,.2f}", f"{b:,.2f}", f"{b - a:+,.2f}")
    for product in sorted({*old.passes, *new.passes}):
        a, b = old.passes.get(product, 0), new.passes.get(product, 0)
        table.add_row(cell(f"{product} sold"), str(a), str(b), f"{b - a:+d}")
    show(table)


@tendencies.command()
def fit(
    sessions: SessionsFile,
    output: Annotated[Path, typer.Option(help="Write the parameters here.")],
    time_zone: TimeZone = "Europe/Oslo",
    trees: Annotated[int, typer.Option(min=10, max=500)] = 100,
) -> None:
    """Fit the forecast on a population; says how well it holds for users left out."""
    with extras("evaluate"):
        from voucher_grpc.domain.tendencies.forecast import parameters_to_bytes
        from voucher_grpc.evaluation.evaluate import fit_population
    try:
        months = _months(sessions, time_zone)
        with bar(TimeElapsedColumn()) as progress, extras("evaluate"):
            task = progress.add_task("fitting", total=1.0)
            version = f"{datetime.now(UTC):%Y-%m-%d}"
            parameters, said = fit_population(
                months, version, trees, lambda x: progress.update(task, completed=x)
            )
    except Refusal as refusal:
        raise Failed(str(refusal)) from refusal
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_bytes(parameters_to_bytes(parameters))
    for line in said:
        say(line)
    say(f"{output}: version {version}, {output.stat().st_size / 1000:.0f} kB")


async def _install(database_url: str, data: bytes) -> str:
    from voucher_grpc.domain.tendencies.forecast import parameters_from_bytes
    from voucher_grpc.store.database import Database
    from voucher_grpc.store.parameters import install_parameters

    parameters = parameters_from_bytes(data)
    async with Database.open(database_options(database_url)) as database:
        await install_parameters(database, parameters)
    return parameters.version


async def _rebuild(database_url: str, step: Callable[[int], None]) -> int:
    from voucher_grpc.store.database import Database
    from voucher_grpc.store.parameters import active_parameters
    from voucher_grpc.use_cases.record_sessions import RecordSessions

    async with Database.open(database_options(database_url)) as database:
        store = RecordSessions(database, await active_parameters(database))
        return await store.rebuild_all(step)


async def _segments(database_url: str, step: Callable[[int], None]) -> int:
    from voucher_grpc.store.database import Database
    from voucher_grpc.store.segments import rebuild_segments

    async with Database.open(database_options(database_url)) as database:
        return await rebuild_segments(database, step)


@tendencies.command()
def install(
    parameters: Annotated[Path, typer.Argument(help="A file that `tendencies fit` wrote.")],
    database_url: DatabaseUrl = None,
) -> None:
    """Make fitted parameters the active ones; servers take them at their next start."""
    with extras():
        try:
            version = run(_install(required_url(database_url), parameters.read_bytes()))
        except (OSError, ValueError) as error:
            raise Failed(f"{parameters}: {error}") from error
    say(f"active: version {version}; run `tendencies rebuild`, then restart the servers")


@tendencies.command()
def rebuild(database_url: DatabaseUrl = None) -> None:
    """Make all tendencies and forecasts anew from the sessions, then the segments; servers may
    go on serving."""
    with extras(), bar(TimeElapsedColumn()) as progress:
        step = partial(progress.update, progress.add_task("rebuilding", total=None))
        done = run(_rebuild(required_url(database_url), lambda users: step(completed=users)))
    say(f"{done:,} users rebuilt")
    segments(database_url)


@tendencies.command()
def segments(database_url: DatabaseUrl = None) -> None:
    """Make anew what is usual for users of a kind, towards which those are drawn of whom little is
    known; servers may go on serving. Once a night is often enough."""
    with extras(), bar(TimeElapsedColumn()) as progress:
        step = partial(progress.update, progress.add_task("reading users", total=None))
        made = run(_segments(required_url(database_url), lambda users: step(completed=users)))
    say(f"{made:,} segments made")
