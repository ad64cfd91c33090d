"""Turns: what is compared is measured in rounds that alternate, under one load."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from rich.console import Console

from benchmarks.load import BATCH_REQUEST_OFFERS, PURCHASE_PASS, REQUEST_OFFERS, Round
from benchmarks.measure import Bench, Figures, Target, medians

_WARM_UP_PER_S = {REQUEST_OFFERS: 4_000, PURCHASE_PASS: 4_000, BATCH_REQUEST_OFFERS: 40}
# More calls than a round takes; a round that runs out of them ends early.
_SPARE = 1.6


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large and how long."""

    users: int
    products: int
    seconds: float
    rounds: int
    concurrency: int
    quick: bool
    scale: bool
    passes: int

    @property
    def few_rounds(self) -> int:
        """For what is not among the first two goals."""
        return 1 if self.quick else min(3, self.rounds)

    @property
    def many_products(self) -> int:
        """What `scale` compares `products` with."""
        return 10_000

    @property
    def many_users(self) -> int:
        """What `scale` compares `users` with."""
        return 100_000 if self.quick else 1_000_000


@dataclass(slots=True)
class Turns:
    """Rounds of any target, each kind with the rate that it had last."""

    sizes: Sizes
    bench: Bench
    console: Console
    rates: dict[tuple[str, str, bool, int], float] = field(default_factory=dict, init=False)

    def round(
        self,
        target: Target,
        rpc: str,
        *,
        seconds: float = 0.0,
        concurrency: int = 0,
        rate_per_s: float = 0.0,
        hot: bool = False,
    ) -> Figures:
        """One round; the first of its kind is preceded by a short one to warm up."""
        seconds, concurrency = seconds or self.sizes.seconds, concurrency or self.sizes.concurrency
        key = (target.name, rpc, hot, concurrency)

        def run(seconds: float, budget: int, rate_per_s: float) -> Figures:
            wanted = Round(
                server=target.name,
                port=target.port,
                users=target.users,
                rpc=rpc,
                seconds=seconds,
                concurrency=concurrency,
                budget=budget,
                rate_per_s=rate_per_s,
                hot=hot,
                credentials=target.credentials,
            )
            return self.bench.run(target, wanted)

        if key not in self.rates:
            warm_s = self.sizes.seconds / 3
            warm_up = run(warm_s, round(warm_s * _WARM_UP_PER_S[rpc]), 0.0)
            self.rates[key] = warm_up.calls_per_s
        budget = round((rate_per_s or self.rates[key] * _SPARE) * seconds) + concurrency
        figures = run(seconds, budget, rate_per_s)
        if not rate_per_s:
            self.rates[key] = figures.calls_per_s
        return figures

    def alternate(
        self, measures: Mapping[str, Callable[[], Figures]], rounds: int = 0
    ) -> dict[str, Figures]:
        """Medians over rounds that take turns, every other time in reverse."""
        found: dict[str, list[Figures]] = {name: [] for name in measures}
        for number in range(rounds or self.sizes.rounds):
            for name in measures if number % 2 == 0 else reversed(list(measures)):
                found[name].append(measures[name]())
        return {name: medians(figures) for name, figures in found.items()}

    def say(self, text: str) -> None:
        """A line of progress."""
        self.console.print(text, highlight=False)
