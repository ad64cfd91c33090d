"""Fitting the forecast's parameters on a population (extra `evaluate`)."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from voucher_grpc.domain.tendencies.forecast import (
    Parameters,
    base_energy_kwh,
    features,
    shape_shares,
)
from voucher_grpc.domain.tendencies.forest import Forest
from voucher_grpc.domain.tendencies.tendency import Session, Vector, rebuild
from voucher_grpc.errors import bad_field
from voucher_grpc.evaluation.months import UserMonth

MIN_MONTHS = 50
LEAST_MONTHS_IN_A_LEAF = 5
# How much the shifts of the shares count beside the ratio of the energies in a split.
_TARGET_WEIGHTS = np.array([1.0, 0.6, 0.6])


def digest(text: str) -> bytes:
    """By which parameters know again what they were fitted on."""
    return hashlib.blake2b(text.encode("utf-8"), digest_size=8, person=b"fitted").digest()


# Of so many sessions of a user one is enough to be known again.
_FIRST_SESSIONS = 5


def digests_of(months: Sequence[UserMonth]) -> frozenset[bytes]:
    """By which the users of these months are known again, also by other names."""
    users = {month.user_id for month in months}
    first = {session for month in months for session in map(_said, month.past[:_FIRST_SESSIONS])}
    return frozenset(map(digest, users | first))


def _said(session: Session) -> str:
    return f"{session.start_time.timestamp():.0f} {session.energy_wh}"


def outcome(month: UserMonth) -> tuple[float, float, float]:
    """(log-ratio of energy to the base, shift of the night share, of the weekend share)."""
    energy_kwh = sum(s.energy_wh for s in month.coming) / 1000
    base = base_energy_kwh(month.tendency, month.start)
    night, weekend = shape_shares(month.tendency)
    ratio = float(np.log1p(energy_kwh) - np.log1p(base))
    if energy_kwh <= 0:
        return ratio, 0.0, 0.0
    new_night, new_weekend = shape_shares(rebuild(month.coming))
    return ratio, new_night - night, new_weekend - weekend


def training_rows(months: Sequence[UserMonth]) -> tuple[Vector, Vector]:
    """(features, outcomes), one row a user-month."""
    return (
        np.array([features(month.tendency, month.start) for month in months]),
        np.array([outcome(month) for month in months]),
    )


def fit(
    months: Sequence[UserMonth],
    rows: tuple[Vector, Vector],
    version: str,
    *,
    trees: int,
    seed: int = 1,
) -> Parameters:
    """Parameters fitted on user-months. Raises BadInput if they are too few."""
    from sklearn.ensemble import ExtraTreesRegressor

    if len(months) < MIN_MONTHS:
        raise bad_field("sessions", f"must give {MIN_MONTHS} user-months, give {len(months)}")
    order = np.argsort(rows[1][:, 0], kind="stable")
    inputs, outcomes = rows[0][order].astype(np.float32), rows[1][order]
    targets = outcomes / np.maximum(outcomes.std(axis=0), 1e-9) * _TARGET_WEIGHTS
    model = ExtraTreesRegressor(
        trees, min_samples_leaf=LEAST_MONTHS_IN_A_LEAF, max_features=1.0, random_state=seed
    )
    model.fit(inputs, targets)
    return Parameters(
        version=version,
        forest=_forest(model, inputs),
        # Two places say all that a scenario needs.
        outcomes=np.round(outcomes, 3).astype(np.float32),
        seen_users=digests_of(months),
    )


def _forest(model: Any, inputs: Any) -> Forest:
    """The trees of a fitted model as arrays, with the members of their leaves."""
    parts: dict[str, list[Any]] = {
        name: [] for name in ("feature", "threshold", "left", "right", "first", "count", "members")
    }
    roots, nodes, members = [], 0, 0
    leaves = model.apply(inputs)
    for number, estimator in enumerate(model.estimators_):
        tree = estimator.tree_
        inner = tree.children_left >= 0
        by_leaf = np.argsort(leaves[:, number], kind="stable")
        counts = np.bincount(leaves[:, number], minlength=tree.node_count)
        roots.append(nodes)
        parts["feature"].append(np.where(inner, tree.feature, -1))
        parts["threshold"].append(tree.threshold)
        parts["left"].append(np.where(inner, tree.children_left + nodes, 0))
        parts["right"].append(np.where(inner, tree.children_right + nodes, 0))
        parts["first"].append(members + np.cumsum(counts) - counts)
        parts["count"].append(counts)
        parts["members"].append(by_leaf)
        nodes += tree.node_count
        members += len(by_leaf)
    joined = {name: np.concatenate(arrays) for name, arrays in parts.items()}
    threshold = joined.pop("threshold").astype(np.float32)
    integers = {name: array.astype(np.int32) for name, array in joined.items()}
    return Forest(
        roots=np.array(roots, dtype=np.int32),
        threshold=threshold,
        population=len(inputs),
        depth=max(estimator.tree_.max_depth for estimator in model.estimators_),
        **integers,
    )


def cross_fit_folds(users: Sequence[str], folds: int, seed: int = 1) -> dict[str, int]:
    """A fold for each user, the same for the same users and seed."""
    names = sorted(set(users))
    order = np.random.default_rng(seed).permutation(len(names))
    return {names[index]: place % folds for place, index in enumerate(order)}
