"""Products between messages and the domain, and the bounds of what an operator may set."""

from collections.abc import Callable

from voucher_grpc.domain.catalogue.product import (
    FIRST_USE_WITHIN_DAYS,
    Benefit,
    EnergyBundle,
    EnergyPrice,
    FlatPeriod,
    PercentageOff,
    PersonalLimit,
    Product,
    SessionBundle,
    Terms,
    Validity,
    ValidityStart,
)
from voucher_grpc.edge.wire.checks import Checks, enum_number
from voucher_grpc.edge.wire.conditions import (
    MAX_ENERGY_WH,
    conditions_from_message,
    conditions_message,
)
from voucher_grpc.edge.wire.messages import money_message, timestamp
from voucher_grpc.money import MICROS, Money
from voucher_grpc.v1 import product_pb2 as pb

MAX_NAME_CHARS = 100
MAX_DESCRIPTION_CHARS = 1000
MAX_STOCK = 1_000_000_000
MAX_SESSIONS = 10_000
MAX_DAYS = 3_660
MAX_MONTHS = 120
MAX_PURCHASES = 1_000
MAX_WITHDRAWAL_DAYS = 366
MAX_PRICE_PER_KWH_MICROS = 10_000 * MICROS

# The smallest payable unit of a currency in micro-units; None if there is no such currency.
PayableUnit = Callable[[str], int | None]

_STATE = pb.ProductState.DESCRIPTOR
_START = pb.ValidityStart.DESCRIPTOR


def terms_from_message(
    checks: Checks, field: str, message: pb.Product, payable_unit_micros: PayableUnit
) -> Terms:
    """What an operator sent, checked; output-only fields are passed over."""
    price = _price(checks, f"{field}.price", message, payable_unit_micros)
    start = checks.optional_instant(message, "sale_start_time", f"{field}.")
    end = checks.optional_instant(message, "sale_end_time", f"{field}.")
    if start is not None and end is not None and start >= end:
        checks.wrong(f"{field}.sale_end_time", "must be after sale_start_time")
    return Terms(
        product_id=checks.product_id(f"{field}.product_id", message.product_id),
        display_name=checks.text(
            f"{field}.display_name", message.display_name, MAX_NAME_CHARS, required=True
        ),
        description=checks.text(f"{field}.description", message.description, MAX_DESCRIPTION_CHARS),
        price=price,
        tax_rate_basis_points=checks.number(
            f"{field}.tax_rate_basis_points", message.tax_rate_basis_points, 0, 10_000
        ),
        benefit=_benefit(checks, f"{field}.benefit", message.benefit, price),
        conditions=conditions_from_message(checks, f"{field}.conditions", message.conditions),
        validity=_validity(checks, f"{field}.validity", message),
        time_zone=checks.time_zone(f"{field}.time_zone", message.time_zone, required=True),
        stock=checks.optional_number(message, "stock", f"{field}.", 0, MAX_STOCK),
        personal_limit=_limit(checks, f"{field}.personal_limit", message),
        sale_start_time=start,
        sale_end_time=end,
        default_offer=message.default_offer,
        withdrawal_days=checks.number(
            f"{field}.withdrawal.days", message.withdrawal.days, 0, MAX_WITHDRAWAL_DAYS
        ),
    )


def _price(
    checks: Checks, field: str, message: pb.Product, payable_unit_micros: PayableUnit
) -> Money:
    if not message.HasField("price"):
        checks.wrong(field, "is missing")
        return Money(0, "XXX")
    price = checks.money(field, message.price)
    unit = payable_unit_micros(price.currency_code)
    if unit is None:
        checks.wrong(f"{field}.currency_code", "must be a currency of ISO 4217")
    elif price.micros % unit:
        checks.wrong(field, f"must be a multiple of {Money(unit, price.currency_code)}")
    return price


def _benefit(checks: Checks, field: str, message: pb.Benefit, price: Money) -> Benefit:
    kind = message.WhichOneof("benefit")
    where = f"{field}.{kind}"
    if kind == "energy_bundle":
        energy = message.energy_bundle.energy_wh
        return EnergyBundle(checks.number(f"{where}.energy_wh", energy, 1, MAX_ENERGY_WH))
    if kind == "session_bundle":
        bundle = message.session_bundle
        cap = bundle.max_energy_wh_per_session
        return SessionBundle(
            checks.number(f"{where}.sessions", bundle.sessions, 1, MAX_SESSIONS),
            checks.number(f"{where}.max_energy_wh_per_session", cap, 0, MAX_ENERGY_WH),
        )
    if kind == "energy_price":
        where = f"{where}.price_per_kwh"
        per_kwh = checks.money(
            where, message.energy_price.price_per_kwh, max_micros=MAX_PRICE_PER_KWH_MICROS
        )
        if per_kwh.currency_code != price.currency_code:
            checks.wrong(f"{where}.currency_code", "must be the currency of the product's price")
        return EnergyPrice(per_kwh.micros)
    if kind == "percentage_off":
        points = message.percentage_off.basis_points
        return PercentageOff(checks.number(f"{where}.basis_points", points, 1, 10_000))
    if kind == "flat_period":
        cap = message.flat_period.fair_use_energy_wh
        return FlatPeriod(checks.number(f"{where}.fair_use_energy_wh", cap, 1, MAX_ENERGY_WH))
    checks.wrong(field, "is missing: set exactly one")
    return EnergyBundle(1)


def _validity(checks: Checks, field: str, product: pb.Product) -> Validity:
    message = product.validity
    length = message.WhichOneof("length")
    days = months = 0
    if length == "days":
        days = checks.number(f"{field}.days", message.days, 1, MAX_DAYS)
    elif length == "months":
        months = checks.number(f"{field}.months", message.months, 1, MAX_MONTHS)
    else:
        checks.wrong(field, "needs days or months")
    start = checks.choice(f"{field}.start", message.start, _START, ValidityStart)
    start = start or ValidityStart.PURCHASE
    start_time = checks.optional_instant(message, "start_time", f"{field}.")
    if (start is ValidityStart.AT) != (start_time is not None):
        checks.wrong(f"{field}.start_time", "goes with VALIDITY_START_AT, and only with it")
    within = checks.number(
        f"{field}.first_use_within_days", message.first_use_within_days, 0, MAX_DAYS
    )
    if within and start is not ValidityStart.FIRST_USE:
        checks.wrong(f"{field}.first_use_within_days", "goes only with VALIDITY_START_FIRST_USE")
    return Validity(days, months, start, start_time, within or FIRST_USE_WITHIN_DAYS)


def _limit(checks: Checks, field: str, product: pb.Product) -> PersonalLimit | None:
    if not product.HasField("personal_limit"):
        return None
    message = product.personal_limit
    return PersonalLimit(
        checks.number(f"{field}.max_purchases", message.max_purchases, 1, MAX_PURCHASES),
        checks.number(f"{field}.rolling_days", message.rolling_days, 0, MAX_DAYS),
    )


def benefit_message(benefit: Benefit, currency_code: str) -> pb.Benefit:
    """A benefit as a message."""
    match benefit:
        case EnergyBundle(energy_wh):
            return pb.Benefit(energy_bundle=pb.EnergyBundle(energy_wh=energy_wh))
        case SessionBundle(sessions, cap):
            bundle = pb.SessionBundle(sessions=sessions, max_energy_wh_per_session=cap)
            return pb.Benefit(session_bundle=bundle)
        case EnergyPrice(price_micros):
            price = money_message(Money(price_micros, currency_code))
            return pb.Benefit(energy_price=pb.EnergyPrice(price_per_kwh=price))
        case PercentageOff(basis_points):
            return pb.Benefit(percentage_off=pb.PercentageOff(basis_points=basis_points))
        case FlatPeriod(energy_wh):
            return pb.Benefit(flat_period=pb.FlatPeriod(fair_use_energy_wh=energy_wh))


def validity_message(validity: Validity) -> pb.Validity:
    """A validity as a message."""
    message = pb.Validity(start=enum_number(_START, validity.start))  # type: ignore[arg-type]
    if validity.days:
        message.days = validity.days
    else:
        message.months = validity.months
    if validity.start_time is not None:
        message.start_time.CopyFrom(timestamp(validity.start_time))
    if validity.start is ValidityStart.FIRST_USE:
        message.first_use_within_days = validity.first_use_within_days
    return message


def withdrawal_message(terms: Terms) -> pb.WithdrawalTerms | None:
    """The terms of withdrawal as a message; None if there are none."""
    return pb.WithdrawalTerms(days=terms.withdrawal_days) if terms.withdrawal_days else None


def terms_message(terms: Terms) -> pb.Product:
    """Terms as a message, without what only the service sets."""
    message = pb.Product(
        product_id=terms.product_id,
        display_name=terms.display_name,
        description=terms.description,
        price=money_message(terms.price),
        tax_rate_basis_points=terms.tax_rate_basis_points,
        benefit=benefit_message(terms.benefit, terms.price.currency_code),
        conditions=conditions_message(terms.conditions),
        validity=validity_message(terms.validity),
        time_zone=terms.time_zone,
        stock=terms.stock,
        default_offer=terms.default_offer,
        withdrawal=withdrawal_message(terms),
    )
    if terms.personal_limit is not None:
        message.personal_limit.max_purchases = terms.personal_limit.max_purchases
        message.personal_limit.rolling_days = terms.personal_limit.rolling_days
    if terms.sale_start_time is not None:
        message.sale_start_time.CopyFrom(timestamp(terms.sale_start_time))
    if terms.sale_end_time is not None:
        message.sale_end_time.CopyFrom(timestamp(terms.sale_end_time))
    return message


def product_message(product: Product) -> pb.Product:
    """A product as the catalogue keeps it."""
    message = terms_message(product.terms)
    message.revision = product.revision
    message.etag = product.etag
    message.state = enum_number(_STATE, product.state)  # type: ignore[assignment]
    message.revision_create_time.CopyFrom(timestamp(product.revision_create_time))
    message.revision_created_by = product.revision_created_by
    message.sold = product.sold
    return message
