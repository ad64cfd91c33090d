"""Tariffs as they are stored: OCPI's form, numbers as text, so that they stay exact."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

from voucher_grpc.domain.catalogue.conditions_document import (
    restrictions_from_document,
    restrictions_to_document,
)
from voucher_grpc.domain.catalogue.values import (
    Document,
    instant_from_text,
    iso_text,
    without_empty,
)
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
from voucher_grpc.money import MICROS
from voucher_grpc.steps import Steps

_RESERVATION = "reservation"


def tariff_from_document(document: Mapping[str, Any]) -> Tariff:
    """A stored tariff."""
    elements = tuple(tariff_elements_from_document(document))
    return replace(tariff_head_from_document(document), elements=elements)


def tariff_head_from_document(document: Mapping[str, Any]) -> Tariff:
    """A stored tariff without its elements."""
    kind = document.get("type")
    return Tariff(
        country_code=document["country_code"],
        party_id=document["party_id"],
        tariff_id=document["id"],
        currency_code=document["currency"],
        elements=(),
        min_price=_limit(document.get("min_price")),
        max_price=_limit(document.get("max_price")),
        type=TariffType(kind) if kind else None,
        tax_included=TaxIncluded(document.get("tax_included", TaxIncluded.NO)),
        start_time=_instant(document, "start_date_time"),
        end_time=_instant(document, "end_date_time"),
        skipped_elements=document.get("skipped_elements", 0),
        default_for_country=bool(document.get("default_for_country")),
        last_updated=_instant(document, "last_updated"),
    )


def tariff_elements_from_document(document: Mapping[str, Any]) -> Iterator[TariffElement]:
    """The elements of a stored tariff, each read when it is its turn."""
    for index, element in enumerate(document.get("elements", ())):
        restrictions = dict(element.get("restrictions", {}))
        reservation = restrictions.pop(_RESERVATION, None)
        yield TariffElement(
            tuple(map(_component, element["price_components"])),
            restrictions_from_document(restrictions, f"elements[{index}].restrictions"),
            Reservation(reservation) if reservation else None,
            index,
        )


def _component(document: Mapping[str, Any]) -> PriceComponent:
    vat = document.get("vat")
    return PriceComponent(
        dimension=Dimension(document["type"]),
        price_micros=_micros(document["price"]),
        tax_rate=None if vat is None else Fraction(vat) / 100,
        step_size=document["step_size"],
    )


def _limit(document: Mapping[str, Any] | None) -> PriceLimit | None:
    if document is None:
        return None
    before, after = document.get("excl_vat"), document.get("incl_vat")
    return PriceLimit(
        None if before is None else _micros(before), None if after is None else _micros(after)
    )


def _micros(text: str) -> int:
    return int(Decimal(text) * MICROS)


def _instant(document: Mapping[str, Any], key: str) -> datetime | None:
    return instant_from_text(document.get(key), key)


def tariff_to_text(tariff: Tariff) -> Steps[str]:
    """The document that `tariff_from_document` reads, as JSON; a step for each element."""
    elements = []
    for element in tariff.elements:
        elements.append(json.dumps(_element_document(element)))
        yield
    head = json.dumps(_tariff_head(tariff))
    return f'{head[:-1]}, "elements": [{", ".join(elements)}]}}' if elements else head


def _tariff_head(tariff: Tariff) -> Document:
    included = tariff.tax_included
    return without_empty(
        {
            "country_code": tariff.country_code,
            "party_id": tariff.party_id,
            "id": tariff.tariff_id,
            "currency": tariff.currency_code,
            "min_price": _limit_document(tariff.min_price),
            "max_price": _limit_document(tariff.max_price),
            "type": tariff.type and tariff.type.value,
            "tax_included": None if included is TaxIncluded.NO else included.value,
            "start_date_time": iso_text(tariff.start_time),
            "end_date_time": iso_text(tariff.end_time),
            "skipped_elements": tariff.skipped_elements or None,
            "default_for_country": tariff.default_for_country,
            "last_updated": iso_text(tariff.last_updated),
        }
    )


def _element_document(element: TariffElement) -> Document:
    restrictions = restrictions_to_document(element.restrictions)
    if element.reservation is not None:
        restrictions[_RESERVATION] = element.reservation.value
    return without_empty(
        {
            "price_components": [
                without_empty(
                    {
                        "type": c.dimension.value,
                        "price": _scaled_text(c.price_micros, 6),
                        "vat": None if c.tax_rate is None else _percent(c.tax_rate),
                        "step_size": c.step_size,
                    }
                )
                for c in element.price_components
            ],
            "restrictions": restrictions,
        }
    )


def _limit_document(limit: PriceLimit | None) -> Document | None:
    if limit is None:
        return None
    before, after = limit.before_tax_micros, limit.after_tax_micros
    return {
        key: _scaled_text(micros, 6)
        for key, micros in (("excl_vat", before), ("incl_vat", after))
        if micros is not None
    }


def _percent(rate: Fraction) -> str:
    """A rate of whole millionths."""
    return _scaled_text(round(rate * MICROS), 4)


def _scaled_text(value: int, places: int) -> str:
    return f"{Decimal(value).scaleb(-places).normalize():f}"
