"""Countries of ISO 3166-1: OCPI names that of a place by three letters, and all else by two."""

import re
from functools import lru_cache

from babel.core import get_global

# Left to users by ISO 3166-1: CLDR has names for some of them.
_NOT_ASSIGNED = re.compile(r"AA|Q[M-Z]|X[A-Z]|ZZ")


@lru_cache(maxsize=512)
def alpha_2(alpha_3: str) -> str | None:
    """ "NL" for "NLD"; None if there is no such country."""
    found: list[str] = get_global("territory_aliases").get(alpha_3, [])
    if len(alpha_3) != 3 or len(found) != 1 or _NOT_ASSIGNED.fullmatch(found[0]):
        return None
    return found[0]
