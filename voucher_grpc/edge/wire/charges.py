"""Charges to be priced, and their bills, between messages and the domain."""

from fractions import Fraction

from voucher_grpc.domain.pricing.amounts import Amount
from voucher_grpc.domain.pricing.charge import MAX_CHARGE
from voucher_grpc.domain.pricing.charge_at_place import ChargeAtPlace, PricedCharge
from voucher_grpc.domain.pricing.engine import Category, Item, PricedPeriod
from voucher_grpc.domain.pricing.tariff import PRICED_VOLUME, Dimension, TariffType
from voucher_grpc.edge.wire.checks import MAX_OCPI_ID_CHARS, Checks, enum_number
from voucher_grpc.edge.wire.conditions import MAX_ENERGY_WH, MAX_POWER_W
from voucher_grpc.edge.wire.messages import timestamp
from voucher_grpc.money import MICROS, round_half_away
from voucher_grpc.ocpi import PlaceKey
from voucher_grpc.steps import Steps
from voucher_grpc.v1 import location_service_pb2 as pb

_TYPE = pb.TariffType.DESCRIPTOR
_DIMENSION = pb.PriceDimension.DESCRIPTOR
_LIMIT = pb.PriceLimit.DESCRIPTOR
_COST_OF = {
    Category.ENERGY: "energy_cost",
    Category.TIME: "time_cost",
    Category.PARKING: "parking_cost",
    Category.FIXED: "fixed_cost",
}
_DIMENSION_NUMBER = {dimension: enum_number(_DIMENSION, dimension) for dimension in Dimension}


def charge_from_message(checks: Checks, message: pb.PriceChargeRequest) -> ChargeAtPlace:
    """A charge at a place."""

    def ocpi_id(field: str, *, required: bool = False) -> str:
        value = getattr(message, field)
        return checks.identifier(field, value, required=required, max_chars=MAX_OCPI_ID_CHARS)

    if message.connector_id and not message.evse_uid:
        checks.wrong("evse_uid", "is missing: a connector_id needs it")
    start, end = (
        checks.instant(field, getattr(message, field)) for field in ("start_time", "end_time")
    )
    missing = [field for field in ("start_time", "end_time") if not message.HasField(field)]
    for field in missing:
        checks.wrong(field, "is missing")
    if not missing and end <= start:
        checks.wrong("end_time", "must be after start_time")
    elif not missing and end - start > MAX_CHARGE:
        checks.wrong("end_time", f"must be at most {MAX_CHARGE.days} days after start_time")
    return ChargeAtPlace(
        place=PlaceKey(
            checks.country("country_code", message.country_code, required=True),
            checks.party("party_id", message.party_id, required=True),
            ocpi_id("location_id", required=True),
            ocpi_id("evse_uid"),
            ocpi_id("connector_id"),
        ),
        start=start,
        end=end,
        energy_wh=checks.number("energy_wh", message.energy_wh, 0, MAX_ENERGY_WH),
        power_w=checks.number("power_w", message.power_w, 0, MAX_POWER_W),
        currency_code=checks.currency("currency_code", message.currency_code),
        profile=checks.choice("profile", message.profile, _TYPE, TariffType) or TariffType.REGULAR,
        tariff_id=ocpi_id("tariff_id"),
    )


def bill_message(priced: PricedCharge) -> Steps[pb.PriceChargeResponse]:
    """A priced charge as a message; a step for each period."""
    price = priced.price
    message = pb.PriceChargeResponse(
        tariff_id=priced.tariff.tariff_id,
        currency_code=price.currency_code,
        total_cost=_cost(price.total),
        limit=enum_number(_LIMIT, price.limit),  # type: ignore[arg-type]
        remarks=[pb.CostRemark(code=w.remark.value, text=w.text) for w in priced.remarks],
    )
    billed = {item.category for period in price.periods for item in period.items}
    for category, field in _COST_OF.items():
        if category in billed:
            getattr(message, field).CopyFrom(_cost(price.totals[category]))
    for period in price.periods:
        message.periods.append(_period(period))
        yield
    return message


def _period(priced: PricedPeriod) -> pb.CostPeriod:
    items = [_item(item) for item in priced.items]
    return pb.CostPeriod(start_time=timestamp(priced.period.start), items=items)


def _item(item: Item) -> pb.CostItem:
    unit = PRICED_VOLUME[item.component.dimension]
    message = pb.CostItem(
        dimension=_DIMENSION_NUMBER[item.component.dimension],  # type: ignore[arg-type]
        reservation=item.category is Category.RESERVATION,
        element_index=item.element.index,
        volume_micros=_micros(item.volume / unit),
        billed_volume_micros=_micros(item.billed_volume / unit),
        price_micros=item.component.price_micros,
        cost=_cost(item.amount),
    )
    if item.component.tax_rate is not None:
        message.tax_rate_micros = _micros(item.component.tax_rate)
    return message


def _cost(amount: Amount) -> pb.CostAmount:
    return pb.CostAmount(
        before_tax_micros=round_half_away(amount.before_tax),
        after_tax_micros=round_half_away(amount.after_tax),
    )


def _micros(value: Fraction) -> int:
    return round_half_away(value * MICROS)
