"""OCPI Locations as operators publish them: what is wrong costs its smallest part, and is said."""

from typing import Any

import pytest

from voucher_grpc.domain.places.location import Connector
from voucher_grpc.errors import BadInput
from voucher_grpc.files.notes import Notes
from voucher_grpc.files.published_locations import read_location
from voucher_grpc.ocpi import PowerType

GOOD = {"id": "1", "standard": "IEC_62196_T2", "power_type": "AC_3_PHASE"}


def location(*evses: object, **changes: Any) -> dict[str, Any]:
    """A location's JSON."""
    head = {"country_code": "NO", "party_id": "OSL", "id": "L", "time_zone": "Europe/Oslo"}
    return {**head, "evses": list(evses), **changes}


def evse(uid: object, *connectors: object, **changes: Any) -> dict[str, Any]:
    """An EVSE's JSON."""
    return {"uid": uid, "connectors": list(connectors), **changes}


def noted(value: object) -> tuple[list[str], list[str]]:
    """(connectors by EVSE uid and id, the paths of the notes)."""
    notes = Notes()
    read = read_location(value, notes)
    connectors = [f"{e.evse_uid}/{c.connector_id}" for e in read.evses for c in e.connectors]
    return connectors, [note.path for note in notes.entries]


@pytest.mark.parametrize(
    ("known", "watts"),
    [
        ({"power_type": "AC_1_PHASE", "max_voltage": 230, "max_amperage": 32}, 7_360),
        ({"power_type": "AC_2_PHASE", "max_voltage": 230, "max_amperage": 32}, 14_720),
        ({"power_type": "AC_2_PHASE_SPLIT", "max_voltage": 230, "max_amperage": 32}, 14_720),
        ({"power_type": "AC_3_PHASE", "max_voltage": 230, "max_amperage": 32}, 22_080),
        ({"power_type": "DC", "max_voltage": 800, "max_amperage": 500}, 400_000),
        ({"power_type": "DC", "max_voltage": 800, "max_amperage": 500, "max_electric_power": 9}, 9),
        ({"power_type": "DC", "max_voltage": 800}, 0),
        ({"power_type": "DC", "max_amperage": 500}, 0),
        ({"max_voltage": 800, "max_amperage": 500}, 0),
        ({"power_type": "AC_3_PHASE", "voltage": 230, "amperage": 16}, 11_040),
        ({"power_type": "dc", "max_electric_power": "50000.4"}, 50_000),
        ({"power_type": "DC", "max_electric_power": "fast"}, 0),
        ({"power_type": "DC", "max_electric_power": -1}, 0),
        ({"power_type": "DC", "max_electric_power": 10**9}, 0),
        ({}, 0),
    ],
)
def test_the_power_of_a_connector_is_what_it_says_or_volts_and_amperes(
    known: dict[str, Any], watts: int
) -> None:
    """0 is not known, and what is not known limits nothing: a wrong figure would."""
    connector = {"id": "1", "standard": "IEC_62196_T2", **known}
    location = read_location(
        {
            "country_code": "NO",
            "party_id": "OSL",
            "id": "home",
            "time_zone": "Europe/Oslo",
            "evses": [{"uid": "1", "connectors": [connector]}],
        },
        Notes(),
    )
    assert watts == location.evses[0].connectors[0].max_power_w


@pytest.mark.parametrize(
    "bad",
    [
        None,
        3,
        [],
        {"id": "2"},
        {"id": "2", "standard": "PLUG"},
        {"standard": "MCS"},
        {"id": "a b", "standard": "MCS"},
        {"id": "x" * 37, "standard": "MCS"},
        {"id": "\u00e9", "standard": "MCS"},
        {"id": "1", "standard": "MCS"},
        {"id": ["2"], "standard": "MCS"},
    ],
)
def test_a_bad_connector_costs_only_itself(bad: object) -> None:
    """Its index is named; the others of its EVSE and all of the location stay."""
    after = {"id": "9", "standard": "MCS"}
    assert (["E/1", "E/9"], ["evses[0].connectors[1]"]) == noted(
        location(evse("E", GOOD, bad, after))
    )


@pytest.mark.parametrize(
    "bad",
    [
        None,
        "E",
        evse(None, GOOD),
        evse("", GOOD),
        evse("NO E 1", GOOD),
        evse("E", GOOD),
        {"uid": 1.5},
    ],
)
def test_a_bad_evse_costs_only_itself(bad: object) -> None:
    """Also one whose uid is there already, and one whose uid no session could name."""
    assert (["E/1", "F/1"], ["evses[1]"]) == noted(location(evse("E", GOOD), bad, evse("F", GOOD)))
    assert (["E/1"], ["evses[1]"]) == noted(
        location(evse("E", GOOD), {"uid": "F", "connectors": "none"})
    )


def test_what_is_not_known_of_a_connector_is_left_out() -> None:
    """An unknown power type limits nothing."""
    notes = Notes()
    connector = {**GOOD, "power_type": "AC_9_PHASE", "tariff_ids": ["T1", None, "T 2", 3]}
    read = read_location(location(evse(7, connector)), notes)
    assert "7" == read.evses[0].evse_uid
    assert (Connector("1", "IEC_62196_T2", None, 0, ("T1", "3")),) == read.evses[0].connectors
    where = "evses[0].connectors[0]"
    assert [f"{where}.power_type", f"{where}.tariff_ids[2]"] == [n.path for n in notes.entries]


def test_enumerations_are_read_in_any_case_and_names_without_control_characters() -> None:
    """OCPI's values are CiStrings; what was changed is noted with what was published."""
    notes = Notes()
    connector = {"id": "1", "standard": "iec_62196_t2", "power_type": "Ac_3_Phase"}
    gone = evse("G", GOOD, status="Removed")
    value = location(evse("E", connector), gone, name=" Quay\t15\x00\n", time_zone="europe/oslo")
    read = read_location(value, notes)
    assert ("Quay 15", "Europe/Oslo") == (read.name, read.time_zone)
    assert ["E"] == [one.evse_uid for one in read.evses]
    assert ("IEC_62196_T2", PowerType.AC_3_PHASE) == (
        read.evses[0].connectors[0].standard,
        read.evses[0].connectors[0].power_type,
    )
    assert 4 == len(notes.entries)
    assert {"repaired"} == {note.treatment for note in notes.entries}


def test_what_is_beyond_the_limits_of_the_service_is_skipped_and_said() -> None:
    """20 connectors of an EVSE and 10 tariffs of a connector are stored."""
    many = [{"id": str(n), "standard": "MCS"} for n in range(22)]
    many[0]["tariff_ids"] = [f"T{n}" for n in range(11)]  # type: ignore[assignment]
    connectors, paths = noted(location(evse("E", *many)))
    assert 20 == len(connectors)
    assert [
        "evses[0].connectors[0].tariff_ids[10]",
        "evses[0].connectors[20]",
        "evses[0].connectors[21]",
    ] == paths


@pytest.mark.parametrize(
    ("said", "read", "notes"),
    [
        ("NOR", "NOR", 0),
        ("nor", "NOR", 0),
        (None, "", 0),
        ("NO", "", 1),
        ("Norway", "", 1),
        (7, "", 1),
    ],
)
def test_the_country_of_a_place_has_three_letters(said: object, read: str, notes: int) -> None:
    """Another form counts as not stated, and is said."""
    found = Notes()
    assert read == read_location(location(country=said), found).country
    assert notes == len(found.entries)


def test_a_location_of_211_gets_the_owner_that_is_named() -> None:
    """OCPI 2.1.1 has neither country_code nor party_id, and one tariff_id of a connector."""
    value = location(evse("E", {**GOOD, "tariff_id": "T"}))
    del value["country_code"], value["party_id"]
    read = read_location(value, Notes(), country_code="nl", party_id="tst")
    assert ("NL", "TST") == (read.country_code, read.party_id)
    assert ("T",) == read.evses[0].connectors[0].tariff_ids
    with pytest.raises(BadInput, match="--country and --party"):
        read_location(value, Notes())


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"id": None}, "id"),
        ({"id": []}, "id"),
        ({"time_zone": ""}, "time_zone"),
        ({"time_zone": "Oslo"}, "time_zone"),
        ({"evses": "none"}, "evses"),
    ],
)
def test_a_location_that_nothing_can_stand_for_is_refused(
    changes: dict[str, Any], field: str
) -> None:
    """With the key that is wrong."""
    with pytest.raises(BadInput) as refused:
        read_location(location(**changes), Notes())
    assert [field] == [violation.field for violation in refused.value.violations]
