"""Bounds and units of the files that operators give: CSV, JSON and YAML."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from voucher_grpc.domain.catalogue.document import terms_from_document, terms_to_document
from voucher_grpc.domain.catalogue.product import (
    EnergyBundle,
    EnergyPrice,
    PercentageOff,
    SessionBundle,
)
from voucher_grpc.errors import BadInput
from voucher_grpc.files import reading, sessions
from voucher_grpc.files.ocpi_objects import (
    location_file,
    read_objects,
    tariff_file,
)
from voucher_grpc.files.ocpi_sessions import OcpiSessionFile
from voucher_grpc.files.reading import MAX_EXAMPLES, MAX_REASONS, Refusals, read_text
from voucher_grpc.files.sessions import (
    BATCH_SESSIONS,
    MAX_LINE_CHARS,
    SessionFile,
    energy_wh,
    instant,
)

CDR: dict[str, Any] = {
    "country_code": "no",
    "party_id": "osl",
    "id": "c1",
    "start_date_time": "2026-11-01T20:00:00Z",
    "end_date_time": "2026-11-01T22:00:00Z",
    "cdr_token": {"uid": "alice", "contract_id": "contract"},
    "cdr_location": {"id": "L1", "evse_uid": "E1", "connector_id": "1"},
    "total_energy": "10.5",
}


def written(path: Path, value: object) -> Path:
    file = path / "file"
    file.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("status", "good"), [(999, False), (1000, True), (1999, True), (2000, False), ("2000", True)]
)
def test_a_response_is_read_if_its_status_is_a_success(
    status: Any, good: bool, tmp_path: Path
) -> None:
    """OCPI's are from 1000 to 1999."""
    file = written(tmp_path, {"data": [1, 2], "status_code": status})
    if good:
        assert [1, 2] == read_objects(file)
    else:
        with pytest.raises(BadInput, match=f"status_code {status}: no message"):
            read_objects(file)


def test_an_object_that_has_data_of_its_own_is_an_object(tmp_path: Path) -> None:
    """One with an id is no response."""
    value = {"id": "x", "data": [1]}
    assert [value] == read_objects(written(tmp_path, value))


@pytest.mark.parametrize(("count", "sizes"), [(0, []), (1000, [1000]), (1001, [1000, 1])])
def test_cdrs_and_rows_come_in_batches_of_1000(
    count: int, sizes: list[int], tmp_path: Path
) -> None:
    """With the positions in the file, counted from 1, or the lines below the header."""
    source = OcpiSessionFile(written(tmp_path, [CDR] * count))
    batches = list(source.batches())
    assert sizes == [len(batch.sessions) for batch in batches]
    assert list(range(1, count + 1)) == [p for batch in batches for p in batch.positions]
    size_bytes = (tmp_path / "file").stat().st_size
    assert (count, size_bytes) == (source.rows, source.size_bytes)
    assert source.bytes_read in (0, size_bytes)
    header = "session_id,user_id,location_id,start_date_time,end_date_time,energy_kwh\n"
    rows = "".join(f"s{n},u,L/E,2026-11-01T20:00:00Z,,1\n" for n in range(count))
    csv = SessionFile(written(tmp_path, header + rows), country_code="NO")
    batches = list(csv.batches())
    assert sizes == [len(batch.sessions) for batch in batches]
    assert list(range(2, count + 2)) == [p for batch in batches for p in batch.positions]
    assert (count, csv.size_bytes) == (csv.rows, csv.bytes_read)
    assert 1000 == BATCH_SESSIONS


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("1", 1000),
        ("0.0005", 1),
        ("0.0004999", 0),
        ("-0.0005", -1),
        ("1e3", 1_000_000),
        ("9e12", 9 * 10**15),
        ("9e13", 9 * 10**16),
        ("1e14", None),
        (".5", 500),
        (".", None),
        ("1,5", 1_500),
        ("27,4567", 27_457),
        ("1,234", None),
        ("1,2,3", None),
        ("", None),
    ],
)
def test_energies_are_kwh_and_bounded(text: str, expected: int | None) -> None:
    """Rounded half away from zero to a Wh."""
    if expected is None:
        with pytest.raises(BadInput):
            energy_wh(text)
    else:
        assert expected == energy_wh(text)


def test_an_instant_without_an_offset_is_local_where_a_zone_is_said() -> None:
    """Otherwise it is refused."""
    utc = ZoneInfo("UTC")
    assert "2026-11-01T20:00:00+00:00" == instant("f", "2026-11-01T20:00:00", utc).isoformat()
    assert "2026-11-01T18:00:00+00:00" == (
        instant("f", "2026-11-01T20:00:00+02:00", utc).isoformat()
    )
    with pytest.raises(BadInput, match="offset"):
        instant("f", "2026-11-01T20:00:00")


def test_refusals_are_counted_in_bounded_memory() -> None:
    """Ten examples; fifty reasons by name, the others together; names are cut."""
    refusals = Refusals()
    for number in range(60):
        refusals.add(number, "x" * 70, f"reason {number}")
    refusals.add(99, "y", "reason 3")
    assert (61, MAX_EXAMPLES, MAX_REASONS + 1) == (
        refusals.total,
        len(refusals.examples),
        len(refusals.reasons),
    )
    assert (10, 2, 1) == (
        refusals.reasons["other reasons"],
        refusals.reasons["reason 3"],
        refusals.reasons["reason 49"],
    )
    assert list(range(10)) == [entry.position for entry in refusals.examples]
    assert {64} == {len(entry.name) for entry in refusals.examples}
    assert (10, 50) == (MAX_EXAMPLES, MAX_REASONS)


def test_a_file_is_read_up_to_its_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte more is refused before it is read; a byte-order mark is passed over."""
    monkeypatch.setattr(reading, "MAX_FILE_BYTES", 4 * 2**20)
    file = written(tmp_path, "\ufeff" + "a" * (4 * 2**20 - 3))
    assert 4 * 2**20 - 3 == len(read_text(file))
    with pytest.raises(BadInput, match="has more than 4 MiB"):
        read_text(written(tmp_path, "a" * (4 * 2**20 + 1)))
    with pytest.raises(BadInput, match="is empty"):
        read_text(written(tmp_path, " \n"))


def test_a_line_is_bounded(tmp_path: Path) -> None:
    """With its end at 65,536 characters; one more is refused with its number."""
    header = "session_id,user_id,location_id,start_date_time,end_date_time,energy_kwh,more\n"
    row = "s,u,L,2026-11-01T20:00:00Z,,1,"
    for spare, good in ((2, True), (1, True), (0, False)):
        text = header + row + "x" * (MAX_LINE_CHARS - len(row) - spare) + "\n"
        source = SessionFile(written(tmp_path, text), country_code="NO")
        if good:
            assert 1 == sum(len(batch.sessions) for batch in source.batches())
        else:
            with pytest.raises(BadInput, match="more than 65536 characters in line 2"):
                list(source.batches())
    assert sessions.UNKNOWN_PARTY == "XXX"


def test_ocpi_objects_are_read_in_their_units(tmp_path: Path) -> None:
    """Prices per kWh, session and hour, VAT in percent, kWh, kW, A and s, powers in W."""
    restrictions = {
        "start_time": "22:00",
        "min_kwh": 1.5,
        "max_kwh": 20,
        "min_current": 6,
        "max_current": 32.5,
        "min_power": 3.7,
        "max_power": 22,
        "min_duration": 60,
        "max_duration": 3600,
    }
    document = {
        "country_code": "NO",
        "party_id": "OSL",
        "id": "T",
        "currency": "NOK",
        "min_price": {"excl_vat": 5},
        "max_price": {"excl_vat": 500},
        "elements": [
            {
                "price_components": [
                    {"type": "ENERGY", "price": 4.72, "vat": 25, "step_size": 7},
                    {"type": "TIME", "price": 6},
                ],
                "restrictions": restrictions,
            }
        ],
    }
    (tariff,) = tariff_file(written(tmp_path, [document])).messages()
    (element,) = tariff.elements
    energy, time = element.price_components
    assert (4_720_000, 2_500, 7) == (
        energy.price_micros,
        energy.vat_basis_points,
        energy.step_size,
    )
    assert (6_000_000, False, 1) == (
        time.price_micros,
        time.HasField("vat_basis_points"),
        time.step_size,
    )
    assert (5_000_000, 500_000_000) == (tariff.min_price_micros, tariff.max_price_micros)
    found = element.restrictions
    assert ("22:00", 1_500, 20_000, 6_000, 32_500, 3_700, 22_000, 60, 3_600) == (
        found.start_time,
        found.min_energy_wh,
        found.max_energy_wh,
        found.min_current_ma,
        found.max_current_ma,
        found.min_power_w,
        found.max_power_w,
        found.min_duration_s,
        found.max_duration_s,
    )


@pytest.mark.parametrize(
    ("power", "expected"),
    [
        ({"max_electric_power": 50_000, "max_voltage": 9, "max_amperage": 9}, 50_000),
        ({"power_type": "AC_1_PHASE", "max_voltage": 230, "max_amperage": 16}, 3_680),
        ({"power_type": "AC_2_PHASE", "max_voltage": 230, "max_amperage": 16}, 7_360),
        ({"power_type": "AC_3_PHASE", "max_voltage": 230, "max_amperage": 16}, 11_040),
        ({"power_type": "DC", "max_voltage": 400, "max_amperage": 125}, 50_000),
        ({"power_type": "DC", "max_voltage": 400}, 0),
        ({"power_type": "DC"}, 0),
    ],
)
def test_a_connector_has_the_power_that_is_said_or_of_its_phases(
    power: dict[str, Any], expected: int, tmp_path: Path
) -> None:
    """Volt times ampere for each phase; 0 where it is not known."""
    connector = {"id": "1", "standard": "MCS", "power_type": "DC", **power}
    document = {
        "country_code": "NO",
        "party_id": "OSL",
        "id": "L",
        "time_zone": "UTC",
        "evses": [{"uid": "E", "connectors": [connector]}],
    }
    (place,) = location_file(written(tmp_path, [document])).messages()
    assert expected == place.evses[0].connectors[0].max_power_w


@pytest.mark.parametrize(
    ("benefit", "expected"),
    [
        ({"energy_bundle_kwh": Decimal("1.5")}, EnergyBundle(1_500)),
        (
            {"session_bundle": 3, "max_energy_kwh_per_session": 20},
            SessionBundle(3, 20_000),
        ),
        ({"energy_price_per_kwh": "3.90"}, EnergyPrice(3_900_000)),
        ({"percentage_off": Decimal("12.5")}, PercentageOff(1_250)),
    ],
)
def test_a_catalogue_is_read_in_its_units(benefit: dict[str, Any], expected: object) -> None:
    """kWh, percent, units of the currency; and written in the same ones."""
    document = {
        "product_id": "p",
        "display_name": "p",
        "price": "49.50 NOK",
        "tax_rate_percent": Decimal(25),
        "benefit": benefit,
        "validity": {"days": 30},
        "time_zone": "UTC",
        "withdrawal_days": 14,
    }
    terms = terms_from_document(document, "p")
    assert (49_500_000, 2_500, expected, 14) == (
        terms.price.micros,
        terms.tax_rate_basis_points,
        terms.benefit,
        terms.withdrawal_days,
    )
    again = terms_to_document(terms)
    assert "49.50 NOK" == again["price"]
    assert terms == terms_from_document(again, "p")
