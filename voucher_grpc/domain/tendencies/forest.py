"""A forest of decision trees that says which past user-months are like a present one.

Each leaf names the user-months of the population that fell into it. A query's
weights over the population are its leaves' members, each tree counting the same
(Meinshausen, "Quantile Regression Forests", JMLR 7, 2006). Fitting needs a
library (`voucher_grpc.evaluation.fit`); asking needs only arrays.
"""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from voucher_grpc.domain.tendencies.tendency import Vector

Floats: TypeAlias = npt.NDArray[np.float32]
Integers: TypeAlias = npt.NDArray[np.int32]

# Rows asked at once; bounds the memory at rows * members * 8 bytes.
_ROWS_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Forest:
    """Nodes of all trees in one set of arrays.

    `feature` is -1 in a leaf; there `first` and `count` say which of `members`
    it holds. `roots` has one node a tree. `depth` is that of the deepest leaf.
    """

    roots: Integers
    feature: Integers
    threshold: Floats
    left: Integers
    right: Integers
    first: Integers
    count: Integers
    members: Integers
    population: int
    depth: int

    def weights(self, rows: Vector) -> Vector:
        """Weights over the population (rows by population), each row adding up to 1."""
        parts = [
            self._weights(rows[start : start + _ROWS_AT_ONCE].astype(np.float32))
            for start in range(0, len(rows), _ROWS_AT_ONCE)
        ]
        return np.concatenate(parts) if parts else np.zeros((0, self.population))

    def _weights(self, rows: Floats) -> Vector:
        node: Any = np.broadcast_to(self.roots, (len(rows), len(self.roots)))
        number = np.arange(len(rows))[:, None]
        for _ in range(self.depth):
            feature = self.feature[node]
            below = rows[number, np.maximum(feature, 0)] <= self.threshold[node]
            child = np.where(below, self.left[node], self.right[node])
            node = np.where(feature < 0, node, child)
        leaves = node.ravel()
        counts = self.count[leaves]
        # The members of all leaves one after the other: first + 0, first + 1, ...
        ends = np.cumsum(counts)
        position = np.arange(ends[-1]) - np.repeat(ends - counts, counts)
        member = self.members[np.repeat(self.first[leaves], counts) + position]
        row = np.repeat(np.arange(len(rows)).repeat(len(self.roots)), counts)
        share = np.repeat(1.0 / (counts * len(self.roots)), counts)
        flat = np.bincount(
            row * self.population + member, share, minlength=len(rows) * self.population
        )
        return np.asarray(flat, dtype=np.float64).reshape(len(rows), self.population)
