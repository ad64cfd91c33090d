"""Where the keys of tokens come from: what is taken over, for how long it is good, and how much
whoever serves them, or is in between, can hold up."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.conftest import serving
from tests.integration.credentials import (
    AUDIENCE,
    ISSUER,
    Issuer,
    key_server,
    key_set,
    write_key_set,
)
from tests.integration.operating import metrics, until
from tests.integration.shop import create
from voucher_grpc.client import CallFailed, Client
from voucher_grpc.domain.offer_ids.signer import OfferSigner
from voucher_grpc.edge.authentication import token_keys
from voucher_grpc.edge.authentication.fetching import MAX_BYTES, FetchError, fetch
from voucher_grpc.edge.authentication.token_keys import MAX_AGE_S, TokenKeys, TokenKeysError
from voucher_grpc.edge.authentication.tokens import TokenRules, TokenVerifier
from voucher_grpc.errors import Refusal
from voucher_grpc.v1.voucher_service_pb2 import ListPassesRequest

RULES = TokenRules(ISSUER, AUDIENCE, 0)
NO_KEYS = b'{"keys": []}'


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


async def heard(verifier: TokenVerifier, token: str) -> str:
    """Why a token is refused, "" if it is not."""
    try:
        await verifier.verify(token)
    except Refusal as refusal:
        return refusal.message
    return ""


# What is taken over.


@pytest.mark.parametrize("at", ["file", "url"])
async def test_a_set_without_keys_takes_all_tokens_along(
    fresh_database: str, issuer: Issuer, tmp_path: Path, at: str
) -> None:
    """An issuer whose only key was stolen withdraws it so; its next key is taken as ever."""
    path, documents = write_key_set(tmp_path / "jwks.json", issuer), [key_set(issuer)]

    def publish(document: bytes) -> None:
        documents.append(document)
        path.write_bytes(document)

    with key_server(documents) as url, capture_logs() as lines:
        source = url if at == "url" else str(path)
        settings = {"token_keys": source, "token_issuer": ISSUER, "token_keys_refresh_s": 1}
        async with (
            serving(fresh_database, **settings) as service,
            Client(service.target, token=issuer.token("alice", "user")) as client,
        ):

            async def reason() -> str:
                try:
                    await client.call(client.voucher.ListPasses, ListPassesRequest(user_id="alice"))
                except CallFailed as failed:
                    return failed.reason
                return ""

            async def taken() -> bool:
                return "" == await reason()

            async def refused() -> bool:
                return "CREDENTIALS_INVALID" == await reason()

            assert await taken()
            publish(NO_KEYS)
            await until(refused)
            publish(key_set(issuer))
            await until(taken)
    assert ["error"] == [
        line["log_level"] for line in lines if line["event"] == "token_keys_withdrawn"
    ]


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"keys": null}',
        b'{"keys": {}}',
        b'"keys"',
        b"<html>",
        b"[" * 9_999,
    ],
    ids=lambda document: document[:20].decode(),
)
async def test_what_is_no_key_set_withdraws_nothing(
    issuer: Issuer, tmp_path: Path, document: bytes
) -> None:
    """Half a file, or the page of a proxy that says it is sorry."""
    path = write_key_set(tmp_path / "jwks.json", issuer)
    keys = TokenKeys(str(path), 1)
    await keys.load()
    verifier = TokenVerifier(keys, RULES)
    path.write_bytes(document)
    await keys.refresh()
    assert "" == await heard(verifier, issuer.token())


async def test_members_of_a_set_that_are_not_understood_are_left_out(
    issuer: Issuer, tmp_path: Path
) -> None:
    """As RFC 7517 wants it, so that the key beside them can be withdrawn too."""
    path = write_key_set(tmp_path / "jwks.json", issuer)
    keys = TokenKeys(str(path), 1)
    await keys.load()
    path.write_text(
        '{"keys": [5, null, {}, {"kty": "RSA", "n": 1, "e": 2}, {"kty": "new"},'
        ' {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "kid": []}]}'
    )
    await keys.refresh()
    assert {} == keys.keys


@pytest.mark.parametrize("document", [NO_KEYS, b'{"keys": [{"kty": "oct", "k": "AA"}]}'])
async def test_nobody_starts_with_a_set_without_keys(tmp_path: Path, document: bytes) -> None:
    """Nobody could call."""
    path = tmp_path / "jwks.json"
    path.write_bytes(document)
    with pytest.raises(TokenKeysError, match="must have 1 to 100 keys for signatures, has 0"):
        await TokenKeys(str(path), 1).load()


async def test_more_keys_than_the_bound_are_not_taken_over(issuer: Issuer, tmp_path: Path) -> None:
    """Whatever they are for: each costs time to read."""
    path = write_key_set(tmp_path / "jwks.json", issuer)
    keys = TokenKeys(str(path), 1)
    await keys.load()
    before = keys.keys
    write_key_set(path, *[issuer] * 101)
    await keys.refresh()
    assert before is keys.keys


# For how long it is good.


async def test_a_set_that_cannot_be_fetched_is_trusted_for_a_day_and_no_longer(
    issuer: Issuer,
) -> None:
    """Whoever keeps the server from the issuer could else use a withdrawn key for ever."""
    documents, clock = [key_set(issuer)], Clock()
    with key_server(documents) as url, capture_logs() as lines:
        keys = TokenKeys(url, 300, clock)
        await keys.load()
        verifier, token = TokenVerifier(keys, RULES), issuer.token()
        assert "" == await heard(verifier, token)
        for document in (b"", b"<html>"):
            documents.append(document)
            clock.now_s += MAX_AGE_S / 2
            await keys.refresh()
            assert "" == await heard(verifier, token)
        clock.now_s += 301
        await keys.refresh()
        assert "could not be fetched for too long" in await heard(verifier, token)
        documents.append(key_set(issuer))
        clock.now_s += 301
        await keys.refresh()
        assert "" == await heard(verifier, token)
    assert ["error"] == [
        line["log_level"] for line in lines if line["event"] == "token_keys_too_old"
    ]


async def test_a_caller_that_gives_up_does_not_end_the_look_at_the_keys(issuer: Issuer) -> None:
    """Strangers could else put off every look, and with it each withdrawal of a key."""
    documents, clock, new = [key_set(issuer)], Clock(), Issuer("k2")
    with key_server(documents) as url:
        keys = TokenKeys(url, 300, clock)
        await keys.load()
        documents.append(key_set(new))
        clock.now_s += 11
        call = asyncio.create_task(TokenVerifier(keys, RULES).verify(Issuer("k3").token()))
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

        async def is_known() -> bool:
            return "k2" in keys.keys

        await until(is_known)


async def test_the_age_of_the_key_set_is_told(fresh_database: str, issuer: Issuer) -> None:
    """Hours before it is too old somebody can hear of it."""
    documents = [key_set(issuer)]
    with key_server(documents) as url:
        settings = {"token_keys": url, "token_issuer": ISSUER, "token_keys_refresh_s": 1}
        async with serving(fresh_database, **settings) as service:

            async def age_s() -> float:
                return (await metrics(service))["voucher_token_keys_age_seconds"]

            async def grows() -> bool:
                return await age_s() > 3

            async def is_new() -> bool:
                return await age_s() < 2

            documents.append(b"")
            await until(grows)
            documents.append(key_set(issuer))
            await until(is_new)


# How much whoever serves it can hold up.


@dataclass
class Endless:
    """Answers each caller without an end, the first with `beginnings[0]` and so on."""

    port: int
    taken: int = 0
    # The bytes that each caller has taken that has left.
    left: list[int] = field(default_factory=list)

    async def all_left(self) -> bool:
        """Whether nobody waits for more."""
        return len(self.left) == self.taken > 0


@contextmanager
def endless(*beginnings: bytes, more: bytes, pause_s: float = 0.05) -> Iterator[Endless]:
    """Whoever serves the keys, and does not mean well."""
    stop = threading.Event()

    def answer(connection: socket.socket, beginning: bytes) -> None:
        number = 0
        with connection, suppress(OSError):
            try:
                number += connection.send(beginning)
                while not stop.wait(pause_s):
                    number += connection.send(more)
            finally:
                service.left.append(number)

    def accept() -> None:
        while not stop.is_set():
            with suppress(TimeoutError):
                connection, _ = listening.accept()
                connection.settimeout(10)
                beginning = beginnings[min(service.taken, len(beginnings) - 1)]
                service.taken += 1
                threads.append(threading.Thread(target=answer, args=(connection, beginning)))
                threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.1)
        service = Endless(listening.getsockname()[1])
        threads = [threading.Thread(target=accept)]
        threads[0].start()
        try:
            yield service
        finally:
            stop.set()
            for thread in threads:
                thread.join()


ANSWER = b"HTTP/1.1 200 OK\r\n"
DRIPS = {
    "handshake": ("https", b"\x16\x03\x03\x3f\xff\x02\x00\x3f\xfb\x03\x03", b"\0"),
    "status": ("http", ANSWER[:-2], b"K"),
    "headers": ("http", ANSWER, b"a: b\r\n"),
    "body": ("http", ANSWER + b"content-length: 99999\r\n\r\n", b" "),
    "body without a length": ("http", ANSWER + b"\r\n", b" "),
    "chunks": ("http", ANSWER + b"transfer-encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
}


@pytest.mark.parametrize("where", DRIPS)
async def test_who_drips_is_left_after_a_time(where: str) -> None:
    """Each byte comes in time, all of them never."""
    scheme, beginning, more = DRIPS[where]
    with endless(beginning, more=more) as issuing:
        # It would never end by itself.
        with pytest.raises(FetchError, match=r"was not there within 0\.6 s"):
            await fetch(f"{scheme}://127.0.0.1:{issuing.port}/jwks", most_s=0.6)
        await until(issuing.all_left)


async def test_who_is_no_longer_wanted_ends_at_once() -> None:
    """A server that stops does not wait for an issuer that drips."""
    with endless(ANSWER, more=b"a: b\r\n") as issuing:
        url = f"http://127.0.0.1:{issuing.port}/jwks"
        fetching = asyncio.create_task(fetch(url, most_s=60))
        await asyncio.sleep(0.3)
        fetching.cancel()
        await until(issuing.all_left)


async def test_of_too_much_no_more_than_the_bound_is_read(issuer: Issuer) -> None:
    """An answer without an end fills no memory; a large one is not taken in part."""
    with endless(ANSWER + b"\r\n", more=b" " * 65_536, pause_s=0) as issuing:
        with pytest.raises(FetchError, match=f"has more than {MAX_BYTES} bytes"):
            await fetch(f"http://127.0.0.1:{issuing.port}/jwks")
        await until(issuing.all_left)
        # What the kernel keeps on both sides comes on top.
        assert issuing.left[0] < 16 * MAX_BYTES
    large = key_set(issuer)
    with key_server([large.ljust(MAX_BYTES)]) as url:
        assert large == (await fetch(url)).rstrip()
    with (
        key_server([large.ljust(MAX_BYTES + 1)]) as url,
        pytest.raises(FetchError, match=f"has more than {MAX_BYTES} bytes"),
    ):
        await fetch(url)


async def test_no_other_place_is_asked_than_the_url(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither one that an answer names, nor a proxy in clear: each could issue tokens."""
    with key_server([key_set(issuer)]) as url:
        moved = f"HTTP/1.1 302 Found\r\nlocation: {url}\r\ncontent-length: 0\r\n\r\n".encode()
        with (
            endless(moved, more=b"") as issuing,
            pytest.raises(FetchError, match="the answer is 302"),
        ):
            await fetch(f"http://127.0.0.1:{issuing.port}/jwks")
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        assert key_set(issuer) == await fetch(url)


async def test_an_issuer_that_drips_does_not_hold_up_offer_keys(
    fresh_database: str, issuer: Issuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Servers that do not know a new key yet would refuse the offers of the others."""
    monkeypatch.setattr(token_keys, "fetch", partial(fetch, most_s=600))
    file, secret, document = tmp_path / "keys", "cd" * 32, key_set(issuer)
    file.write_text("1:" + "ab" * 32)
    settings: dict[str, Any] = {
        "offer_keys": None,
        "offer_keys_file": str(file),
        "token_issuer": ISSUER,
    }
    good = ANSWER + b"content-length: %d\r\n\r\n" % len(document) + document
    with endless(good, ANSWER, more=b"a: b\r\n") as issuing:
        settings |= {"token_keys": f"http://127.0.0.1:{issuing.port}/", "token_keys_refresh_s": 1}
        root = issuer.token("root", "operator", "gateway", users=["*"])
        async with (
            serving(fresh_database, **settings) as service,
            Client(service.target, token=root) as client,
        ):
            await create(client, "standard", default_offer=True)

            async def drips() -> bool:
                return (1, 2) == (len(issuing.left), issuing.taken)

            async def signed_by_the_new_key() -> bool:
                asked = await client.request_offers(user_id="a", currency_code="NOK")
                offer_id = asked.offers[0].offer_id
                return OfferSigner({2: bytes.fromhex(secret)}, 2).read(offer_id).authentic

            await until(drips)
            file.write_text("2:" + secret)
            await until(signed_by_the_new_key)
            assert await drips()
