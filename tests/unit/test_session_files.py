"""Sessions from CSV: good rows become messages, bad ones are refused by line and reason."""

import tracemalloc
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from voucher_grpc.errors import BadInput
from voucher_grpc.files.reading import RefusedEntry
from voucher_grpc.files.sessions import Batch, SessionFile, energy_wh, instant
from voucher_grpc.v1.tendency_service_pb2 import ChargingSession

HEADER = "session_id,user_id,location_id,start_date_time,end_date_time,energy_kwh\n"
GOOD = "s1,alice,LOC1,2026-11-01T20:00:00Z,2026-11-02T06:00:00Z,12.5\n"


def session_file(path: Path, content: str | bytes) -> SessionFile:
    """A file of sessions in Norway with this content."""
    file = path / "sessions.csv"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return SessionFile(file, country_code="NO", time_zone="Europe/Oslo")


def read(path: Path, content: str | bytes) -> tuple[list[ChargingSession], SessionFile]:
    """The sessions of a file with this content."""
    source = session_file(path, content)
    return [s for batch in source.batches() for s in batch.sessions], source


def refusal_of(path: Path, content: str | bytes) -> str:
    """Why a whole file is refused."""
    with pytest.raises(BadInput) as caught:
        list(session_file(path, content).batches())
    return caught.value.message.removeprefix(f"{path / 'sessions.csv'}: ")


def test_a_row_becomes_a_session(tmp_path: Path) -> None:
    """Every column arrives in its field, in UTC and Wh."""
    (session,), source = read(tmp_path, HEADER + GOOD)
    assert source.rows == 1
    assert session.session_id == "s1"
    assert session.user_id == "alice"
    assert session.location.country_code == "NO"
    assert session.location.party_id == "XXX"
    assert session.location.location_id == "LOC1"
    assert session.time_zone == "Europe/Oslo"
    assert session.start_time.ToDatetime(tzinfo=UTC) == datetime(2026, 11, 1, 20, tzinfo=UTC)
    assert session.end_time.ToDatetime(tzinfo=UTC) == datetime(2026, 11, 2, 6, tzinfo=UTC)
    assert session.energy_wh == 12_500
    assert not session.correction


def test_a_station_of_a_location_is_its_evse(tmp_path: Path) -> None:
    """location/station names an EVSE of a location."""
    (session,), _ = read(tmp_path, HEADER + GOOD.replace("LOC1", "461655/632920"))
    assert (session.location.location_id, session.location.evse_uid) == ("461655", "632920")


def test_a_session_without_an_end_is_kept(tmp_path: Path) -> None:
    """The end may be unknown; nothing else may be left out."""
    (session,), _ = read(tmp_path, HEADER + GOOD.replace("2026-11-02T06:00:00Z", ""))
    assert not session.HasField("end_time")


def test_columns_may_come_in_any_order_with_others_between(tmp_path: Path) -> None:
    """The header decides, and a byte order mark or CRLF does not disturb it."""
    content = (
        "\ufeffenergy_kwh,note,user_id,session_id,location_id,start_date_time,end_date_time\r\n"
        '1,"a, b",alice,s1,LOC1,2026-11-01T20:00:00+01:00,\r\n\r\n'
    )
    (session,), source = read(tmp_path, content)
    assert source.rows == 1
    assert session.energy_wh == 1000
    assert session.start_time.ToDatetime() == datetime(2026, 11, 1, 19)  # noqa: DTZ001


@pytest.mark.parametrize(
    ("text", "wh"),
    [("0.0005", 1), ("0.0004999", 0), ("7.1815", 7182), ("1e1", 10_000), ("-0.5", -500)],
)
def test_energy_is_rounded_half_up_to_a_wh(text: str, wh: int) -> None:
    """Decimals, never binary floats."""
    assert energy_wh(text) == wh


@pytest.mark.parametrize("text", ["", "NaN", "inf", "1,500", "1_0", "0x1", "1e999999999", "1" * 99])
def test_what_is_not_an_energy_is_refused(text: str) -> None:
    """Not a number, not a number here, or beyond all sense."""
    with pytest.raises(BadInput, match="energy_kwh"):
        energy_wh(text)


def test_an_instant_must_say_its_offset() -> None:
    """Wall-clock time without a zone is not guessed, unless the format says UTC."""
    with pytest.raises(BadInput, match="must say its offset"):
        instant("start", "2026-11-01T20:00:00")
    assert instant("start", "2026-11-01T20:00:00", ZoneInfo("UTC")).tzinfo is UTC
    for text in ("20261101T200000Z", "2026-11-31T00:00:00Z", "0001-01-01T00:00:00+01:00", "now"):
        with pytest.raises(BadInput, match="must be an instant"):
            instant("start", text)


def test_bad_rows_are_refused_with_line_and_reason_and_the_others_kept(tmp_path: Path) -> None:
    """One bad row costs only itself."""
    bad = (
        GOOD.replace("12.5", "much"),
        GOOD.replace("2026-11-01T20:00:00Z", "yesterday"),
        GOOD.replace("alice", ""),
        GOOD.replace(",12.5", ""),
        GOOD.replace("LOC1", "LO\0C1"),
    )
    sessions, source = read(tmp_path, HEADER + GOOD + "".join(bad) + GOOD)
    assert len(sessions) == 2
    assert source.rows == 7
    assert source.refusals.total == 5
    assert source.refusals.examples == [
        RefusedEntry(3, "s1", "energy_kwh: must be a number with a decimal point"),
        RefusedEntry(4, "s1", 'start_date_time: must be an instant such as "2026-11-22T10:00:00Z"'),
        RefusedEntry(5, "s1", "user_id: is missing"),
        RefusedEntry(6, "", "row: has not as many values as the header"),
        RefusedEntry(7, "s1", "location_id: contains a NUL character"),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        ("session,user\n", "lacks the columns session_id, user_id, location_id"),
        (HEADER.replace(",", "|"), "lacks the columns session_id"),
        (HEADER.replace("\n", ",user_id\n"), "has the column user_id twice"),
        (HEADER.encode() + GOOD.encode() + b"\xe6\n", "is not UTF-8 (after line "),
        (b"\x00\x01\x02\xff", "is not UTF-8 (after line 0)"),
        (HEADER + GOOD + '"open\n' + GOOD, "is not CSV: unexpected end of data (line 4)"),
        (HEADER + '"open\n' + GOOD * 3000, "is not CSV: field larger than field limit"),
        (HEADER + "x" * 100_000, "has more than 65536 characters in line 2"),
    ],
)
def test_a_file_that_is_wrong_as_a_whole_is_one_sentence(
    content: str | bytes, message: str, tmp_path: Path
) -> None:
    """Header, encoding and quoting are the file's, not a row's."""
    assert message in refusal_of(tmp_path, content)


def test_a_file_that_is_absent_is_a_sentence(tmp_path: Path) -> None:
    """A missing file or a folder is no traceback."""
    for path in (tmp_path / "absent.csv", tmp_path):
        with pytest.raises(BadInput, match="cannot be read"):
            list(SessionFile(path, country_code="NO").batches())


def test_sessions_come_in_batches_of_1000_in_flat_memory(tmp_path: Path) -> None:
    """A file of any size is read a batch at a time."""
    source = session_file(tmp_path, HEADER + GOOD * 60_500)
    tracemalloc.start()
    sizes = []
    batch = Batch()
    for batch in source.batches():
        sizes.append(len(batch.sessions))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sizes == [1000] * 60 + [500]
    assert batch.positions[-1] == 60_501
    assert source.bytes_read == source.size_bytes
    assert peak < 4_000_000


def test_the_real_files_are_read_without_a_refusal(shared_data: Path) -> None:
    """Every row of both real files can be read; 26 Norwegian ones have no end."""
    for name, rows, without_end in (
        ("norway_residential_sessions.csv", 22_312, 26),
        ("us_workplace_sessions.csv", 3_395, 0),
    ):
        source = SessionFile(shared_data / name, country_code="NO")
        sessions = [s for batch in source.batches() for s in batch.sessions]
        assert (source.rows, source.refusals.total) == (rows, 0)
        assert sum(not s.HasField("end_time") for s in sessions) == without_end


GERMAN = """Nummer;Karte;Standort;Startzeit;Endzeit;Energie (kWh);Preis
1;karte-7;L1/E1;01.11.2026 20:00;01.11.2026 22:30:15;1.234,5;7,00
2;karte-7;L1;2026-11-02T08:00:00+00:00;;10.25;
3;karte-7;L1;2026-07-02 08:00;;7,5;
"""
GERMAN_COLUMNS = {
    "session_id": "Nummer",
    "user_id": "Karte",
    "location_id": "Standort",
    "start_date_time": "Startzeit",
    "end_date_time": "Endzeit",
    "energy_kwh": "Energie (kWh)",
}


def test_a_file_may_have_semicolons_decimal_commas_local_times_and_names_of_its_own(
    tmp_path: Path,
) -> None:
    """Berlin is an hour ahead of UTC in winter, two in summer; columns not named are passed
    over."""
    path = tmp_path / "german.csv"
    path.write_text(GERMAN, encoding="utf-8-sig")
    source = SessionFile(path, country_code="DE", time_zone="Europe/Berlin", columns=GERMAN_COLUMNS)
    [batch] = source.batches()
    assert 0 == source.refusals.total
    assert [
        ("1", "2026-11-01T19:00:00Z", "2026-11-01T21:30:15Z", 1_234_500),
        ("2", "2026-11-02T08:00:00Z", "", 10_250),
        ("3", "2026-07-02T06:00:00Z", "", 7_500),
    ] == [
        (
            session.session_id,
            session.start_time.ToJsonString(),
            session.end_time.ToJsonString() if session.HasField("end_time") else "",
            session.energy_wh,
        )
        for session in batch.sessions
    ]


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("2026-10-25T02:30", "2026-10-25T00:30:00"),  # twice: the first
        ("2026-10-25T03:30", "2026-10-25T02:30:00"),
        ("2026-03-29T02:30", None),  # skipped
        ("2026-03-29T03:30", "2026-03-29T01:30:00"),
        ("5.1.2026 07:00", "2026-01-05T06:00:00"),
        ("05.01.2026 7:00:30", "2026-01-05T06:00:30"),
        ("31.2.2026 07:00", None),
        ("01/02/2026 07:00", None),  # which is the day?
    ],
)
def test_local_times_are_those_of_the_zone(text: str, read: str | None) -> None:
    """In the hour that is repeated it is the first; one that is skipped is refused."""
    zone = ZoneInfo("Europe/Berlin")
    if read is None:
        with pytest.raises(BadInput):
            instant("start", text, zone)
    else:
        assert datetime.fromisoformat(read).replace(tzinfo=UTC) == instant("start", text, zone)


@pytest.mark.parametrize("text", ["1,234", "1.234,5"])
def test_what_may_be_a_thousand_needs_semicolons(text: str) -> None:
    """In a file with commas; "27,4" in quotes can mean nothing else."""
    with pytest.raises(BadInput, match="decimal point"):
        energy_wh(text)
    assert 27_400 == energy_wh("27,4")


def test_a_file_in_utf_16_is_named_so(tmp_path: Path) -> None:
    """As a spreadsheet may save it."""
    assert "is in UTF-16: save it as UTF-8" == refusal_of(
        tmp_path, (HEADER + GOOD).encode("utf-16")
    )


@pytest.mark.parametrize("text", ["1,2,3", "12.34,5", "1,5.5", ",", "kWh"])
def test_what_is_no_number_is_refused_with_a_decimal_comma_too(text: str) -> None:
    """Points stand before three digits each."""
    with pytest.raises(BadInput, match="decimal comma or point"):
        energy_wh(text, decimal_comma=True)


def test_a_column_that_is_named_must_be_there(tmp_path: Path) -> None:
    """The message has the names of the file."""
    path = tmp_path / "german.csv"
    path.write_text(GERMAN)
    source = SessionFile(path, country_code="DE", columns={**GERMAN_COLUMNS, "user_id": "Benutzer"})
    with pytest.raises(BadInput, match="lacks the columns Benutzer; the header must name Nummer"):
        list(source.batches())
