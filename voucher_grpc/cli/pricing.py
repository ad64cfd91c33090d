"""`voucher-grpc tariffs price`: what a charge costs by an OCPI Tariff, without a server."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import typer
from rich.table import Table

from voucher_grpc.cli import Failed
from voucher_grpc.cli.stored_places import tariffs
from voucher_grpc.domain.pricing.bill import bill_document
from voucher_grpc.domain.pricing.charge import Charge, Period, charge_between, with_mean_power
from voucher_grpc.domain.pricing.choice import choose_tariff
from voucher_grpc.domain.pricing.engine import price_periods
from voucher_grpc.domain.pricing.remarks import boundaries_inside, remarks
from voucher_grpc.domain.pricing.split import cuts_of, split
from voucher_grpc.domain.pricing.tariff import Tariff
from voucher_grpc.errors import BadInput, bad_field
from voucher_grpc.files.input import file_error
from voucher_grpc.files.notes import Notes
from voucher_grpc.files.ocpi_objects import read_objects
from voucher_grpc.files.published import NotUnderstood, instant, number
from voucher_grpc.files.published_cdrs import read_charge
from voucher_grpc.files.published_tariffs import read_tariff
from voucher_grpc.printable import printable
from voucher_grpc.terminal import cell, say, show

_COSTS = {
    "energy": "total_energy_cost",
    "time": "total_time_cost",
    "parking": "total_parking_cost",
    "fixed": "total_fixed_cost",
    "reservation": "total_reservation_cost",
}


@tariffs.command("price")
def price(
    *,
    tariff: Annotated[
        Path | None,
        typer.Option(help="JSON with OCPI Tariffs. Without it: the tariff inside the CDR."),
    ] = None,
    cdr: Annotated[Path | None, typer.Option(help="JSON with one OCPI CDR or Session.")] = None,
    start: Annotated[str, typer.Option(help="When the charge began.")] = "",
    end: Annotated[str, typer.Option(help="When the vehicle was unplugged.")] = "",
    energy_kwh: Annotated[str, typer.Option(help="What it charged, or wanted to.")] = "",
    power_kw: Annotated[
        str, typer.Option(help="At which power; it parks once it has its energy.")
    ] = "",
    current_a: Annotated[
        str, typer.Option(help="At which current, the sum over phases, if prices depend on it.")
    ] = "",
    time_zone: Annotated[
        str, typer.Option(help="IANA name of the place's time zone; also of times without offset.")
    ] = "",
    vat: Annotated[
        str, typer.Option(help="Percentage of components that state none. Without it: no tax.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the bill as JSON.")] = False,
) -> None:
    """Show what a charge costs, itemized."""
    notes = Notes()
    try:
        zone = _zone(time_zone) if time_zone else None
        rate = Fraction(_number(vat, "--vat")) / 100 if vat else None
        if cdr is not None:
            if start or end or energy_kwh or power_kw or current_a:
                raise Failed("--cdr states the charge: give no start, end, energy, power, current")
            document = _of_cdr(cdr, tariff, zone, rate, notes)
        elif tariff is not None:
            charge = charge_between(
                _time(start, "--start", zone),
                _time(end, "--end", zone),
                _number(energy_kwh, "--energy-kwh") * 1_000,
                _number(power_kw, "--power-kw") * 1_000 if power_kw else None,
                _number(current_a, "--current-a") * 1_000 if current_a else None,
            )
            document = _of_charge(charge, tariff, zone, rate, notes)
        else:
            raise Failed("give --tariff or --cdr")
    except BadInput as refusal:
        raise Failed(str(refusal)) from refusal
    document["warnings"] += [{"code": "PUBLISHED_DATA", "text": str(n)} for n in notes.entries]
    if as_json:
        for line in json.dumps(document, indent=2).splitlines():
            say(line)
    else:
        _show(document)


def _of_cdr(
    file: Path, tariff_file: Path | None, zone: ZoneInfo | None, rate: Fraction | None, notes: Notes
) -> dict[str, Any]:
    values = read_objects(file)
    if len(values) != 1:
        raise file_error(file, f"must hold one CDR, not {len(values)}")
    charge = read_charge(values[0], notes)
    published = read_objects(tariff_file) if tariff_file else list(charge.tariffs)
    if not published:
        raise file_error(file, "has no tariff inside: give --tariff")
    tariff = _chosen(_tariffs(published, notes), charge.periods, charge.currency_code)
    zone = _needed_zone(tariff, zone or _stated_zone(charge.time_zone))
    periods = with_mean_power(charge.periods)
    price = price_periods(tariff, periods, zone, rate)
    said = remarks(tariff, charge.periods, price) + boundaries_inside(tariff, periods, zone)
    return bill_document(price, said, credit=charge.credit)


def _of_charge(
    charge: Charge, file: Path, zone: ZoneInfo | None, rate: Fraction | None, notes: Notes
) -> dict[str, Any]:
    chosen = choose_tariff(_tariffs(read_objects(file), notes), charge.start)
    if chosen is None:
        raise file_error(file, "has no tariff that is valid at the start")
    zone = _needed_zone(chosen.tariff, zone)
    price = price_periods(chosen.tariff, split(charge, cuts_of(chosen.tariff), zone), zone, rate)
    periods = [period.period for period in price.periods]
    return bill_document(price, remarks(chosen.tariff, periods, price))


def _tariffs(values: Sequence[object], notes: Notes) -> list[Tariff]:
    return [
        read_tariff(value, notes, path=f"[{index}]" if len(values) > 1 else "")
        for index, value in enumerate(values)
    ]


def _chosen(tariffs_: Sequence[Tariff], periods: Sequence[Period], currency_code: str) -> Tariff:
    """The one that the first period names, else the one that is valid at the start."""
    named = next((t for t in tariffs_ if t.tariff_id == periods[0].tariff_id), None)
    if named is not None:
        return named
    chosen = choose_tariff(tariffs_, periods[0].start, currency_code)
    # Of a CDR the tariff was applied, whatever its validity says; it is remarked.
    return chosen.tariff if chosen is not None else tariffs_[0]


def _needed_zone(tariff: Tariff, zone: ZoneInfo | None) -> ZoneInfo:
    if zone is None and cuts_of(tariff).minutes:
        raise Failed("the tariff depends on local time: give --time-zone, such as Europe/Oslo")
    return zone or ZoneInfo("UTC")


def _stated_zone(name: str) -> ZoneInfo | None:
    return _zone(name) if name else None


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise bad_field("time_zone", f"{printable(name, 100)} is not a time zone") from None


def _number(value: str, option: str) -> Fraction:
    try:
        return Fraction(number(value))
    except NotUnderstood as error:
        raise bad_field(option, str(error)) from None


def _time(value: str, option: str, zone: ZoneInfo | None) -> datetime:
    try:
        return instant(value, zone)
    except NotUnderstood as error:
        raise bad_field(option, str(error)) from None


def _show(document: Mapping[str, Any]) -> None:
    currency = document["currency"]
    table = Table("", "quantity", "before tax", "with tax")
    quantities = {
        "energy": f"{document['total_energy']:g} kWh",
        "time": f"{document['total_time'] * 60:g} min",
        "parking": f"{document['total_parking_time'] * 60:g} min",
        "reservation": f"{document['total_reservation_time'] * 60:g} min",
    }
    for name, key in _COSTS.items():
        if document[key] is not None:
            table.add_row(name, cell(quantities.get(name, "")), *_amounts(document[key]))
    table.add_section()
    total = document["total_cost"]
    limit = f" ({document['limit'].replace('_', ' ').lower()})" if document["limit"] else ""
    if total is not None:
        table.add_row(f"total{limit}", cell(currency), *_amounts(total))
    else:
        table.add_row("total", cell("no price is known"), "", "")
    show(table)
    for warning in document["warnings"]:
        say(f"{warning['code']}: {warning['text']}")


def _amounts(amount: Mapping[str, float]) -> tuple[str, str]:
    return f"{amount['excl_vat']:,.4f}", f"{amount['incl_vat']:,.4f}"
