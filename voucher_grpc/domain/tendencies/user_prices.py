"""What a kWh costs a user at places of one tariff, by the hour of the week: the prices of the
latest sessions there, each like one that may happen again."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from voucher_grpc.domain.catalogue.conditions import HOURS_PER_WEEK
from voucher_grpc.domain.pricing.usual import (
    MINUTES_PER_DAY,
    PlacePrices,
    SessionPrice,
    UsualSession,
)
from voucher_grpc.domain.tendencies.recent import RECENT_SESSIONS, RecentSession
from voucher_grpc.domain.tendencies.tendency import (
    SECONDS_PER_DAY,
    SHAPE_HALF_LIFE_DAYS,
    Layout,
    Tendency,
    Vector,
)
from voucher_grpc.steps import Steps

PriceOf = Callable[[UsualSession], SessionPrice]
Weighted = tuple[UsualSession, float]
Integers: TypeAlias = npt.NDArray[np.intp]
_FIELDS = len(SessionPrice._fields)
# All hours of the week alike are taken as sessions that begin every three hours.
_STARTS_MINUTES = range(90, MINUTES_PER_DAY, 180)
# A usual session of which the price at all hours is asked for is told this roughly.
_ROUGHLY = math.log(1.25)


@dataclass(frozen=True, slots=True, eq=False)
class UserPrices:
    """Micro-units per kWh, after tax; the four columns are those of SessionPrice.

    `in_hours` (hours by 4) are the prices in the `hours` of the week in which the sessions began,
    `usual` (4) is the mean of all, which counts in all other hours. `anytime` is what a usual
    session costs that begins at any hour alike, per kWh. `alike` says that all four are
    the same. Equal only to itself.
    """

    usual: Vector
    hours: Integers
    in_hours: Vector
    anytime: float
    alike: bool


def by_hour(many: Sequence[UserPrices]) -> Vector:
    """The prices of many in all hours of the week: prices by 4 by 168."""
    found = np.empty((len(many), _FIELDS, HOURS_PER_WEEK))
    found[:] = np.array([prices.usual for prices in many])[:, :, None]
    hours = [prices.hours for prices in many]
    number = np.repeat(np.arange(len(many)), [len(some) for some in hours])
    found[number, :, np.concatenate(hours)] = np.concatenate([prices.in_hours for prices in many])
    return found


def constant(price_per_kwh: float) -> UserPrices:
    """The same for each kWh."""
    no_hours, no_prices = np.empty(0, dtype=np.intp), np.empty((0, _FIELDS))
    usual = np.full(_FIELDS, price_per_kwh)
    return UserPrices(usual, no_hours, no_prices, anytime=price_per_kwh, alike=True)


def weighted(sessions: Sequence[RecentSession]) -> list[Weighted]:
    """The sessions as ones that may happen again; older ones count less, as in the sums."""
    newest_s = max((session.start_s for session in sessions), default=0)
    half_life_s = SHAPE_HALF_LIFE_DAYS * SECONDS_PER_DAY
    return [
        (
            UsualSession(session.minute_of_week, session.energy_wh, session.length_s),
            math.exp2((session.start_s - newest_s) / half_life_s),
        )
        for session in sessions
    ]


def from_sums(tendency: Tendency) -> list[Weighted]:
    """Sessions of the mean energy and length in the hours that have the most energy, for a user
    of whom no single session is known."""
    state = tendency.state
    energy_wh = state.item(Layout.SHAPE_ENERGY) / max(state.item(Layout.SHAPE_COUNT), 1e-300)
    length_s = state.item(Layout.DWELL) / max(state.item(Layout.DWELL_COUNT), 1e-300)
    in_hours = state[Layout.HOURS]
    return [
        (UsualSession(hour * 60 + 30, round(energy_wh), round(length_s)), in_hours.item(hour))
        for hour in np.argsort(-in_hours)[:RECENT_SESSIONS].tolist()
        if in_hours.item(hour) > 0
    ]


def user_prices(
    prices: PlacePrices, sessions: Sequence[Weighted], price_of: PriceOf
) -> Steps[UserPrices]:
    """What the sessions say of the prices at a place; `price_of` prices one of a kind.

    Each hour's price is what its sessions cost over their energy. In steps, one for each
    session: the engine takes 0.2 to 2 ms for one.
    """
    kinds = [(prices.kind(session), weight) for session, weight in sessions]
    sums_by_hour: dict[int, list[float]] = {}
    alike = True
    for (session, weight), (kind, _) in zip(sessions, kinds, strict=True):
        price = price_of(kind)
        yield
        total = price.total
        alike = alike and price == (total, total, total, total)
        sums = sums_by_hour.get(session.minute_of_week // 60)
        if sums is None:
            sums = sums_by_hour[session.minute_of_week // 60] = [0.0] * (_FIELDS + 1)
        for field, cost in enumerate(price):
            sums[field] += weight * cost
        sums[_FIELDS] += weight * kind.energy_wh / 1000
    found = np.array(list(sums_by_hour.values()))
    all_hours = found.sum(axis=0)
    usual = all_hours[:_FIELDS] / all_hours[_FIELDS]
    anytime = usual.item(0)
    if prices.by_start:
        anytime = yield from _anytime(prices, kinds, price_of)
    in_hours = found[:, :_FIELDS] / found[:, _FIELDS:]
    return UserPrices(usual, np.array(list(sums_by_hour)), in_hours, anytime, alike)


def _anytime(prices: PlacePrices, kinds: Sequence[Weighted], price_of: PriceOf) -> Steps[float]:
    total = sum(weight for _, weight in kinds)
    energy_wh = _rough(sum(kind.energy_wh * weight for kind, weight in kinds) / total)
    length_s = _rough(sum(kind.length_s * weight for kind, weight in kinds) / total)
    starting = [
        prices.kind(UsualSession(day * MINUTES_PER_DAY + minute, energy_wh, length_s))
        for day in range(7 if prices.by_weekday else 1)
        for minute in _STARTS_MINUTES
    ]
    cost = 0.0
    for kind in starting:
        cost += price_of(kind).total
        yield
    return cost / sum(kind.energy_wh for kind in starting) * 1000


def _rough(value: float) -> int:
    return round(math.exp(round(math.log(value) / _ROUGHLY) * _ROUGHLY)) if value > 0 else 0
