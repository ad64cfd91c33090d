"""What a changed catalogue would have done to users and revenue over real sessions.

In each user-month the first offer is bought if it is recommended, under the old
catalogue and under the new one. What users pay for passes and charging together
is the revenue; demand is taken as it was.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from voucher_grpc.domain.catalogue.product import Terms
from voucher_grpc.domain.tendencies.forecast import default_parameters
from voucher_grpc.domain.tendencies.segments import Segment
from voucher_grpc.evaluation import backtest
from voucher_grpc.evaluation.months import UserMonth
from voucher_grpc.evaluation.report import harm_share


@dataclass(frozen=True, slots=True)
class Outcome:
    """Over all user-months; money in micro-units."""

    pay_as_you_go_micros: float
    revenue_micros: float
    saved_micros: float
    harm_share: float
    passes: dict[str, int]


def _outcome(
    months: Sequence[UserMonth],
    products: Sequence[Terms],
    price_micros: float,
    made: Sequence[bytes],
    priors: Sequence[Segment | None],
) -> Outcome:
    test = backtest.run(months, products, price_micros, made, priors)
    saved = backtest.saved(test, test.first_offers)
    usual = float(test.pay_as_you_go.sum())
    sold = Counter(products[index].product_id for index in test.first_offers.tolist() if index >= 0)
    return Outcome(
        usual, usual - float(saved.sum()), float(saved.sum()), harm_share(saved), dict(sold)
    )


def simulate(
    months: Sequence[UserMonth],
    before: tuple[Sequence[Terms], float],
    after: tuple[Sequence[Terms], float],
    progress: Callable[[float], None],
) -> tuple[Outcome, Outcome]:
    """The outcomes under two catalogues, each with its pay-as-you-go price.

    Forecasts as in an evaluation: by parameters that have not seen the users.
    """
    shipped = default_parameters()
    if backtest.seen_by(shipped, months):
        made = backtest.cross_fitted_forecasts(months, lambda n, of: progress(0.7 * n / of))
    else:
        made = backtest.shipped_forecasts(shipped, months)
    priors = backtest.cross_fitted_priors(months, made)
    old = _outcome(months, *before, made, priors)
    progress(0.85)
    new = _outcome(months, *after, made, priors)
    progress(1.0)
    return old, new
