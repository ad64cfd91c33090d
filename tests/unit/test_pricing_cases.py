"""The published cases with their costs, read from the folder of shared data."""

import json
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from voucher_grpc.domain.pricing.amounts import Amount
from voucher_grpc.domain.pricing.charge import charge_between, with_mean_power
from voucher_grpc.domain.pricing.engine import Category, price_periods
from voucher_grpc.domain.pricing.split import cuts_of, split
from voucher_grpc.files.notes import Notes
from voucher_grpc.files.published_cdrs import read_charge
from voucher_grpc.files.published_tariffs import read_tariff

# docs/pricing.md, "A restriction that is not understood".
OTHERWISE = {"v221/misspelled_field/cdr"}
# CDRs have no tolerance of their own: a cent.
CENT = Fraction(1, 100)
TOTALS = {
    "total_energy_cost": Category.ENERGY,
    "total_time_cost": Category.TIME,
    "total_fixed_cost": Category.FIXED,
    "total_parking_cost": Category.PARKING,
    "total_idle_cost": Category.PARKING,
}


def cases(folder: Path, file: str) -> Iterator[dict[str, Any]]:
    with (folder / "ocpi_pricing" / file).open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line, parse_float=Decimal)


def differs(amount: Amount, expected: Any, tolerance: Fraction) -> bool:
    """None is nothing; an amount with tax that is None is not compared."""
    stated = expected or {"excl_vat": 0, "incl_vat": 0}
    pairs = [(amount.before_tax, stated.get("excl_vat") or 0)]
    if stated.get("incl_vat") is not None:
        pairs.append((amount.after_tax, stated["incl_vat"]))
    return any(abs(had / 1_000_000 - Fraction(want)) > tolerance for had, want in pairs)


def test_sessions_cost_what_another_implementation_says(shared_data: Path) -> None:
    """Charges given by start, end, energy and power."""
    wrong, number = {}, 0
    for case in cases(shared_data, "sessions.jsonl"):
        number += 1
        of, zone = read_tariff(case["tariff"], Notes()), ZoneInfo(case["time_zone"])
        wh, w, ma = (Fraction(case[k]) * 1_000 for k in ("requested_kwh", "power_kw", "current_a"))
        start, end = (datetime.fromisoformat(case[key]) for key in ("start", "end"))
        charge = charge_between(start, end, wh, w, ma)
        price = price_periods(of, split(charge, cuts_of(of), zone), zone)
        had = {key: price.totals[category] for key, category in TOTALS.items()}
        had["total_cost"] = price.total
        expected, tolerance = case["expected"], Fraction(case["tolerance"])
        bad = [k for k in had.keys() & expected.keys() if differs(had[k], expected[k], tolerance)]
        if bad:
            wrong[case["case"]] = bad
    assert ({}, 68) == (wrong, number)


def test_cdrs_cost_what_another_implementation_says(shared_data: Path) -> None:
    """Charging periods, priced as they are."""
    wrong, number = {}, 0
    for case in cases(shared_data, "cdrs.jsonl"):
        number += 1
        charge = read_charge(case["cdr"], Notes())
        of = read_tariff(case["tariff"] or charge.tariffs[0], Notes())
        price = price_periods(of, with_mean_power(charge.periods), ZoneInfo(case["time_zone"]))
        had = {key: price.totals[category] for key, category in TOTALS.items()}
        sign = -1 if charge.credit else 1
        had["total_cost"] = Amount(sign * price.total.before_tax, sign * price.total.after_tax)
        expected = case["expected"]
        bad = [k for k in had.keys() & expected.keys() if differs(had[k], expected[k], CENT)]
        if bad:
            wrong[case["case"]] = bad
    assert (OTHERWISE, 26) == (set(wrong), number)
