"""Secrets come from files or the environment, change without a restart, and show up nowhere."""

import asyncio
import os
import re
import signal
import subprocess
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from tests.conftest import serving
from tests.integration.credentials import ISSUER
from tests.integration.operating import (
    COMMAND,
    OFFER_KEY,
    PASSWORD,
    PATIENCE_S,
    ended,
    environment,
    refusal_to_start,
    start,
    until,
    with_password,
)
from tests.integration.shop import create
from voucher_grpc.client import CallFailed, Client
from voucher_grpc.domain.offer_ids.keys import read_offer_keys
from voucher_grpc.domain.offer_ids.signer import OfferSigner
from voucher_grpc.server.config import Config, ConfigError, read_config


def command(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("VOUCHER_")}
    return subprocess.run(
        [COMMAND, *arguments],
        env={**inherited, **settings},
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_S,
        check=False,
    )


async def test_a_server_takes_its_secrets_from_files_and_shows_none(
    fresh_database: str, tmp_path: Path
) -> None:
    """Neither in its logs nor to whoever lists processes."""
    url, keys = tmp_path / "url", tmp_path / "keys"
    url.write_text(with_password(fresh_database) + "\n")
    keys.write_text(f"1:{OFFER_KEY}\n")
    settings = environment(fresh_database)
    del settings["VOUCHER_DATABASE_URL"], settings["VOUCHER_OFFER_KEYS"]
    settings |= {"VOUCHER_DATABASE_URL_FILE": str(url), "VOUCHER_OFFER_KEYS_FILE": str(keys)}
    process = await asyncio.create_subprocess_exec(
        COMMAND,
        "serve",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**settings, "VOUCHER_LOG_LEVEL": "debug"},
    )
    assert process.stdout is not None
    ready = (await asyncio.wait_for(process.stdout.readline(), 60)).decode()
    port = re.findall(r"port (\d+)", ready)[0]
    async with Client(f"127.0.0.1:{port}") as client:
        with pytest.raises(CallFailed):
            await client.purchase_pass(OFFER_KEY, payment_reference="pay-1")
    listed = " ".join(psutil.Process(process.pid).cmdline())
    process.send_signal(signal.SIGTERM)
    result = await ended(process)
    assert 0 == result.code
    everything = "\n".join([ready, listed, result.output, *result.errors])
    assert PASSWORD not in everything
    assert OFFER_KEY not in everything


async def test_a_password_on_the_command_line_is_refused(fresh_database: str) -> None:
    """Everybody on the machine could read it."""
    result = await ended(
        await start("serve", "--database-url", with_password(fresh_database), url="")
    )
    assert 2 == result.code
    assert "VOUCHER_DATABASE_URL_FILE" in result.errors[0]
    assert PASSWORD not in "".join(result.errors)
    for arguments in (["migrate"], ["verify"], ["tendencies", "rebuild"]):
        url = "postgresql://u@h/d?password=" + PASSWORD
        ran = command(*arguments, "--database-url", url)
        assert 2 == ran.returncode
        assert PASSWORD not in ran.stderr
        assert "must not hold a password" in ran.stderr


async def test_a_secret_that_is_given_twice_or_cannot_be_read_is_refused(
    fresh_database: str, tmp_path: Path
) -> None:
    """Which one is meant is not guessed; a missing file is not an empty secret."""
    (tmp_path / "keys").write_text(f"1:{OFFER_KEY}")
    told = await refusal_to_start(fresh_database, VOUCHER_OFFER_KEYS_FILE=str(tmp_path / "keys"))
    assert "VOUCHER_OFFER_KEYS and its _FILE are both set" in told
    told = await refusal_to_start(
        fresh_database, VOUCHER_OFFER_KEYS="", VOUCHER_OFFER_KEYS_FILE=str(tmp_path / "none")
    )
    assert "VOUCHER_OFFER_KEYS_FILE: cannot be read: No such file" in told
    with pytest.raises(ConfigError, match="VOUCHER_OFFER_KEYS_FILE: must have at most"):
        read_config(offer_keys_file=_large(tmp_path))


@pytest.mark.parametrize("name", [n for n in Config.model_fields if n.endswith("_file")])
def test_an_empty_variable_names_no_file(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Taken for a path it would be the working folder."""
    monkeypatch.setenv(f"VOUCHER_{name.upper()}", "")
    assert getattr(read_config(), name) is None


def _large(folder: Path) -> str:
    path = folder / "large"
    path.write_bytes(b"1" * 70_000)
    return str(path)


async def test_offer_keys_are_rotated_by_a_command_under_a_running_server(
    fresh_database: str, tmp_path: Path
) -> None:
    """Offers that are out can be bought, new ones are signed by the new key, no restart."""
    file = tmp_path / "keys"
    made = command("offer-keys", "rotate", str(file))
    assert (0, "key 1: signs\n") == (made.returncode, made.stdout)
    assert 0o600 == file.stat().st_mode & 0o777
    [first] = read_offer_keys(file.read_text())
    settings = {"offer_keys": None, "offer_keys_file": str(file)}
    async with serving(fresh_database, **settings) as service:
        client = service.client
        await create(client, "standard", default_offer=True)
        old = (await client.request_offers(user_id="a", currency_code="NOK")).offers[0]
        assert _signed_by(old.offer_id, first.key_id, first.secret)
        rotated = command("offer-keys", "rotate", str(file), "--sign-in-s", "0")
        assert 0 == rotated.returncode
        assert "key 1: verifies\nkey 2: signs\n" == rotated.stdout
        second = read_offer_keys(file.read_text())[1]
        new = old

        async def signed_by_the_new_key() -> bool:
            nonlocal new
            new = (await client.request_offers(user_id="a", currency_code="NOK")).offers[0]
            return _signed_by(new.offer_id, second.key_id, second.secret)

        await until(signed_by_the_new_key)
        for reference, offer in (("pay-old", old), ("pay-new", new)):
            bought = await client.purchase_pass(offer, payment_reference=reference)
            assert "standard" == bought.product_id
        file.write_text("not a key")
        await asyncio.sleep(1.5)
        again = (await client.request_offers(user_id="b", currency_code="NOK")).offers[0]
        assert _signed_by(again.offer_id, second.key_id, second.secret)
    for text in (made.stdout, rotated.stdout, command("offer-keys", "show", str(file)).stderr):
        assert first.secret.hex() not in text
        assert second.secret.hex() not in text


def _signed_by(offer_id: str, key_id: int, secret: bytes) -> bool:
    return OfferSigner({key_id: secret}, key_id).read(offer_id).authentic


def test_keys_that_cannot_be_read_are_not_overwritten(tmp_path: Path) -> None:
    """A rotation of a broken file would lose the keys of all offers that are out."""
    file = tmp_path / "keys"
    file.write_text("1:zz")
    refused = command("offer-keys", "rotate", str(file))
    assert 2 == refused.returncode
    assert "key 1 must be hexadecimal" in refused.stderr
    assert "1:zz" == file.read_text()


async def test_a_development_token_makes_trying_it_easy(
    fresh_database: str, tmp_path: Path
) -> None:
    """`voucher-grpc token` prints one; commands take it from the environment or a file."""
    arguments = ["token", "--role", "user", "--subject", "alice", "--keys", str(tmp_path)]
    made = await asyncio.to_thread(command, *arguments)
    assert 0 == made.returncode, made.stderr
    assert 0o600 == (tmp_path / "token_key.json").stat().st_mode & 0o777
    settings = {
        "token_keys": str(tmp_path / "jwks.json"),
        "token_issuer": "voucher-grpc-development",
    }
    async with serving(fresh_database, **settings) as service:
        async with Client(service.target, token=made.stdout.strip()) as client:
            await client.request_offers(user_id="alice", currency_code="NOK")
        asked = ["request-offers", "--user", "alice", "--currency", "NOK"]
        asked += ["--target", service.target]
        without = await asyncio.to_thread(command, *asked)
        assert (2, True) == (without.returncode, "CREDENTIALS_MISSING" in without.stderr)
        (tmp_path / "token").write_text(made.stdout)
        for variables in (
            {"VOUCHER_TOKEN": made.stdout},
            {"VOUCHER_TOKEN_FILE": str(tmp_path / "token")},
        ):
            ran = await asyncio.to_thread(lambda v: command(*asked, **v), variables)
            assert 0 == ran.returncode, ran.stderr
    refused = command("token", "--role", "user", "--keys", str(tmp_path))
    assert (2, True) == (refused.returncode, "--subject: is missing" in refused.stderr)


async def test_a_key_set_that_cannot_be_used_keeps_the_server_from_starting(
    fresh_database: str, tmp_path: Path
) -> None:
    """Nobody could call; better to hear it at once."""
    keys = tmp_path / "jwks.json"
    told = await refusal_to_start(
        fresh_database, VOUCHER_TOKEN_KEYS=str(keys), VOUCHER_TOKEN_ISSUER=ISSUER
    )
    assert "VOUCHER_TOKEN_KEYS cannot be read: No such file" in told
    keys.write_text('{"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "1"}]}')
    told = await refusal_to_start(
        fresh_database, VOUCHER_TOKEN_KEYS=str(keys), VOUCHER_TOKEN_ISSUER=ISSUER
    )
    assert "must have 1 to 100 keys for signatures, has 0" in told
