"""The two signals by hand: `request-offers` and `purchase`."""

import uuid
from decimal import Decimal
from typing import Annotated

import grpc
import typer
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message
from rich.table import Table
from rich.text import Text

from voucher_grpc.cli import DEFAULT_TARGET, Failed, app, run
from voucher_grpc.cli.connection import connect
from voucher_grpc.client import CallFailed
from voucher_grpc.domain.catalogue.values import money_from_text
from voucher_grpc.edge.wire.messages import instant_of, money_message, money_of
from voucher_grpc.errors import Refusal
from voucher_grpc.printable import printable
from voucher_grpc.terminal import cell, say, show
from voucher_grpc.v1 import pass_pb2, product_pb2, voucher_service_pb2
from voucher_grpc.v1.conditions_pb2 import LocationReference
from voucher_grpc.v1.offer_pb2 import Offer

Target = Annotated[
    str, typer.Option(envvar="VOUCHER_TARGET", help="Address of the service, host:port.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]
# After these a purchase may have happened.
_OUTCOME_UNKNOWN = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.INTERNAL,
    }
)


def location_reference(text: str) -> LocationReference | None:
    """ "NO*OSL*LOC1" or "NO*OSL*LOC1*EVSE" as a reference; None for nothing. Raises Failed."""
    if not text:
        return None
    parts = text.split("*", 3)
    if len(parts) < 3 or not all(parts):
        raise Failed('--location: must be such as "NO*OSL*LOC1" or "NO*OSL*LOC1*EVSE"')
    return LocationReference(
        country_code=parts[0],
        party_id=parts[1],
        location_id=parts[2],
        evse_uid=parts[3] if len(parts) > 3 else "",
    )


@app.command("request-offers")
def request_offers(
    *,
    user: Annotated[str, typer.Option(help="The user.")] = "",
    vehicle: Annotated[str, typer.Option(help="The vehicle; if registered, enough.")] = "",
    location: Annotated[str, typer.Option(help="Where: NO*OSL*LOC1 or NO*OSL*LOC1*EVSE.")] = "",
    max_offers: Annotated[int, typer.Option(min=0, max=20, help="0: as many as usual.")] = 0,
    currency: Annotated[str, typer.Option(help="ISO 4217 code, such as NOK.")] = "",
    as_json: AsJson = False,
    target: Target = DEFAULT_TARGET,
) -> None:
    """First signal: the passes that suit a user, best first."""
    _check_unicode(user, vehicle, location, currency)
    place = location_reference(location)

    async def work() -> voucher_service_pb2.RequestOffersResponse:
        async with connect(target) as client:
            return await client.request_offers(
                user_id=user,
                vehicle_id=vehicle,
                location=place,
                max_offers=max_offers,
                currency_code=currency,
            )

    answer = run(work())
    if as_json:
        _print_json(answer)
        return
    _show_offers(answer)


def _check_unicode(*options: str) -> None:
    """Bytes of the command line that are not UTF-8 arrive as surrogates, which no message takes."""
    if any("\ud800" <= character <= "\udfff" for option in options for character in option):
        raise Failed("an option is not UTF-8 text")


def _print_json(message: Message) -> None:
    # Whole, however long: JSON escapes by itself whatever is not ASCII.
    typer.echo(MessageToJson(message, preserving_proto_field_name=True))  # noqa: TID251


def _units(micros: int) -> Decimal:
    return Decimal(micros).scaleb(-6).quantize(Decimal("0.01"))


def _show_offers(answer: voucher_service_pb2.RequestOffersResponse) -> None:
    if not answer.offers:
        why = voucher_service_pb2.EmptyReason.Name(answer.empty_reason)
        say(f"no offers: {why.removeprefix('EMPTY_REASON_')}")
        return
    table = Table(title=cell(f"Offers to {answer.user_id}"), title_justify="left", show_lines=True)
    for heading in ("", "pass", "price", "saving", "why"):
        table.add_column(heading, no_wrap=heading in ("", "price", "saving"))
    for number, offer in enumerate(answer.offers, 1):
        table.add_row(str(number), *_offer_cells(offer))
    show(table)
    usual = answer.pay_as_you_go
    if usual.HasField("cost_per_30_days"):
        cost, price = money_of(usual.cost_per_30_days), money_of(usual.price_per_kwh)
        say(
            f"Pay-as-you-go: {_units(cost.micros)} {cost.currency_code} in 30 days, "
            f"{_units(price.micros)} per kWh, {usual.energy_wh_per_30_days / 1000:.0f} kWh in "
            f"{usual.sessions_per_30_days:.1f} sessions"
        )
    # An offer_id is long and must be copied whole, so it stands outside the table.
    for number, offer in enumerate(answer.offers, 1):
        say(f"offer_id {number}: {offer.offer_id}")


def _offer_cells(offer: Offer) -> tuple[Text, Text, Text, Text]:
    price = money_of(offer.price)
    name = cell(offer.display_name, style="bold")
    name.append("\n").append_text(
        cell(offer.product_id, benefit_words(offer.benefit), style="not bold")
    )
    saving = Text("unknown", "dim")
    if offer.HasField("expected_saving"):
        micros = money_of(offer.expected_saving).micros
        style = "green" if micros > 0 else "red"
        saving = cell(f"{_units(micros)} {price.currency_code}", style=style)
    why = cell(*(reason.text for reason in offer.reasons))
    if not offer.recommended:
        why = Text("not recommended\n", "yellow").append_text(why)
    return name, cell(price), saving, why


def benefit_words(benefit: product_pb2.Benefit) -> str:
    """What a pass gives, in a few words."""
    match benefit.WhichOneof("benefit"):
        case "energy_bundle":
            return f"{benefit.energy_bundle.energy_wh / 1000:g} kWh"
        case "session_bundle":
            cap = benefit.session_bundle.max_energy_wh_per_session
            each = f" of up to {cap / 1000:g} kWh" if cap else ""
            return f"{benefit.session_bundle.sessions} sessions{each}"
        case "energy_price":
            return f"{money_of(benefit.energy_price.price_per_kwh)} per kWh"
        case "percentage_off":
            return f"{benefit.percentage_off.basis_points / 100:g} % off"
        case "flat_period":
            return f"all charging up to {benefit.flat_period.fair_use_energy_wh / 1000:g} kWh"
        case _:
            return ""


@app.command("purchase")
def purchase(
    *,
    offer_id: Annotated[str, typer.Option(help="As request-offers printed it.")],
    amount: Annotated[str, typer.Option(help='What was paid, such as "49.00 NOK".')],
    payment_reference: Annotated[str, typer.Option(help="The payment's name.")],
    request_id: Annotated[
        str, typer.Option(help="UUID; give that of a try whose outcome is not known. Else new.")
    ] = "",
    user: Annotated[str, typer.Option(help="If given, must be the offer's user.")] = "",
    vehicle: Annotated[str, typer.Option(help="The vehicle that will use it.")] = "",
    validate_only: Annotated[bool, typer.Option("--validate-only", help="Only judge.")] = False,
    as_json: AsJson = False,
    target: Target = DEFAULT_TARGET,
) -> None:
    """Second signal: buy an offer that has been paid."""
    _check_unicode(offer_id, amount, payment_reference, request_id, user, vehicle)
    key = request_id or str(uuid.uuid4())
    try:
        paid = money_message(money_from_text(amount, "--amount"))
    except Refusal as refusal:
        raise Failed(str(refusal)) from None
    except ValueError:  # more units than the message holds
        raise Failed("--amount: is out of range") from None

    async def work() -> pass_pb2.Pass:
        async with connect(target) as client:
            try:
                return await client.purchase_pass(
                    offer_id,
                    payment_reference=payment_reference,
                    amount=paid,
                    request_id=key,
                    user_id=user,
                    vehicle_id=vehicle,
                    validate_only=validate_only,
                )
            except CallFailed as error:
                if error.code in _OUTCOME_UNKNOWN and not validate_only:
                    # What is to be done must not be cut off by a long message.
                    said, again = printable(error), f"repeat it with --request-id {key}"
                    raise Failed(f"{said}; it may have been bought: {again}") from error
                raise

    bought = run(work())
    if as_json:
        _print_json(bought)
        return
    _show_pass(bought, validate_only=validate_only)


def _show_pass(owned: pass_pb2.Pass, *, validate_only: bool) -> None:
    title = cell(owned.display_name)
    if validate_only:
        title.append(" (could be bought now; nothing was)")
    table = Table(show_header=False, title_justify="left", title=title)
    state = pass_pb2.PassState.Name(owned.state).removeprefix("PASS_STATE_")
    rows = [
        ("pass", owned.pass_id),
        ("user", owned.user_id),
        ("product", f"{owned.product_id}, revision {owned.product_revision}"),
        ("gives", benefit_words(owned.benefit)),
        ("paid", f"{money_of(owned.price)}, of which tax {_units(money_of(owned.tax).micros)}"),
        ("state", state),
    ]
    for label, name in (
        ("good from", "start_time"),
        ("good until", "end_time"),
        ("first use before", "first_use_before"),
    ):
        if owned.HasField(name):  # type: ignore[arg-type]
            rows.append((label, instant_of(getattr(owned, name)).isoformat(" ", "minutes")))
    rows.append(("request_id", owned.request_id))
    for label, value in rows:
        table.add_row(label, cell(value))
    show(table)
