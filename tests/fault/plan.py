"""What a run will do: which fault when and for how long, which goods, which buyers.

All of it follows from the seed, so `make test-fault SEED=17` plans the run of seed 17
again. What does not follow from the seed is how processes, threads and the disk are
scheduled: the same plan meets other calls at another instant. A breach that hangs on
a narrow race may need the same seed several times.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from random import Random
from typing import Any

SERVERS = 2


class Fault(StrEnum):
    """What is done to the service or to what it stands on."""

    KILL_SERVER = "server killed"
    STOP_SERVER = "server stopped politely"
    FREEZE_SERVER = "server frozen"
    KILL_POSTGRES = "Postgres killed"
    KILL_BACKEND = "a backend of Postgres killed"
    FREEZE_POSTGRES = "Postgres frozen"
    CUT_STORE = "store cut off"
    FREEZE_STORE = "store silent"
    DELAY_STORE = "store slow"
    CUT_BEFORE_COMMIT = "cut before a COMMIT"
    CUT_AFTER_COMMIT = "cut after a COMMIT"
    LATE_COMMIT = "a COMMIT held back"
    CUT_CALLERS = "callers cut off"
    FREEZE_CALLERS = "callers' bytes held"
    DELAY_CALLERS = "callers' bytes slow"
    LOSE_ANSWERS = "answers lost"
    FILL_POOL = "pool filled"
    TAKE_CONNECTIONS = "connections of Postgres taken"
    SLOW_DISK = "disk slow"
    JUMP_CLOCK = "clock of a server jumped"


class Scenario(StrEnum):
    """What a buyer does next."""

    PLAIN = "one purchase"
    AGAIN = "repeated after it was acknowledged"
    BOTH_SERVERS = "sent to both servers at once"
    OTHER_CONTENT = "other content under the same key"
    OTHER_KEY = "the same offer under another key"
    REFERENCE_TWICE = "one payment for two passes"
    LIMITED = "more than one user may have"
    HOT = "of a product that runs out"
    WRONG_AMOUNT = "another amount than offered"
    EXPIRED = "of an expired offer"
    FLEETING = "of an offer that is about to expire"
    IMPATIENT = "with deadlines that are too short"
    HUNG_UP = "given up on the way"
    VALIDATED = "judged only, then bought"
    OTHER_USER = "of another user's offer"
    FORGED = "of a forged offer"
    ASKED = "of an offer that the service made"
    HELD = "held, then paid, cancelled or forgotten"
    HELD_SCARCE = "held of a product that runs out"
    PAID_TWICE = "a hold confirmed by two payments"
    REFERENCE_OF_ANOTHER = "a hold confirmed by a payment that was used"
    TORN = "a hold confirmed and cancelled at once"
    TOO_LATE = "a hold confirmed when its time is over"
    CANCELLED = "bought, then cancelled"
    MADE_ROOM = "cancelled to make room for another one"
    BRIEF = "of a pass that soon expires"


# How often each is drawn; the ones that sell weigh more.
_WEIGHTS = {
    Scenario.PLAIN: 14,
    Scenario.AGAIN: 6,
    Scenario.BOTH_SERVERS: 6,
    Scenario.OTHER_CONTENT: 4,
    Scenario.OTHER_KEY: 4,
    Scenario.REFERENCE_TWICE: 4,
    Scenario.LIMITED: 4,
    Scenario.HOT: 8,
    Scenario.WRONG_AMOUNT: 2,
    Scenario.EXPIRED: 1,
    Scenario.FLEETING: 2,
    Scenario.IMPATIENT: 5,
    Scenario.HUNG_UP: 3,
    Scenario.VALIDATED: 2,
    Scenario.OTHER_USER: 1,
    Scenario.FORGED: 1,
    Scenario.ASKED: 4,
    Scenario.HELD: 8,
    Scenario.HELD_SCARCE: 6,
    Scenario.PAID_TWICE: 3,
    Scenario.REFERENCE_OF_ANOTHER: 2,
    Scenario.TORN: 3,
    Scenario.TOO_LATE: 2,
    Scenario.CANCELLED: 6,
    Scenario.MADE_ROOM: 3,
    Scenario.BRIEF: 4,
}

# Shortest and longest time that each lasts, seconds.
_FOR_S = {
    Fault.KILL_SERVER: (0.0, 0.5),
    Fault.STOP_SERVER: (0.0, 0.5),
    Fault.FREEZE_SERVER: (0.2, 1.5),
    Fault.KILL_POSTGRES: (0.0, 0.1),
    Fault.KILL_BACKEND: (0.0, 0.0),
    Fault.FREEZE_POSTGRES: (0.2, 2.5),
    Fault.CUT_STORE: (0.0, 0.8),
    Fault.FREEZE_STORE: (0.2, 2.5),
    Fault.DELAY_STORE: (0.8, 1.8),
    Fault.CUT_BEFORE_COMMIT: (1.5, 1.5),
    Fault.CUT_AFTER_COMMIT: (1.5, 1.5),
    Fault.LATE_COMMIT: (0.3, 1.3),
    Fault.CUT_CALLERS: (0.0, 0.8),
    Fault.FREEZE_CALLERS: (0.2, 1.5),
    Fault.DELAY_CALLERS: (0.8, 1.8),
    Fault.LOSE_ANSWERS: (0.1, 0.6),
    Fault.FILL_POOL: (0.5, 2.5),
    Fault.TAKE_CONNECTIONS: (0.5, 1.5),
    Fault.SLOW_DISK: (0.8, 1.8),
    Fault.JUMP_CLOCK: (0.5, 2.0),
}

# How strong those are that can be more or less strong: seconds for each packet or
# flush; for the clock, how far it goes wrong.
_STRENGTH_S = {
    Fault.DELAY_STORE: (0.002, 0.03),
    Fault.DELAY_CALLERS: (0.005, 0.1),
    Fault.SLOW_DISK: (0.02, 0.25),
}
_JUMPS_S = (-86_400.0, -3_600.0, -5.0, 5.0, 3_600.0, 86_400.0, 40_000_000.0)


@dataclass(frozen=True, slots=True)
class PlannedFault:
    """One fault: when after the buyers begin, what, to which server, how long, how strong."""

    at_s: float
    fault: Fault
    server: int
    for_s: float
    strength_s: float = 0.0

    def __str__(self) -> str:
        strength = f", {self.strength_s:g} s" if self.strength_s else ""
        return (
            f"{self.at_s:5.2f} s  {self.fault} (server {self.server}, {self.for_s:.2f} s{strength})"
        )


@dataclass(frozen=True, slots=True)
class Goods:
    """A product of the run; `benefit` as in a catalogue document.

    Its passes end `ends_after_s` after it was put on sale; None: 30 days after they
    were paid.
    """

    product_id: str
    price_micros: int
    benefit: tuple[str, Any]
    stock: int | None = None
    max_purchases: int | None = None
    default_offer: bool = False
    withdrawal_days: int = 0
    ends_after_s: float | None = None

    def document(self, now: datetime) -> dict[str, Any]:
        """What the catalogue is told beside the name when it is put on sale at `now`."""
        found: dict[str, Any] = {
            "price": f"{self.price_micros // 1_000_000}.{self.price_micros // 10_000 % 100:02} NOK",
            "benefit": dict([self.benefit]),
            "default_offer": self.default_offer,
        }
        if self.stock is not None:
            found["stock"] = self.stock
        if self.max_purchases is not None:
            found["personal_limit"] = {"max_purchases": self.max_purchases}
        if self.withdrawal_days:
            found["withdrawal_days"] = self.withdrawal_days
        if self.ends_after_s is not None:
            start = now + timedelta(seconds=self.ends_after_s) - timedelta(days=1)
            found["validity"] = {"days": 1, "start": "AT", "start_time": start.isoformat()}
            # Where every day has 24 hours.
            found["time_zone"] = "UTC"
        return found


@dataclass(frozen=True, slots=True)
class Size:
    """How large a run is."""

    faults: int
    spacing_s: float
    least_purchases: int
    # Buyers that have not bought so much by then end the run; whoever does not hear
    # clearly for so long gives up. Both are breaches.
    longest_s: float
    patience_s: float
    # Between these the passes end that end in the run, after they were put on sale.
    ends_after_s: tuple[float, float]


FULL = Size(9, 1.05, 2_100, longest_s=120, patience_s=60, ends_after_s=(3, 12))
SHORT = Size(10, 0.6, 300, longest_s=120, patience_s=60, ends_after_s=(2, 6))


@dataclass(frozen=True, slots=True)
class Plan:
    """A run, before it runs."""

    seed: int
    clients: int
    least_purchases: int
    longest_s: float
    patience_s: float
    call_timeout_s: float
    statement_timeout_s: float
    pool_size: int
    max_batch: int
    hold_lifetime_s: int
    goods: tuple[Goods, ...]
    weights: tuple[tuple[Scenario, int], ...]
    faults: tuple[PlannedFault, ...]

    def lines(self) -> list[str]:
        """The plan for people."""
        scarce = [f"{g.product_id} ({g.stock})" for g in self.goods if g.stock is not None]
        return [
            (
                f"seed {self.seed}: {self.clients} buyers,"
                f" at least {self.least_purchases} purchases,"
                f" deadline {self.call_timeout_s:.2f} s,"
                f" statements {self.statement_timeout_s:.2f} s,"
                f" pool {self.pool_size}, batches up to {self.max_batch}"
            ),
            f"  scarce: {', '.join(scarce)}",
            *(f"  {fault}" for fault in self.faults),
        ]


def make_plan(seed: int, size: Size = FULL, faults: Sequence[Fault] = ()) -> Plan:
    """The run of a seed. `faults` instead of drawn ones, in this order; each at a drawn time."""
    random = Random(seed)
    kinds = list(faults) or random.sample(list(Fault), size.faults)
    return Plan(
        seed=seed,
        clients=random.randint(32, 72),
        least_purchases=size.least_purchases,
        longest_s=size.longest_s,
        patience_s=size.patience_s,
        call_timeout_s=random.uniform(0.6, 3.0),
        statement_timeout_s=random.uniform(0.8, 2.5),
        pool_size=random.randint(1, 5),
        max_batch=random.choice((2, 16, 64, 256)),
        hold_lifetime_s=random.randint(1, 2),
        goods=_goods(random, size),
        weights=tuple((scenario, _weight(scenario, random)) for scenario in Scenario),
        faults=_timed(random, kinds, size.spacing_s),
    )


def _weight(scenario: Scenario, random: Random) -> int:
    return random.randint(1, 2 * _WEIGHTS[scenario])


def _timed(random: Random, kinds: Sequence[Fault], spacing_s: float) -> tuple[PlannedFault, ...]:
    """Some overlap: the next begins at about the usual interval, whatever lasts still."""
    planned = []
    at_s = random.uniform(0.3, 0.6)
    for fault in kinds:
        strength_s = random.uniform(*_STRENGTH_S.get(fault, (0.0, 0.0)))
        if fault is Fault.JUMP_CLOCK:
            strength_s = random.choice(_JUMPS_S)
        for_s = random.uniform(*_FOR_S[fault])
        planned.append(PlannedFault(at_s, fault, random.randrange(SERVERS), for_s, strength_s))
        at_s += spacing_s * random.uniform(0.4, 1.6)
    return tuple(planned)


_BENEFITS: tuple[tuple[str, Any], ...] = (
    ("energy_price_per_kwh", "3.00"),
    ("energy_bundle_kwh", 100),
    ("session_bundle", 10),
    ("flat_fair_use_kwh", 250),
    ("percentage_off", 20),
)


def _goods(random: Random, size: Size) -> tuple[Goods, ...]:
    def price_micros() -> int:
        return random.randint(1, 99_999) * 10_000

    plenty = [
        Goods(
            f"open-{number}-{days}",
            price_micros(),
            benefit,
            default_offer=number == days == 0,
            withdrawal_days=days,
        )
        for number, benefit in enumerate(_BENEFITS)
        for days in (0, 14)
    ]
    scarce = [
        Goods(
            f"hot-{number}",
            price_micros(),
            random.choice(_BENEFITS),
            random.randint(1, 60),
            withdrawal_days=random.choice((0, 14)),
        )
        for number in range(random.randint(4, 8))
    ]
    limited = [
        Goods(
            f"few-{limit}",
            price_micros(),
            random.choice(_BENEFITS),
            max_purchases=limit,
            withdrawal_days=14,
        )
        for limit in (1, 2)
    ]
    both = Goods(
        "both",
        price_micros(),
        random.choice(_BENEFITS),
        random.randint(5, 40),
        1,
        withdrawal_days=14,
    )
    brief = [
        Goods(
            f"brief-{number}",
            price_micros(),
            random.choice(_BENEFITS),
            withdrawal_days=random.choice((0, 14)),
            ends_after_s=random.uniform(*size.ends_after_s),
        )
        for number in range(3)
    ]
    return (*plenty, *scarce, *limited, both, *brief)
