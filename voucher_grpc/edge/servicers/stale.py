"""How an answer says that it is not of this instant."""

from datetime import datetime
from typing import Any

import grpc

# Initial metadata of an answer that was given while the database was away: the instant
# (RFC 3339) as of which it was so. An answer without it is of now.
STALE_SINCE = "voucher-stale-since"


async def send_stale_since(
    context: grpc.aio.ServicerContext[Any, Any], since: datetime | None
) -> None:
    """Say so, unless the answer is of now."""
    if since is not None:
        said = since.isoformat(timespec="microseconds").replace("+00:00", "Z")
        await context.send_initial_metadata(((STALE_SINCE, said),))
