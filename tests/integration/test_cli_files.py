"""The commands that read and write files, as people run them, against a real server."""

import asyncio
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

import pytest

from tests.conftest import Service
from voucher_grpc.dev.demo.load import load_demo
from voucher_grpc.files.catalogue import read_catalogue
from voucher_grpc.v1 import catalogue_service_pb2, tendency_service_pb2
from voucher_grpc.v1.location_service_pb2 import GetTariffRequest

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
PRODUCT = """\
products:
  - product_id: one
    display_name: One
    price: 49.00 NOK
    benefit: {energy_bundle_kwh: 60}
    validity: {days: 30}
    time_zone: Europe/Oslo
"""
SECOND = PRODUCT.removeprefix("products:\n").replace("product_id: one", "product_id: two")
SESSIONS = """\
session_id,user_id,location_id,start_date_time,end_date_time,energy_kwh
s1,alice,LOC1,2026-11-01T20:00:00Z,2026-11-02T06:00:00Z,12.5
s2,alice,LOC1,2026-11-02T20:00:00Z,,9
"""


@dataclass(frozen=True)
class Ran:
    """What became of a command."""

    code: int
    out: str
    err: str


async def command(target: str, *arguments: str) -> Ran:
    """Run the command as a process of its own, with the service's address."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "voucher_grpc.cli",
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "VOUCHER_TARGET": target, "COLUMNS": "200", "NO_COLOR": "1"},
    )
    out, err = await asyncio.wait_for(process.communicate(), 120)
    return Ran(process.returncode or 0, out.decode(), err.decode())


def written(path: Path, name: str, text: str) -> str:
    """A file with this text, as an argument."""
    file = path / name
    file.write_text(text, encoding="utf-8")
    return str(file)


async def product_ids(service: Service) -> list[str]:
    """The products on sale."""
    request = catalogue_service_pb2.ListProductsRequest(page_size=1000)
    response = await service.client.call(service.client.catalogue.ListProducts, request)
    return [product.product_id for product in response.products]


def refused_in_one_line(ran: Ran, message: str) -> None:
    """Exit code 2 and exactly one line on standard error."""
    assert ran.code == 2, ran
    assert len(ran.err.splitlines()) == 1, ran.err
    assert ran.err.startswith("voucher-grpc: ")
    assert message in ran.err


async def test_every_demo_product_is_accepted_and_comes_back_as_it_was(
    fresh_service: Service, tmp_path: Path
) -> None:
    """Apply, export, apply: the second time nothing changes."""
    demo = str(files("voucher_grpc.dev.demo") / "catalogue.yaml")
    exported = str(tmp_path / "exported.yaml")
    first = await command(fresh_service.target, "catalogue", "apply", demo, "--yes")
    assert first.code == 0, first.err
    assert (await command(fresh_service.target, "catalogue", "export", exported)).code == 0
    by_id = {terms.product_id: terms for terms in read_catalogue(Path(demo))}
    assert {terms.product_id: terms for terms in read_catalogue(Path(exported))} == by_id
    for file in (demo, exported):
        again = await command(fresh_service.target, "catalogue", "apply", file)
        assert again.code == 0, again.err
        assert again.out.splitlines() == [f"0 new, 0 changed, 0 retired, {len(by_id)} unchanged"]


async def test_a_dry_run_shows_everything_and_changes_nothing(
    fresh_service: Service, tmp_path: Path
) -> None:
    """What would change is told to the field; the catalogue stays."""
    target = fresh_service.target
    file = written(tmp_path, "a.yaml", PRODUCT)
    assert "+ one" in (await command(target, "catalogue", "apply", file, "--dry-run")).out
    assert await product_ids(fresh_service) == []
    assert (await command(target, "catalogue", "apply", file, "--yes")).code == 0
    changed = written(tmp_path, "b.yaml", PRODUCT.replace("49.00", "59.00"))
    dry = await command(target, "catalogue", "apply", changed, "--dry-run")
    assert "price: 49.00 NOK -> 59.00 NOK" in dry.out
    export = await command(target, "catalogue", "export", "-")
    assert "price: 49.00 NOK" in export.out


async def test_a_change_is_applied_with_the_name_of_who_made_it(
    fresh_service: Service, tmp_path: Path
) -> None:
    """The actor is kept with the revision."""
    target = fresh_service.target
    await command(target, "catalogue", "apply", written(tmp_path, "a", PRODUCT), "--yes")
    file = written(tmp_path, "b", PRODUCT.replace("49.00", "59.00"))
    ran = await command(target, "catalogue", "apply", file, "--yes", "--actor", "kari")
    assert ran.code == 0, ran.err
    request = catalogue_service_pb2.GetProductRequest(product_id="one")
    client = fresh_service.client
    product = (await client.call(client.catalogue.GetProduct, request)).product
    assert (product.revision, product.revision_created_by) == (2, "kari")
    assert product.price.units == 59


async def test_nothing_is_applied_without_a_yes(fresh_service: Service, tmp_path: Path) -> None:
    """Where nobody can be asked, --yes is needed."""
    ran = await command(fresh_service.target, "catalogue", "apply", written(tmp_path, "a", PRODUCT))
    refused_in_one_line(ran, "add --yes")
    assert await product_ids(fresh_service) == []


async def test_what_the_file_lacks_is_retired_only_with_prune(
    fresh_service: Service, tmp_path: Path
) -> None:
    """A retired product is gone for good: a file that has it again is refused."""
    target = fresh_service.target
    both_file = written(tmp_path, "both", PRODUCT + SECOND)
    one_file = written(tmp_path, "one", PRODUCT)
    await command(target, "catalogue", "apply", both_file, "--yes")
    kept = await command(target, "catalogue", "apply", one_file, "--yes")
    assert "two  is not in the file and stays" in kept.out
    assert await product_ids(fresh_service) == ["one", "two"]
    pruned = await command(target, "catalogue", "apply", one_file, "--yes", "--prune")
    assert pruned.code == 0, pruned.err
    assert await product_ids(fresh_service) == ["one"]
    again = await command(target, "catalogue", "apply", both_file, "--yes")
    refused_in_one_line(again, "retired for good: two")


async def test_a_bad_file_changes_nothing(fresh_service: Service, tmp_path: Path) -> None:
    """The whole file is checked before the first product is sent."""
    target = fresh_service.target
    for name, text, message in (
        ("bounds.yaml", PRODUCT + SECOND.replace("days: 30", "days: 0"), "products[1].validity"),
        ("broken.yaml", PRODUCT.replace("60}", "60"), "is not YAML"),
    ):
        ran = await command(target, "catalogue", "apply", written(tmp_path, name, text), "--yes")
        refused_in_one_line(ran, message)
    refused_in_one_line(
        await command(target, "catalogue", "apply", str(tmp_path / "absent.yaml")),
        "cannot be read: No such file",
    )
    assert await product_ids(fresh_service) == []


async def test_a_refusal_of_the_service_names_the_product_and_how_far_it_came(
    fresh_service: Service, tmp_path: Path
) -> None:
    """Only the service knows that the smallest unit of the yen is 1."""
    file = written(tmp_path, "a", PRODUCT + SECOND.replace("49.00 NOK", "4.5 JPY"))
    ran = await command(fresh_service.target, "catalogue", "apply", file, "--yes")
    refused_in_one_line(ran, "two: INVALID_FIELD: product.price: must be a multiple of 1.00 JPY")
    assert "(products changed before it: 1)" in ran.err


async def test_locations_and_tariffs_of_a_file_are_stored(fresh_service: Service) -> None:
    """OCPI files go in as they are, any number of times."""
    folder = files("voucher_grpc.dev.demo")
    for name, count in (("tariffs", 11), ("locations", 14)):
        for _ in range(2):
            ran = await command(fresh_service.target, name, "import", str(folder / f"{name}.json"))
            assert ran.code == 0, ran.err
            assert ran.out == f"{name}: {count} read, {count} stored, 0 refused\n"


async def test_a_location_that_is_refused_is_named_and_the_others_stored(
    fresh_service: Service, tmp_path: Path
) -> None:
    """By this side or by the service: position, id and reason; the exit code is 1."""
    good = {"country_code": "NO", "party_id": "OSL", "id": "L", "time_zone": "Europe/Oslo"}
    objects = [{**good, "id": ""}, good, {**good, "id": "M", "party_id": "OSLO"}]
    file = written(tmp_path, "l.json", json.dumps({"data": objects, "status_code": 1000}))
    ran = await command(fresh_service.target, "locations", "import", file)
    assert ran.code == 1, ran
    assert "locations: 3 read, 1 stored, 2 refused" in ran.out
    assert "entry 1 : id: is missing" in ran.out
    assert "entry 3 M: INVALID_FIELD: party_id: must be " in ran.out


async def test_published_tariffs_are_stored_and_what_was_repaired_is_said(
    fresh_service: Service, tmp_path: Path
) -> None:
    """OCPI 2.1.1 of an operator that the file does not name, with one element that says nothing."""
    price = {"type": "energy", "price": 0.4, "step_size": 1}
    elements = [
        {"price_components": [price], "restrictions": {"end_time": "7:00:00"}},
        {"price_components": [price], "restrictions": {"phase_of_moon": "full"}},
        {"price_components": [price]},
        None,
    ]
    file = written(
        tmp_path, "t.json", json.dumps({"id": "T", "currency": "eur", "elements": elements})
    )
    arguments = ("tariffs", "import", file, "--country", "nl", "--party", "tst")
    ran = await command(fresh_service.target, *arguments)
    assert ran.code == 0, ran
    head, *rest = ran.out.splitlines()
    assert head.startswith("2 of 2 price components state no VAT")
    assert "tariffs: 1 read, 1 stored, 0 refused" == rest[0]
    assert "5 parts are not as OCPI has them" == rest[1]
    assert any("entry 1 T: elements[1]: skipped: restrictions: 'phase_of_moon'" in r for r in rest)
    request = GetTariffRequest(country_code="NL", party_id="TST", tariff_id="T")
    client = fresh_service.client
    stored = (await client.call(client.location.GetTariff, request)).tariff
    assert (2, 2, "EUR") == (len(stored.elements), stored.skipped_elements, stored.currency_code)
    assert "07:00" == stored.elements[0].restrictions.end_time


async def test_the_norwegian_sessions_go_in_once(fresh_service: Service, shared_data: Path) -> None:
    """22,312 rows are read, none is refused, and the second time none is new."""
    arguments = (
        "sessions",
        "import",
        str(shared_data / "norway_residential_sessions.csv"),
        "--time-zone",
        "Europe/Oslo",
        "--country",
        "NO",
    )
    first = await command(fresh_service.target, *arguments)
    assert first.code == 0, first.err
    head, *refused = first.out.splitlines()
    assert head.startswith("22,312 read: ")
    assert head == "22,312 read: 22,312 recorded, 0 unchanged, 0 corrected, 0 refused", refused
    again = await command(fresh_service.target, *arguments)
    assert again.out == "22,312 read: 0 recorded, 22,312 unchanged, 0 corrected, 0 refused\n"


async def test_a_changed_session_is_refused_unless_it_is_a_correction(
    fresh_service: Service, tmp_path: Path
) -> None:
    """The conflict is reported with the line in the file."""
    target = fresh_service.target
    arguments = ("--time-zone", "Europe/Oslo", "--country", "NO", "--party", "OSL")
    file = written(tmp_path, "a.csv", SESSIONS)
    assert (await command(target, "sessions", "import", file, *arguments)).code == 0
    changed = written(tmp_path, "b.csv", SESSIONS.replace(",9\n", ",8\n"))
    ran = await command(target, "sessions", "import", changed, *arguments)
    assert ran.out.startswith("2 read: 0 recorded, 1 unchanged, 0 corrected, 1 refused")
    assert "line 3 s2: SESSION_CONFLICT" in ran.out
    ran = await command(target, "sessions", "import", changed, *arguments, "--corrections")
    assert ran.out == "2 read: 0 recorded, 1 unchanged, 1 corrected, 0 refused\n"


async def test_refused_rows_are_counted_by_reason_and_located(
    fresh_service: Service, tmp_path: Path
) -> None:
    """Rows refused here and by the service stand in one report."""
    text = SESSIONS + (
        "s3,alice,LOC1,2026-11-03T20:00:00Z,,lots\n"
        "s4,alice,LOC1,2026-11-04T20:00:00Z,2026-11-03T20:00:00Z,5\n"
        "s5,alice,LOC1,2026-11-05T20:00:00Z,,99999\n"
    )
    file = written(tmp_path, "a.csv", text)
    ran = await command(
        fresh_service.target, "sessions", "import", file, "--time-zone", "Europe/Oslo",
        "--country", "NO",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert "5 read: 2 recorded, 0 unchanged, 0 corrected, 3 refused" in ran.out
    assert "line 4 s3: energy_kwh: must be a number" in ran.out
    assert "line 5 s4: INVALID_FIELD: end_time: must not be before start_time" in ran.out
    assert "line 6 s5: INVALID_FIELD: energy_wh: must be from 0 to 10000000" in ran.out


async def test_cdrs_are_imported_as_sessions(fresh_service: Service, tmp_path: Path) -> None:
    """A CDR names its own operator; the token is the user."""
    cdr = {
        "country_code": "NO",
        "party_id": "OSL",
        "id": "c1",
        "start_date_time": "2026-11-01T20:00:00",
        "end_date_time": "2026-11-01T22:00:00",
        "cdr_token": {"uid": "alice", "contract_id": "NO-XYZ-1"},
        "cdr_location": {"id": "LOC1", "evse_uid": "E1", "connector_id": "1"},
        "total_energy": 15.342,
    }
    file = written(tmp_path, "c.json", json.dumps([cdr, {**cdr, "id": "c2", "cdr_token": None}]))
    ran = await command(
        fresh_service.target, "sessions", "import", file, "--time-zone", "Europe/Oslo"
    )
    assert "2 read: 1 recorded, 0 unchanged, 0 corrected, 1 refused" in ran.out
    assert "entry 2 c2: cdr_token: is missing" in ran.out
    request = tendency_service_pb2.GetTendencyRequest(user_id="alice")
    client = fresh_service.client
    assert (await client.call(client.tendency.GetTendency, request)).tendency.sessions == 1


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        ("a,b\n1,2\n", ("--country", "NO"), "lacks the columns"),
        ("", ("--country", "NO"), "is empty"),
        (SESSIONS, (), "--country: is missing"),
        (SESSIONS, ("--country", "NO", "--time-zone", "Oslo"), "--time-zone: must be an IANA"),
        (SESSIONS, ("--country", "NO", "--party", "oslo"), "--party: must be an OCPI party id"),
    ],
)
async def test_a_bad_import_is_told_in_one_line(
    shared_service: Service,
    tmp_path: Path,
    text: str,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    """Bad file or bad option: exit code 2 before anything is sent."""
    file = written(tmp_path, "a.csv", text)
    ran = await command(shared_service.target, "sessions", "import", file, *arguments)
    refused_in_one_line(ran, message)


async def test_a_service_that_is_not_there_is_told_in_one_line(tmp_path: Path) -> None:
    """Every command that needs the service says so, with exit code 2."""
    file = written(tmp_path, "a.csv", SESSIONS)
    catalogue = written(tmp_path, "a.yaml", PRODUCT)
    for arguments in (
        ("catalogue", "apply", catalogue, "--dry-run"),
        ("sessions", "import", file, "--country", "NO"),
        ("request-offers", "--user", "alice"),
    ):
        refused_in_one_line(await command("127.0.0.1:1", *arguments), "UNAVAILABLE")


async def test_both_signals_can_be_given_by_hand(fresh_service: Service) -> None:
    """Ask for offers, buy the first one, and buying it again is refused in one line."""
    await load_demo(fresh_service.client, datetime.now(UTC), generic_users=0)
    target = fresh_service.target
    table = await command(target, "request-offers", "--vehicle", "demo-night-owl-vehicle")
    assert table.code == 0, table.err
    assert "Offers to demo-night-owl" in table.out
    assert "Night Light" in table.out
    asked = await command(
        target, "request-offers", "--user", "demo-night-owl",
        "--location", "NO*OSL*OSL-NORDBY*OSL-NORDBY-2", "--max-offers", "1", "--json",
    )  # fmt: skip
    (offer,) = json.loads(asked.out)["offers"]
    amount = f"{offer['price']['units']} {offer['price']['currency_code']}"
    buy = ("purchase", "--offer-id", offer["offer_id"], "--amount", amount)
    judged = await command(target, *buy, "--payment-reference", "p1", "--validate-only")
    assert "nothing was" in judged.out
    bought = await command(target, *buy, "--payment-reference", "p1", "--json")
    assert bought.code == 0, bought.err
    assert json.loads(bought.out)["user_id"] == "demo-night-owl"
    again = await command(target, *buy, "--payment-reference", "p2")
    refused_in_one_line(again, "OFFER_ALREADY_BOUGHT")
    assert asked.out.count(offer["offer_id"]) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("request-offers",), "INVALID_FIELD"),
        (("request-offers", "--user", "\udcff"), "an option is not UTF-8 text"),
        (("request-offers", "--user", "a", "--location", "NO*OSL"), "--location: must be such as"),
        (("request-offers", "--vehicle", "not-registered"), "VEHICLE_NOT_FOUND"),
        (
            ("purchase", "--offer-id", "x", "--amount", "49", "--payment-reference", "p"),
            "--amount: must be an amount and a currency",
        ),
        (
            ("purchase", "--offer-id", "x", "--amount", "49 NOK", "--payment-reference", "p"),
            "OFFER_INVALID",
        ),
        (
            (
                "purchase",
                "--offer-id",
                "x",
                "--amount",
                f"{10**19} NOK",
                "--payment-reference",
                "p",
            ),
            "--amount: is out of range",
        ),
    ],
)
async def test_a_bad_signal_is_told_in_one_line(
    shared_service: Service, arguments: tuple[str, ...], message: str
) -> None:
    """What the service or the command refuses is one line and exit code 2."""
    refused_in_one_line(await command(shared_service.target, *arguments), message)


def test_files_and_commands_need_no_extra() -> None:
    """With the client's dependencies alone every command can be loaded."""
    blocked = "asyncpg numpy babel structlog prometheus_client pydantic pydantic_settings uvloop"
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({blocked.split()!r}))\n"
        "import voucher_grpc.cli.commands, voucher_grpc.dev.demo.load\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True
    )
    assert done.stderr == ""
