"""A document at a URL: bounded in size and in time, and from no other place than that."""

import asyncio
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import aiohttp

MAX_BYTES = 1_048_576
# From looking up the name to the document's end.
FETCH_S = 5.0


class FetchError(Exception):
    """The document is not to be had; the message says why, in one line."""


async def fetch(url: str, most_s: float = FETCH_S) -> bytes:
    """What stands at an http or https URL. Raises FetchError."""
    # Here, since it takes 10 MB, which servers without such a URL need not have.
    import aiohttp

    # In clear only on this machine: no network in between.
    proxies = urlsplit(url).scheme == "https"
    limit = aiohttp.ClientTimeout(total=most_s)
    try:
        async with (
            aiohttp.ClientSession(timeout=limit, trust_env=proxies) as session,
            # Another place would be another issuer.
            session.get(url, allow_redirects=False) as response,
        ):
            if response.status != 200:
                raise FetchError(f"cannot be fetched: the answer is {response.status}")
            return await _bounded(response.content)
    except TimeoutError as error:
        raise FetchError(f"was not there within {most_s:g} s") from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise FetchError("cannot be fetched") from error


async def _bounded(content: "aiohttp.StreamReader") -> bytes:
    try:
        await content.readexactly(MAX_BYTES + 1)
    except asyncio.IncompleteReadError as whole:
        return whole.partial
    raise FetchError(f"has more than {MAX_BYTES} bytes")
