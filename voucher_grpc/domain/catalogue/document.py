"""A product as a document of plain values: the catalogue file and the stored revision.

One format for both, so that what an operator exports is what is stored. Energy is
in kWh and money in units, as decimals in text, because people write the file;
nothing is a binary float, so nothing is rounded on the way. The keys are listed
in docs/catalogue-file.md. An unknown or ill-typed key is refused by name.
"""

from collections.abc import Callable
from decimal import Decimal

from voucher_grpc.domain.catalogue.conditions_document import (
    conditions_from_document,
    conditions_to_document,
)
from voucher_grpc.domain.catalogue.product import (
    FIRST_USE_WITHIN_DAYS,
    Benefit,
    EnergyBundle,
    EnergyPrice,
    FlatPeriod,
    PercentageOff,
    PersonalLimit,
    SessionBundle,
    Terms,
    Validity,
    ValidityStart,
)
from voucher_grpc.domain.catalogue.values import (
    WH_PER_KWH,
    Document,
    Reader,
    choice_from_value,
    fail,
    instant_from_text,
    iso_text,
    kilo_text,
    micro_precise,
    money_from_text,
    number_text,
    without_empty,
)
from voucher_grpc.money import decimal_from_micros, micros_from_decimal


def _energy_bundle(reader: Reader) -> EnergyBundle:
    return EnergyBundle(reader.scaled("energy_bundle_kwh", WH_PER_KWH) or 0)


def _session_bundle(reader: Reader) -> SessionBundle:
    return SessionBundle(
        reader.integer("session_bundle") or 0,
        reader.scaled("max_energy_kwh_per_session", WH_PER_KWH) or 0,
    )


def _energy_price(reader: Reader) -> EnergyPrice:
    path = reader.at("energy_price_per_kwh")
    price = micro_precise(reader.take("energy_price_per_kwh"), path)
    return EnergyPrice(micros_from_decimal(price))


def _percentage_off(reader: Reader) -> PercentageOff:
    return PercentageOff(reader.scaled("percentage_off", 100) or 0)


def _flat_period(reader: Reader) -> FlatPeriod:
    return FlatPeriod(reader.scaled("flat_fair_use_kwh", WH_PER_KWH) or 0)


_BENEFITS: dict[str, Callable[[Reader], Benefit]] = {
    "energy_bundle_kwh": _energy_bundle,
    "session_bundle": _session_bundle,
    "energy_price_per_kwh": _energy_price,
    "percentage_off": _percentage_off,
    "flat_fair_use_kwh": _flat_period,
}


def _benefit(value: object, path: str) -> Benefit:
    reader = Reader(value, path)
    kinds = [kind for kind in _BENEFITS if reader.has(kind)]
    if len(kinds) != 1:
        fail(path, f"must have exactly one of {', '.join(_BENEFITS)}")
    benefit = _BENEFITS[kinds[0]](reader)
    reader.end()
    return benefit


def _validity(value: object, path: str) -> Validity:
    reader = Reader(value, path)
    start = reader.text("start")
    days, months = reader.integer("days"), reader.integer("months")
    # What is dropped on the way to the service cannot be refused there.
    if (days is None) == (months is None):
        fail(path, "must have days or months, and not both")
    if 0 in (days, months):
        fail(path, "must be at least one day or month long")
    if reader.has("first_use_within_days") and start != ValidityStart.FIRST_USE:
        fail(reader.at("first_use_within_days"), "goes only with start: FIRST_USE")
    validity = Validity(
        days=days or 0,
        months=months or 0,
        start=choice_from_value(start, ValidityStart, reader.at("start"))
        if start
        else ValidityStart.PURCHASE,
        start_time=instant_from_text(reader.take("start_time"), reader.at("start_time")),
        first_use_within_days=reader.integer("first_use_within_days") or FIRST_USE_WITHIN_DAYS,
    )
    reader.end()
    return validity


def _personal_limit(value: object, path: str) -> PersonalLimit | None:
    if value is None:
        return None
    reader = Reader(value, path)
    limit = PersonalLimit(reader.integer("max_purchases") or 0, reader.integer("rolling_days") or 0)
    reader.end()
    return limit


def terms_from_document(value: object, path: str = "") -> Terms:
    """A product's terms from a document.

    Raises BadInput with the path of the first key that is missing, unknown or
    ill-typed. Bounds are judged by the service (`voucher_grpc.edge.wire.products`).
    """
    reader = Reader(value, path)
    terms = Terms(
        product_id=reader.text("product_id", required=True),
        display_name=reader.text("display_name", required=True),
        description=reader.text("description"),
        price=money_from_text(reader.take("price", required=True), reader.at("price")),
        tax_rate_basis_points=reader.scaled("tax_rate_percent", 100) or 0,
        benefit=_benefit(reader.take("benefit", required=True), reader.at("benefit")),
        conditions=conditions_from_document(reader.take("conditions"), reader.at("conditions")),
        validity=_validity(reader.take("validity", required=True), reader.at("validity")),
        time_zone=reader.text("time_zone", required=True),
        stock=reader.integer("stock"),
        personal_limit=_personal_limit(reader.take("personal_limit"), reader.at("personal_limit")),
        sale_start_time=instant_from_text(
            reader.take("sale_start_time"), reader.at("sale_start_time")
        ),
        sale_end_time=instant_from_text(reader.take("sale_end_time"), reader.at("sale_end_time")),
        default_offer=reader.boolean("default_offer"),
        withdrawal_days=reader.integer("withdrawal_days") or 0,
    )
    reader.end()
    return terms


def _benefit_document(benefit: Benefit) -> Document:
    match benefit:
        case EnergyBundle(energy_wh):
            return {"energy_bundle_kwh": kilo_text(energy_wh)}
        case SessionBundle(sessions, max_energy_wh):
            document: Document = {"session_bundle": sessions}
            if max_energy_wh:
                document["max_energy_kwh_per_session"] = kilo_text(max_energy_wh)
            return document
        case EnergyPrice(price_micros):
            return {"energy_price_per_kwh": f"{decimal_from_micros(price_micros):f}"}
        case PercentageOff(basis_points):
            return {"percentage_off": number_text(Decimal(basis_points).scaleb(-2))}
        case FlatPeriod(energy_wh):
            return {"flat_fair_use_kwh": kilo_text(energy_wh)}


def _validity_document(validity: Validity) -> Document:
    first_use = validity.start is ValidityStart.FIRST_USE
    return without_empty(
        {
            "days": validity.days or None,
            "months": validity.months or None,
            "start": None if validity.start is ValidityStart.PURCHASE else validity.start.value,
            "start_time": iso_text(validity.start_time),
            "first_use_within_days": validity.first_use_within_days if first_use else None,
        }
    )


def terms_to_document(terms: Terms) -> Document:
    """The document of a product's terms; `terms_from_document` reads it back unchanged."""
    limit = terms.personal_limit
    document = without_empty(
        {
            "product_id": terms.product_id,
            "display_name": terms.display_name,
            "description": terms.description,
            "price": str(terms.price),
            "tax_rate_percent": (
                number_text(Decimal(terms.tax_rate_basis_points).scaleb(-2))
                if terms.tax_rate_basis_points
                else None
            ),
            "benefit": _benefit_document(terms.benefit),
            "conditions": conditions_to_document(terms.conditions),
            "validity": _validity_document(terms.validity),
            "time_zone": terms.time_zone,
            "personal_limit": limit
            and without_empty(
                {"max_purchases": limit.max_purchases, "rolling_days": limit.rolling_days or None}
            ),
            "sale_start_time": iso_text(terms.sale_start_time),
            "sale_end_time": iso_text(terms.sale_end_time),
            "default_offer": terms.default_offer,
            "withdrawal_days": terms.withdrawal_days or None,
        }
    )
    if terms.stock is not None:  # a stock of 0 is something else than none
        document["stock"] = terms.stock
    return document
