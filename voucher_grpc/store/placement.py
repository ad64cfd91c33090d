"""Where the rows of a user lie: the bucket that comes first in the keys of new tables.

A batch can be split by it, and Postgres or a router can partition by it (docs/decisions.md).
"""

import hashlib

BUCKETS = 256


def bucket_of(user_id: str) -> int:
    """The first byte of the id's MD5, which every version of Postgres can compute too."""
    return hashlib.md5(user_id.encode(), usedforsecurity=False).digest()[0]
