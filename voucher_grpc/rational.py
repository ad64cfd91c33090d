"""Exact fractions: `quicktions` is the standard library's `Fraction`, compiled (six times as fast),
and has no types of its own."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fractions import Fraction
else:
    from quicktions import Fraction

__all__ = ["Fraction"]
