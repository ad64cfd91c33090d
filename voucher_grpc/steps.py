"""Long computations in short steps.

A computation is a generator that yields where it may be interrupted and returns its result.
It knows nothing of an event loop: `finished` runs it in one go, and
`voucher_grpc.runtime.event_loop_share` lets others in between.
"""

from collections.abc import Generator
from typing import TypeAlias, TypeVar

T = TypeVar("T")
Steps: TypeAlias = Generator[None, None, T]


def finished(steps: Steps[T]) -> T:
    """The result, computed in one go."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
