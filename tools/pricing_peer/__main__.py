"""`make test-pricing-peer`: how often another implementation names the same price, and why not.

A pair on which they differ is priced once more by the peer's reading of each rule on which both
are known to differ (docs/pricing.md, "Where others differ"): what agrees then has that rule's
name, and what does not is a fault. Exit code 1 if there is one.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction
from itertools import combinations
from pathlib import Path
from typing import NamedTuple
from zoneinfo import ZoneInfo

from tools.pricing_peer.pairs import FEATURES, ZONE, Pair, pairs
from voucher_grpc.domain.pricing.charge import UNKNOWN, Bounds, Period, with_mean_power
from voucher_grpc.domain.pricing.engine import price_periods
from voucher_grpc.domain.pricing.tariff import TariffElement
from voucher_grpc.files.notes import Notes
from voucher_grpc.files.published_cdrs import read_charge
from voucher_grpc.files.published_tariffs import read_tariff

# The peer prints four decimals.
TOLERANCE = Fraction(1, 10_000)
_TOTAL = re.compile(r"\| Total Cost \((Excl|Incl)\.\)\s*\| (\S+)")
# No bound on power excludes these.
_ANY_POWER = Bounds(Fraction(10**12), Fraction(-1))
POWER = "power that is not stated"
LIMIT_TAX = "a limit without its figure after tax"
WEEKDAY = "the weekday of a window past midnight"
FULL_DAY = "a window that ends when it begins"
RULES = (POWER, LIMIT_TAX, WEEKDAY, FULL_DAY)


class Totals(NamedTuple):
    """In units of the currency; `after_tax` None: not known."""

    before_tax: Fraction
    after_tax: Fraction | None

    def agrees(self, other: "Totals") -> bool:
        pairs_ = [(self.before_tax, other.before_tax)]
        if self.after_tax is not None and other.after_tax is not None:
            pairs_.append((self.after_tax, other.after_tax))
        return all(abs(one - two) <= TOLERANCE for one, two in pairs_)


def ours(pair: Pair, read_as_peer: Sequence[str] = ()) -> Totals:
    """What the engine says, some rules read as the peer does."""
    tariff = read_tariff(pair.tariff, Notes())
    if WEEKDAY in read_as_peer:
        tariff = replace(tariff, elements=tuple(_by_own_weekday(tariff.elements)))
    if FULL_DAY in read_as_peer:
        lasting = (e for e in tariff.elements if not _ends_as_it_begins(e))
        tariff = replace(tariff, elements=tuple(lasting))
    stated = read_charge(pair.cdr, Notes()).periods
    periods = _any_power(stated) if POWER in read_as_peer else with_mean_power(stated)
    price = price_periods(tariff, periods, ZoneInfo(ZONE))
    before, after = (amount / 1_000_000 for amount in price.total)
    if LIMIT_TAX in read_as_peer and price.limit is not None:
        # The peer leaves what is not stated as it was, or does not say it.
        return Totals(before, None)
    return Totals(before, after)


def _by_own_weekday(elements: Sequence[TariffElement]) -> Iterator[TariffElement]:
    """A window past midnight as two: what is after midnight is of the next weekday itself."""
    for element in elements:
        asked = element.restrictions
        start, end = asked.start_minute or 0, asked.end_minute or 0
        if asked.day_of_week and 0 < end <= start:
            yield replace(element, restrictions=replace(asked, end_minute=0))
            yield replace(element, restrictions=replace(asked, start_minute=0))
        else:
            yield element


def _ends_as_it_begins(element: TariffElement) -> bool:
    asked = element.restrictions
    return bool(asked.start_minute) and asked.start_minute == asked.end_minute


def _any_power(periods: Sequence[Period]) -> tuple[Period, ...]:
    return tuple(
        period._replace(power=_ANY_POWER) if period.power == UNKNOWN else period
        for period in periods
    )


def theirs(command: str, pair: Pair, folder: Path) -> Totals:
    """What the peer says. Raises RuntimeError with its words if it names no price."""
    tariff, cdr = folder / "tariff.json", folder / "cdr.json"
    tariff.write_text(json.dumps(pair.tariff), encoding="utf-8")
    cdr.write_text(json.dumps(pair.cdr), encoding="utf-8")
    files = ["--cdr", str(cdr), "--tariff", str(tariff)]
    done = subprocess.run(  # noqa: S603 - our own arguments
        [command, "price", *files, "--ocpi-version", "v221", "--timezone", ZONE],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    found = dict(_TOTAL.findall(done.stdout))
    if found.keys() != {"Excl", "Incl"}:
        raise RuntimeError((done.stderr or done.stdout).strip()[-500:])
    before, after = (_amount(found[kind]) for kind in ("Excl", "Incl"))
    return Totals(before or Fraction(0), after)


def _amount(text: str) -> Fraction | None:
    """ "€12.7500"; a dash is None."""
    digits = re.sub(r"[^0-9.\-]", "", text)
    return None if digits in ("", "-") else Fraction(digits)


def verdict(pair: Pair, other: Totals) -> str:
    """ "same", the rules on which both differ, or "unexplained"."""
    if ours(pair).agrees(other):
        return "same"
    for count in range(1, len(RULES) + 1):
        for rules in combinations(RULES, count):
            if ours(pair, rules).agrees(other):
                return " and ".join(rules)
    return "unexplained"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--command", required=True, help="the peer's executable")
    parser.add_argument("--pairs", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()

    def compared(pair: Pair) -> tuple[Pair, Totals, str]:
        with tempfile.TemporaryDirectory() as folder:
            other = theirs(given.command, pair, Path(folder))
        return pair, other, verdict(pair, other)

    features: Counter[str] = Counter()
    verdicts: Counter[str] = Counter()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for pair, other, said in pool.map(compared, pairs(given.pairs, given.seed)):
            features.update(pair.features)
            verdicts[said] += 1
            if said == "unexplained":
                print(f"ours {ours(pair)}, theirs {other}")
                print(json.dumps({"tariff": pair.tariff, "cdr": pair.cdr}))
    for feature in FEATURES:
        print(f"{feature:>10} in {features[feature] / given.pairs:.1%} of the pairs")
    for said, count in verdicts.most_common():
        print(f"{count / given.pairs:>6.1%} {said}")
    return 1 if verdicts["unexplained"] else 0


if __name__ == "__main__":
    sys.exit(main())
