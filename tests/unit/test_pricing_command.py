"""`voucher-grpc tariffs price`: a bill without a server."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tests.unit.pricing_builders import cdr, component, element, published
from voucher_grpc.cli import Failed, app, commands

assert commands  # registers them

DAY = element(component("ENERGY", 2, vat=25), component("PARKING_TIME", 12), start_time="08:00")
CHARGE = ["--start", "2026-06-02 10:00", "--end", "2026-06-02 11:00", "--energy-kwh", "20"]
ZONE = ["--time-zone", "Europe/Oslo"]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["tariffs", "price", *arguments])


def bill(*arguments: str) -> Any:
    ran = run(*arguments, "--json")
    assert 0 == ran.exit_code, ran
    return json.loads(ran.stdout)


def failure(*arguments: str) -> str:
    ran = run(*arguments)
    assert isinstance(ran.exception, Failed), ran
    return str(ran.exception)


@pytest.fixture
def file(tmp_path: Path) -> Any:
    def write(name: str, document: object) -> str:
        path = tmp_path / name
        path.write_text(json.dumps(document), encoding="utf-8")
        return str(path)

    return write


def test_a_charge_by_start_and_end_is_itemized(file: Any) -> None:
    """20 kWh at 40 kW, then half an hour of parking; local times of the place."""
    of = file("tariff.json", published(DAY))
    made = bill("--tariff", of, *CHARGE, "--power-kw", "40", *ZONE)
    assert "NOK" == made["currency"]
    assert {"excl_vat": 46, "incl_vat": 56} == made["total_cost"]
    assert {"excl_vat": 40, "incl_vat": 50} == made["total_energy_cost"]
    assert {"excl_vat": 6, "incl_vat": 6} == made["total_parking_cost"]
    assert (None, None) == (made["total_time_cost"], made["total_reservation_cost"])
    assert ["2026-06-02T08:00:00Z", "2026-06-02T08:30:00Z"] == [
        period["start_date_time"] for period in made["periods"]
    ]
    [energy] = made["periods"][0]["dimensions"]
    assert ("ENERGY", 0, 20, 2, 25) == tuple(
        energy[key] for key in ("type", "element", "billed_volume", "price", "vat")
    )
    assert [] == made["warnings"]


def test_a_cdr_is_priced_by_the_tariff_inside_it(file: Any) -> None:
    """Or by one that is given, which comes before."""
    document = cdr((0, {"ENERGY": 20}))
    document["tariffs"] = [published(element(component("ENERGY", 3)))]
    inside = file("cdr.json", document)
    assert {"excl_vat": 60, "incl_vat": 60} == bill("--cdr", inside)["total_cost"]
    other = file("tariff.json", published(element(component("ENERGY", 4))))
    assert 80 == bill("--cdr", inside, "--tariff", other)["total_cost"]["excl_vat"]


def test_a_credit_cdr_has_a_total_below_nothing_and_costs_above(file: Any) -> None:
    """As OCPI has it."""
    document = {**cdr((0, {"ENERGY": 20})), "credit": True}
    of = file("tariff.json", published(element(component("ENERGY", 3))))
    made = bill("--cdr", file("cdr.json", document), "--tariff", of)
    assert (-60, 60) == (made["total_cost"]["excl_vat"], made["total_energy_cost"]["excl_vat"])


def test_a_price_can_depend_on_the_current(file: Any) -> None:
    """Where none is given, such an element does not apply, and it is said."""
    slow = element(component("ENERGY", 1), max_current=16)
    of = file("tariff.json", published(slow, element(component("ENERGY", 2))))
    assert 20 == bill("--tariff", of, *CHARGE, "--current-a", "10")["total_cost"]["excl_vat"]
    made = bill("--tariff", of, *CHARGE)
    assert (40, ["CURRENT_UNKNOWN"]) == (
        made["total_cost"]["excl_vat"],
        [warning["code"] for warning in made["warnings"]],
    )


def test_a_rate_of_tax_is_for_components_that_state_none(file: Any) -> None:
    """In percent."""
    of = file("tariff.json", published(element(component("ENERGY", 2))))
    assert {"excl_vat": 40, "incl_vat": 48.4} == bill("--tariff", of, *CHARGE, "--vat", "21")[
        "total_cost"
    ]


def test_what_no_element_prices_has_no_price_and_says_so(file: Any) -> None:
    """Which is not the same as free."""
    of = file("tariff.json", published(element(component("ENERGY", 2), min_kwh=100)))
    made = bill("--tariff", of, *CHARGE)
    assert (None, ["UNPRICED"]) == (made["total_cost"], [w["code"] for w in made["warnings"]])
    assert "no price is known" in run("--tariff", of, *CHARGE).stdout


def test_what_was_skipped_and_assumed_is_said(file: Any) -> None:
    """A period that a price begins inside of, power that is not stated, a dimension unknown."""
    steps = published(
        element(component("ENERGY", 9), surprise=1),
        element(component("ENERGY", 4), start_time="10:30", min_power=1),
        element(component("ENERGY", 2)),
        end_date_time="2026-01-01T00:00:00Z",
    )
    charge = file("cdr.json", cdr((0, {"ENERGY": 20, "CONGESTION_TIME": 1})))
    made = bill("--cdr", charge, "--tariff", file("tariff.json", steps), *ZONE)
    codes = [warning["code"] for warning in made["warnings"]]
    assert [
        "ELEMENTS_SKIPPED",
        "TARIFF_NOT_VALID",
        "MEAN_POWER",
        "BOUNDARY_INSIDE_PERIOD",
        "PUBLISHED_DATA",
        "PUBLISHED_DATA",
    ] == codes
    assert 40 == made["total_cost"]["excl_vat"]


@pytest.mark.parametrize(
    ("bound", "dimensions", "code"),
    [
        ({"min_power": 1}, {}, "MEAN_POWER"),
        ({"max_power": 99}, {}, "MEAN_POWER"),
        ({"min_power": 1}, {"MIN_POWER": 9, "MAX_POWER": 9}, "MEAN_POWER"),
        ({"min_current": 1}, {}, "CURRENT_UNKNOWN"),
        ({"max_current": 99}, {}, "CURRENT_UNKNOWN"),
        ({"max_current": 99}, {"MAX_CURRENT": 9}, "CURRENT_UNKNOWN"),
    ],
)
def test_one_period_that_does_not_state_what_a_bound_asks_for_is_enough(
    file: Any, bound: dict[str, int], dimensions: dict[str, int], code: str
) -> None:
    """Either bound; and none asks for what no tariff depends on."""
    charge = file("cdr.json", cdr((0, {"ENERGY": 20, **dimensions}), (30, {"ENERGY": 5})))
    of = published(element(component("ENERGY", 1), **bound), element(component("ENERGY", 2)))
    warnings = bill("--cdr", charge, "--tariff", file("tariff.json", of))["warnings"]
    assert [code] == [warning["code"] for warning in warnings]
    plain = file("plain.json", published(element(component("ENERGY", 2))))
    assert [] == bill("--cdr", charge, "--tariff", plain)["warnings"]


def test_the_table_shows_quantities_and_amounts(file: Any) -> None:
    """For people."""
    of = file("tariff.json", published(DAY, max_price={"excl_vat": 45}))
    shown = run("--tariff", of, *CHARGE, "--power-kw", "40", *ZONE).stdout
    for expected in ("20 kWh", "30 min", "40.0000", "50.0000", "total (max price)", "45.0000"):
        assert expected in shown


def test_of_several_tariffs_the_one_that_is_valid_is_taken(file: Any) -> None:
    """A file holds a list."""
    old = published(element(component("ENERGY", 9)), end_date_time="2026-06-01T00:00:00Z")
    of = file("tariffs.json", [old, published(element(component("ENERGY", 2)))])
    assert 40 == bill("--tariff", of, *CHARGE)["total_cost"]["excl_vat"]
    assert "no tariff that is valid" in failure("--tariff", file("old.json", old), *CHARGE)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give --tariff or --cdr"),
        (["--tariff", "T", *CHARGE], "give --time-zone"),
        (["--tariff", "T", *CHARGE, "--time-zone", "Europe/Atlantis"], "is not a time zone"),
        (["--tariff", "T", *CHARGE, "--time-zone", "../etc/passwd"], "is not a time zone"),
        (["--tariff", "T", *CHARGE, *ZONE, "--power-kw", "fast"], "--power-kw: must be a number"),
        (["--tariff", "T", *CHARGE[:4], *ZONE], "--energy-kwh: must be a number"),
        (["--tariff", "T", *CHARGE[2:], *ZONE], "--start: must be a time"),
        (["--tariff", "T", *CHARGE, *ZONE, "--vat", "1e999999999"], "--vat: must be a number"),
        (["--cdr", "C", *CHARGE], "--cdr states the charge"),
        (["--cdr", "C", *ZONE], "has no tariff inside"),
        (["--cdr", "T", "--tariff", "T", *ZONE], "start_date_time: is missing"),
        (["--cdr", "L", "--tariff", "T", *ZONE], "must hold one CDR, not 2"),
    ],
)
def test_what_is_wrong_is_one_sentence(file: Any, arguments: list[str], said: str) -> None:
    """With the option or the field."""
    one = cdr((0, {"ENERGY": 20}))
    files = {
        "T": file("tariff.json", published(DAY)),
        "C": file("cdr.json", one),
        "L": file("list.json", [one, one]),
    }
    assert said in failure(*(files.get(argument, argument) for argument in arguments))
