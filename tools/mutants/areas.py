"""What is mutated, by area, and the sample."""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

from tools.mutants import python, sql
from tools.mutants.model import ROOT, Change, Mutant, unified

# Constants of modules outside the domain are waiting times and sizes of buffers: a second more or
# less is as good, so they are not mutated. In the domain they are rules, and are.
_DOMAIN = {
    "catalogue": ("voucher_grpc/domain/catalogue/*.py",),
    "places": ("voucher_grpc/domain/places/*.py",),
    "offers": ("voucher_grpc/domain/offers/*.py", "voucher_grpc/domain/offer_ids/*.py"),
    "tendencies": ("voucher_grpc/domain/tendencies/*.py",),
    "passes": ("voucher_grpc/domain/passes/*.py",),
    "pricing": ("voucher_grpc/domain/pricing/*.py", "voucher_grpc/files/published*.py"),
    "users": ("voucher_grpc/domain/users.py", "voucher_grpc/domain/personal_data.py"),
    "money": ("voucher_grpc/money.py", "voucher_grpc/currencies.py"),
    "access": ("voucher_grpc/access/*.py",),
}
_OTHERS = {
    "client": ("voucher_grpc/client/*.py",),
    "supervisor": ("voucher_grpc/workers/supervisor.py",),
    "store": ("voucher_grpc/runtime/admission.py", "voucher_grpc/runtime/batching.py"),
}
_SQL = {"sql": ("voucher_grpc/store/sql/*.sql",)}
AREAS = {**_DOMAIN, **_SQL, **_OTHERS}


@dataclass(frozen=True)
class _Place:
    path: str
    text: str
    changes: list[Change]


def _places(area: str) -> Iterator[_Place]:
    for pattern in AREAS[area]:
        for path in sorted(ROOT.glob(pattern)):
            text = path.read_text(encoding="utf-8")
            if area in _SQL:
                found = sql.changes(text, path.stem)
            else:
                found = python.changes(text, constants=area in _DOMAIN)
            name = str(path.relative_to(ROOT))
            yield from (_Place(name, text, changes) for changes in found)


def _diff(place: _Place, change: Change, text: str) -> str:
    if not change.statement:
        return unified(place.path, place.text, text)
    # The statement as it is, printed in the same way.
    name = change.statement.partition(".")[2]
    before, after = (sql.printed(sql.bodies(whole)[name]) for whole in (place.text, text))
    return unified(f"{place.path} {name}", before, after)


def _mutant(area: str, place: _Place, draw: random.Random) -> Mutant | None:
    """One of the ways to change a place; None if none of them changes anything."""
    for change in draw.sample(place.changes, len(place.changes)):
        try:
            text = change.make()
        except (SyntaxError, ValueError):
            continue
        return Mutant(area, place.path, change, text, _diff(place, change, text))
    return None


def shares(sizes: dict[str, int], count: int) -> dict[str, int]:
    """How many of each area: by the square root of its places, so that small areas are seen too."""
    roots = {area: math.sqrt(size) for area, size in sizes.items()}
    whole = sum(roots.values()) or 1.0
    taken = {area: min(sizes[area], int(count * root / whole)) for area, root in roots.items()}
    for area in sorted(sizes, key=lambda a: taken[a] - count * roots[a] / whole):
        if sum(taken.values()) < count and taken[area] < sizes[area]:
            taken[area] += 1
    return taken


def sample(count: int, seed: int, equivalent: set[tuple[str, ...]]) -> list[Mutant]:
    """At most `count` mutants, one a place, the same for the same code and seed."""
    places = {area: list(_places(area)) for area in AREAS}
    wanted = shares({area: len(found) for area, found in places.items()}, count)
    drawn: list[Mutant] = []
    for area, found in places.items():
        draw = random.Random(f"{seed} {area}")  # noqa: S311 - to be repeated
        fitting: list[Mutant] = []
        for place in draw.sample(found, len(found)):
            if len(fitting) == wanted[area]:
                break
            mutant = _mutant(area, place, draw)
            if mutant and (mutant.where, *mutant.changed) not in equivalent:
                fitting.append(mutant)
        drawn += fitting
    return drawn
