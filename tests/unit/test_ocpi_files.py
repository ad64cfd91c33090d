"""OCPI objects from JSON as operators give them: good ones are read, bad ones named."""

import json
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import pytest

from voucher_grpc.errors import BadInput
from voucher_grpc.files.ocpi_objects import (
    TariffDefaults,
    location_file,
    read_objects,
    tariff_file,
)
from voucher_grpc.files.ocpi_sessions import OcpiSessionFile, SessionDefaults
from voucher_grpc.v1 import conditions_pb2, location_service_pb2

LOCATION: dict[str, Any] = {
    "country_code": "NO",
    "party_id": "OSL",
    "id": "LOC1",
    "name": "Torget",
    "time_zone": "Europe/Oslo",
    "coordinates": {"latitude": "59.91", "longitude": "10.75"},
    "evses": [
        {
            "uid": "E1",
            "status": "AVAILABLE",
            "connectors": [
                {
                    "id": "1",
                    "standard": "IEC_62196_T2",
                    "format": "SOCKET",
                    "power_type": "AC_3_PHASE",
                    "max_voltage": 230,
                    "max_amperage": 32,
                    "tariff_ids": ["T1"],
                }
            ],
        }
    ],
}
TARIFF: dict[str, Any] = {
    "country_code": "NO",
    "party_id": "OSL",
    "id": "T1",
    "currency": "NOK",
    "elements": [
        {"price_components": [{"type": "ENERGY", "price": 4.72, "vat": 25.0, "step_size": 1}]}
    ],
}
# The example of OCPI 2.2.1, shortened.
CDR: dict[str, Any] = {
    "country_code": "BE",
    "party_id": "BEC",
    "id": "12345",
    "start_date_time": "2015-06-29T21:39:09Z",
    "end_date_time": "2015-06-29T23:37:32Z",
    "cdr_token": {
        "country_code": "DE",
        "party_id": "TNM",
        "uid": "012345678",
        "type": "RFID",
        "contract_id": "DE8ACC12E46L89",
    },
    "auth_method": "WHITELIST",
    "cdr_location": {
        "id": "LOC1",
        "name": "Gent Zuid",
        "evse_uid": "3256",
        "evse_id": "BE*BEC*E041503003",
        "connector_id": "1",
        "connector_standard": "IEC_62196_T2",
    },
    "currency": "EUR",
    "total_energy": 15.342,
    "total_time": 1.973,
}


def written(path: Path, value: object) -> Path:
    """A JSON file of a value, or of a text as it is."""
    file = path / "objects.json"
    file.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return file


@pytest.mark.parametrize(
    "value",
    [
        [LOCATION],
        LOCATION,
        {"data": [LOCATION], "status_code": 1000},
        {"status_code": 1000, "data": LOCATION},
        {"next": "https://example.com/?page=2", "items": [LOCATION]},
    ],
    ids=["list", "object", "response", "response of one", "page"],
)
def test_a_list_an_object_and_a_response_are_read_alike(value: object, tmp_path: Path) -> None:
    """Operators send each of these."""
    [batch] = location_file(written(tmp_path, value)).batches()
    assert [m.location_id for m in batch.messages] == ["LOC1"]
    assert batch.positions == [1]


def test_a_connector_without_a_power_has_that_of_voltage_and_current(tmp_path: Path) -> None:
    """OCPI leaves max_electric_power out where it is 3 x 230 V x 32 A."""
    (location,) = location_file(written(tmp_path, LOCATION)).messages()
    (connector,) = location.evses[0].connectors
    assert connector.max_power_w == 22_080
    assert connector.power_type == conditions_pb2.POWER_TYPE_AC_3_PHASE


def test_an_evse_that_was_removed_is_left_out(tmp_path: Path) -> None:
    """REMOVED is OCPI's way to delete an EVSE."""
    removed = {**LOCATION, "evses": [{**LOCATION["evses"][0], "status": "REMOVED"}]}
    (location,) = location_file(written(tmp_path, removed)).messages()
    assert not location.evses


def test_a_tariff_keeps_prices_before_tax_and_vat(tmp_path: Path) -> None:
    """4.72 before 25 % VAT, exactly."""
    (tariff,) = tariff_file(written(tmp_path, TARIFF)).messages()
    (component,) = tariff.elements[0].price_components
    assert component.dimension == location_service_pb2.PRICE_DIMENSION_ENERGY
    assert (component.price_micros, component.vat_basis_points) == (4_720_000, 2_500)
    assert not tariff.default_for_country


def test_a_tariff_becomes_the_default_by_its_key_or_by_the_option(tmp_path: Path) -> None:
    """The key is our addition to OCPI."""
    (by_key,) = tariff_file(written(tmp_path, {**TARIFF, "default_for_country": True})).messages()
    file = written(tmp_path, TARIFF)
    (by_option,) = tariff_file(file, TariffDefaults(default_for_country=True)).messages()
    assert by_key.default_for_country
    assert by_option.default_for_country


def test_one_bad_object_costs_only_itself(tmp_path: Path) -> None:
    """It is refused with its position, its id and the key that is wrong."""
    no_price = {**TARIFF, "id": "T2", "elements": [{"price_components": [{"type": "ENERGY"}]}]}
    huge = json.loads(json.dumps(TARIFF).replace("4.72", "1e19"))
    objects = tariff_file(written(tmp_path, [no_price, TARIFF, 3, {**huge, "id": "T4"}]))
    [batch] = objects.batches()
    assert batch.positions == [2]
    assert objects.read == 4
    no_element = (
        "elements: has none that is understood: elements[0].price_components[0]: "
        "skipped: price is missing ({'type': 'ENERGY'})"
    )
    assert [(e.position, e.name, e.reason) for e in objects.refusals.examples] == [
        (1, "T2", no_element),
        (3, "", "tariff: must be an object, not int"),
        (4, "T4", "has a number out of range or text that is not Unicode"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ('[{"id": 1},]', "is not JSON: "),
        (
            '[1,\n{"id": 1,}]',
            "is not JSON: Expecting property name enclosed in double quotes (line 2",
        ),
        ('{"id": NaN}', "is not JSON: NaN is not a number"),
        ('[{"id": 1}', "is not JSON: Expecting ',' or ']' (line 1, column 11)"),
        ('[{"id": "1', "is not JSON: Unterminated string starting at (line 1, column 9)"),
        ('{"id": 1} x', "is not JSON: Expecting  (line"),
        ("{1: 2}", "is not JSON: Expecting '\"' (line 1, column 2)"),
        ("[1, 1e99999999999999999999]", "is not JSON: "),
        ("[" * 100_000, "is nested too deeply"),
        ("[" + "9" * 5000 + "]", "is not JSON: Exceeds the limit"),
        ('{"status_code": 1000}', "is an OCPI response without data"),
        ('"text"', "must hold OCPI objects"),
        (
            '{"data": null, "status_code": 2001, "status_message": "no such tariff"}',
            "is an OCPI error, status_code 2001: no such tariff",
        ),
    ],
)
def test_a_file_that_is_not_ocpi_is_one_sentence(text: str, message: str, tmp_path: Path) -> None:
    """Syntax errors name line and column."""
    with pytest.raises(BadInput) as caught:
        read_objects(written(tmp_path, text))
    assert message in caught.value.message


def test_a_cdr_becomes_a_session(tmp_path: Path) -> None:
    """Place, user, times and energy of OCPI's own example."""
    source = OcpiSessionFile(written(tmp_path, [CDR]), SessionDefaults(time_zone="Europe/Brussels"))
    ((session,),) = [batch.sessions for batch in source.batches()]
    assert session.session_id == "12345"
    assert session.user_id == "012345678"
    assert session.location == conditions_pb2.LocationReference(
        country_code="BE", party_id="BEC", location_id="LOC1", evse_uid="3256", connector_id="1"
    )
    assert session.time_zone == "Europe/Brussels"
    assert session.start_time.ToJsonString() == "2015-06-29T21:39:09Z"
    assert session.end_time.ToJsonString() == "2015-06-29T23:37:32Z"
    assert session.energy_wh == 15_342


def test_a_cdr_may_lack_the_z_and_the_uid(tmp_path: Path) -> None:
    """OCPI times are UTC either way; the contract stands in for the token."""
    cdr = {
        **CDR,
        "session_id": "s-7",
        "start_date_time": "2015-06-29T21:39:09",
        "cdr_token": {"contract_id": "DE8ACC12E46L89"},
    }
    ((session, replaced),) = [
        batch.sessions for batch in OcpiSessionFile(written(tmp_path, cdr)).batches()
    ]
    assert session.start_time.ToJsonString() == "2015-06-29T21:39:09Z"
    assert (session.session_id, session.user_id) == ("12345", "DE8ACC12E46L89")
    assert (replaced.session_id, replaced.cancelled) == ("s-7", True)


def test_bad_cdrs_are_refused_and_counted_over_all_batches(tmp_path: Path) -> None:
    """Every refusal counts, also beyond the examples that are kept."""
    bad = [{**CDR, "total_energy": None}] * 1_500
    source = OcpiSessionFile(written(tmp_path, [*bad, CDR, {**CDR, "cdr_location": {}}]))
    batches = list(source.batches())
    assert [batch.positions for batch in batches] == [[1_501]]
    assert source.rows == 1_502
    assert source.refusals.reasons == {
        "total_energy: is missing": 1_500,
        "location.id: is missing": 1,
    }


def test_the_demo_places_are_read_without_a_refusal() -> None:
    """Tariffs that connectors name exist, and each country has a default."""
    folder = files("voucher_grpc.dev.demo")
    with as_file(folder / "locations.json") as path:
        places = location_file(path)
        locations = places.messages()
    with as_file(folder / "tariffs.json") as path:
        prices = tariff_file(path)
        tariffs = prices.messages()
    assert not places.refusals.total
    assert not prices.refusals.total
    known = {(t.country_code, t.party_id, t.tariff_id) for t in tariffs}
    for location in locations:
        for evse in location.evses:
            for connector in evse.connectors:
                for tariff_id in connector.tariff_ids:
                    assert (location.country_code, location.party_id, tariff_id) in known
    defaults = [(t.country_code, t.currency_code) for t in tariffs if t.default_for_country]
    assert sorted(defaults) == [("DE", "EUR"), ("NO", "NOK")]


def test_tariffs_of_211_get_the_owner_that_is_named(tmp_path: Path) -> None:
    """OCPI 2.1.1 tariffs say neither country nor party; those that do keep theirs."""
    without = {key: value for key, value in TARIFF.items() if "_" not in key}
    file = written(tmp_path, [without, {**TARIFF, "id": "T2", "party_id": "ABC"}])
    owner = TariffDefaults("nl", "tst")
    named, own = tariff_file(file, owner).messages()
    assert ("NL", "TST") == (named.country_code, named.party_id)
    assert (TARIFF["country_code"], "ABC") == (own.country_code, own.party_id)
    objects = tariff_file(written(tmp_path, without))
    assert [] == objects.messages()
    assert 1 == objects.refusals.total
    assert {"country_code: is missing: name the owner with --country and --party"} == set(
        objects.refusals.reasons
    )


def test_what_is_skipped_of_a_tariff_is_counted_by_kind_and_shown_with_its_place(
    tmp_path: Path,
) -> None:
    """The same fault in many elements is one line, and each has its position and index."""
    price = {"type": "ENERGY", "price": 1}
    odd = {"price_components": [price], "restrictions": {"start_time": "noon"}}
    good = {"price_components": [price], "restrictions": {"start_time": "7:00"}}
    tariff = {**TARIFF, "elements": [odd, good, odd]}
    objects = tariff_file(written(tmp_path, [TARIFF, tariff]))
    first, second = objects.messages()
    assert (0, 2) == (first.skipped_elements, second.skipped_elements)
    assert ["07:00"] == [e.restrictions.start_time for e in second.elements]
    assert (0, 3) == (objects.refusals.total, objects.noted.total)
    assert [2, 1] == [count for _, count in objects.noted.reasons.most_common()]
    assert [(2, 0), (2, 1), (2, 2)] == [
        (e.position, int(e.reason.split("[")[1][0])) for e in objects.noted.examples
    ]
    assert (2, 1) == (objects.components, objects.untaxed)


@pytest.mark.parametrize(
    "bad",
    [
        {"price_components": [{"type": "ENERGY", "price": -1}]},
        {"price_components": [{"type": "ENERGY", "price": 1, "step_size": 10**7}]},
        {"price_components": [{"type": "ENERGY", "price": 1}] * 11},
        {
            "price_components": [{"type": "ENERGY", "price": 1}],
            "restrictions": {"max_kwh": 999_999},
        },
    ],
)
def test_an_element_beyond_the_limits_of_the_service_costs_only_itself(
    bad: dict[str, Any], tmp_path: Path
) -> None:
    """Skipped and said, instead of the whole tariff being refused."""
    objects = tariff_file(written(tmp_path, {**TARIFF, "elements": [bad, *TARIFF["elements"]]}))
    (tariff,) = objects.messages()
    assert (1, 1) == (len(tariff.elements), tariff.skipped_elements)
    assert objects.noted.examples[0].reason.startswith("elements[0]")
