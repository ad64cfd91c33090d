"""How much each one has of something that there is only so much of."""

from collections import Counter
from collections.abc import Hashable


class Quotas:
    """Counts what each one has; `most` is what one may have at a time."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._taken: Counter[Hashable] = Counter()

    def take(self, who: Hashable) -> bool:
        """Whether there was one more for it; what it takes it has to give back."""
        if self._taken[who] >= self.most:
            return False
        self._taken[who] += 1
        return True

    def give_back(self, who: Hashable) -> None:
        """One that was taken."""
        self._taken[who] -= 1
        if not self._taken[who]:
            del self._taken[who]
