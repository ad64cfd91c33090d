"""Requests for offers and the offers made, between messages and the domain."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from voucher_grpc.catalogue.conditions import PlaceKey
from voucher_grpc.catalogue.product import Terms
from voucher_grpc.money import Money, tax_micros
from voucher_grpc.offers.explanation import in_words
from voucher_grpc.offers.ranking import BreakEven, Choice, EmptyReason, OfferReason
from voucher_grpc.places.location import VehicleProfile
from voucher_grpc.v1 import offer_pb2 as pb
from voucher_grpc.v1 import voucher_service_pb2 as service_pb
from voucher_grpc.wire.checks import Checks, enum_number
from voucher_grpc.wire.conditions import conditions_message, place_from_message
from voucher_grpc.wire.messages import money_message, timestamp
from voucher_grpc.wire.places import profile_from_message
from voucher_grpc.wire.products import benefit_message, validity_message

MAX_OFFERS = 20
DEFAULT_OFFERS = 3

_REASON = pb.OfferReasonCode.DESCRIPTOR
_EMPTY = service_pb.EmptyReason.DESCRIPTOR


@dataclass(frozen=True, slots=True)
class OffersWanted:
    """A checked request for offers; `vehicle` None where the request describes none."""

    user_id: str
    vehicle_id: str
    vehicle: VehicleProfile | None
    place: PlaceKey | None
    country_code: str
    max_offers: int
    language: str
    currency_code: str


def offers_wanted(message: service_pb.RequestOffersRequest) -> OffersWanted:
    """Check a request for offers. Raises BadInput."""
    checks = Checks()
    if not message.user_id and not message.vehicle_id:
        checks.wrong(
            "user_id", "is missing: send a user_id or the vehicle_id of a registered vehicle"
        )
    place, country_code = None, ""
    kind = message.place.WhichOneof("place")
    if kind == "location":
        place = place_from_message(checks, "place.location", message.place.location)
    elif kind == "area":
        country_code = checks.country(
            "place.area.country_code", message.place.area.country_code, required=True
        )
    wanted = OffersWanted(
        user_id=checks.identifier("user_id", message.user_id),
        vehicle_id=checks.identifier("vehicle_id", message.vehicle_id),
        vehicle=(
            profile_from_message(checks, "vehicle", message.vehicle)
            if message.HasField("vehicle")
            else None
        ),
        place=place,
        country_code=country_code,
        max_offers=checks.number("max_offers", message.max_offers, 0, MAX_OFFERS) or DEFAULT_OFFERS,
        language=checks.language("language", message.language),
        currency_code=checks.currency("currency_code", message.currency_code),
    )
    checks.done()
    return wanted


def reason_message(reason: OfferReason, currency_code: str) -> pb.OfferReason:
    """A reason in words and as data."""
    return pb.OfferReason(
        code=enum_number(_REASON, reason.code),  # type: ignore[arg-type]
        text=in_words(reason, currency_code),
        figures=[pb.Figure(name=name, value=value) for name, value in reason.figures.items()],
    )


def offer_parts(terms: Terms, revision: int) -> pb.Offer:
    """The part of an offer that is the same for every user."""
    price = terms.price
    tax = Money(tax_micros(price.micros, terms.tax_rate_basis_points), price.currency_code)
    return pb.Offer(
        product_id=terms.product_id,
        product_revision=revision,
        display_name=terms.display_name,
        description=terms.description,
        price=money_message(price),
        tax_rate_basis_points=terms.tax_rate_basis_points,
        tax=money_message(tax),
        benefit=benefit_message(terms.benefit, price.currency_code),
        conditions=conditions_message(terms.conditions),
        validity=validity_message(terms.validity),
    )


def offer_message(choice: Choice, offer_id: str, expire_time: datetime) -> pb.Offer:
    """An offer."""
    terms = choice.product.terms
    currency = terms.price.currency_code
    message = offer_parts(terms, choice.product.revision)
    message.offer_id = offer_id
    message.expire_time.CopyFrom(timestamp(expire_time))
    message.recommended = choice.recommended
    if choice.expected_saving_micros is not None:
        saving = Money(choice.expected_saving_micros, currency)
        message.expected_saving.CopyFrom(money_message(saving))
    if choice.break_even is not None:
        message.break_even.CopyFrom(_break_even_message(choice.break_even))
    message.reasons.extend(reason_message(reason, currency) for reason in choice.reasons)
    return message


def _break_even_message(break_even: BreakEven) -> pb.BreakEven:
    return pb.BreakEven(energy_wh=break_even.energy_wh, sessions=break_even.sessions)


def offers_response(
    user_id: str,
    offers: Sequence[pb.Offer],
    empty_reason: EmptyReason | None,
    pay_as_you_go: service_pb.PayAsYouGo | None,
) -> service_pb.RequestOffersResponse:
    """The answer."""
    return service_pb.RequestOffersResponse(
        offers=offers,
        empty_reason=enum_number(_EMPTY, empty_reason),  # type: ignore[arg-type]
        pay_as_you_go=pay_as_you_go,
        user_id=user_id,
    )
