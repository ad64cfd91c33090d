"""What charging costs without a pass, as RequestOffers says it, on tariffs as operators publish
them: twenty sessions of 20 kWh and one hour, every second day at 11:00."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import pytest
import pytest_asyncio

from tests.conftest import Service, new_database, serving
from tests.integration.shop import create
from voucher_grpc.edge.wire.messages import timestamp
from voucher_grpc.files.ocpi_objects import location_file, tariff_file
from voucher_grpc.v1.conditions_pb2 import LocationReference
from voucher_grpc.v1.location_service_pb2 import UpsertLocationsRequest, UpsertTariffsRequest
from voucher_grpc.v1.tendency_service_pb2 import ChargingSession

ZONE = ZoneInfo("Europe/Amsterdam")
CHANGE = "2020-03-01T00:00:00Z"
LATER = "2099-01-01T00:00:00Z"


class Case(NamedTuple):
    """Tariffs of one connector, and what a session of 20 kWh costs; None: it is not known."""

    name: str
    tariffs: list[dict[str, Any]]
    session_cost: float | None
    country: str = "NLD"


def energy(price: float | str, step_size: int | str = 1, **more: Any) -> dict[str, Any]:
    return {"type": "ENERGY", "price": price, "step_size": step_size, **more}


def element(*components: dict[str, Any], **restrictions: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"price_components": list(components)}
    return {**made, "restrictions": restrictions} if restrictions else made


def tariff(*elements: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"currency": "EUR", "elements": list(elements), **more}


def plain(price: float, **more: Any) -> dict[str, Any]:
    """Without tax of its own: 21 % are configured for the Netherlands."""
    return tariff(element(energy(price, vat=0)), **more)


CASES = [
    Case(
        "with tax, and it says how much",
        [
            tariff(element(energy(0.3, vat=21)), tax_included="YES"),
        ],
        6,
    ),
    Case(
        "with tax, and the rate is configured",
        [
            tariff(element(energy(0.3)), tax_included="YES"),
        ],
        6,
    ),
    Case("without tax", [tariff(element(energy(0.3, vat=21)), tax_included="NO")], 7.26),
    Case("there is no tax", [tariff(element(energy(0.3)), tax_included="N/A")], 6),
    Case("the rate of the country", [tariff(element(energy(0.3)))], 7.26),
    Case("no rate for the country", [tariff(element(energy(0.3)))], 6, "BEL"),
    Case("a place in another country", [tariff(element(energy(0.3)))], 7.14, "DEU"),
    Case(
        "taxes by name",
        [
            tariff(element(energy(0.3, taxes=[{"name": "A", "percentage": 10}]))),
        ],
        6.6,
    ),
    Case("at least 8, before tax alone", [plain(0.1, min_price={"excl_vat": 8})], 8),
    Case("at least 8, after tax alone", [plain(0.1, min_price={"after_taxes": 8})], 8),
    Case("at most 3", [plain(0.4, max_price={"excl_vat": 3, "incl_vat": 3})], 3),
    Case("steps of 30 kWh", [tariff(element(energy(0.3, 30_000, vat=0)))], 9),
    Case(
        "the first 4 kWh at a tenth",
        [
            tariff(element(energy(0.05, vat=0), max_kwh=4), element(energy(0.5, vat=0))),
        ],
        8.2,
    ),
    Case(
        "from 25 kW on, at 11 kW",
        [
            tariff(element(energy(0.9, vat=0), min_power=25), element(energy(0.2, vat=0))),
        ],
        4,
    ),
    Case(
        "below 16 kW, at 11 kW",
        [
            tariff(element(energy(0.2, vat=0), max_power=16), element(energy(0.9, vat=0))),
        ],
        4,
    ),
    Case(
        "an hourly price after 20 minutes",
        [
            tariff(
                element(energy(0.3, vat=0)),
                element({"type": "TIME", "price": 9, "step_size": 1, "vat": 0}, min_duration=1_200),
            ),
        ],
        12,
    ),
    Case(
        "times with seconds",
        [
            tariff(
                element(energy(0.2, vat=0), start_time="09:00:00", end_time="16:59:59"),
                element(energy(0.9, vat=0)),
            ),
        ],
        4,
    ),
    Case(
        "half of the session in a window",
        [
            tariff(
                element(energy(0.2, vat=0), start_time="11:30", end_time="20:00"),
                element(energy(0.4, vat=0)),
            ),
        ],
        6,
    ),
    Case(
        "old and new on one connector",
        [
            plain(0.1, end_date_time=CHANGE),
            plain(0.35, start_date_time=CHANGE),
        ],
        7,
    ),
    Case("one for later comes first", [plain(0.9, start_date_time=LATER), plain(0.35)], 7),
    Case("only an ended one", [plain(0.1, end_date_time=CHANGE)], None),
    Case(
        "ad hoc beside regular",
        [
            plain(0.9, type="AD_HOC_PAYMENT"),
            plain(0.45, type="REGULAR"),
        ],
        9,
    ),
    Case(
        "one day that is past",
        [
            tariff(
                element(energy(0.1, vat=0), start_date="2020-05-02", end_date="2020-05-03"),
                element(energy(0.4, vat=0)),
            ),
        ],
        8,
    ),
    Case(
        "nothing is asked in earnest",
        [
            tariff(element(energy(0.3, vat=0), day_of_week=[], start_time=None, min_kwh=None)),
        ],
        6,
    ),
    Case("numbers as text", [tariff(element(energy("0.3", "1", vat="21.0")))], 7.26),
    Case("ids in another spelling", [plain(0.25)], 5),
]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def priced(
    cluster_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Service]:
    """A server with a place, its tariffs and a user for each case."""
    folder = tmp_path_factory.mktemp("priced")
    async with (
        new_database(cluster_url) as url,
        serving(url, vat_rates="NL:2100,DE:1900,NO:2500") as service,
    ):
        await create(service.client, "basic", price="30.00 EUR")
        tariffs, locations, sessions = [], [], []
        for number, case in enumerate(CASES):
            ids = [f"Case{number}-{n}" for n in range(len(case.tariffs))]
            owner = {"country_code": "NL", "party_id": "TST"}
            tariffs += [{**owner, "id": i, **t} for i, t in zip(ids, case.tariffs, strict=True)]
            named = [one.upper() if "spelling" in case.name else one for one in ids]
            locations.append({**owner, **_location(number, case.country, named)})
            sessions += _sessions(number)
        await _import(service, folder, tariffs, locations)
        report = await service.client.record_sessions([sessions])
        assert (len(sessions), 0) == (report.recorded, report.refused)
        yield service


def _location(number: int, country: str, tariff_ids: list[str]) -> dict[str, Any]:
    connector = {
        "id": "1",
        "standard": "IEC_62196_T2",
        "power_type": "AC_3_PHASE",
        "max_voltage": 230,
        "max_amperage": 16,
        "tariff_ids": tariff_ids,
    }
    return {
        "id": f"Place{number}",
        "country": country,
        "time_zone": "Europe/Amsterdam",
        "evses": [{"uid": "1", "connectors": [connector]}],
    }


def _sessions(number: int) -> list[ChargingSession]:
    today = datetime.now(UTC).replace(hour=10, minute=0, second=0, microsecond=0)
    place = LocationReference(country_code="NL", party_id="TST", location_id=f"place{number}")
    made = []
    for day in range(1, 41, 2):
        # 11:00 in Amsterdam, in winter and in summer.
        at = datetime.combine(
            (today - timedelta(days=day)).date(), datetime.min.time(), ZONE
        ) + timedelta(hours=11)
        made.append(
            ChargingSession(
                session_id=f"s{day}",
                user_id=f"user{number}",
                location=place,
                start_time=timestamp(at.astimezone(UTC)),
                end_time=timestamp(at.astimezone(UTC) + timedelta(hours=1)),
                energy_wh=20_000,
            )
        )
    return made


async def _import(service: Service, folder: Path, tariffs: list[Any], locations: list[Any]) -> None:
    (folder / "tariffs.json").write_text(json.dumps(tariffs))
    (folder / "locations.json").write_text(json.dumps(locations))
    client = service.client
    answers = await asyncio.gather(
        client.call(
            client.location.UpsertTariffs,
            UpsertTariffsRequest(tariffs=tariff_file(folder / "tariffs.json").messages()),
        ),
        client.call(
            client.location.UpsertLocations,
            UpsertLocationsRequest(locations=location_file(folder / "locations.json").messages()),
        ),
    )
    assert [0] * (len(tariffs) + len(locations)) == [
        result.code for answer in answers for result in answer.results
    ]


@pytest.mark.parametrize("number", range(len(CASES)), ids=[case.name for case in CASES])
async def test_a_published_tariff_gives_the_right_price(priced: Service, number: int) -> None:
    """A kWh costs a twentieth of a session, 30 days as many as the energy that is said."""
    case = CASES[number]
    answer = await priced.client.request_offers(user_id=f"user{number}", currency_code="EUR")
    found = answer.pay_as_you_go
    if case.session_cost is None:
        assert not found.HasField("price_per_kwh")
        return
    price = found.price_per_kwh.units + found.price_per_kwh.nanos / 1e9
    assert case.session_cost / 20 == pytest.approx(price, rel=1e-3)
    cost = found.cost_per_30_days.units + found.cost_per_30_days.nanos / 1e9
    energy_kwh = found.energy_wh_per_30_days / 1_000
    assert energy_kwh * case.session_cost / 20 == pytest.approx(cost, rel=2e-3)
