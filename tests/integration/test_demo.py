"""The demo data: what the README shows holds on every day of the year."""

from datetime import UTC, datetime, timedelta

import pytest

from tests.conftest import Service, server_config
from tests.demo_offers import FIRST_OFFERS, LEAST_LEAD, MAX_OFFERS, PAYS_NOTHING, shown_to
from voucher_grpc.dev.demo.load import load_demo
from voucher_grpc.dev.demo.play import play
from voucher_grpc.dev.demo.users import NAMED_USERS, DemoUser, sessions_of

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
# Over two years and two months; 22 days and 7 hours apart they fall on all weekdays and hours.
FIRST_DAY = datetime(2026, 11, 1, tzinfo=UTC)
BETWEEN_DATES = timedelta(days=22, hours=7)
DATES = 36
TOO_DEAR = "prestige-120"


async def test_what_the_demo_shows_holds(fresh_database: str) -> None:
    """Both signals for three users, and what must be refused."""
    await play(server_config(fresh_database))


@pytest.mark.parametrize("user", NAMED_USERS, ids=lambda user: user.user_id)
def test_each_demo_user_gets_the_same_first_offer_on_any_day(user: DemoUser) -> None:
    """The README says what to pay for it, and `make demo` that three differ: no day, season or
    hour may come near to another answer. The pass that is too dear is offered to nobody."""
    for number in range(DATES):
        now = FIRST_DAY + number * BETWEEN_DATES
        shown = shown_to(user, now)
        assert FIRST_OFFERS[user.user_id] == shown.product_ids[0], now
        assert shown.recommended == (user.user_id not in PAYS_NOTHING), now
        assert not shown.recommended or shown.lead >= LEAST_LEAD, (now, shown)
        assert TOO_DEAR not in shown.product_ids, now


async def test_a_server_offers_what_the_rules_say_of_each_demo_user(
    fresh_service: Service,
) -> None:
    """Today, and so on all days that the test above looks at without a server."""
    now = datetime.now(UTC)
    await load_demo(fresh_service.client, now, generic_users=0)
    for user in NAMED_USERS:
        answer = await fresh_service.client.request_offers(
            vehicle_id=user.vehicle.vehicle_id, max_offers=MAX_OFFERS
        )
        offered = [offer.product_id for offer in answer.offers]
        assert FIRST_OFFERS[user.user_id] == offered[0]
        assert set(shown_to(user, now).product_ids) == set(offered)


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


def test_demo_sessions_are_the_same_whenever_they_are_made() -> None:
    """A day is drawn from the user and the date alone, and has ended by now."""
    for user in NAMED_USERS:
        earlier = {s.session_id: s for s in sessions_of(user, NOW - timedelta(days=40))}
        later = {s.session_id: s for s in sessions_of(user, NOW)}
        shared = earlier.keys() & later.keys()
        assert shared
        assert all(earlier[name] == later[name] for name in shared)
        assert all(s.end_time.ToDatetime(tzinfo=UTC) <= NOW for s in later.values())
