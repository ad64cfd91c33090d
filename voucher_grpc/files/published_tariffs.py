"""OCPI Tariffs of 2.1.1, 2.2.1 and 2.3.0 as operators publish them, for the pricing engine.

What is not understood is skipped by its smallest part, but never by a restriction alone: an
element without one of its restrictions would apply more widely than its operator meant.
"""

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
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
    TariffType,
)
from voucher_grpc.errors import bad_field
from voucher_grpc.files.notes import Notes, Treatment
from voucher_grpc.files.published import (
    NotUnderstood,
    choice,
    day,
    instant,
    known_keys,
    minute,
    number,
    read_last_updated,
    scaled,
    text,
)
from voucher_grpc.money import MICROS
from voucher_grpc.ocpi import Day

_RESTRICTIONS = {
    name.replace("_", ""): name
    for name in (
        *("start_time", "end_time", "start_date", "end_date", "day_of_week", "reservation"),
        *("min_kwh", "max_kwh", "min_current", "max_current", "min_power", "max_power"),
        *("min_duration", "max_duration"),
    )
}
# Of restrictions in the unit of OCPI: the name in `Restrictions`, and what it is multiplied by.
_BOUNDS = {
    "min_kwh": ("min_energy_wh", 1_000),
    "max_kwh": ("max_energy_wh", 1_000),
    "min_current": ("min_current_ma", 1_000),
    "max_current": ("max_current_ma", 1_000),
    "min_power": ("min_power_w", 1_000),
    "max_power": ("max_power_w", 1_000),
    "min_duration": ("min_duration_s", 1),
    "max_duration": ("max_duration_s", 1),
}


def read_tariff(
    value: object, notes: Notes, *, path: str = "", country_code: str = "", party_id: str = ""
) -> Tariff:
    """A tariff; `country_code` and `party_id` are of those that name no owner (OCPI 2.1.1).

    The key `default_for_country` is an addition to OCPI.

    Raises BadInput if it has no id, no currency or no list of elements.
    """
    prefix = f"{path}." if path else ""
    if not isinstance(value, Mapping):
        raise bad_field(path or "tariff", f"must be an object, not {type(value).__name__}")
    document: dict[str, Any] = {str(key): item for key, item in value.items() if item is not None}
    elements = document.get("elements")
    if not isinstance(elements, list):
        raise bad_field(f"{prefix}elements", "must be a list")
    read = [
        element
        for index, item in enumerate(elements)
        if (element := _element(item, f"{prefix}elements[{index}]", index, notes)) is not None
    ]
    whole = [
        element
        for element in read
        if isinstance(elements[element.index], Mapping)
        and len(element.price_components) == len(elements[element.index]["price_components"])
    ]
    tariff = Tariff(
        country_code=_named(document, "country_code", prefix, country_code).upper(),
        party_id=_named(document, "party_id", prefix, party_id).upper(),
        tariff_id=_required(document, "id", prefix),
        currency_code=_required(document, "currency", prefix).upper(),
        elements=tuple(read),
        skipped_elements=len(elements) - len(whole),
    )
    return replace(
        tariff,
        min_price=_limit(document, "min_price", prefix, notes),
        max_price=_limit(document, "max_price", prefix, notes),
        type=_enumerated(document, "type", TariffType, prefix, notes),
        tax_included=_enumerated(document, "tax_included", TaxIncluded, prefix, notes)
        or TaxIncluded.NO,
        start_time=_time(document, "start_date_time", prefix),
        end_time=_time(document, "end_date_time", prefix),
        default_for_country=document.get("default_for_country") is True,
        last_updated=read_last_updated(document, notes),
    )


def _required(document: Mapping[str, Any], key: str, prefix: str) -> str:
    try:
        said = text(document.get(key, ""))
    except NotUnderstood as error:
        raise bad_field(f"{prefix}{key}", str(error)) from None
    if not said:
        raise bad_field(f"{prefix}{key}", "is missing")
    return said


def _named(document: Mapping[str, Any], key: str, prefix: str, otherwise: str) -> str:
    return _required(document, key, prefix) if document.get(key) else otherwise


def _time(document: Mapping[str, Any], key: str, prefix: str) -> Any:
    """A bound of the tariff's validity; one that is not understood makes the tariff useless."""
    if not document.get(key):
        return None
    try:
        return instant(document[key])
    except NotUnderstood as error:
        raise bad_field(f"{prefix}{key}", str(error)) from None


def _enumerated(document: Mapping[str, Any], key: str, kind: Any, prefix: str, notes: Notes) -> Any:
    if not document.get(key):
        return None
    try:
        return choice(document[key], kind, f"{prefix}{key}", notes)
    except NotUnderstood as error:
        notes.skipped(f"{prefix}{key}", str(error), document[key])
        return None


def _stated_restrictions(element: Mapping[str, Any], path: str, notes: Notes) -> Any:
    """By any key that can mean nothing else: passed over, a price would apply more widely."""
    keys = [key for key in element if "restrict" in str(key).casefold() and element[key]]
    if len(keys) > 1:
        raise NotUnderstood("stand there twice")
    for key in keys:
        if key != "restrictions":
            notes.repaired(f"{path}.{key}", "read as restrictions")
        return element[key]
    return {}


def _element(value: object, path: str, index: int, notes: Notes) -> TariffElement | None:
    if not isinstance(value, Mapping) or not isinstance(value.get("price_components"), list):
        notes.skipped(path, "is no element with price_components", value)
        return None
    try:
        stated = _stated_restrictions(value, path, notes)
        restrictions, reservation = read_restrictions(stated, f"{path}.restrictions", notes)
    except NotUnderstood as error:
        notes.skipped(path, f"restrictions: {error}", value.get("restrictions"))
        return None
    components = []
    for number_, item in enumerate(value["price_components"]):
        where = f"{path}.price_components[{number_}]"
        try:
            components.append(_component(item, where, notes))
        except NotUnderstood as error:
            notes.skipped(where, str(error), item)
    if not components:
        return None
    if never_applies(restrictions):
        notes.add(f"{path}.restrictions", Treatment.KEPT, "can never apply", stated)
    return TariffElement(tuple(components), restrictions, reservation, index)


def _component(value: object, path: str, notes: Notes) -> PriceComponent:
    if not isinstance(value, Mapping):
        raise NotUnderstood("must be an object")
    if value.get("price") is None:
        raise NotUnderstood("price is missing")  # which must not come to mean free
    step = value.get("step_size")
    return PriceComponent(
        dimension=choice(value.get("type", ""), Dimension, f"{path}.type", notes),
        price_micros=scaled(value["price"], MICROS),
        tax_rate=_tax_rate(value),
        step_size=1 if step is None else max(0, scaled(step, 1)),
    )


def _tax_rate(component: Mapping[str, Any]) -> Fraction | None:
    """`vat`, or the sum of the percentages of `taxes`, as a share."""
    if component.get("vat") is not None:
        return Fraction(number(component["vat"])) / 100
    taxes = component.get("taxes")
    if not isinstance(taxes, list) or not taxes:
        return None
    rates = [t.get("percentage") for t in taxes if isinstance(t, Mapping)]
    if len(rates) < len(taxes) or any(rate is None for rate in rates):
        raise NotUnderstood("taxes must have a percentage each")
    return sum((Fraction(number(rate)) for rate in rates), Fraction(0)) / 100


def read_restrictions(
    value: object, path: str, notes: Notes
) -> tuple[Restrictions, Reservation | None]:
    """OCPI TariffRestrictions. Raises NotUnderstood if anything in them is not."""
    if not isinstance(value, Mapping):
        raise NotUnderstood("must be an object")
    stated = known_keys(value, _RESTRICTIONS, path, notes)
    found: dict[str, Any] = {}
    for key, (name, scale) in _BOUNDS.items():
        if key in stated:
            found[name] = scaled(stated[key], scale)
    for key, name in (("start_time", "start_minute"), ("end_time", "end_minute")):
        if key in stated:
            found[name] = minute(stated[key], f"{path}.{key}", notes)
    for key in ("start_date", "end_date"):
        if key in stated:
            found[key] = day(stated[key], f"{path}.{key}", notes)
    days = stated.get("day_of_week", [])
    if not isinstance(days, list):
        raise NotUnderstood("day_of_week must be a list")
    found["day_of_week"] = frozenset(
        choice(item, Day, f"{path}.day_of_week[{index}]", notes) for index, item in enumerate(days)
    )
    reservation = stated.get("reservation")
    return Restrictions(**found), reservation and choice(
        reservation, Reservation, f"{path}.reservation", notes
    )


def never_applies(restrictions: Restrictions) -> bool:
    """Whether no charge can be within the restrictions."""
    r = restrictions
    bounds = (
        (r.min_energy_wh, r.max_energy_wh),
        (r.min_duration_s, r.max_duration_s),
        (r.min_power_w, r.max_power_w),
        (r.min_current_ma, r.max_current_ma),
    )
    dates = r.start_date is not None and r.end_date is not None and r.start_date >= r.end_date
    return dates or any(high is not None and high <= (low or 0) for low, high in bounds)


def _limit(document: Mapping[str, Any], key: str, prefix: str, notes: Notes) -> PriceLimit | None:
    """OCPI 2.2.1 Price has excl_vat and incl_vat, 2.3.0 before_taxes and taxes."""
    value = document.get(key)
    if value is None:
        return None
    path = f"{prefix}{key}"
    try:
        if not isinstance(value, Mapping):
            notes.repaired(path, "read as before tax", value)
            return PriceLimit(scaled(value, MICROS))
        before = _first(value, "excl_vat", "before_taxes")
        after = _first(value, "incl_vat", "after_taxes")
        if after is None and before is not None and value.get("taxes"):
            after = before + sum(_tax(tax, before) for tax in value["taxes"])
    except NotUnderstood as error:
        notes.skipped(path, str(error), value)
        return None
    if before is None and after is None:
        notes.skipped(path, "has neither excl_vat nor before_taxes", value)
        return None
    return PriceLimit(before, after)


def _first(value: Mapping[str, Any], *keys: str) -> int | None:
    return next((scaled(value[key], MICROS) for key in keys if value.get(key) is not None), None)


def _tax(value: object, before_micros: int) -> int:
    if not isinstance(value, Mapping):
        raise NotUnderstood("taxes must be objects")
    if value.get("amount") is not None:
        return scaled(value["amount"], MICROS)
    percentage: Decimal = number(value.get("percentage"))
    return round(Fraction(percentage) * before_micros / 100)
