"""What a backtest says: captured saving, harm, intervals over users, groups; as data and drawn.

captured = sum of (pay-as-you-go minus cost of the choice) over the sum of
(pay-as-you-go minus cheapest in hindsight). harm = share of user-months that
cost more than pay-as-you-go. Intervals are 95 % percentile bootstrap over users,
all months of a user together.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from voucher_grpc.domain.tendencies.tendency import Vector
from voucher_grpc.evaluation.backtest import Backtest, best_of_three, hindsight, range_share

BOOTSTRAPS = 2_000
# Less than a micro-unit is the noise of a sum, not harm.
_HARM_MICROS = 1.0
Numbers = dict[str, Any]


def captured_saving(saved: Vector, best: Vector) -> float:
    """The share of the hindsight saving; 0 where there is nothing to save."""
    total = float(best.sum())
    return float(saved.sum()) / total if total > 0 else 0.0


def harm_share(saved: Vector) -> float:
    """The share of user-months that cost more than without a pass; 0 where there are none."""
    return float((saved < -_HARM_MICROS).mean()) if len(saved) else 0.0


class Resampling:
    """Bootstrap samples of users, the same for every choice, so that differences are paired."""

    def __init__(self, user_ids: Sequence[str], samples: int = BOOTSTRAPS, seed: int = 1) -> None:
        names = sorted(set(user_ids))
        number = {name: index for index, name in enumerate(names)}
        self._user = np.array([number[user_id] for user_id in user_ids])
        drawn = np.random.default_rng(seed).integers(0, len(names), (samples, len(names)))
        self._counts = np.array(
            [np.bincount(sample, minlength=len(names)) for sample in drawn], dtype=np.float64
        )

    def sums(self, values: Vector) -> Vector:
        """The sum of a value by month in each sample."""
        by_user = np.bincount(self._user, values, minlength=self._counts.shape[1])
        sums: Vector = self._counts @ by_user
        return sums

    def captured(self, saved: Vector, best: Vector) -> Vector:
        """Captured saving in each sample; 0 in one in which there is nothing to save."""
        total = self.sums(best)
        shares: Vector = np.zeros_like(total)
        np.divide(self.sums(saved), total, out=shares, where=total > _HARM_MICROS)
        return shares

    def harm(self, saved: Vector) -> Vector:
        """Harm in each sample."""
        harmed = (saved < -_HARM_MICROS).astype(np.float64)
        return self.sums(harmed) / self.sums(np.ones_like(saved))


def _interval(value: float, samples: Vector) -> Numbers:
    low, high = np.percentile(samples, [2.5, 97.5])
    return {"value": value, "low": float(low), "high": float(high)}


def report(test: Backtest, baselines: Mapping[str, Vector], ours: Vector) -> Numbers:
    """The numbers of a backtest; `ours` and the baselines are what was saved in each month."""
    best = hindsight(test)
    resampling = Resampling([month.user_id for month in test.months])
    last = baselines["last_30_days"]
    captured, harm = captured_saving(ours, best), harm_share(ours)
    return {
        "captured_saving": captured,
        "captured_saving_interval": _interval(captured, resampling.captured(ours, best)),
        "harm_share": harm,
        "harm_share_interval": _interval(harm, resampling.harm(ours)),
        "best_of_3_captured_saving": captured_saving(best_of_three(test), best),
        "user_months": len(test.months),
        "users": len({month.user_id for month in test.months}),
        "hindsight_share": float(best.sum() / test.pay_as_you_go.sum()),
        "recommended_share": float((test.first_offers >= 0).mean()),
        "range_share": range_share(test),
        "baselines": {
            name: {"captured_saving": captured_saving(saved, best), "harm_share": harm_share(saved)}
            for name, saved in baselines.items()
        },
        "paired": {
            "captured_saving": _interval(
                captured - captured_saving(last, best),
                resampling.captured(ours, best) - resampling.captured(last, best),
            ),
            "harm_share": _interval(
                harm - harm_share(last), resampling.harm(ours) - resampling.harm(last)
            ),
        },
        "groups": groups(test, ours, last),
    }


def _terciles(values: Vector, names: Sequence[str]) -> list[tuple[str, Any]]:
    low, high = np.percentile(values, [100 / 3, 200 / 3])
    masks = (values <= low, (values > low) & (values <= high), values > high)
    return list(zip(names, masks, strict=True))


def groups(test: Backtest, ours: Vector, last: Vector) -> Numbers:
    """Captured saving and harm by how much users charge and for how long they are known."""
    best = hindsight(test)
    energy = test.pay_as_you_go
    history = np.array([float(len(month.past)) for month in test.months])
    result: Numbers = {}
    for name, mask in (
        *_terciles(energy, ("little charging", "medium charging", "much charging")),
        *_terciles(history, ("short history", "medium history", "long history")),
    ):
        result[name] = {
            "user_months": int(mask.sum()),
            "captured_saving": captured_saving(ours[mask], best[mask]),
            "harm_share": harm_share(ours[mask]),
            "last_30_days_captured_saving": captured_saving(last[mask], best[mask]),
            "last_30_days_harm_share": harm_share(last[mask]),
        }
    return result


def draw(numbers: Numbers, path: Path) -> None:
    """Captured saving against harm, and the cold start, as a picture (extra `evaluate`)."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    shown = {"offers": numbers, **numbers["baselines"]}
    for name, values in shown.items():
        x, y = 100 * values["harm_share"], values["captured_saving"]
        left.scatter(x, y, s=90 if name == "offers" else 45)
        left.annotate(name.replace("_", " "), (x, y), xytext=(6, 5), textcoords="offset points")
    x, y = 100 * numbers["harm_share"], numbers["captured_saving"]
    across, up = numbers["harm_share_interval"], numbers["captured_saving_interval"]
    left.plot([100 * across["low"], 100 * across["high"]], [y, y], lw=1, color="C0")
    left.plot([x, x], [up["low"], up["high"]], lw=1, color="C0")
    left.set(xlabel="harm, % of user-months", ylabel="captured share of the hindsight saving")
    left.set_title("first offer against baselines (bars: 95 % over users)")
    curve = numbers["cold_start"]
    counts = [int(count) for count in curve]
    labels = [str(count) for count in counts]
    right.plot(labels, [curve[str(c)]["captured_saving"] for c in counts], "o-", label="captured")
    right.plot(labels, [curve[str(c)]["harm_share"] for c in counts], "s--", label="harm")
    right.axhline(numbers["captured_saving"], lw=1, ls=":", color="C0", label="all history")
    right.set(xlabel="sessions known", title="cold start")
    right.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)
