"""Connections to whichever of several hosts may be used.

The driver takes a URL with several hosts and asks one after the other, all within one
timeout: one that is silent, because it is frozen or has no power, would keep it from the
others for ever. Here all are asked at once, and the first that fits is taken.
"""

import asyncio
import re
from typing import Any
from urllib.parse import parse_qsl, urlencode

import asyncpg

_WANTED = "target_session_attrs"
# RFC 3986, appendix B. `urlsplit` refuses several hosts of which one is an IPv6 address.
_URL = re.compile(r"([^:/?#]+)://([^/?#]*)([^?#]*)(?:\?([^#]*))?")


def urls_of_hosts(url: str) -> list[str]:
    """The URL of each host that a URL names; of several the one that may be written to is meant.

    Hosts stand before the path or in the query (`host`, folders of sockets), with commas
    between them; a port is said for each or for all. `target_session_attrs` may say that
    another one is meant. Raises ValueError for as many ports as there are not hosts.
    """
    parts = _URL.match(url)
    if parts is None:
        return [url]
    scheme, netloc, path, asked = parts.groups("")
    query = dict(parse_qsl(asked, keep_blank_values=True))
    credentials, at, addresses = netloc.rpartition("@")
    in_query = "host" in query
    hosts = (query["host"] if in_query else addresses).split(",")
    ports = query["port"].split(",") if "port" in query else []
    if len(hosts) == 1:
        return [url]
    if ports and len(ports) not in (1, len(hosts)):
        raise ValueError("as many ports as hosts are needed, or one for all")
    found = []
    for number, host in enumerate(hosts):
        own = {_WANTED: "read-write", **query}
        if ports:
            own["port"] = ports[number % len(ports)]
        if in_query:
            own["host"] = host
        address = netloc if in_query else f"{credentials}{at}{host}"
        found.append(f"{scheme}://{address}{path}?{urlencode(own)}")
    return found


async def connect_to_any(url: str, **settings: Any) -> Any:
    """As asyncpg.connect, to the first host that answers and fits; `timeout` is for all together.

    If none does, the error that says most is raised: a refusal by a server, then that
    none fits, then that none could be reached.
    """
    urls = urls_of_hosts(url)
    if len(urls) == 1:
        return await asyncpg.connect(url, **settings)
    tries = {asyncio.create_task(asyncpg.connect(one, **settings)) for one in urls}
    waiting, errors, taken = set(tries), [], None
    try:
        while waiting and taken is None:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for tried in done:
                error = tried.exception()
                if error is not None:
                    errors.append(error)
                elif taken is None:
                    taken = tried.result()
    finally:
        await _leave(tries, taken)
    if taken is None:
        raise max(errors, key=_tells)
    return taken


async def _leave(tries: set["asyncio.Task[Any]"], taken: Any) -> None:
    """End the tries that are not wanted any more."""
    for tried in tries:
        tried.cancel()
    for result in await asyncio.gather(*tries, return_exceptions=True):
        if not isinstance(result, BaseException) and result is not taken:
            result.terminate()


def _tells(error: BaseException) -> int:
    if isinstance(error, asyncpg.PostgresError | ValueError):
        return 2
    return int(isinstance(error, asyncpg.TargetServerAttributeNotMatched))
