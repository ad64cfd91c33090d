"""The rules of a purchase, each by itself, in their order, and all of them on random batches."""

from collections import Counter
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.builders import NOW, SPEC, THOROUGH, make_terms, nok
from voucher_grpc.domain.catalogue.product import (
    Benefit,
    EnergyBundle,
    EnergyPrice,
    FlatPeriod,
    PercentageOff,
    PersonalLimit,
    SessionBundle,
    Validity,
    ValidityPeriod,
    ValidityStart,
    validity_period,
)
from voucher_grpc.domain.offer_ids.signer import OfferTerms, offer_digest
from voucher_grpc.domain.passes.event import EventType
from voucher_grpc.domain.passes.purchase import (
    Bought,
    Purchase,
    State,
    StockState,
    Verdict,
    judge,
    limit_reached,
    opening_balance,
    pass_id_for,
    purchase_event,
)
from voucher_grpc.domain.passes.state import Balance, Pass
from voucher_grpc.errors import Reason, Refusal
from voucher_grpc.money import Money

EXPIRE = NOW + timedelta(minutes=15)


def make_offer(**changes: Any) -> OfferTerms:
    values: dict[str, Any] = {
        "user_id": "alice",
        "product_id": "pass",
        "product_revision": 1,
        "price_micros": 49_000_000,
        "currency_code": "NOK",
        "expire_time": EXPIRE,
    }
    return OfferTerms(**{**values, **changes})


def make_purchase(request: int = 1, offer_name: str = "offer", **changes: Any) -> Purchase:
    """A purchase by alice of an offer that is named apart from its terms."""
    values: dict[str, Any] = {
        "user_id": "alice",
        "request_id": UUID(int=request),
        "offer_digest": offer_digest(offer_name),
        "offer": make_offer(),
        "claimed_user_id": "",
        "vehicle_id": "",
        "payment_reference": f"pay-{request}",
        "amount": nok(49),
        "arrival_time": NOW,
    }
    return Purchase(**{**values, **changes})


def make_state(**changes: Any) -> State:
    """An empty shop with one product; `stock`, `limit` and `withdrawn` are the product's."""
    stock = StockState(
        changes.pop("stock", None),
        changes.pop("sold", 0),
        changes.pop("limit", None),
        changes.pop("withdrawn", 0),
    )
    values: dict[str, Any] = {
        "passes": {},
        "by_offer": {},
        "bought": {},
        "references": {},
        "stocks": {"pass": stock},
        "user_zones": {},
        "terms": {("pass", 1): make_terms()},
        "now": NOW,
        "hold_lifetime": timedelta(minutes=10),
    }
    return State(**{**values, **changes})


def reason(verdict: Verdict) -> Reason | None:
    """Why it was refused; None if it was not."""
    return verdict.result.reason if isinstance(verdict.result, Refusal) else None


def judged(purchase: Purchase, state: State) -> Reason | None:
    return reason(judge([purchase], state)[0])


def bought_by(purchase: Purchase, state: State) -> Pass:
    """The pass of a purchase that succeeds."""
    result = judge([purchase], state)[0].result
    assert isinstance(result, Pass)
    return result


def test_an_offer_that_holds_is_sold_as_offered() -> None:
    """The pass has the price, the revision, the validity and the balance of the offer."""
    state = make_state(user_zones={"alice": "America/New_York"})
    bought = bought_by(make_purchase(vehicle_id="car"), state)
    terms = make_terms()
    assert bought == Pass(
        user_id="alice",
        pass_id=pass_id_for("alice", UUID(int=1)),
        request_id=UUID(int=1),
        offer_digest=offer_digest("offer"),
        product_id="pass",
        product_revision=1,
        vehicle_id="car",
        price=nok(49),
        payment_reference="pay-1",
        purchase_time=NOW,
        time_zone="America/New_York",
        period=validity_period(terms.validity, NOW, ZoneInfo("America/New_York")),
        balance=Balance(energy_wh=100_000),
    )


def test_the_products_zone_counts_where_the_users_is_not_known() -> None:
    """Frozen at the purchase."""
    assert "Europe/Oslo" == bought_by(make_purchase(), make_state()).time_zone


def test_a_sale_moves_the_state_on() -> None:
    """What comes later in the batch sees it."""
    state = make_state(stock=5, sold=2)
    bought = bought_by(make_purchase(), state)
    assert (3, [Bought("pass", NOW)]) == (state.stocks["pass"].sold, state.bought["alice"])
    assert {"pay-1": ("alice", bought.pass_id)} == state.references


REFUSED = [
    (Reason.OFFER_INVALID, make_purchase(offer=None), {}),
    (Reason.OFFER_OF_ANOTHER_USER, make_purchase(claimed_user_id="bob"), {}),
    (Reason.OFFER_EXPIRED, make_purchase(arrival_time=EXPIRE), {}),
    (Reason.PRODUCT_NOT_FOUND, make_purchase(offer=make_offer(product_id="gone")), {}),
    (Reason.PRODUCT_NOT_FOUND, make_purchase(offer=make_offer(product_revision=2)), {}),
    (Reason.OFFER_WITHDRAWN, make_purchase(), {"withdrawn": 2}),
    (Reason.PAYMENT_MISMATCH, make_purchase(amount=Money(48_999_999, "NOK")), {}),
    (Reason.PAYMENT_MISMATCH, make_purchase(amount=Money(49_000_001, "NOK")), {}),
    (Reason.PAYMENT_MISMATCH, make_purchase(amount=Money(49_000_000, "SEK")), {}),
    (
        Reason.PAYMENT_REFERENCE_USED,
        make_purchase(),
        {"references": {"pay-1": ("bob", UUID(int=7))}},
    ),
    (
        Reason.PERSONAL_LIMIT_REACHED,
        make_purchase(),
        {"limit": PersonalLimit(1), "bought": {"alice": [Bought("pass", NOW)]}},
    ),
    (Reason.SOLD_OUT, make_purchase(), {"stock": 3, "sold": 3}),
    (Reason.SOLD_OUT, make_purchase(), {"stock": 0}),
]


@pytest.mark.parametrize(("expected", "purchase", "shop"), REFUSED)
def test_each_rule_refuses_by_its_reason_and_changes_nothing(
    expected: Reason, purchase: Purchase, shop: dict[str, Any]
) -> None:
    """A refusal leaves the whole state as it was."""
    state = make_state(**shop)
    before = deepcopy(state)
    assert expected is judged(purchase, state)
    assert before == state


def test_an_offer_bought_under_another_request_names_its_pass() -> None:
    """So that a caller who lost its request_id finds the pass."""
    state = make_state()
    bought = bought_by(make_purchase(1), state)
    before = deepcopy(state)
    refusal = judge([make_purchase(2)], state)[0].result
    assert isinstance(refusal, Refusal)
    assert Reason.OFFER_ALREADY_BOUGHT is refusal.reason
    assert {"pass_id": str(bought.pass_id)} == refusal.metadata
    assert before == state


def test_the_rules_are_judged_in_their_published_order() -> None:
    """A purchase with everything wrong; each fault that is mended brings up the next one."""
    state = make_state(
        stock=1,
        sold=1,
        limit=PersonalLimit(1),
        withdrawn=2,
        references={"pay-2": ("bob", UUID(int=7))},
        bought={"alice": [Bought("pass", NOW)]},
    )
    first = bought_by(make_purchase(1), make_state())
    state.passes["alice", first.pass_id] = first
    state.by_offer["alice", first.offer_digest] = first
    wrong = make_purchase(
        1, "other", offer=None, claimed_user_id="bob", arrival_time=EXPIRE, amount=nok(1)
    )
    wrong = replace(wrong, payment_reference="pay-2")
    heard = [judged(wrong, state)]
    for change in (
        {"request_id": UUID(int=2)},
        {"offer": make_offer(), "offer_digest": offer_digest("offer")},
        {"claimed_user_id": "alice"},
        {"offer_digest": offer_digest("other")},
        {"arrival_time": NOW},
    ):
        wrong = replace(wrong, **change)
        heard.append(judged(wrong, state))
    state.stocks["pass"] = replace(state.stocks["pass"], withdrawn_before_revision=1)
    heard.append(judged(wrong, state))
    wrong = replace(wrong, amount=nok(49))
    heard.append(judged(wrong, state))
    wrong = replace(wrong, payment_reference="pay-3")
    heard.append(judged(wrong, state))
    state.bought.clear()
    heard.append(judged(wrong, state))
    state.stocks["pass"] = replace(state.stocks["pass"], stock=2)
    heard.append(judged(wrong, state))
    assert [
        Reason.REQUEST_ID_REUSED,
        Reason.OFFER_INVALID,
        Reason.OFFER_OF_ANOTHER_USER,
        Reason.OFFER_ALREADY_BOUGHT,
        Reason.OFFER_EXPIRED,
        Reason.OFFER_WITHDRAWN,
        Reason.PAYMENT_MISMATCH,
        Reason.PAYMENT_REFERENCE_USED,
        Reason.PERSONAL_LIMIT_REACHED,
        Reason.SOLD_OUT,
        None,
    ] == heard


def test_a_retry_gets_the_same_pass_whatever_has_changed_since() -> None:
    """Expired, withdrawn, sold out, limit reached, key rotated away: the pass was bought."""
    state = make_state(stock=1, limit=PersonalLimit(1))
    bought = bought_by(make_purchase(), state)
    state.stocks["pass"] = replace(state.stocks["pass"], withdrawn_before_revision=9)
    state.now = NOW + timedelta(days=400)
    before = deepcopy(state)
    for retry in (
        make_purchase(),
        make_purchase(arrival_time=NOW + timedelta(days=400)),
        make_purchase(offer=None),
        make_purchase(validate_only=True),
    ):
        assert [Verdict(bought)] == judge([retry], state)
    assert before == state


@pytest.mark.parametrize(
    "change",
    [
        {"offer_digest": offer_digest("other")},
        {"vehicle_id": "car"},
        {"payment_reference": "pay-9"},
        {"amount": nok(50)},
        {"amount": Money(49_000_000, "SEK")},
    ],
)
def test_the_same_key_with_other_content_is_refused(change: dict[str, Any]) -> None:
    """Offer, vehicle and payment are the content."""
    state = make_state()
    bought_by(make_purchase(), state)
    before = deepcopy(state)
    assert Reason.REQUEST_ID_REUSED is judged(replace(make_purchase(), **change), state)
    assert before == state


def test_two_users_may_have_the_same_request_id() -> None:
    """The key is (user, request_id)."""
    state = make_state()
    alices = bought_by(make_purchase(), state)
    bobs = bought_by(
        make_purchase(
            offer_name="bobs",
            user_id="bob",
            offer=make_offer(user_id="bob"),
            payment_reference="pay-bob",
        ),
        state,
    )
    assert alices.pass_id != bobs.pass_id


def test_a_refused_key_may_succeed_later() -> None:
    """Refusals are not stored, and the payment reference is unused."""
    state = make_state(stock=0)
    assert Reason.SOLD_OUT is judged(make_purchase(), state)
    state.stocks["pass"] = replace(state.stocks["pass"], stock=1)
    assert judged(make_purchase(), state) is None


def test_the_last_one_can_be_bought_and_no_more() -> None:
    """Neither off by one below nor above."""
    state = make_state(stock=3, sold=2)
    batch = [make_purchase(n, f"offer-{n}") for n in (1, 2)]
    assert [None, Reason.SOLD_OUT] == [reason(v) for v in judge(batch, state)]
    assert 3 == state.stocks["pass"].sold


@pytest.mark.parametrize(
    ("age", "counts"),
    [
        (timedelta(0), True),
        (timedelta(days=30) - timedelta(microseconds=1), True),
        (timedelta(days=30), False),
        (timedelta(days=31), False),
    ],
)
def test_a_rolling_limit_forgets_after_exactly_its_days(age: timedelta, counts: bool) -> None:
    """A purchase of thirty days ago to the microsecond does not count any more."""
    assert counts == limit_reached(PersonalLimit(1, 30), "pass", [Bought("pass", NOW - age)], NOW)


def test_a_limit_for_ever_never_forgets_and_other_products_do_not_count() -> None:
    """rolling_days 0."""
    old = Bought("pass", NOW - timedelta(days=3650))
    assert limit_reached(PersonalLimit(1), "pass", [old], NOW)
    assert not limit_reached(PersonalLimit(2), "pass", [old, Bought("other", NOW)], NOW)


def test_validate_only_says_what_would_happen_and_changes_nothing() -> None:
    """Also within a batch: it takes nothing away from those behind it."""
    state = make_state(stock=1)
    verdicts = judge([make_purchase(1, validate_only=True), make_purchase(1)], state)
    assert [False, True] == [verdict.written for verdict in verdicts]
    assert verdicts[0].result == verdicts[1].result
    assert 1 == state.stocks["pass"].sold


def test_a_hold_is_worth_nothing_until_it_is_paid() -> None:
    """It takes its place in stock and limit, and has neither validity nor balance."""
    state = make_state(stock=1)
    held = bought_by(make_purchase(payment_reference=""), state)
    assert (NOW + timedelta(minutes=10), None) == (held.hold_expire_time, held.paid_time)
    assert (ValidityPeriod(None, None), Balance(), 0) == (
        held.period,
        held.balance,
        held.ledger_entries,
    )
    assert (1, [Bought("pass", NOW)]) == (state.stocks["pass"].sold, state.bought["alice"])
    assert {} == state.references
    assert EventType.PASS_HELD is purchase_event(held)


def test_a_hold_on_what_ends_at_a_fixed_time_does_not_outlive_it() -> None:
    """Confirming it would buy nothing."""
    end = NOW + timedelta(minutes=5)
    fixed = Validity(days=1, start=ValidityStart.AT, start_time=end - timedelta(days=1))
    state = make_state(terms={("pass", 1): make_terms(validity=fixed)})
    held = bought_by(make_purchase(payment_reference=""), state)
    assert end == held.hold_expire_time


def test_a_retry_of_a_hold_finds_it_paid_or_not_and_a_payment_is_other_content() -> None:
    """The key's content is a hold at this price."""
    state = make_state()
    held = bought_by(make_purchase(payment_reference=""), state)
    paid = replace(held, payment_reference="pay-1", confirm_time=NOW)
    for known in (held, paid):
        state.passes[known.key] = known
        assert [Verdict(known)] == judge([make_purchase(payment_reference="")], state)
        assert Reason.REQUEST_ID_REUSED is judged(make_purchase(payment_reference="pay-1"), state)


@pytest.mark.parametrize(
    ("benefit", "balance"),
    [
        (EnergyBundle(5), Balance(energy_wh=5)),
        (FlatPeriod(6), Balance(energy_wh=6)),
        (SessionBundle(7, 1), Balance(sessions=7)),
        (EnergyPrice(1), Balance()),
        (PercentageOff(1), Balance()),
    ],
)
def test_the_opening_balance_is_what_the_benefit_holds(benefit: Benefit, balance: Balance) -> None:
    """The first entry of the ledger."""
    assert balance == opening_balance(make_terms(benefit=benefit))


@SPEC
@given(st.text(st.characters(min_codepoint=33, max_codepoint=126)), st.uuids(), st.uuids())
def test_the_name_of_a_pass_is_made_from_its_key(user: str, one: UUID, two: UUID) -> None:
    """The same key, the same name; another key, another name."""
    assert pass_id_for(user, one) == pass_id_for(user, one)
    assert (one == two) == (pass_id_for(user, one) == pass_id_for(user, two))
    assert pass_id_for(user, one) != pass_id_for(user + "x", one)


# A model of the shop, told as simply as possible, to hold random batches against.


@dataclass
class Shop:
    """The rules again as plain lists that are searched from the start for each purchase."""

    stock: dict[str, int | None]
    limit: dict[str, PersonalLimit | None]
    old: list[tuple[str, str, datetime]]
    sold: list[Purchase]

    def buy(self, p: Purchase) -> Reason | None:  # noqa: C901
        for done in self.sold:
            if (done.user_id, done.request_id) == (p.user_id, p.request_id):
                same = (
                    done.offer_digest == p.offer_digest
                    and done.vehicle_id == p.vehicle_id
                    and done.payment_reference == p.payment_reference
                    and done.amount == p.amount
                )
                return None if same else Reason.REQUEST_ID_REUSED
        if p.offer is None:
            return Reason.OFFER_INVALID
        if any((d.user_id, d.offer_digest) == (p.user_id, p.offer_digest) for d in self.sold):
            return Reason.OFFER_ALREADY_BOUGHT
        if p.arrival_time >= p.offer.expire_time:
            return Reason.OFFER_EXPIRED
        if p.amount.micros != p.offer.price_micros:
            return Reason.PAYMENT_MISMATCH
        if any(d.payment_reference == p.payment_reference for d in self.sold):
            return Reason.PAYMENT_REFERENCE_USED
        product = p.offer.product_id
        limit = self.limit[product]
        if limit is not None and self.count(p.user_id, product, limit) >= limit.max_purchases:
            return Reason.PERSONAL_LIMIT_REACHED
        stock = self.stock[product]
        if stock is not None and self.sold_of(product) >= stock:
            return Reason.SOLD_OUT
        if not p.validate_only:
            self.sold.append(p)
        return None

    def sold_of(self, product: str) -> int:
        return sum(d.offer is not None and d.offer.product_id == product for d in self.sold)

    def count(self, user: str, product: str, limit: PersonalLimit) -> int:
        times = [t for u, p, t in self.old if (u, p) == (user, product)]
        times += [
            NOW
            for d in self.sold
            if d.user_id == user and d.offer is not None and d.offer.product_id == product
        ]
        if limit.rolling_days:
            times = [t for t in times if t + timedelta(days=limit.rolling_days) > NOW]
        return len(times)


PRODUCTS, USERS = ("a", "b"), ("alice", "bob")
limits = st.one_of(
    st.none(), st.builds(PersonalLimit, st.integers(1, 3), st.sampled_from([0, 0, 30]))
)


@st.composite
def shops(draw: st.DrawFn) -> Shop:
    """Two products with little of everything."""
    return Shop(
        {p: draw(st.one_of(st.none(), st.integers(0, 4))) for p in PRODUCTS},
        {p: draw(limits) for p in PRODUCTS},
        draw(
            st.lists(
                st.tuples(
                    st.sampled_from(USERS),
                    st.sampled_from(PRODUCTS),
                    st.sampled_from([0, 29, 30, 31]).map(lambda d: NOW - timedelta(days=d)),
                ),
                max_size=3,
            )
        ),
        [],
    )


@st.composite
def purchases(draw: st.DrawFn) -> Purchase:
    """Purchases that often meet: few users, keys, offers and references."""
    user, product = draw(st.sampled_from(USERS)), draw(st.sampled_from(PRODUCTS))
    number = draw(st.integers(0, 4))
    forged, late, short = (draw(st.integers(0, 9)) == 0 for _ in range(3))
    return make_purchase(
        draw(st.integers(0, 5)),
        f"{user}-{product}-{number}",
        user_id=user,
        offer=None if forged else make_offer(user_id=user, product_id=product),
        vehicle_id=draw(st.sampled_from(["", "", "", "car"])),
        payment_reference=f"pay-{draw(st.integers(0, 7))}",
        amount=nok(48) if short else nok(49),
        arrival_time=EXPIRE if late else NOW,
        validate_only=draw(st.integers(0, 9)) == 0,
    )


def state_of(shop: Shop) -> State:
    bought: dict[str, list[Bought]] = {}
    for user, product, time in shop.old:
        bought.setdefault(user, []).append(Bought(product, time))
    return make_state(
        bought=bought,
        stocks={p: StockState(shop.stock[p], 0, shop.limit[p], 0) for p in PRODUCTS},
        terms={(p, 1): make_terms(p) for p in PRODUCTS},
    )


@THOROUGH
@given(shops(), st.lists(purchases(), max_size=25))
def test_a_batch_is_judged_as_a_naive_shop_would_one_after_the_other(
    shop: Shop, batch: list[Purchase]
) -> None:
    """The same verdicts, and what must always hold holds."""
    state = state_of(shop)
    verdicts = judge(batch, state)
    assert [shop.buy(p) for p in batch] == [reason(v) for v in verdicts]
    written = [v.result for v in verdicts if v.written and isinstance(v.result, Pass)]
    counts = Counter(p.product_id for p in written)
    for product in PRODUCTS:
        assert counts[product] == shop.sold_of(product) == state.stocks[product].sold
        stock = shop.stock[product]
        assert stock is None or counts[product] <= stock
        limit = shop.limit[product]
        for user in USERS:
            before = sum((u, p) == (user, product) for u, p, _ in shop.old)
            count = sum((w.user_id, w.product_id) == (user, product) for w in written)
            assert limit is None or count <= max(0, limit.max_purchases - before) or before
    for name in ("pass_id", "payment_reference"):
        values = [getattr(w, name) for w in written]
        assert len(values) == len(set(values))
    assert len(written) == len({(w.user_id, w.offer_digest) for w in written})
    assert len(written) == len({(w.user_id, w.request_id) for w in written})


@SPEC
@given(
    shops(), st.lists(purchases(), max_size=15), st.lists(st.booleans(), min_size=15, max_size=15)
)
def test_splitting_a_batch_in_any_way_changes_no_verdict(
    shop: Shop, batch: list[Purchase], cuts: list[bool]
) -> None:
    """How calls were gathered is not for callers to see."""
    whole, apart = state_of(shop), state_of(shop)
    expected = [reason(v) for v in judge(batch, whole)]
    actual: list[Reason | None] = []
    part: list[Purchase] = []
    for purchase, cut in zip(batch, cuts, strict=False):
        part.append(purchase)
        if cut:
            actual += [reason(v) for v in judge(part, apart)]
            part = []
    actual += [reason(v) for v in judge(part, apart)]
    assert expected == actual
    assert whole == apart
