"""`voucher-grpc locations` and `tariffs`, as people run them: list, show, delete, replace."""

import csv
import json
from pathlib import Path
from typing import Any

from tests.conftest import Service
from tests.integration.test_cli_files import Ran, command, written


def location(location_id: str, *tariff_ids: str, party_id: str = "OSL") -> dict[str, Any]:
    connector = {
        "id": "1",
        "standard": "IEC_62196_T2",
        "power_type": "AC_3_PHASE",
        "tariff_ids": list(tariff_ids),
    }
    return {
        "country_code": "NO",
        "party_id": party_id,
        "id": location_id,
        "name": f"At {location_id}",
        "time_zone": "Europe/Oslo",
        "evses": [{"uid": "1", "connectors": [connector]}],
    }


def tariff(tariff_id: str, price: float = 2, party_id: str = "OSL") -> dict[str, Any]:
    component = {"type": "ENERGY", "price": price, "step_size": 1, "vat": 25}
    return {
        "country_code": "NO",
        "party_id": party_id,
        "id": tariff_id,
        "currency": "NOK",
        "elements": [{"price_components": [component]}],
    }


async def imported(
    service: Service, kind: str, path: Path, objects: list[Any], *options: str
) -> Ran:
    file = written(path, f"{kind}.json", json.dumps(objects))
    return await command(service.target, kind, "import", file, *options)


async def ids(service: Service, kind: str) -> list[str]:
    ran = await command(service.target, kind, "list")
    assert ran.code == 0, ran
    return [line.split()[2] for line in ran.out.splitlines()]


async def test_what_is_stored_is_listed_shown_and_deleted(
    fresh_service: Service, tmp_path: Path
) -> None:
    """Only an operator's, if it is named; what is not there is said."""
    places = [location("a", "T"), location("b"), location("c", party_id="BGO")]
    assert (await imported(fresh_service, "locations", tmp_path, places)).code == 0
    assert (
        await imported(fresh_service, "tariffs", tmp_path, [tariff("T"), tariff("U")])
    ).code == 0
    target = fresh_service.target
    listed = await command(target, "locations", "list", "--country", "no", "--party", "OSL")
    assert listed.out.splitlines() == [
        "NO OSL a  At a, 1 EVSEs, tariffs: T",
        "NO OSL b  At b, 1 EVSEs, tariffs: none",
    ]
    assert "2 locations" in listed.err
    listed = await command(target, "tariffs", "list")
    assert listed.out.splitlines() == [
        "NO OSL T  NOK, any session, 1 elements",
        "NO OSL U  NOK, any session, 1 elements",
    ]
    shown = json.loads((await command(target, "tariffs", "show", "no", "osl", "t")).out)
    assert ("T", "NOK") == (shown["tariff_id"], shown["currency_code"])
    shown = json.loads((await command(target, "locations", "show", "NO", "BGO", "c")).out)
    assert "At c" == shown["name"]
    deleted = await command(target, "tariffs", "delete", "NO", "OSL", "T", "X")
    assert deleted.code == 0, deleted
    assert deleted.out.splitlines() == [
        "1 tariffs deleted, 1 were not there",
        "connectors still name T",
    ]
    assert ["U"] == await ids(fresh_service, "tariffs")
    assert 1 == (await command(target, "tariffs", "delete", "NO", "OSL", "T")).code
    assert 0 == (await command(target, "locations", "delete", "NO", "OSL", "a", "b")).code
    assert ["c"] == await ids(fresh_service, "locations")
    missing = await command(target, "tariffs", "show", "NO", "OSL", "T")
    assert (2, True) == (missing.code, "TARIFF_NOT_FOUND" in missing.err)


async def test_replace_deletes_what_the_operators_of_the_file_have_besides(
    fresh_service: Service, tmp_path: Path
) -> None:
    """Other operators' stay, and so does what was refused; tariffs that are named are said."""
    before = [tariff("a"), tariff("b"), tariff("C"), tariff("d"), tariff("x", party_id="BGO")]
    assert (await imported(fresh_service, "tariffs", tmp_path, before)).code == 0
    places = [location("home", "a", "b")]
    assert (await imported(fresh_service, "locations", tmp_path, places)).code == 0
    broken = {**tariff("c"), "elements": []}
    after = [tariff("b", 3), broken, tariff("e")]
    ran = await imported(fresh_service, "tariffs", tmp_path, after, "--replace")
    assert ran.code == 1, ran
    assert "tariffs: 3 read, 2 stored, 1 refused" in ran.out
    assert "NO OSL: 2 other tariffs deleted" in ran.out
    assert "connectors still name a" in ran.out
    assert ["x", "C", "b", "e"] == await ids(fresh_service, "tariffs")
    ran = await imported(fresh_service, "locations", tmp_path, [location("work")], "--replace")
    assert (0, True) == (ran.code, "NO OSL: 1 other locations deleted" in ran.out)
    assert ["work"] == await ids(fresh_service, "locations")


async def test_replace_takes_the_operator_that_is_named(
    fresh_service: Service, tmp_path: Path
) -> None:
    """OCPI 2.1.1 objects name none; without an id nothing is deleted."""
    assert (await imported(fresh_service, "tariffs", tmp_path, [tariff("a")])).code == 0
    old = {key: value for key, value in tariff("b").items() if key[-1] != "e" or key == "type"}
    old.pop("party_id")
    owner = ("--country", "no", "--party", "osl")
    ran = await imported(fresh_service, "tariffs", tmp_path, [old, {"id": ""}], "--replace", *owner)
    assert (2, True) == (ran.code, "has no id" in ran.err), ran
    assert ["a", "b"] == await ids(fresh_service, "tariffs")
    ran = await imported(fresh_service, "tariffs", tmp_path, [old], "--replace", *owner)
    assert ran.code == 0, ran
    assert ["b"] == await ids(fresh_service, "tariffs")


async def test_a_report_has_every_entry_that_was_refused_or_repaired(
    fresh_service: Service, tmp_path: Path
) -> None:
    """Not the first ten alone, by this side and by the service, with position and reason."""
    broken = [{**tariff(f"t{n}"), "elements": []} for n in range(15)]
    noted = [{**tariff(f"n{n}"), "type": "regular"} for n in range(15)]
    refused = [tariff("bad", party_id="OSLO")]
    report = tmp_path / "report.csv"
    ran = await imported(
        fresh_service, "tariffs", tmp_path, [*broken, *noted, *refused], "--report", str(report)
    )
    assert ran.code == 1, ran
    rows = list(csv.DictReader(report.read_text().splitlines()))
    assert [str(n + 1) for n in range(31)] == sorted((row["entry"] for row in rows), key=int)
    by_treatment = {row["id"]: row["treatment"] for row in rows}
    assert {"t0": "refused", "n0": "noted", "bad": "refused"}.items() <= by_treatment.items()
    assert all(row["reason"] for row in rows)
    unwritable = ("--report", str(tmp_path / "no/x"))
    assert 2 == (await imported(fresh_service, "tariffs", tmp_path, [], *unwritable)).code


async def test_credits_count_across_files_and_semicolons_are_read(
    fresh_service: Service, tmp_path: Path
) -> None:
    """The credit comes first, in a file of its own; the corrected CDR counts once."""
    cdr = {
        "country_code": "NO",
        "party_id": "OSL",
        "id": "C1",
        "start_date_time": "2026-11-01T20:00:00Z",
        "end_date_time": "2026-11-01T22:00:00Z",
        "cdr_token": {"uid": "alice"},
        "cdr_location": {"id": "home"},
        "session_id": "S1",
        "total_energy": 99,
    }
    credit = {**cdr, "id": "C1-C", "credit": True, "credit_reference_id": "C1"}
    target = fresh_service.target
    options: tuple[str, ...] = ("--time-zone", "Europe/Oslo")
    file = written(tmp_path, "credit.json", json.dumps([credit]))
    ran = await command(target, "sessions", "import", file, *options)
    assert ran.out == ("1 read: 0 recorded, 0 unchanged, 0 corrected, 0 refused; 2 cancelled\n")
    file = written(tmp_path, "cdrs.json", json.dumps([cdr, {**cdr, "id": "C2"}]))
    ran = await command(target, "sessions", "import", file, *options)
    assert ran.out.startswith("2 read: 1 recorded, 0 unchanged, 0 corrected, 0 refused; "), ran
    german = "Nr;Karte;Ort;Start;Ende;kWh\n1;bob;home;01.11.2026 20:00;;12,5\n"
    file = written(tmp_path, "german.csv", german)
    names = "session_id=Nr,user_id=Karte,location_id=Ort,start_date_time=Start,end_date_time=Ende"
    options = (*options, "--country", "NO", "--columns", f"{names},energy_kwh=kWh")
    ran = await command(target, "sessions", "import", file, *options)
    assert ran.out == "1 read: 1 recorded, 0 unchanged, 0 corrected, 0 refused\n", ran
    ran = await command(target, "sessions", "import", file, *options[:-1], "energy=kWh")
    assert (2, True) == (ran.code, "--columns: 'energy=kWh' must be one of" in ran.err)
