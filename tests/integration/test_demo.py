"""The demo data: what the README shows holds on every day of the year."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from tests.conftest import Service, server_config
from voucher_grpc.demo.load import load_demo
from voucher_grpc.demo.play import USERS, play
from voucher_grpc.demo.users import NAMED_USERS, DemoUser, sessions_of
from voucher_grpc.v1.tendency_service_pb2 import ChargingSession

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
FORTNIGHTS = 26


async def test_what_the_demo_shows_holds(fresh_database: str) -> None:
    """Both signals for three users, and what must be refused."""
    await play(server_config(fresh_database))


def moved_to(now: datetime, weeks: int, user: DemoUser, as_user: str) -> Iterator[ChargingSession]:
    """The sessions that a user has so many weeks later, as another one's that end now."""
    back_s = weeks * 7 * 86_400
    for session in sessions_of(user, now + timedelta(weeks=weeks)):
        session.session_id += f"-{weeks}"
        session.user_id = as_user
        session.start_time.seconds -= back_s
        session.end_time.seconds -= back_s
        yield session


async def test_each_demo_user_gets_the_same_first_offer_all_year(fresh_service: Service) -> None:
    """The README says what to pay for it, and `make demo` that the three differ."""
    client, now = fresh_service.client, datetime.now(UTC)
    await load_demo(client, now)
    for user in NAMED_USERS:
        if user.user_id not in USERS:
            continue
        first, *_ = (await client.request_offers(user_id=user.user_id)).offers
        for fortnight in range(1, FORTNIGHTS):
            name = f"{user.user_id}-{fortnight}"
            await client.record_sessions([list(moved_to(now, 2 * fortnight, user, name))])
            answer = await client.request_offers(user_id=name, currency_code="NOK")
            assert first.product_id == answer.offers[0].product_id, name


async def test_the_demo_can_be_loaded_again_later(fresh_service: Service) -> None:
    """What has been loaded stays; only the days since are new."""
    first = await load_demo(fresh_service.client, NOW - timedelta(days=30), generic_users=3)
    second = await load_demo(fresh_service.client, NOW, generic_users=3)
    third = await load_demo(fresh_service.client, NOW, generic_users=3)
    assert first.products >= 18
    assert first.sessions_recorded > 500
    assert second.products == 0
    assert 0 < second.sessions_recorded < first.sessions_recorded
    assert (third.products, third.sessions_recorded) == (0, 0)


async def test_the_pass_that_is_too_dear_is_recommended_to_nobody(
    fresh_service: Service,
) -> None:
    """Not among all the offers of any demo user; each named user is offered something."""
    await load_demo(fresh_service.client, datetime.now(UTC))
    for user in NAMED_USERS:
        answer = await fresh_service.client.request_offers(user_id=user.user_id, max_offers=20)
        assert answer.offers, user.user_id
        assert "prestige-120" not in {offer.product_id for offer in answer.offers}


def test_demo_sessions_are_the_same_whenever_they_are_made() -> None:
    """A day is drawn from the user and the date alone, and has ended by now."""
    for user in NAMED_USERS:
        earlier = {s.session_id: s for s in sessions_of(user, NOW - timedelta(days=40))}
        later = {s.session_id: s for s in sessions_of(user, NOW)}
        shared = earlier.keys() & later.keys()
        assert shared
        assert all(earlier[name] == later[name] for name in shared)
        assert all(s.end_time.ToDatetime(tzinfo=UTC) <= NOW for s in later.values())
