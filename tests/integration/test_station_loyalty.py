"""Real workplace sessions: products bound to a station go to the users who are loyal to it."""

from collections import Counter
from pathlib import Path

from tests.conftest import Service
from tests.integration.shop import create, set_tariff
from voucher_grpc.files.sessions import SessionFile
from voucher_grpc.v1.conditions_pb2 import LocationReference
from voucher_grpc.v1.tendency_service_pb2 import ChargingSession, GetTendencyRequest, Tendency
from voucher_grpc.v1.voucher_service_pb2 import RequestOffersRequest

STATIONS = 20
LOYAL, FOREIGN = 0.6, 0.05
Station = tuple[str, str]


def station(place: LocationReference) -> Station:
    """A station of the file: location and EVSE."""
    return place.location_id, place.evse_uid


def read(path: Path) -> list[ChargingSession]:
    """The sessions of the file."""
    batches = SessionFile(path, country_code="US", party_id="WRK", time_zone="UTC").batches()
    return [session for batch in batches for session in batch.sessions]


async def test_station_bound_products_go_to_the_users_loyal_to_the_station(
    fresh_service: Service, shared_data: Path
) -> None:
    """All who charge there nearly always are offered it first; who hardly ever does, never."""
    client = fresh_service.client
    await set_tariff(client, "US", "USD")
    sessions = read(shared_data / "us_workplace_sessions.csv")
    for start in range(0, len(sessions), 1000):
        await client.record_sessions([sessions[start : start + 1000]])
    energy = Counter[Station]()
    for session in sessions:
        energy[station(session.location)] += session.energy_wh
    bound = {place: f"only-{n}" for n, (place, _) in enumerate(energy.most_common(STATIONS))}
    for (location_id, evse_uid), product_id in bound.items():
        where = {"country_code": "US", "party_id": "WRK", "location_id": location_id}
        await create(
            client,
            product_id,
            price="15.00 USD",
            benefit={"energy_price_per_kwh": "1.00"},
            conditions={"locations": [{**where, "evse_uid": evse_uid}]},
            time_zone="America/New_York",
        )
    loyal, offered = 0, 0
    for user_id in sorted({session.user_id for session in sessions}):
        known: Tendency = (
            await client.call(client.tendency.GetTendency, GetTendencyRequest(user_id=user_id))
        ).tendency
        if known.sessions < 10:
            continue
        shares = {station(place.location): place.share for place in known.places}
        request = RequestOffersRequest(user_id=user_id, currency_code="USD", max_offers=20)
        answer = await client.call(client.voucher.RequestOffers, request)
        products = [offer.product_id for offer in answer.offers]
        offered += len(products)
        for place, product_id in bound.items():
            share = shares.get(place, 0.0)
            if share >= LOYAL:
                loyal += 1
                assert [product_id] == products[:1]
            if share < FOREIGN:
                assert product_id not in products
    assert loyal >= 5
    assert offered >= loyal
