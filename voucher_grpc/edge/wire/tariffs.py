"""Tariffs between messages and the domain."""

from collections.abc import Iterable
from datetime import datetime
from fractions import Fraction
from typing import Any

from voucher_grpc.domain.catalogue.conditions import Restrictions
from voucher_grpc.domain.pricing.amounts import TaxIncluded
from voucher_grpc.domain.pricing.tariff import (
    Dimension,
    PriceComponent,
    PriceLimit,
    Reservation,
    Tariff,
    TariffElement,
    TariffKey,
    TariffType,
)
from voucher_grpc.edge.wire.checks import MAX_OCPI_ID_CHARS, Checks, enum_number
from voucher_grpc.edge.wire.conditions import restrictions_from_message, restrictions_message
from voucher_grpc.edge.wire.encoding import Pieces, part, part_tag
from voucher_grpc.edge.wire.messages import timestamp
from voucher_grpc.money import BASIS_POINTS, MICROS
from voucher_grpc.steps import Steps
from voucher_grpc.v1 import location_service_pb2 as pb

MAX_ELEMENTS = 500
MAX_COMPONENTS = 10
MAX_SKIPPED_ELEMENTS = 10_000
MAX_PRICE_MICROS = 1_000_000 * MICROS
MAX_STEP = 1_000_000

_DIMENSION = pb.PriceDimension.DESCRIPTOR
_RESERVATION = pb.ReservationRestriction.DESCRIPTOR
_TYPE = pb.TariffType.DESCRIPTOR
_ELEMENTS = part_tag(pb.Tariff.ELEMENTS_FIELD_NUMBER)
_TAX_INCLUDED = {
    pb.TAX_INCLUDED_UNSPECIFIED: TaxIncluded.NO,
    pb.TAX_INCLUDED_YES: TaxIncluded.YES,
    pb.TAX_INCLUDED_NO: TaxIncluded.NO,
    pb.TAX_INCLUDED_NOT_APPLICABLE: TaxIncluded.NOT_APPLICABLE,
}
_TAX_INCLUDED_NUMBER = {
    TaxIncluded.YES: pb.TAX_INCLUDED_YES,
    TaxIncluded.NOT_APPLICABLE: pb.TAX_INCLUDED_NOT_APPLICABLE,
}


def _tariff_id(checks: Checks, field: str, value: str) -> str:
    return checks.identifier(field, value, required=True, max_chars=MAX_OCPI_ID_CHARS)


def tariff_from_message(checks: Checks, field: str, message: pb.Tariff) -> Steps[Tariff]:
    """An OCPI Tariff; a step for each element."""
    checks.bounded(f"{field}.elements", message.elements, MAX_ELEMENTS, low=1)
    elements = []
    for i, element in enumerate(message.elements[: MAX_ELEMENTS + 1]):
        elements.append(element_from_message(checks, f"{field}.elements[{i}]", element, i))
        yield
    low, high = _limit(checks, field, message, "min"), _limit(checks, field, message, "max")
    if low is not None and high is not None:
        _ordered(checks, f"{field}.max_price_micros", low.before_tax_micros, high.before_tax_micros)
        _ordered(
            checks,
            f"{field}.max_price_after_tax_micros",
            low.after_tax_micros,
            high.after_tax_micros,
        )
    start = checks.optional_instant(message, "start_time", f"{field}.")
    end = checks.optional_instant(message, "end_time", f"{field}.")
    if start is not None and end is not None and end <= start:
        checks.wrong(f"{field}.end_time", "must be after start_time")
    if message.tax_included not in _TAX_INCLUDED:
        checks.wrong(f"{field}.tax_included", "must be a value of TaxIncluded")
    return Tariff(
        country_code=checks.country(f"{field}.country_code", message.country_code, required=True),
        party_id=checks.party(f"{field}.party_id", message.party_id, required=True),
        tariff_id=_tariff_id(checks, f"{field}.tariff_id", message.tariff_id),
        currency_code=checks.currency(
            f"{field}.currency_code", message.currency_code, required=True
        ),
        elements=tuple(elements),
        min_price=low,
        max_price=high,
        type=checks.choice(f"{field}.type", message.type, _TYPE, TariffType),
        tax_included=_TAX_INCLUDED.get(message.tax_included, TaxIncluded.NO),
        start_time=start,
        end_time=end,
        skipped_elements=checks.number(
            f"{field}.skipped_elements", message.skipped_elements, 0, MAX_SKIPPED_ELEMENTS
        ),
        default_for_country=message.default_for_country,
        last_updated=checks.optional_instant(message, "last_updated", f"{field}."),
    )


def _limit(checks: Checks, field: str, message: pb.Tariff, which: str) -> PriceLimit | None:
    before, after = (
        checks.optional_number(message, f"{which}_price_{name}", f"{field}.", 0, MAX_PRICE_MICROS)
        for name in ("micros", "after_tax_micros")
    )
    return None if before is None and after is None else PriceLimit(before, after)


def _ordered(checks: Checks, field: str, low: int | None, high: int | None) -> None:
    if low is not None and high is not None and low > high:
        name = field.rpartition(".")[2].replace("max", "min")
        checks.wrong(field, f"must be at least {name}, {low}")


def element_from_message(
    checks: Checks, field: str, message: pb.TariffElement, index: int
) -> TariffElement:
    """An OCPI TariffElement; `index` is its place in the tariff."""
    checks.bounded(f"{field}.price_components", message.price_components, MAX_COMPONENTS, low=1)
    components = tuple(
        _component(checks, f"{field}.price_components[{i}]", component)
        for i, component in enumerate(message.price_components[: MAX_COMPONENTS + 1])
    )
    restrictions = restrictions_from_message(
        checks, f"{field}.restrictions", message.restrictions, may_be_empty=True
    )
    reservation = checks.choice(
        f"{field}.reservation", message.reservation, _RESERVATION, Reservation
    )
    return TariffElement(components, restrictions, reservation, index)


def _component(checks: Checks, field: str, message: pb.PriceComponent) -> PriceComponent:
    dimension = checks.choice(f"{field}.dimension", message.dimension, _DIMENSION, Dimension)
    if dimension is None and not message.dimension:
        checks.wrong(f"{field}.dimension", "is missing")
    return PriceComponent(
        dimension=dimension or Dimension.ENERGY,
        price_micros=checks.number(
            f"{field}.price_micros", message.price_micros, 0, MAX_PRICE_MICROS
        ),
        tax_rate=_tax_rate(checks, field, message),
        step_size=checks.number(f"{field}.step_size", message.step_size, 0, MAX_STEP),
    )


def _tax_rate(checks: Checks, field: str, message: pb.PriceComponent) -> Fraction | None:
    vat = checks.optional_number(message, "vat_basis_points", f"{field}.", 0, BASIS_POINTS)
    rate = checks.optional_number(message, "tax_rate_micros", f"{field}.", 0, MICROS)
    if vat is not None and rate is not None:
        checks.wrong(f"{field}.tax_rate_micros", "must not be set beside vat_basis_points")
    if vat is not None:
        return Fraction(vat, BASIS_POINTS)
    return None if rate is None else Fraction(rate, MICROS)


def tariff_message(tariff: Tariff) -> pb.Tariff:
    """A tariff as a message."""
    low, high = tariff.min_price or PriceLimit(), tariff.max_price or PriceLimit()
    message = pb.Tariff(
        country_code=tariff.country_code,
        party_id=tariff.party_id,
        tariff_id=tariff.tariff_id,
        currency_code=tariff.currency_code,
        elements=[_element_message(element) for element in tariff.elements],
        min_price_micros=low.before_tax_micros,
        max_price_micros=high.before_tax_micros,
        min_price_after_tax_micros=low.after_tax_micros,
        max_price_after_tax_micros=high.after_tax_micros,
        type=enum_number(_TYPE, tariff.type),  # type: ignore[arg-type]
        tax_included=_TAX_INCLUDED_NUMBER.get(tariff.tax_included, pb.TAX_INCLUDED_UNSPECIFIED),
        skipped_elements=tariff.skipped_elements,
        default_for_country=tariff.default_for_country,
    )
    for name in ("start_time", "end_time", "last_updated"):
        if (at := getattr(tariff, name)) is not None:
            getattr(message, name).CopyFrom(timestamp(at))
    return message


def tariff_pieces(head: Tariff, elements: Iterable[TariffElement], update_time: datetime) -> Pieces:
    """A tariff's encoded message: without its elements, then each of them."""
    message = tariff_message(head)
    message.update_time.CopyFrom(timestamp(update_time))
    yield message.SerializeToString()
    for element in elements:
        yield part(_ELEMENTS, _element_message(element).SerializeToString())


def _element_message(element: TariffElement) -> pb.TariffElement:
    message = pb.TariffElement(
        price_components=[
            pb.PriceComponent(
                dimension=enum_number(_DIMENSION, c.dimension),  # type: ignore[arg-type]
                price_micros=c.price_micros,
                step_size=c.step_size,
                **_rate_fields(c.tax_rate),
            )
            for c in element.price_components
        ],
        reservation=enum_number(_RESERVATION, element.reservation),  # type: ignore[arg-type]
    )
    if element.restrictions != Restrictions():
        message.restrictions.CopyFrom(restrictions_message(element.restrictions))
    return message


def _rate_fields(rate: Fraction | None) -> dict[str, Any]:
    """In basis points where it is a whole number of them."""
    if rate is None:
        return {}
    basis_points = rate * BASIS_POINTS
    if basis_points.denominator == 1:
        return {"vat_basis_points": int(basis_points)}
    return {"tax_rate_micros": round(rate * MICROS)}


def tariff_key_from_message(checks: Checks, message: pb.GetTariffRequest) -> TariffKey:
    """Which tariff is asked for."""
    return TariffKey(
        checks.country("country_code", message.country_code, required=True),
        checks.party("party_id", message.party_id, required=True),
        _tariff_id(checks, "tariff_id", message.tariff_id),
    )
