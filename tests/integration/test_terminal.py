"""What an operator's terminal is sent, byte by byte, when files and servers are hostile."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2 as details
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from tests.conftest import Service
from tests.integration.operating import PATIENCE_S
from voucher_grpc.v1 import (
    catalogue_service_pb2_grpc,
    location_service_pb2,
    location_service_pb2_grpc,
    offer_pb2,
    product_pb2,
    voucher_service_pb2,
    voucher_service_pb2_grpc,
)

# A sequence of C0 and one of C1, a clipboard, an override, markup, an emoji code, a forged line.
EVIL = "\x1b[31m\x9b2J\x1b]52;c;aGk=\x07\u202e[bold]x[/bold][/]:key:\r\nvoucher-grpc: done\udc9b"
SHOWN = (
    "\\x1b[31m\\x9b2J\\x1b]52;c;aGk=\\x07\\u202e[bold]x[/bold][/]:key:\\r\\nvoucher-grpc: done"
    "\\udc9b"
)
# The same where text must be Unicode.
EVIL_TEXT, SHOWN_TEXT = EVIL[:-1], SHOWN.removesuffix("\\udc9b")
# What a display name may hold: it may have lines, and no control characters but these.
NAME, NAME_SHOWN = "Nat\u202et\n[red]+ two[/red] :key:", "Nat\\u202et\\n[red]+ two[/red] :key:"
KOREAN = "심야 패스 🔋"
PRODUCT = """\
products:
  - product_id: one
    display_name: {name}
    price: 49.00 NOK
    benefit: {{energy_bundle_kwh: 60}}
    validity: {{days: 30}}
    time_zone: Europe/Oslo
"""
SESSIONS = "session_id,user_id,location_id,start_date_time,end_date_time,energy_kwh\n"


async def command(target: str, *arguments: str | bytes, **settings: str) -> tuple[int, str, str]:
    """Run the command: exit code, and exactly what it wrote to the two outputs."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "voucher_grpc.cli",
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={
            **os.environ,
            "VOUCHER_TARGET": target,
            "COLUMNS": "200",
            # Even where styles are wanted, nothing of the values becomes one.
            "NO_COLOR": "1",
            **settings,
        },
    )
    out, err = await asyncio.wait_for(process.communicate(), 2 * PATIENCE_S)
    return process.returncode or 0, out.decode(), err.decode()


def written(path: Path, name: str, text: str) -> str:
    """A file with this text, as an argument."""
    file = path / name
    file.write_bytes(text.encode())
    return str(file)


def yaml_text(text: str) -> str:
    """A YAML scalar in double quotes that stands for any text."""
    return '"' + "".join(f"\\U{ord(character):08x}" for character in text) + '"'


async def test_applying_a_catalogue_shows_names_and_changes_escaped(
    fresh_service: Service, tmp_path: Path
) -> None:
    """A new name, its change and the export: each value stays in its line; Korean stays Korean."""
    target = fresh_service.target
    hostile = written(tmp_path, "a.yaml", PRODUCT.format(name=yaml_text(NAME)))
    friendly = written(tmp_path, "b.yaml", PRODUCT.format(name=KOREAN))
    assert await command(target, "catalogue", "apply", hostile, "--yes") == (
        0,
        (
            f"+ one  {NAME_SHOWN}, 49.00 NOK\n"
            "1 new, 0 changed, 0 retired, 0 unchanged\n"
            "products changed: 1\n"
        ),
        "",
    )
    assert await command(target, "catalogue", "apply", friendly, "--dry-run") == (
        0,
        (
            f"~ one\n    display_name: {NAME_SHOWN} -> {KOREAN}\n"
            "0 new, 1 changed, 0 retired, 0 unchanged\n"
        ),
        "",
    )
    code, exported, _ = await command(target, "catalogue", "export")
    assert 0 == code
    assert '\n  display_name: "Nat\\u202Et\\n[red]+ two[/red] :key:"\n' in exported
    again = written(tmp_path, "c.yaml", exported)
    assert await command(target, "catalogue", "apply", again) == (
        0,
        "0 new, 0 changed, 0 retired, 1 unchanged\n",
        "",
    )


LONG = "k" * 100_000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            f"{yaml_text(EVIL_TEXT)}: 1\n",
            (f"{SHOWN_TEXT}: is not a known key; here are products and pay_as_you_go_per_kwh"),
        ),
        (
            PRODUCT.format(name="One") + f"    {yaml_text(chr(27) + '[2J')}: 1\n",
            "products[0].\\x1b[2J: is not a known key",
        ),
        (
            PRODUCT.format(name="One") + f"    {LONG[:1_000]}: 1\n",
            f"products[0].{'k' * 97}...: is not a known key",
        ),
        (
            '? "\\e[1m"\n: 1\n? "\\e[1m"\n: 2\n',
            '{path}: is not YAML: the key "\\x1b[1m" stands twice (line 3, column 3)',
        ),
        (
            "products: \x1b[2J\n",
            (
                "{path}: is not YAML: unacceptable character #x001b: special characters are not "
                'allowed in "<unicode string>", position 10'
            ),
        ),
        (
            "products: \u202e&\u202e\n",
            None,
        ),
    ],
    ids=["key", "product-key", "long-key", "twice", "raw", "anchor"],
)
async def test_a_catalogue_that_is_refused_is_told_in_one_printable_line(
    tmp_path: Path, text: str, message: str | None
) -> None:
    """Keys and quoted pieces of the file are escaped and short; what is wrong is always told."""
    file = written(tmp_path, "a.yaml", text)
    code, out, err = await command("127.0.0.1:1", "catalogue", "apply", file)
    assert (2, "") == (code, out)
    if message is not None:
        assert f"voucher-grpc: {message.replace('{path}', file)}\n" == err
    assert 1 == err.count("\n")
    assert err.rstrip("\n").isprintable()


@pytest.mark.parametrize(
    "arguments",
    [
        ("catalogue", "apply"),
        ("tariffs", "import"),
        ("locations", "import"),
        ("sessions", "import", "--country", "NO"),
        ("tendencies", "install", "--database-url", "postgresql://127.0.0.1:1/none"),
        ("offer-keys", "show"),
    ],
    ids=lambda arguments: arguments[0],
)
async def test_the_name_of_a_file_is_escaped(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """An archive that was unpacked may have files of any name, also of bytes that are not UTF-8."""
    name = os.fsencode(tmp_path) + b"/\x1b[2J\x9b\n\xe2\x80\xaevoucher-grpc: done"
    code, out, err = await command("127.0.0.1:1", *arguments, name)
    shown = f"{tmp_path}/\\x1b[2J\\udc9b\\n\\u202evoucher-grpc: done"
    assert (2, "") == (code, out)
    assert err.startswith(f"voucher-grpc: {shown}: ")
    assert 1 == err.count("\n")
    assert err.rstrip("\n").isprintable()


async def test_importing_locations_shows_ids_and_reasons_escaped(
    shared_service: Service, tmp_path: Path, unique: str
) -> None:
    """Those that are refused here and by the service; an id that is not Unicode ends nothing."""
    good = {"country_code": "NO", "party_id": "OSL", "time_zone": "Europe/Oslo", "id": unique}
    objects = [
        good,
        {**good, "id": EVIL, "time_zone": ""},
        {**good, "id": EVIL},
        {**good, "id": EVIL_TEXT},
        {**good, "id": "i" * 10_000, "time_zone": ""},
    ]
    file = written(tmp_path, "l.json", json.dumps(objects))
    assert await command(shared_service.target, "locations", "import", file) == (
        1,
        (
            "locations: 5 read, 1 stored, 4 refused\n"
            "         2  time_zone: is missing\n"
            "         1  has a number out of range or text that is not Unicode\n"
            "         1  INVALID_FIELD: location_id: must be at most 36 characters, "
            f"has {len(EVIL_TEXT)}\n"
            f"  entry 2 {SHOWN}: time_zone: is missing\n"
            f"  entry 3 {SHOWN}: has a number out of range or text that is not Unicode\n"
            f"  entry 5 {'i' * 64}: time_zone: is missing\n"
            f"  entry 4 {SHOWN_TEXT}: INVALID_FIELD: location_id: must be at most 36 "
            f"characters, has {len(EVIL_TEXT)}\n"
        ),
        "",
    )


async def test_importing_tariffs_shows_ids_and_keys_escaped(
    shared_service: Service, tmp_path: Path, unique: str
) -> None:
    """A key that nobody knows is named by its path, escaped and short."""
    good = {"country_code": "NO", "party_id": "OSL", "currency": "NOK", "id": unique}
    price = {"type": "ENERGY", "price": 5, "vat": 25}
    element = {"price_components": [price]}
    objects = [
        {**good, "elements": [{**element, "restrictions": {EVIL_TEXT: 1}}]},
        {**good, "id": "\x1b[1m", "elements": [{**element, "restrictions": {LONG: 1}}]},
        {**good, "id": "\u202e", "elements": [element]},
    ]
    file = written(tmp_path, "t.json", json.dumps(objects))
    ran = await command(shared_service.target, "tariffs", "import", file)
    head, *lines = ran[1].splitlines()
    assert (1, "") == (ran[0], ran[2])
    assert "tariffs: 3 read, 0 stored, 3 refused" == head
    assert all(line.isprintable() for line in lines)
    where = "elements: has none that is understood: elements[0]: skipped: restrictions: '"
    assert any(line.startswith(f"  entry 1 {unique}: {where}\\x1b[31m") for line in lines)
    assert any(line.startswith(f"  entry 2 \\x1b[1m: {where}{'k' * 50}' is not") for line in lines)
    ascii_id = "INVALID_FIELD: tariff_id: must be visible ASCII without spaces"
    assert f"  entry 3 \\u202e: {ascii_id}" in lines


async def test_what_an_operator_s_server_says_in_a_file_is_escaped(tmp_path: Path) -> None:
    """An OCPI response that is an error holds a message of the other side."""
    answer = {"data": [], "status_code": 3000, "status_message": EVIL + LONG}
    file = written(tmp_path, "l.json", json.dumps(answer))
    shown = (SHOWN + LONG)[:997]
    assert await command("127.0.0.1:1", "locations", "import", file) == (
        2,
        "",
        f"voucher-grpc: {file}: is an OCPI error, status_code 3000: {shown}...\n",
    )


async def test_importing_sessions_shows_ids_escaped(
    shared_service: Service, tmp_path: Path, unique: str
) -> None:
    """From CSV, refused here and by the service; a quoted value may have lines."""
    rest = "LOC1,2026-11-01T20:00:00Z,,9"
    quoted = EVIL_TEXT.replace("\r", "")
    shown = SHOWN_TEXT.replace("\\r", "")
    rows = (
        f"{unique},alice,{rest}\n"
        f'"{quoted}",alice,LOC1,2026-11-01T20:00:00Z,,lots\n'
        f'"{quoted}",alice,{rest}\n'
        f"\x1b[1m,alice,{rest}\n"
    )
    file = written(tmp_path, "s.csv", SESSIONS + rows)
    arguments = ("sessions", "import", file, "--country", "NO", "--time-zone", "Europe/Oslo")
    number = "energy_kwh: must be a number with a decimal point"
    ascii_id = "INVALID_FIELD: session_id: must be visible ASCII without spaces"
    assert await command(shared_service.target, *arguments) == (
        0,
        (
            "4 read: 1 recorded, 0 unchanged, 0 corrected, 3 refused\n"
            f"         2  {ascii_id}\n"
            f"         1  {number}\n"
            f"  line 4 {shown}: {number}\n"
            f"  line 6 {shown}: {ascii_id}\n"
            f"  line 7 \\x1b[1m: {ascii_id}\n"
        ),
        "",
    )


async def test_importing_cdrs_shows_ids_escaped(shared_service: Service, tmp_path: Path) -> None:
    """From JSON, where text may even hold halves of characters."""
    file = written(tmp_path, "c.json", json.dumps([{"id": EVIL}]))
    reason = "start_date_time: is missing"
    assert await command(shared_service.target, "sessions", "import", file) == (
        1,
        (
            "1 read: 0 recorded, 0 unchanged, 0 corrected, 1 refused\n"
            f"         1  {reason}\n"
            f"  entry 1 {SHOWN}: {reason}\n"
        ),
        "",
    )


async def test_evaluating_and_simulating_show_nothing_of_a_hostile_file_unescaped(
    tmp_path: Path,
) -> None:
    """Their files are read by the same rules; rows that the service would refuse are left out."""
    sessions = written(tmp_path, "s.csv", SESSIONS + f'"{EVIL_TEXT}",alice,LOC1,x,,9\n')
    key = written(tmp_path, "key.yaml", f"{yaml_text(EVIL_TEXT)}: 1\n")
    catalogue = written(
        tmp_path, "c.yaml", f"pay_as_you_go_per_kwh: 5 NOK\n{PRODUCT.format(name=KOREAN)}"
    )
    refusal = (
        f"voucher-grpc: {SHOWN_TEXT}: is not a known key; here are products and "
        "pay_as_you_go_per_kwh\n"
    )
    evaluate = ("evaluate", sessions, "--catalogue")
    simulate = ("simulate", sessions, "--catalogue", catalogue, "--changed")
    assert await command("", *evaluate, key) == (2, "", refusal)
    assert await command("", *simulate, key) == (2, "", refusal)
    nobody = "no user has sessions over 60 days, so there is nothing to judge"
    reason = 'start_date_time: must be an instant such as "2026-11-22T10:00:00Z"'
    assert await command("", *evaluate, catalogue) == (
        2,
        (
            "1 of 1 rows were refused and are not judged:\n"
            f"         1  {reason}\n"
            f"  line 3 {SHOWN_TEXT}: {reason}\n"
        ),
        f"voucher-grpc: {sessions}: {nobody}\n",
    )


class _Evil(
    catalogue_service_pb2_grpc.CatalogueServiceServicer,
    location_service_pb2_grpc.LocationServiceServicer,
    voucher_service_pb2_grpc.VoucherServiceServicer,
):
    """A server, or whoever took its place, that answers with what it likes."""

    async def ListProducts(self, _request: Any, context: Any) -> Any:  # noqa: N802
        refusal = Status(code=9, message="m" * 100)
        violation = details.BadRequest.FieldViolation(field=EVIL_TEXT, description="d" * 5_000)
        for detail in (
            details.ErrorInfo(reason=EVIL_TEXT),
            details.BadRequest(field_violations=[violation]),
        ):
            refusal.details.add().Pack(detail)
        await context.abort_with_status(rpc_status.to_status(refusal))

    async def UpsertTariffs(self, request: Any, _context: Any) -> Any:  # noqa: N802
        refusal = Status(code=9, message=EVIL_TEXT)
        return location_service_pb2.UpsertTariffsResponse(results=[refusal] * len(request.tariffs))

    async def RequestOffers(self, _request: Any, _context: Any) -> Any:  # noqa: N802
        reason = offer_pb2.OfferReason(text=EVIL_TEXT)
        offer = offer_pb2.Offer(
            offer_id="\x1b]8;;x",
            product_id="\x1b[1m",
            display_name=NAME,
            reasons=[reason],
            recommended=True,
            benefit=product_pb2.Benefit(session_bundle=product_pb2.SessionBundle(sessions=3)),
        )
        offer.price.currency_code = "\x1bc"
        return voucher_service_pb2.RequestOffersResponse(user_id=EVIL_TEXT, offers=[offer])

    async def PurchasePass(self, request: Any, context: Any) -> Any:  # noqa: N802
        if request.payment.captured.reference == "unclear":
            await context.abort(grpc.StatusCode.INTERNAL, EVIL_TEXT + "m" * 6_000)
        response = voucher_service_pb2.PurchasePassResponse()
        bought = getattr(response, "pass")
        bought.display_name, bought.pass_id, bought.user_id = NAME, EVIL_TEXT, "\x1b[2J"
        return response


@asynccontextmanager
async def evil_server() -> AsyncIterator[str]:
    """The address of such a server."""
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    register: Callable[..., None]
    for register in (
        catalogue_service_pb2_grpc.add_CatalogueServiceServicer_to_server,
        location_service_pb2_grpc.add_LocationServiceServicer_to_server,
        voucher_service_pb2_grpc.add_VoucherServiceServicer_to_server,
    ):
        register(_Evil(), server)  # type: ignore[abstract]
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def test_what_a_server_says_is_escaped_and_bounded(tmp_path: Path) -> None:
    """Reasons, fields and messages of refusals, alone and for each entry of a file."""
    file = written(tmp_path, "a.yaml", PRODUCT.format(name="One"))
    element = {"price_components": [{"type": "ENERGY", "price": 5, "vat": 25}]}
    tariff = {"country_code": "NO", "party_id": "OSL", "currency": "NOK", "id": "T"}
    tariffs = written(tmp_path, "t.json", json.dumps({**tariff, "elements": [element]}))
    async with evil_server() as target:
        refused = await command(target, "catalogue", "apply", file)
        imported = await command(target, "tariffs", "import", tariffs)
    shown = f"{SHOWN_TEXT}: {SHOWN_TEXT}: {'d' * 1_000}"[:997]
    assert (2, "", f"voucher-grpc: {shown}...\n") == refused
    assert imported == (
        1,
        (
            "tariffs: 1 read, 0 stored, 1 refused\n"
            f"         1  {SHOWN_TEXT}\n"
            f"  entry 1 T: {SHOWN_TEXT}\n"
        ),
        "",
    )


async def test_offers_and_passes_are_shown_in_tables_that_no_value_can_break() -> None:
    """Names, reasons, ids and currencies stand in their cells, each in its line."""
    buy = ("purchase", "--offer-id", "x", "--amount", "1 NOK", "--payment-reference", "p")
    async with evil_server() as target:
        code, offers, _ = await command(target, "request-offers", "--user", "u")
        bought, owned, _ = await command(target, *buy)
        as_json, raw, _ = await command(target, "request-offers", "--user", "u", "--json")
    assert (0, 0, 0) == (code, bought, as_json)
    for text in (offers, owned):
        assert {line for line in text.split("\n") if not line.isprintable()} == set()
    title, *_ = offers.split("\n")
    assert f"Offers to {SHOWN_TEXT}" == title.rstrip()
    assert f"│ {NAME_SHOWN} │" in _squeezed(offers)
    assert "│ \\x1b[1m │" in _squeezed(offers)
    assert "│ 0.00 \\x1bc │" in _squeezed(offers)
    assert f"│ {SHOWN_TEXT} │" in _squeezed(offers)
    assert offers.endswith("\noffer_id 1: \\x1b]8;;x\n")
    assert NAME_SHOWN == owned.split("\n")[0].rstrip()
    assert f"│ pass │ {SHOWN_TEXT} │" in _squeezed(owned)
    assert "│ user │ \\x1b[2J │" in _squeezed(owned)
    assert raw.isascii()
    assert NAME == json.loads(raw)["offers"][0]["display_name"]


async def test_how_to_repeat_a_purchase_is_told_however_long_the_message() -> None:
    """The request_id of a purchase whose outcome is not known is what the caller needs most."""
    buy = ("purchase", "--offer-id", "x", "--amount", "1 NOK", "--payment-reference", "unclear")
    key = "123e4567-e89b-12d3-a456-426614174000"
    async with evil_server() as target:
        code, out, err = await command(target, *buy, "--request-id", key)
    said = f"INTERNAL: {SHOWN_TEXT}{'m' * 1_000}"[:997]
    again = f"it may have been bought: repeat it with --request-id {key}"
    assert (2, "", f"voucher-grpc: {said}...; {again}\n") == (code, out, err)


def _squeezed(table: str) -> str:
    return " ".join(table.split())


async def test_styles_are_ours_alone(fresh_service: Service, tmp_path: Path) -> None:
    """On a terminal that takes colours a line is green, and the value in it still inert."""
    file = written(tmp_path, "a.yaml", PRODUCT.format(name=yaml_text(NAME)))
    ran = await command(
        fresh_service.target, "catalogue", "apply", file, "--dry-run",
        NO_COLOR="", FORCE_COLOR="1", TERM="xterm",
    )  # fmt: skip
    assert ran == (
        0,
        (
            f"\x1b[32m+ one  {NAME_SHOWN}, 49.00 NOK\x1b[0m\n"
            "1 new, 0 changed, 0 retired, 0 unchanged\n"
        ),
        "",
    )


async def test_a_locale_without_unicode_gets_escapes_and_no_trace(
    fresh_service: Service, tmp_path: Path
) -> None:
    """In the locale C a name in Korean would end the command; the exported file stays UTF-8."""
    file = written(tmp_path, "a.yaml", PRODUCT.format(name=KOREAN))
    ascii_only = {"PYTHONIOENCODING": "ascii"}
    ran = await command(fresh_service.target, "catalogue", "apply", file, "--yes", **ascii_only)
    shown = KOREAN.encode("ascii", "backslashreplace").decode()
    assert (0, f"+ one  {shown}, 49.00 NOK", "") == (ran[0], ran[1].split("\n")[0], ran[2])
    _, exported, _ = await command(fresh_service.target, "catalogue", "export", **ascii_only)
    assert f"display_name: {KOREAN}\n" in exported


async def test_a_wrong_word_of_the_command_line_is_escaped() -> None:
    """It may come from a script that passes on what it was given."""
    code, out, err = await command("127.0.0.1:1", "\x1b[2J[bold]")
    assert (2, "", "voucher-grpc: No such command '\\x1b[2J[bold]'.\n") == (code, out, err)


async def test_a_fault_of_the_command_itself_is_told_in_printable_lines() -> None:
    """A trace quotes what the error says; none of its lines can be taken for another's."""
    program = (
        "from voucher_grpc.cli import app, main\n"
        "@app.command()\n"
        "def fail():\n"
        f"    raise ValueError({EVIL!r})\n"
        "main()\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, "fail", stderr=asyncio.subprocess.PIPE
    )
    _, err = await asyncio.wait_for(process.communicate(), 2 * PATIENCE_S)
    head, *lines = err.decode().split("\n")
    assert (1, "voucher-grpc: a fault of the command") == (process.returncode, head)
    first, second = SHOWN.split("\\n")
    assert [f"  ValueError: {first}", f"  {second}", ""] == lines[-3:]
    assert all(line.startswith("  ") and line.isprintable() for line in lines[:-1])
