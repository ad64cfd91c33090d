"""The catalogue file: what is read is what was written, and what is wrong is named."""

from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest

from voucher_grpc.domain.catalogue.product import (
    EnergyBundle,
    EnergyPrice,
    FlatPeriod,
    PercentageOff,
    SessionBundle,
    Terms,
    ValidityStart,
)
from voucher_grpc.edge.wire.products import terms_message
from voucher_grpc.errors import BadInput
from voucher_grpc.files.catalogue import (
    FieldChange,
    catalogue_text,
    difference,
    parse_catalogue,
    read_catalogue,
    terms_of,
)
from voucher_grpc.money import Money
from voucher_grpc.ocpi import PowerType, VehicleType

MINIMAL = """\
products:
  - product_id: one
    display_name: One
    price: 49.00 NOK
    benefit: {energy_bundle_kwh: 60}
    validity: {days: 30}
    time_zone: Europe/Oslo
"""


def demo_products() -> list[Terms]:
    """The products of the shipped catalogue."""
    return parse_catalogue((files("voucher_grpc.dev.demo") / "catalogue.yaml").read_text("utf-8"))


def refusal_of(text: str, path: Path) -> str:
    """Why a catalogue file with this text is refused."""
    file = path / "catalogue.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(BadInput) as caught:
        read_catalogue(file)
    return caught.value.message


def test_a_file_written_from_products_reads_back_unchanged() -> None:
    """Export and apply are inverse, for each benefit and condition there is."""
    products = demo_products()
    assert parse_catalogue(catalogue_text(products)) == products


def test_a_product_survives_the_way_over_a_message() -> None:
    """What the service sends back of a product equals what the file says."""
    for terms in demo_products():
        assert terms_of(terms_message(terms)) == terms


def test_the_demo_catalogue_has_one_of_everything() -> None:
    """Each benefit, start and limit occurs, and each currency has a default product."""
    products = demo_products()
    selectors = [terms.conditions.selectors for terms in products]
    restrictions = [r for terms in products for r in terms.conditions.any_of]
    kinds = (EnergyBundle, EnergyPrice, FlatPeriod, PercentageOff, SessionBundle)
    assert {type(terms.benefit) for terms in products} == set(kinds)
    assert {terms.validity.start for terms in products} == set(ValidityStart)
    assert {terms.price.currency_code for terms in products if terms.default_offer} == {
        "NOK",
        "EUR",
    }
    assert len(products) >= 18
    assert any(terms.stock for terms in products)
    assert {bool(t.personal_limit.rolling_days) for t in products if t.personal_limit} == {
        True,
        False,
    }
    for name in ("parties", "locations", "connector_standards", "min_connector_power_w"):
        assert any(getattr(s, name) for s in selectors), name
    assert {v for s in selectors for v in s.vehicle_types} >= {
        VehicleType.SCOOTER,
        VehicleType.DRONE,
    }
    assert PowerType.DC in {p for s in selectors for p in s.power_types}
    for name in ("start_date", "day_of_week", "min_energy_wh", "max_energy_wh", "min_power_w"):
        assert any(getattr(r, name) for r in restrictions), name
    assert any(r.end_minute and (r.start_minute or 0) > r.end_minute for r in restrictions)


def test_plain_values_follow_yaml_1_2() -> None:
    """NO is a country and 22:00 a time, without quotes."""
    text = MINIMAL + "    conditions: {parties: [NO], any_of: [{start_time: 22:00}]}\n"
    (terms,) = parse_catalogue(text)
    assert terms.conditions.selectors.parties == (("NO", ""),)
    assert terms.conditions.any_of[0].start_minute == 22 * 60


def test_decimals_are_exact() -> None:
    """A price per kWh that no binary float holds arrives as it was written."""
    (terms,) = parse_catalogue(
        MINIMAL.replace("energy_bundle_kwh: 60", "energy_price_per_kwh: 3.141593")
    )
    assert terms.benefit == EnergyPrice(3_141_593)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("49.00 NOK", "49.00", "products[0].price: must be an amount and a currency"),
        ("49.00 NOK", "-1 NOK", "products[0].price: must not be negative"),
        ("49.00 NOK", "1e400 NOK", "products[0].price: must be a number of at most 20 digits"),
        ("days: 30", "days: 0", "products[0].validity: must be at least one day"),
        ("days: 30", "", "products[0].validity: must have days or months"),
        ("days: 30", "days: 99999", "products[0].validity.days: must be from 1 to 3660"),
        ("days: 30", "days: 30, months: 1", "products[0].validity: must have days or months"),
        (
            "days: 30",
            "days: 30, first_use_within_days: 9",
            "products[0].validity.first_use_within_days: goes only with start: FIRST_USE",
        ),
        ("days: 30", "days: " + "9" * 30, "products[0]: has a number out of range"),
        ("days: 30", "days: " + "9" * 5000, "products[0].validity.days: must be a whole number"),
        ("Europe/Oslo", "Oslo", "products[0].time_zone: must be an IANA time zone"),
        ("display_name", "name", "products[0].display_name: is missing"),
        ("    benefit", "    colour: red\n    benefit", "products[0].colour: is not a known key"),
        ("energy_bundle_kwh", "free", "products[0].benefit: must have exactly one of"),
        ("product_id: one", "product_id: 17", "products[0].product_id: must be text, not int"),
        ("products:", "prodcuts:", "prodcuts: is not a known key"),
        ("One", '"\\ud800"', "products[0]: has a number out of range or text that is not Unicode"),
    ],
)
def test_what_is_wrong_is_named_by_its_path(
    old: str, new: str, message: str, tmp_path: Path
) -> None:
    """The refusal begins with the path of the first thing that is wrong."""
    assert message in refusal_of(MINIMAL.replace(old, new), tmp_path)


def test_a_product_that_stands_twice_is_refused(tmp_path: Path) -> None:
    """Both places are named."""
    text = MINIMAL + MINIMAL.removeprefix("products:\n")
    assert refusal_of(text, tmp_path) == ("products[1].product_id: stands in products[0] already")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MINIMAL.replace("days: 30}", "days: 30"), "(line 7, column"),
        (MINIMAL + "    price: 1.00 NOK\n", 'the key "price" stands twice (line 8, column 5)'),
        (MINIMAL.replace("One", "!!python/object:os.system x"), "(line 3, column"),
        ("\t- x", "is not YAML"),
        ("products: *nothing", "(line 1, column 11)"),
        ("[" * 10_000, "is nested too deeply"),
        ("", "is empty"),
        ("- one", "products: is missing"),
        ("products: 3", "products: must be a list"),
        ("products: [3]", "products[0]: must be a mapping"),
    ],
)
def test_what_is_not_a_catalogue_is_said_with_its_line(
    text: str, message: str, tmp_path: Path
) -> None:
    """Broken YAML names line and column, and nothing in it is executed."""
    assert message in refusal_of(text, tmp_path)


def test_a_file_that_is_absent_or_not_text_is_a_sentence(tmp_path: Path) -> None:
    """No traceback for a missing file, a folder, or Latin-1."""
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"products: \xe6")
    for path, message in (
        (tmp_path / "absent.yaml", "cannot be read: No such file"),
        (tmp_path, "cannot be read: Is a directory"),
        (latin, "is not UTF-8 (byte 11)"),
    ):
        with pytest.raises(BadInput, match=r"cannot be read|UTF-8") as caught:
            read_catalogue(path)
        assert message in caught.value.message


def test_a_difference_names_what_is_new_changed_missing_and_retired() -> None:
    """Each product of file and catalogue is in exactly one of the lists."""
    (one,) = parse_catalogue(MINIMAL)
    present = {
        name: replace(one, product_id=name) for name in ("same", "changed", "missing", "absent")
    }
    wanted = [
        present["same"],
        replace(present["changed"], price=Money(59_000_000, "NOK"), stock=10),
        replace(one, product_id="new"),
        replace(one, product_id="gone"),
    ]
    found = difference(wanted, present, retired=["gone"])
    assert [terms.product_id for terms in found.added] == ["new"]
    assert found.unchanged == ("same",)
    assert found.missing == ("absent", "missing")
    assert found.retired == ("gone",)
    ((changed, fields),) = found.changed
    assert changed.product_id == "changed"
    assert fields == (
        FieldChange("price", "49.00 NOK", "59.00 NOK"),
        FieldChange("stock", "", "10"),
    )
