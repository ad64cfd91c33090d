"""Pairs of a tariff and a CDR, generated: each feature of OCPI in at least a tenth of them."""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from voucher_grpc.domain.pricing.charge import Period, Quantity, charge_between
from voucher_grpc.domain.pricing.split import cuts_of, split
from voucher_grpc.files.notes import Notes
from voucher_grpc.files.published_tariffs import read_tariff

ZONE = "Europe/Amsterdam"
FEATURES = ("tiers", "steps", "limits", "windows", "dates", "power", "parking", "tax")
# How often each is asked for; a part of what is asked for has no effect.
_SHARE = 0.4
_DAYS = ("MONDAY", "TUESDAY", "WEDNESDAY", "THURSDAY", "FRIDAY", "SATURDAY", "SUNDAY")
# Dates around both clock changes of 2025 among them.
_STARTS = ("2025-03-29", "2025-06-14", "2025-10-25", "2025-12-31")


class Pair(NamedTuple):
    """Both as JSON documents, and the features that they have."""

    tariff: dict[str, Any]
    cdr: dict[str, Any]
    features: frozenset[str]


def pairs(count: int, seed: int) -> Iterator[Pair]:
    """The same for the same seed."""
    for number in range(count):
        yield _pair(random.Random(f"{seed}/{number}"))  # noqa: S311 - not for secrets


def _pair(rng: random.Random) -> Pair:
    features = frozenset(f for f in FEATURES if rng.random() < _SHARE)
    tariff = _tariff(rng, features)
    return Pair(tariff, _cdr(rng, features, tariff), features)


def _tariff(rng: random.Random, features: frozenset[str]) -> dict[str, Any]:
    elements = [_element(rng, features) for _ in range(rng.randint(1, 4))]
    if rng.random() < 0.7:
        elements.append({"price_components": _components(rng, features)})
    document: dict[str, Any] = {
        "country_code": "NL",
        "party_id": "TST",
        "id": "T",
        "currency": "EUR",
        "elements": elements,
        "last_updated": "2025-01-01T00:00:00Z",
    }
    if "limits" in features:
        for key, low, high in (("min_price", 1, 12), ("max_price", 3, 30)):
            if rng.random() < 0.7:
                excl = rng.randint(low, high)
                document[key] = {"excl_vat": excl}
                if rng.random() < 0.5:
                    document[key]["incl_vat"] = round(excl * 1.21, 2)
    return document


def _components(rng: random.Random, features: frozenset[str]) -> list[dict[str, Any]]:
    kinds = ["ENERGY", "TIME", "FLAT", *(["PARKING_TIME"] * 2 if "parking" in features else [])]
    chosen = sorted({rng.choice(kinds) for _ in range(rng.randint(1, 3))})
    return [_component(rng, features, kind) for kind in chosen]


def _component(rng: random.Random, features: frozenset[str], kind: str) -> dict[str, Any]:
    steps = {"ENERGY": (1, 100, 1_000, 5_000), "FLAT": (1,)}.get(kind, (1, 60, 300, 900))
    component: dict[str, Any] = {
        "type": kind,
        "price": rng.randint(0, 900) / 1_000 if kind == "ENERGY" else rng.randint(0, 120) / 10,
        "step_size": rng.choice(steps) if "steps" in features else 1,
    }
    if "tax" in features:
        component["vat"] = rng.choice((0, 9, 21))
    return component


def _element(rng: random.Random, features: frozenset[str]) -> dict[str, Any]:
    asked: dict[str, Any] = {}
    if "windows" in features:
        asked["start_time"], asked["end_time"] = (
            f"{rng.randint(0, 23):02d}:{rng.choice((0, 30)):02d}" for _ in "12"
        )
        if rng.random() < 0.4:
            asked["day_of_week"] = sorted(rng.sample(_DAYS, rng.randint(1, 6)))
    if "dates" in features:
        day = datetime.fromisoformat(rng.choice(_STARTS)) + timedelta(days=rng.randint(-1, 1))
        asked[rng.choice(("start_date", "end_date"))] = day.date().isoformat()
    if "tiers" in features:
        name, unit = rng.choice((("kwh", 1), ("duration", 60)))
        low = rng.randint(0, 40)
        asked[f"min_{name}"] = low * unit
        if rng.random() < 0.5:
            asked[f"max_{name}"] = (low + rng.randint(1, 60)) * unit
    if "power" in features:
        asked[rng.choice(("min_power", "max_power"))] = rng.choice((11, 30, 60))
    return {"price_components": _components(rng, features), "restrictions": asked}


def _cdr(rng: random.Random, features: frozenset[str], tariff: dict[str, Any]) -> dict[str, Any]:
    """A charge at 60 or 30 kW in whole minutes, cut where the tariff's prices change."""
    start = datetime.fromisoformat(rng.choice(_STARTS)).replace(tzinfo=UTC)
    start += timedelta(minutes=rng.randint(0, 2_880))
    charging, parking = rng.randint(2, 90), rng.randint(1, 240) if "parking" in features else 0
    power_w = rng.choice((30_000, 60_000))
    end = start + timedelta(minutes=charging + parking)
    charge = charge_between(start, end, Fraction(power_w * charging, 60), Fraction(power_w))
    periods = split(charge, cuts_of(read_tariff(tariff, Notes())), ZoneInfo(ZONE))
    stated = "power" in features and rng.random() < 0.7
    return {
        "start_date_time": _text(start),
        "end_date_time": _text(end),
        "currency": "EUR",
        "tariffs": [],
        "cdr_location": {"country": "NLD"},
        "charging_periods": [_period(period, stated=stated) for period in periods],
        "total_cost": {"excl_vat": 0},
        "total_energy": float(Fraction(power_w * charging, 60_000)),
        "total_time": round((charging + parking) / 60, 4),
        "last_updated": "2026-01-01T00:00:00Z",
    }


def _period(period: Period, *, stated: bool) -> dict[str, Any]:
    scale = {Quantity.ENERGY: 1_000}
    dimensions = [
        {"type": quantity.value, "volume": round(float(volume / scale.get(quantity, 3_600)), 6)}
        for quantity, volume in period.volumes.items()
    ]
    if stated and period.power.least is not None:
        kw = float(period.power.least / 1_000)
        dimensions += [{"type": f"{end}_POWER", "volume": kw} for end in ("MIN", "MAX")]
    return {"start_date_time": _text(period.start), "dimensions": dimensions}


def _text(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")
