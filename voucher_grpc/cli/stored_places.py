"""`voucher-grpc locations` and `tariffs`: what the service has: list, show, delete."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from google.protobuf.json_format import MessageToJson

from voucher_grpc.cli import DEFAULT_TARGET, Failed, app, run
from voucher_grpc.cli.connection import connect
from voucher_grpc.client import Client
from voucher_grpc.edge.wire.checks import Checks
from voucher_grpc.ocpi import folded
from voucher_grpc.printable import printable
from voucher_grpc.terminal import bar, say
from voucher_grpc.v1 import location_service_pb2 as pb

locations = typer.Typer(help="OCPI Locations.", no_args_is_help=True)
tariffs = typer.Typer(help="OCPI Tariffs.", no_args_is_help=True)
app.add_typer(locations, name="locations")
app.add_typer(tariffs, name="tariffs")

# How many one call deletes.
_AT_ONCE = 500
_PAGE_SIZE = 1_000


def _capitals(text: str) -> str:
    return text.upper()


Target = Annotated[
    str, typer.Option(envvar="VOUCHER_TARGET", help="Address of the service, host:port.")
]
OfCountry = Annotated[
    str, typer.Option("--country", parser=_capitals, help="Only of this operator's country.")
]
OfParty = Annotated[
    str, typer.Option("--party", parser=_capitals, help="Only of this operator; needs --country.")
]
OwnCountry = Annotated[
    str, typer.Argument(parser=_capitals, help="Country of the operator, such as NL.")
]
OwnParty = Annotated[str, typer.Argument(parser=_capitals, help="OCPI party id of the operator.")]
Ids = Annotated[list[str], typer.Argument(help="Their OCPI ids.")]


@dataclass(frozen=True, slots=True)
class Kind:
    """What differs between locations and tariffs."""

    name: str
    id_of: Callable[[Any], str]
    list_page: Callable[[Client, str, str, str], Any]
    page: Callable[[Any], Sequence[Any]]
    delete: Callable[[Client, str, str, Sequence[str]], Any]
    deleted: Callable[[Any], Sequence[str]]
    line: Callable[[Any], str]


def _list_locations(client: Client, country: str, party: str, token: str) -> Any:
    request = pb.ListLocationsRequest(
        country_code=country, party_id=party, page_size=_PAGE_SIZE, page_token=token
    )
    return client.call(client.location.ListLocations, request)


def _list_tariffs(client: Client, country: str, party: str, token: str) -> Any:
    request = pb.ListTariffsRequest(
        country_code=country, party_id=party, page_size=_PAGE_SIZE, page_token=token
    )
    return client.call(client.location.ListTariffs, request)


def _delete_locations(client: Client, country: str, party: str, ids: Sequence[str]) -> Any:
    request = pb.DeleteLocationsRequest(country_code=country, party_id=party, location_ids=ids)
    return client.call(client.location.DeleteLocations, request)


def _delete_tariffs(client: Client, country: str, party: str, ids: Sequence[str]) -> Any:
    request = pb.DeleteTariffsRequest(
        country_code=country, party_id=party, tariff_ids=ids, find_named=True
    )
    return client.call(client.location.DeleteTariffs, request)


def _location_line(location: pb.Location) -> str:
    connectors = [c for evse in location.evses for c in evse.connectors]
    named = sorted({tariff_id for c in connectors for tariff_id in c.tariff_ids})
    return (
        f"{location.country_code} {location.party_id} {location.location_id}  "
        f"{printable(location.name)}, {len(location.evses)} EVSEs, tariffs: "
        f"{', '.join(named[:5]) or 'none'}{' ...' if len(named) > 5 else ''}"
    )


def _tariff_line(tariff: pb.Tariff) -> str:
    kind = pb.TariffType.Name(tariff.type).removeprefix("TARIFF_TYPE_")
    valid = [
        f"{word} {getattr(tariff, name).ToJsonString()}"
        for word, name in (("from", "start_time"), ("until", "end_time"))
        if tariff.HasField(name)  # type: ignore[arg-type]
    ]
    return (
        f"{tariff.country_code} {tariff.party_id} {tariff.tariff_id}  {tariff.currency_code}, "
        f"{'any session' if kind == 'UNSPECIFIED' else kind}, {len(tariff.elements)} elements"
        + "".join(f", {part}" for part in valid)
        + (", default" if tariff.default_for_country else "")
    )


LOCATIONS = Kind(
    "locations",
    lambda one: str(one.location_id),
    _list_locations,
    lambda page: list(page.locations),
    _delete_locations,
    lambda answer: list(answer.location_ids),
    _location_line,
)
TARIFFS = Kind(
    "tariffs",
    lambda one: str(one.tariff_id),
    _list_tariffs,
    lambda page: list(page.tariffs),
    _delete_tariffs,
    lambda answer: list(answer.tariff_ids),
    _tariff_line,
)


async def _stored(client: Client, kind: Kind, country: str, party: str) -> AsyncIterator[Any]:
    """All of an operator, a country, or everybody."""
    token = ""
    while True:
        page = await kind.list_page(client, country, party, token)
        for one in kind.page(page):
            yield one
        token = page.next_page_token
        if not token:
            return


async def _delete(
    client: Client, kind: Kind, country: str, party: str, ids: Sequence[str]
) -> tuple[int, list[str]]:
    """(how many were there, those that connectors still name)."""
    deleted, named = 0, []
    with bar() as progress:
        task = progress.add_task(f"deleting {kind.name}", total=len(ids))
        for first in range(0, len(ids), _AT_ONCE):
            part = ids[first : first + _AT_ONCE]
            answer = await kind.delete(client, country, party, part)
            deleted += len(kind.deleted(answer))
            named += list(getattr(answer, "still_named_ids", ()))
            progress.advance(task, len(part))
    return deleted, named


async def delete_others(
    client: Client, kind: Kind, ids: Mapping[tuple[str, str], AbstractSet[str]]
) -> None:
    """Delete what operators have besides these ids, which are folded. What was refused is among
    them: what is stored of it stays. Raises CallFailed and Failed."""
    if any("" in of_party for of_party in ids.values()):
        raise Failed("nothing was deleted: an entry of the file has no id, so it may be any")
    checks = Checks()
    for country, party in ids:
        checks.country("country_code", country, required=True)
        checks.party("party_id", party, required=True)
    if checks.violations:
        raise Failed("nothing was deleted: an entry of the file names no operator that can be")
    for (country, party), of_party in sorted(ids.items()):
        others = [
            kind.id_of(one)
            async for one in _stored(client, kind, country, party)
            if folded(kind.id_of(one)) not in of_party
        ]
        deleted, named = await _delete(client, kind, country, party, others)
        say(f"{country} {party}: {deleted:,} other {kind.name} deleted")
        _show_named(named)


def _show_named(named: Sequence[str]) -> None:
    if named:
        shown = ", ".join(printable(one) for one in named[:10])
        more = f" and {len(named) - 10:,} more" if len(named) > 10 else ""
        say(f"connectors still name {shown}{more}")


def _show_list(kind: Kind, country: str, party: str, target: str) -> None:
    async def work() -> None:
        count = 0
        async with connect(target) as client:
            async for one in _stored(client, kind, country, party):
                say(kind.line(one))
                count += 1
        say(f"{count:,} {kind.name}", err=True)

    run(work())


def _delete_all(kind: Kind, country: str, party: str, ids: Sequence[str], target: str) -> None:
    async def work() -> None:
        async with connect(target) as client:
            deleted, named = await _delete(client, kind, country, party, ids)
        say(f"{deleted:,} {kind.name} deleted, {len(set(ids)) - deleted:,} were not there")
        _show_named(named)
        if not deleted:
            raise typer.Exit(1)

    run(work())


@locations.command("list")
def list_locations(
    *, country: OfCountry = "", party: OfParty = "", target: Target = DEFAULT_TARGET
) -> None:
    """List locations, a line each."""
    _show_list(LOCATIONS, country, party, target)


@tariffs.command("list")
def list_tariffs(
    *, country: OfCountry = "", party: OfParty = "", target: Target = DEFAULT_TARGET
) -> None:
    """List tariffs, a line each."""
    _show_list(TARIFFS, country, party, target)


@locations.command("show")
def show_location(
    country: OwnCountry,
    party: OwnParty,
    location_id: Annotated[str, typer.Argument(help="Its OCPI id.")],
    *,
    target: Target = DEFAULT_TARGET,
) -> None:
    """Show a location as JSON."""

    async def work() -> None:
        request = pb.GetLocationRequest(
            country_code=country, party_id=party, location_id=location_id
        )
        async with connect(target) as client:
            answer = await client.call(client.location.GetLocation, request)
        _say_json(answer.location)

    run(work())


@tariffs.command("show")
def show_tariff(
    country: OwnCountry,
    party: OwnParty,
    tariff_id: Annotated[str, typer.Argument(help="Its OCPI id.")],
    *,
    target: Target = DEFAULT_TARGET,
) -> None:
    """Show a tariff as JSON."""

    async def work() -> None:
        request = pb.GetTariffRequest(country_code=country, party_id=party, tariff_id=tariff_id)
        async with connect(target) as client:
            answer = await client.call(client.location.GetTariff, request)
        _say_json(answer.tariff)

    run(work())


def _say_json(message: Any) -> None:
    text = MessageToJson(message, preserving_proto_field_name=True)
    for line in text.splitlines():
        say(line)


@locations.command("delete")
def delete_locations(
    country: OwnCountry, party: OwnParty, location_ids: Ids, *, target: Target = DEFAULT_TARGET
) -> None:
    """Delete locations. Exit code 1 if none was there."""
    _delete_all(LOCATIONS, country, party, location_ids, target)


@tariffs.command("delete")
def delete_tariffs(
    country: OwnCountry, party: OwnParty, tariff_ids: Ids, *, target: Target = DEFAULT_TARGET
) -> None:
    """Delete tariffs, and say which connectors still name. Exit code 1 if none was there."""
    _delete_all(TARIFFS, country, party, tariff_ids, target)
