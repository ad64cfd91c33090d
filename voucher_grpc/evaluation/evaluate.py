"""An evaluation and a fit as a whole."""

from collections.abc import Callable, Sequence

import numpy as np

from voucher_grpc.domain.catalogue.product import Terms
from voucher_grpc.domain.tendencies.forecast import (
    Parameters,
    base_energy_kwh,
    default_parameters,
    scenarios,
)
from voucher_grpc.domain.tendencies.segments import Segment
from voucher_grpc.evaluation import backtest
from voucher_grpc.evaluation.backtest import Backtest
from voucher_grpc.evaluation.costs import pay_as_you_go_micros
from voucher_grpc.evaluation.fit import fit, training_rows
from voucher_grpc.evaluation.months import UserMonth
from voucher_grpc.evaluation.report import Numbers, captured_saving, harm_share, report

Progress = Callable[[float], None]


def evaluate_months(
    months: Sequence[UserMonth],
    products: Sequence[Terms],
    price_micros: float,
    cold_start_sessions: Sequence[int],
    progress: Progress,
) -> Numbers:
    """All numbers of an evaluation; `progress` is called with a share from 0 to 1."""
    shipped = default_parameters()
    if backtest.seen_by(shipped, months):
        name = f"cross-fitted, {backtest.FOLDS} folds by user"
        made = backtest.cross_fitted_forecasts(months, lambda n, of: progress(0.6 * n / of))
    else:
        name = f"shipped, version {shipped.version}"
        made = backtest.shipped_forecasts(shipped, months)
    priors = backtest.cross_fitted_priors(months, made)
    test = backtest.run(
        months, products, price_micros, made, priors, lambda n, of: progress(0.6 + 0.2 * n / of)
    )
    ours = backtest.saved(test, test.first_offers)
    baselines = {
        "last_30_days": backtest.last_30_days(test, price_micros),
        "best_fixed": backtest.best_fixed(test),
        "random": backtest.random_choice(test),
    }
    saved = {key: backtest.saved(test, choices) for key, choices in baselines.items()}
    numbers = report(test, saved, ours)
    numbers["parameters"] = name
    numbers["cold_start"] = _cold_start(test, products, price_micros, cold_start_sessions, priors)
    progress(1.0)
    return numbers


def _cold_start(
    test: Backtest,
    products: Sequence[Terms],
    price_micros: float,
    sessions: Sequence[int],
    priors: Sequence[Segment | None],
) -> Numbers:
    """Captured saving and harm if only a user's last few sessions were known.

    Without a forecast: parameters are fitted on users with a history of a month.
    """
    best = backtest.hindsight(test)
    result: Numbers = {}
    for count, months in backtest.cold_start(test.months, sessions).items():
        cut = backtest.run(months, products, price_micros, [b""] * len(months), priors)
        saved = backtest.saved(cut, cut.first_offers)
        result[str(count)] = {
            "captured_saving": captured_saving(saved, best),
            "harm_share": harm_share(saved),
        }
    return result


def fit_population(
    months: Sequence[UserMonth], version: str, trees: int, progress: Progress
) -> tuple[Parameters, list[str]]:
    """Parameters fitted on all months, and what cross-fitting says of how well they hold."""
    made = backtest.cross_fitted_forecasts(months, lambda n, of: progress(0.8 * n / of))
    actual = np.array([pay_as_you_go_micros(m.coming, 1.0) for m in months])
    usual = np.array([base_energy_kwh(m.tendency, m.start) for m in months])
    silences = np.array([backtest.silence_days(month) for month in months])
    energy_kwh = scenarios(made, silences)[0][:, :, 0]
    expected = energy_kwh.mean(axis=1)
    # The outermost twelfths are left out on both sides.
    inside = ((energy_kwh[:, 0] <= actual) & (actual <= energy_kwh[:, -1])).mean()
    parameters = fit(months, training_rows(months), version, trees=trees)
    progress(1.0)
    users = len({month.user_id for month in months})
    return parameters, [
        f"{len(months)} user-months of {users} users, {trees} trees",
        (
            f"mean absolute error of the month's energy, users left out: "
            f"{np.abs(expected - actual).mean():.1f} kWh (habits alone "
            f"{np.abs(usual - actual).mean():.1f}; mean month {actual.mean():.1f})"
        ),
        f"months between the outermost scenarios: {inside:.0%} (ideally 92 %)",
    ]
