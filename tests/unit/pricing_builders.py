"""Tariffs and charges for tests of pricing, written as OCPI has them."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

from voucher_grpc.domain.pricing.charge import Charge, charge_between, with_mean_power
from voucher_grpc.domain.pricing.engine import Category, ChargePrice, price_periods
from voucher_grpc.domain.pricing.split import cuts_of, split
from voucher_grpc.domain.pricing.tariff import Tariff
from voucher_grpc.files.notes import Notes, Treatment
from voucher_grpc.files.published_cdrs import read_charge
from voucher_grpc.files.published_tariffs import read_tariff

OSLO = ZoneInfo("Europe/Oslo")
# A Tuesday, 10:00 in Oslo.
START = datetime(2026, 6, 2, 8, tzinfo=UTC)


def component(dimension: str, price: object, step: int = 0, **more: object) -> dict[str, object]:
    """A PriceComponent; without a step nothing is rounded up."""
    return {"type": dimension, "price": price, "step_size": step, **more}


def element(*components: Mapping[str, object], **restrictions: object) -> dict[str, object]:
    """A TariffElement."""
    return {"price_components": list(components), "restrictions": restrictions}


def published(*elements: Mapping[str, object], **more: object) -> dict[str, Any]:
    """A tariff's JSON."""
    head = {"country_code": "NO", "party_id": "TST", "id": "T", "currency": "NOK"}
    return {**head, "elements": list(elements), **more}


def tariff(*elements: Mapping[str, object], **more: object) -> Tariff:
    """A tariff that is understood in full."""
    notes = Notes()
    read = read_tariff(published(*elements, **more), notes)
    assert {Treatment.KEPT} >= {note.treatment for note in notes.entries}
    return read


def charge(
    minutes: int, kwh: object, kw: object = None, start: datetime = START, amperes: object = None
) -> Charge:
    """So many minutes at the connector, as long as needed at that power."""
    return charge_between(
        start,
        start + timedelta(minutes=minutes),
        Fraction(str(kwh)) * 1_000,
        None if kw is None else Fraction(str(kw)) * 1_000,
        None if amperes is None else Fraction(str(amperes)) * 1_000,
    )


def priced(
    of: Tariff, what: Charge, zone: ZoneInfo = OSLO, rate: Fraction | None = None
) -> ChargePrice:
    """A charge that is split."""
    return price_periods(of, split(what, cuts_of(of), zone), zone, rate)


def total(price: ChargePrice) -> Any:
    """Before tax, in units."""
    return price.total.before_tax / 1_000_000


def with_tax(price: ChargePrice) -> Any:
    """After tax, in units."""
    return price.total.after_tax / 1_000_000


def cost(price: ChargePrice, category: Category) -> Any:
    """Of one category before tax, in units."""
    return price.totals[category].before_tax / 1_000_000


def cdr(*periods: tuple[int, Mapping[str, object]], minutes: int = 60) -> dict[str, Any]:
    """A CDR; each period has the minute in which it begins and its dimensions."""
    return {
        "start_date_time": START.isoformat(),
        "end_date_time": (START + timedelta(minutes=minutes)).isoformat(),
        "currency": "NOK",
        "charging_periods": [
            {
                "start_date_time": (START + timedelta(minutes=minute)).isoformat(),
                "dimensions": [{"type": k, "volume": v} for k, v in dimensions.items()],
            }
            for minute, dimensions in periods
        ],
    }


def priced_cdr(of: Tariff, document: Mapping[str, object]) -> ChargePrice:
    """The periods of a CDR as they are."""
    read = read_charge(document, Notes())
    return price_periods(of, with_mean_power(read.periods), OSLO)


def texts(notes: Notes) -> Sequence[str]:
    """Notes in words."""
    return [str(note) for note in notes.entries]
