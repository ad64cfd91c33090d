"""The backtest: decisions by the code that serves, baselines, and what they were worth."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import numpy.typing as npt

from voucher_grpc.domain.catalogue.product import Product, ProductState, Terms
from voucher_grpc.domain.offers.choices import NO_PASSES, Buyer
from voucher_grpc.domain.offers.columns import Columns, build_columns
from voucher_grpc.domain.offers.ranking import RankedBuyer, rank_all
from voucher_grpc.domain.places.location import VehicleProfile
from voucher_grpc.domain.tendencies.demand import DemandPlace, expected_demands
from voucher_grpc.domain.tendencies.forecast import Parameters, forecasts
from voucher_grpc.domain.tendencies.segments import (
    Member,
    Segment,
    SegmentKey,
    build_segments,
    drawn_to_segments,
    prior_of,
)
from voucher_grpc.domain.tendencies.tendency import SECONDS_PER_DAY, Vector, many_habits, rebuild
from voucher_grpc.domain.tendencies.user_prices import UserPrices, constant
from voucher_grpc.evaluation.costs import pay_as_you_go_micros, savings_micros
from voucher_grpc.evaluation.fit import cross_fit_folds, digests_of, fit, training_rows
from voucher_grpc.evaluation.months import PERIOD, UserMonth

Choices = npt.NDArray[np.int64]
NONE = -1
_NO_RANGE = (np.nan, np.nan)
FOLDS = 10
CROSS_FIT_TREES = 100
OFFERS = 3
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Backtest:
    """User-months by products; money in micro-units.

    `offers` are the recommended products of each month, best first, NONE where
    there are fewer than three; `ranges` (months by two) bounds what the first one was
    expected to save, NaN without one.
    """

    months: Sequence[UserMonth]
    products: Sequence[Terms]
    savings: Vector
    pay_as_you_go: Vector
    offers: Choices
    ranges: Vector

    @property
    def first_offers(self) -> Choices:
        return self.offers[:, 0]


def as_product(terms: Terms) -> Product:
    """A product of an evaluation, always on sale."""
    return Product(terms, 1, "", ProductState.ACTIVE, 0, datetime(2010, 1, 1, tzinfo=UTC), "")


def decide(
    month: UserMonth,
    forecast: bytes,
    prior: Segment | None,
    columns: Columns,
    prices: UserPrices,
) -> tuple[list[int], tuple[float, float]]:
    """(the recommended products of a month, best first; the range of the first one's saving),
    through the code that serves."""
    some, known = many_habits([month.tendency], month.start)
    if not some:
        return [], _NO_RANGE
    place = DemandPlace(month.past[-1].place, 1.0, None, prices)
    demands = expected_demands(known, [[place]], [forecast])
    priors = {} if prior is None else {0: prior}
    demands = drawn_to_segments(demands, known.known_days.tolist(), priors)
    asking = [RankedBuyer(0, Buyer((), NO_PASSES, VehicleProfile()), OFFERS)]
    [ranking] = rank_all(columns, demands, asking, month.start)
    recommended = [c for c in ranking.choices if c.recommended]
    expected = recommended[0].saving_range_micros if recommended else None
    return [columns.row_of[c.product.product_id] for c in recommended], expected or _NO_RANGE


def run(
    months: Sequence[UserMonth],
    products: Sequence[Terms],
    price_micros: float,
    month_forecasts: Sequence[bytes],
    priors: Sequence[Segment | None],
    progress: Progress = lambda _done, _all: None,
) -> Backtest:
    """Decide for each month and price what each product would have saved in it."""
    columns = build_columns([as_product(terms) for terms in products])
    prices = constant(price_micros)
    offers, ranges = np.full((len(months), OFFERS), NONE), np.full((len(months), 2), np.nan)
    cases = zip(months, month_forecasts, priors, strict=True)
    for row, (month, forecast, prior) in enumerate(cases):
        chosen, ranges[row] = decide(month, forecast, prior, columns, prices)
        offers[row, : len(chosen)] = chosen
        progress(row + 1, len(months))
    savings = np.array([savings_micros(products, m.coming, price_micros) for m in months])
    usual = np.array([pay_as_you_go_micros(m.coming, price_micros) for m in months])
    return Backtest(months, products, savings, usual, offers, ranges)


def seen_by(parameters: Parameters, months: Sequence[UserMonth]) -> bool:
    """Whether the parameters were fitted on any of these users, whatever they are called."""
    return not parameters.seen_users.isdisjoint(digests_of(months))


def shipped_forecasts(parameters: Parameters, months: Sequence[UserMonth]) -> list[bytes]:
    """Forecasts of months whose users the parameters have not seen."""
    return forecasts(parameters, [month.tendency for month in months])


def cross_fitted_forecasts(
    months: Sequence[UserMonth], progress: Progress = lambda _done, _all: None
) -> list[bytes]:
    """Forecasts by parameters that saw no month of the user they are for (10 folds by user)."""
    fold_of = cross_fit_folds([month.user_id for month in months], FOLDS)
    inputs, outcomes = training_rows(months)
    folds = np.array([fold_of[month.user_id] for month in months])
    result: list[bytes] = [b""] * len(months)
    for fold in range(FOLDS):
        train = np.flatnonzero(folds != fold).tolist()
        test = np.flatnonzero(folds == fold).tolist()
        parameters = fit(
            [months[i] for i in train],
            (inputs[train], outcomes[train]),
            f"fold {fold}",
            trees=CROSS_FIT_TREES,
        )
        made = forecasts(parameters, [months[i].tendency for i in test])
        for index, forecast in zip(test, made, strict=True):
            result[index] = forecast
        progress(fold + 1, FOLDS)
    return result


def cross_fitted_priors(
    months: Sequence[UserMonth], month_forecasts: Sequence[bytes]
) -> list[Segment | None]:
    """For each month what is usual for users other than those of its fold (10 folds by user)."""
    fold_of = cross_fit_folds([month.user_id for month in months], FOLDS)
    last = {month.user_id: index for index, month in enumerate(months)}
    members: dict[str, Member] = {}
    for user_id, index in last.items():
        some, habits = many_habits([months[index].tendency], months[index].start)
        if some:
            demands = expected_demands(habits, [()], [month_forecasts[index]])
            members[user_id] = Member(SegmentKey(), demands.energy_kwh[0], habits.hours[0])
    by_fold = [
        prior_of(
            build_segments(m for user_id, m in members.items() if fold_of[user_id] != fold),
            SegmentKey(),
        )
        for fold in range(FOLDS)
    ]
    return [by_fold[fold_of[month.user_id]] for month in months]


def last_30_days(test: Backtest, price_micros: float) -> Choices:
    """The product that would have been cheapest over the 30 days before, or none."""
    choices = np.full(len(test.months), NONE)
    for row, month in enumerate(test.months):
        since = month.start - PERIOD
        recent = [s for s in month.past if s.start_time >= since]
        savings = savings_micros(test.products, recent, price_micros)
        best = int(savings.argmax())
        choices[row] = best if savings[best] > 0 else NONE
    return choices


def best_fixed(test: Backtest) -> Choices:
    """The one product that is best for all, known only afterwards."""
    return np.full(len(test.months), int(test.savings.sum(axis=0).argmax()))


def random_choice(test: Backtest, seed: int = 1) -> Choices:
    """Any product or none, each as likely."""
    return np.random.default_rng(seed).integers(NONE, len(test.products), len(test.months))


def saved(test: Backtest, choices: Choices) -> Vector:
    """What a choice saved in each month."""
    rows = np.arange(len(choices))
    result: Vector = np.where(choices >= 0, test.savings[rows, choices], 0.0)
    return result


def range_share(test: Backtest) -> float:
    """The share of the months with a recommended offer in which it saved what its range says, to
    a hundredth of the currency's unit. 0.8 would be right, more where a range is one point."""
    taken = test.first_offers >= 0
    saving, ranges = saved(test, test.first_offers)[taken], test.ranges[taken]
    inside = (ranges[:, 0] - 10_000 <= saving) & (saving <= ranges[:, 1] + 10_000)
    return float(inside.mean()) if taken.any() else 0.0


def hindsight(test: Backtest) -> Vector:
    """What the best choice would have saved, pass or none."""
    best: Vector = np.maximum(0.0, test.savings.max(axis=1))
    return best


def best_of_three(test: Backtest) -> Vector:
    """What the best of the offers, or none, would have saved."""
    each = [saved(test, test.offers[:, column]) for column in range(OFFERS)]
    best: Vector = np.maximum(0.0, np.max(each, axis=0))
    return best


def cold_start(
    months: Sequence[UserMonth], sessions: Sequence[int]
) -> Mapping[int, list[UserMonth]]:
    """The months as if only so many sessions were known, the last ones before each decision."""
    result: dict[int, list[UserMonth]] = {}
    for count in sessions:
        cut = []
        for month in months:
            past = month.past[len(month.past) - count :] if count else []
            cut.append(UserMonth(month.user_id, month.start, rebuild(past), past, month.coming))
        result[count] = cut
    return result


def silence_days(month: UserMonth) -> float:
    """Days between the last session and the decision."""
    last = month.tendency.last_session_time
    return 0.0 if last is None else (month.start - last) / timedelta(seconds=SECONDS_PER_DAY)
