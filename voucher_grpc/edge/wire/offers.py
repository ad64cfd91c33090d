"""Requests for offers and the offers made, between messages and the domain."""

import math
from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import lru_cache
from struct import Struct

from voucher_grpc.domain.catalogue.product import Terms
from voucher_grpc.domain.offers.choices import Choice, EmptyReason
from voucher_grpc.domain.offers.determine import Determined
from voucher_grpc.domain.offers.reason_codes import ReasonCode
from voucher_grpc.domain.offers.reason_texts import Writer, writer
from voucher_grpc.domain.offers.reasons import FIGURES, BreakEven
from voucher_grpc.domain.offers.request import DEFAULT_OFFERS, OffersRequest
from voucher_grpc.domain.offers.verdicts import ProductVerdict
from voucher_grpc.edge.wire.checks import Checks, enum_number
from voucher_grpc.edge.wire.conditions import conditions_message, place_from_message
from voucher_grpc.edge.wire.encoding import (
    Doubles,
    Encoded,
    double_tag,
    integer,
    integer_tag,
    part,
    part_tag,
    varint,
)
from voucher_grpc.edge.wire.messages import EPOCH, money_message
from voucher_grpc.edge.wire.parts import RevisionParts
from voucher_grpc.edge.wire.places import profile_from_message
from voucher_grpc.edge.wire.products import benefit_message, validity_message, withdrawal_message
from voucher_grpc.edge.wire.status import status_of
from voucher_grpc.errors import Refusal, bad_field
from voucher_grpc.money import MICROS, Money, tax_micros
from voucher_grpc.v1 import offer_pb2 as pb
from voucher_grpc.v1 import voucher_service_pb2 as service_pb

MAX_OFFERS = 20
MAX_REQUESTS = 500
# Three for each. An offer is 1 to 1.5 kB and its description of up to 1,000 characters,
# so an answer stays below 8 MiB.
MAX_OFFERS_OF_A_BATCH = 1_500
MAX_TAG_CHARS = 64

_REASON = pb.OfferReasonCode.DESCRIPTOR
_EMPTY = service_pb.EmptyReason.DESCRIPTOR
_VERDICT = service_pb.OfferVerdict.DESCRIPTOR


def offers_request(message: service_pb.RequestOffersRequest) -> OffersRequest:
    """Check a request for offers. Raises BadInput."""
    checks = Checks()
    wanted = offers_request_at(checks, "", message)
    checks.done()
    return wanted


def offers_request_at(
    checks: Checks, at: str, message: service_pb.RequestOffersRequest
) -> OffersRequest:
    """A request for offers as a part of another message; `at` begins the names of its fields."""
    if not message.user_id and not message.vehicle_id:
        checks.wrong(
            f"{at}user_id", "is missing: send a user_id or the vehicle_id of a registered vehicle"
        )
    place, country_code = None, ""
    kind = message.place.WhichOneof("place")
    if kind == "location":
        place = place_from_message(checks, f"{at}place.location", message.place.location)
    elif kind == "area":
        country_code = checks.country(
            f"{at}place.area.country_code", message.place.area.country_code, required=True
        )
    return OffersRequest(
        user_id=checks.identifier(f"{at}user_id", message.user_id),
        vehicle_id=checks.identifier(f"{at}vehicle_id", message.vehicle_id),
        vehicle=(
            profile_from_message(checks, f"{at}vehicle", message.vehicle)
            if message.HasField("vehicle")
            else None
        ),
        place=place,
        country_code=country_code,
        max_offers=checks.number(f"{at}max_offers", message.max_offers, 0, MAX_OFFERS)
        or DEFAULT_OFFERS,
        language=checks.language(f"{at}language", message.language),
        currency_code=checks.currency(f"{at}currency_code", message.currency_code),
    )


def batch_requests(message: service_pb.BatchRequestOffersRequest) -> list[OffersRequest | Refusal]:
    """Each request checked, or why it is refused. Raises BadInput for what all of them break."""
    checks = Checks()
    checks.bounded("requests", message.requests, MAX_REQUESTS, 1)
    checks.done()
    wanted = [_request_or_refusal(request) for request in message.requests]
    offers = sum(want.max_offers for want in wanted if isinstance(want, OffersRequest))
    if offers > MAX_OFFERS_OF_A_BATCH:
        raise bad_field(
            "requests",
            f"must ask for at most {MAX_OFFERS_OF_A_BATCH:,} offers together, asks for {offers:,}",
        )
    return wanted


def _request_or_refusal(message: service_pb.RequestOffersRequest) -> OffersRequest | Refusal:
    try:
        return offers_request(message)
    except Refusal as refusal:
        return refusal


def stream_request(message: service_pb.StreamOffersRequest) -> OffersRequest | Refusal:
    """The request of a message of a stream, or why it is refused."""
    checks = Checks()
    checks.identifier("tag", message.tag, required=True)
    wanted = offers_request_at(checks, "request.", message.request)
    try:
        checks.done()
    except Refusal as refusal:
        return refusal
    return wanted


_RESULT_RESPONSE, _RESULT_STATUS = part_tag(1), part_tag(2)


def result_bytes(result: Encoded | Refusal) -> bytes:
    """An OffersResult: what became of one request, its answer or why there is none."""
    if isinstance(result, Refusal):
        return part(_RESULT_STATUS, status_of(result).SerializeToString())
    return part(_RESULT_RESPONSE, result.raw)


_BATCH_RESULTS = part_tag(1)


def batch_bytes(results: Iterable[Encoded | Refusal]) -> Encoded:
    """A BatchRequestOffersResponse."""
    return Encoded(b"".join(part(_BATCH_RESULTS, result_bytes(result)) for result in results))


_STREAM_TAG, _STREAM_RESULT = part_tag(1), part_tag(2)


def stream_bytes(tag: str, result: Encoded | Refusal) -> Encoded:
    """A StreamOffersResponse."""
    return Encoded(part(_STREAM_TAG, tag.encode()) + part(_STREAM_RESULT, result_bytes(result)))


def offer_part(terms: Terms, revision: int) -> bytes:
    """The part of an offer that is the same for every user (see `RevisionParts`)."""
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
        withdrawal=withdrawal_message(terms),
    ).SerializeToString()


_UNITS, _NANOS = integer_tag(2), integer_tag(3)


@lru_cache(maxsize=4096)
def _nanos(micros: int) -> bytes:
    """What is expected is given in hundredths, so these are few."""
    return integer(_NANOS, micros * 1000)


def _money_bytes(micros: int, currency: bytes) -> bytes:
    """google.type.Money; `currency` is the encoded field."""
    if micros >= 0:
        units, rest = divmod(micros, MICROS)
    else:
        units, rest = divmod(-micros, MICROS)
        units, rest = -units, -rest
    return currency + integer(_UNITS, units) + _nanos(rest)


@lru_cache(maxsize=256)
def _currency_field(currency_code: str) -> bytes:
    return part(part_tag(1), currency_code.encode())


_OFFER_ID, _EXPIRE_TIME, _EXPECTED_SAVING = part_tag(1), part_tag(12), part_tag(14)
_RECOMMENDED = integer(integer_tag(13), 1)
_BREAK_EVEN, _REASONS, _SAVING_RANGE = part_tag(15), part_tag(16), part_tag(17)
_LOW, _HIGH, _TEXT = part_tag(1), part_tag(2), part_tag(2)
_REASON_CODES = {code: integer(integer_tag(1), enum_number(_REASON, code)) for code in ReasonCode}
_REASON_FIGURES = {code: Doubles(3, names) for code, names in FIGURES.items()}


def offer_bytes(
    prepared: bytes, choice: Choice, offer_id: str, expire_time: datetime, words: Writer
) -> bytes:
    """An Offer; `prepared` is its `offer_part`."""
    fields = [
        prepared,
        part(_OFFER_ID, offer_id.encode("ascii")),
        part(_EXPIRE_TIME, _instant_bytes(expire_time)),
    ]
    if choice.recommended:
        fields.append(_RECOMMENDED)
    if choice.expected_saving_micros is not None:
        currency = _currency_field(choice.product.terms.price.currency_code)
        saving = _money_bytes(choice.expected_saving_micros, currency)
        fields.append(part(_EXPECTED_SAVING, saving))
        if choice.saving_range_micros is not None:
            low, high = choice.saving_range_micros
            bounds = part(_LOW, _money_bytes(low, currency))
            bounds += part(_HIGH, _money_bytes(high, currency))
            fields.append(part(_SAVING_RANGE, bounds))
    if choice.break_even is not None:
        fields.append(part(_BREAK_EVEN, _break_even_bytes(choice.break_even)))
    for reason in choice.reasons:
        code = reason.code
        text = part(_TEXT, words.words(reason).encode())
        figures = _REASON_FIGURES[code].encode(reason.values)
        fields.append(part(_REASONS, _REASON_CODES[code] + text + figures))
    return b"".join(fields)


_SECONDS, _NANOS_OF_SECOND = integer_tag(1), integer_tag(2)


@lru_cache(maxsize=256)
def _instant_bytes(instant: datetime) -> bytes:
    """google.protobuf.Timestamp of an instant after 1970, to the microsecond.

    Kept, since all offers of a batch hold until the same instant.
    """
    since = instant - EPOCH
    seconds = integer(_SECONDS, since.days * 86_400 + since.seconds)
    return seconds + integer(_NANOS_OF_SECOND, since.microseconds * 1000)


_ENERGY_WH, _SESSIONS = integer_tag(1), integer_tag(2)


def _break_even_bytes(break_even: BreakEven) -> bytes:
    """Zero is sent too: the fields are optional ones."""
    found = b""
    if break_even.energy_wh is not None:
        found += _ENERGY_WH + varint(break_even.energy_wh)
    if break_even.sessions is not None:
        found += _SESSIONS + varint(break_even.sessions)
    return found


_PAY_AS_YOU_GO, _USER_ID, _OFFERS = part_tag(3), part_tag(4), part_tag(1)


def answer_bytes(
    user_id: str,
    offers: Iterable[bytes],
    empty_reason: EmptyReason | None,
    pay_as_you_go: bytes | None,
) -> Encoded:
    """A RequestOffersResponse."""
    fields = [part(_OFFERS, offer) for offer in offers]
    if empty_reason is not None:
        fields.append(integer(integer_tag(2), enum_number(_EMPTY, empty_reason)))
    if pay_as_you_go is not None:
        fields.append(part(_PAY_AS_YOU_GO, pay_as_you_go))
    fields.append(part(_USER_ID, user_id.encode()))
    return Encoded(b"".join(fields))


class OffersEncoder:
    """Writes answers from the offers determined; the parts that users share are made once."""

    def __init__(self) -> None:
        self._parts = RevisionParts(offer_part)

    def encode(
        self,
        user_id: str,
        determined: Determined,
        offer_ids: Sequence[tuple[str, datetime]],
        language: str,
    ) -> Encoded:
        """A RequestOffersResponse; `offer_ids` has the id of each choice and when it expires."""
        ranking = determined.ranking
        words = writer(language, determined.currency_code)
        offers = []
        for choice, (offer_id, expire_time) in zip(ranking.choices, offer_ids, strict=True):
            prepared = self._parts.of(choice.product.terms, choice.product.revision)
            offers.append(offer_bytes(prepared, choice, offer_id, expire_time, words))
        compared = pay_as_you_go_bytes(determined)
        return answer_bytes(user_id, offers, ranking.empty_reason, compared)


_COST, _PRICE = part_tag(1), part_tag(2)
_ENERGY_30_DAYS, _SESSIONS_TAG, _UNPRICED_TAG = integer_tag(3), double_tag(4), double_tag(5)
_DOUBLE = Struct("<d")


def pay_as_you_go_bytes(determined: Determined) -> bytes | None:
    """A PayAsYouGo: what offers are compared with; None where nothing is known."""
    known = determined.ranking.pay_as_you_go
    if known is None:
        return None
    found = integer(_ENERGY_30_DAYS, round(known.energy_kwh_per_30_days * 1000))
    found += _SESSIONS_TAG + _DOUBLE.pack(known.sessions_per_30_days)
    if known.unpriced_share:
        found += _UNPRICED_TAG + _DOUBLE.pack(known.unpriced_share)
    if not math.isnan(known.price_per_kwh):
        currency = _currency_field(determined.currency_code)
        found += part(_COST, _money_bytes(round(known.cost_per_30_days), currency))
        found += part(_PRICE, _money_bytes(round(known.price_per_kwh), currency))
    return found


def fill_explanation(message: service_pb.OfferExplanation, explained: ProductVerdict) -> None:
    """Fill an explanation that stands in its answer."""
    product, product_value = explained.product, explained.product_value
    currency = product.terms.price.currency_code
    message.product_id = product.product_id
    message.product_revision = product.revision
    message.verdict = enum_number(_VERDICT, explained.verdict)  # type: ignore[assignment]
    if product_value is None or explained.adjusted_saving is None:
        return
    message.hours_share = product_value.hours_share
    message.places_share = product_value.places_share
    message.covered_energy_wh = round(product_value.covered_energy_wh)
    if not math.isnan(product_value.expected_saving):
        message.harm_probability = product_value.harm_probability
        for field, amount in (
            (message.expected_saving, product_value.expected_saving),
            (message.adjusted_saving, explained.adjusted_saving),
        ):
            field.CopyFrom(money_message(Money(round(amount), currency)))
