"""A proxy between the service and Postgres that can be cut, frozen, or cut at the COMMIT of a
purchase. (The service commits other things too, by itself.)
"""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit

from tests.links import Commit, Link

# How tests begin their payment references: what carries one is a purchase.
_PAYMENT = b"pay-"
_SOCKET = ".s.PGSQL.5432"


class Proxy(Link):
    """A link that breaks or freezes all of its connections at a COMMIT."""

    def __init__(self, upstream: Path, url: str) -> None:
        super().__init__(lambda: asyncio.open_unix_connection(upstream), _PAYMENT)
        self.url = url
        self.commits_cut = 0
        self.commits_frozen = 0
        self._at_commit = Commit.GOES
        self._stay_away = False
        self._freeze = False

    def cut_at_commit(self, *, before: bool, stay_away: bool = False) -> None:
        """Break all connections at the next COMMIT of a purchase: before Postgres hears of it,
        or after it has committed and before the service hears of that. With `stay_away`
        refuse new ones until `restore`."""
        self._at_commit = Commit.IS_KEPT if before else Commit.ANSWER_IS_KEPT
        self._stay_away = stay_away

    def freeze_at_commit(self, *, before: bool) -> None:
        """As `cut_at_commit`, but from then on no byte moves any more, and no connection breaks."""
        self._at_commit = Commit.IS_KEPT if before else Commit.ANSWER_IS_KEPT
        self._freeze = True

    async def commit(self) -> Commit:
        what, self._at_commit = self._at_commit, Commit.GOES
        if what is Commit.IS_KEPT and await self._frozen_or_cut():
            return Commit.GOES
        return what

    async def kept_answer_goes(self) -> bool:
        return await self._frozen_or_cut()

    async def _frozen_or_cut(self) -> bool:
        """Whether bytes were kept for a while; else the connections are broken."""
        if self._freeze:
            self._freeze = False
            self.commits_frozen += 1
            self.freeze()
            await self.flows.wait()
            return True
        self.commits_cut += 1
        self._away = self._stay_away
        self.break_off()
        return False


@asynccontextmanager
async def proxied(url: str) -> AsyncIterator[Proxy]:
    """A proxy before the Postgres at `url`, which listens on a Unix socket."""
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    upstream = Path(query["host"][0]) / _SOCKET
    # Short: the path of a Unix socket has 107 bytes at most.
    folder = Path(tempfile.mkdtemp(prefix="vp-"))
    address = urlunsplit(parts._replace(query=urlencode({**query, "host": folder}, doseq=True)))
    proxy = Proxy(upstream, address)
    server = await asyncio.start_unix_server(proxy.accept, folder / _SOCKET)
    try:
        yield proxy
    finally:
        server.close()
        await proxy.close()
        shutil.rmtree(folder, ignore_errors=True)
