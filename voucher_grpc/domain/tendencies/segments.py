"""What users of a kind charge: the prior of those of whom little is known.

A segment is a country, a type of vehicle and a declared profile, each of which
may be "" for any. What is stored of it is what its users are expected to charge in
30 days and when. A new user is drawn towards it, the less the longer the user has
been known (docs/evaluation.md has the figures).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from voucher_grpc.domain.tendencies.demand import Demands
from voucher_grpc.domain.tendencies.forecast import SCENARIOS, block_shares, spread
from voucher_grpc.domain.tendencies.tendency import Vector

# A segment of fewer users is not published: it would say more of them than of a kind.
LEAST_USERS = 20
# A segment counts like so many of its users against the wider one around it.
PARENT_USERS = 20.0
# The prior counts like so many days of the user's own: few sessions in many days are
# a habit, few sessions in few days are not.
PRIOR_DAYS = 3.0
# From so many days after the first session on a user is not drawn to any segment: the
# forecast is fitted on such users.
SURE_DAYS = 30.0


class SegmentKey(NamedTuple):
    """Who belongs to a segment; "" is any."""

    country_code: str = ""
    vehicle_type: str = ""
    profile_type: str = ""

    def around(self) -> Sequence["SegmentKey"]:
        """The segments that hold this one, the widest first, and itself.

        Without a known vehicle nothing but the country counts.
        """
        country, vehicle, profile = self
        keys = [SegmentKey()]
        if country:
            keys.append(SegmentKey(country))
            if vehicle:
                keys.append(SegmentKey(country, vehicle))
                if profile:
                    keys.append(self)
        return keys


class Segment(NamedTuple):
    """What the users of a segment are expected to charge in 30 days.

    `energy_kwh` are SCENARIOS equally likely energies, rising; `hours` the shares
    by local hour of the week (168, adding up to 1), each user counting the same.
    """

    users: int
    energy_kwh: Vector
    hours: Vector


Segments = Mapping[SegmentKey, Segment]


class Member(NamedTuple):
    """A user of a segment: equally likely energies of 30 days, and the hours of the habits."""

    key: SegmentKey
    energy_kwh: Vector
    hours: Vector


_PROBABILITIES = (np.arange(SCENARIOS) + 0.5) / SCENARIOS
# Energies are counted in steps of a fiftieth, up to 60 MWh: the sums stay small however
# many users there are.
_EDGES = np.expm1(np.arange(0, 11.02, 0.02))


class SegmentSums:
    """Members added up, by segment."""

    def __init__(self) -> None:
        self._users: dict[SegmentKey, int] = {}
        self._energies: dict[SegmentKey, Vector] = {}
        self._hours: dict[SegmentKey, Vector] = {}

    def add(self, member: Member) -> None:
        """Count a user in its segment and in those around it."""
        counts = np.histogram(member.energy_kwh, _EDGES)[0].astype(np.float64)
        for key in member.key.around():
            if key not in self._users:
                self._users[key] = 0
                self._energies[key] = np.zeros(len(_EDGES) - 1)
                self._hours[key] = np.zeros(168)
            self._users[key] += 1
            self._energies[key] += counts
            self._hours[key] += member.hours

    def segments(self) -> Segments:
        """The segments that are large enough, and from which no small remainder can be computed.

        What is left of a segment without the narrower ones inside it is a segment too: of
        one to LEAST_USERS - 1 users it would say more of them than of a kind. So the
        smallest of the narrower ones are left out until the rest is large or empty.
        """
        kept: Segments = {}
        if self._users.get(SegmentKey(), 0) >= LEAST_USERS:
            kept = {SegmentKey(): self._segment(SegmentKey()), **self._inside(SegmentKey())}
        return kept

    def _inside(self, key: SegmentKey) -> Segments:
        children = [
            child
            for child, users in self._users.items()
            if child != SegmentKey() and child.around()[-2] == key and users >= LEAST_USERS
        ]
        children.sort(key=lambda child: (-self._users[child], child))
        while children and 0 < self._rest(key, children) < LEAST_USERS:
            children.pop()
        kept: dict[SegmentKey, Segment] = {}
        for child in children:
            kept[child] = self._segment(child)
            kept.update(self._inside(child))
        return kept

    def _rest(self, key: SegmentKey, children: Sequence[SegmentKey]) -> int:
        return self._users[key] - sum(self._users[child] for child in children)

    def _segment(self, key: SegmentKey) -> Segment:
        counts, hours = self._energies[key], self._hours[key]
        below = np.concatenate(([0.0], np.cumsum(counts))) / counts.sum()
        energy_kwh = np.interp(_PROBABILITIES, below, _EDGES)
        return Segment(self._users[key], energy_kwh, hours / hours.sum())


def build_segments(members: Iterable[Member]) -> Segments:
    """The segments of members, wide and narrow."""
    sums = SegmentSums()
    for member in members:
        sums.add(member)
    return sums.segments()


def prior_of(segments: Segments, key: SegmentKey) -> Segment | None:
    """What is expected of a user of whom only the segment is known; None without a segment.

    Each segment is drawn towards the wider one around it by PARENT_USERS.
    """
    prior: Segment | None = None
    for narrower in key.around():
        found = segments.get(narrower)
        if found is None:
            continue
        if prior is not None:
            own = found.users / (found.users + PARENT_USERS)
            found = Segment(
                found.users,
                _mixed(found.energy_kwh, prior.energy_kwh, own),
                own * found.hours + (1 - own) * prior.hours,
            )
        prior = found
    return prior


def _mixed(energy_kwh: Vector, towards_kwh: Vector, own: float) -> Vector:
    """Distributions by their quantiles, averaged as logarithms (Vincent 1912; Ratcliff 1979)."""
    mixed: Vector = np.expm1(own * np.log1p(energy_kwh) + (1 - own) * np.log1p(towards_kwh))
    return mixed


def drawn_to_segments(
    demands: Demands, known_days: Sequence[float], priors: Mapping[int, Segment]
) -> Demands:
    """The demands of new users, drawn to what is usual for their kind.

    `known_days` is how long ago each user's first session was, `priors` are by the
    user's row. After d days a user keeps d / (d + PRIOR_DAYS) of what is the
    user's own, from SURE_DAYS on all of it.
    """
    drawn = {row: prior for row, prior in priors.items() if known_days[row] < SURE_DAYS}
    if not drawn:
        return demands
    energy_kwh, profile = demands.energy_kwh.copy(), demands.profile.copy()
    factors = demands.block_factors.copy()
    for row, prior in drawn.items():
        own = known_days[row] / (known_days[row] + PRIOR_DAYS)
        # Scenarios rise, so equal ranks are equal probabilities.
        energy_kwh[row] = _mixed(energy_kwh[row], prior.energy_kwh, own)
        usual = spread(prior.hours)
        in_blocks = own * factors[row] * block_shares(profile[row])
        in_blocks += (1 - own) * block_shares(usual)
        profile[row] = own * profile[row] + (1 - own) * usual
        factors[row] = in_blocks / block_shares(profile[row])
    per_kwh = demands.sessions / np.maximum(demands.energy_kwh, 1e-12)
    return replace(
        demands,
        energy_kwh=energy_kwh,
        profile=profile,
        block_factors=factors,
        sessions=energy_kwh * per_kwh,
    )
