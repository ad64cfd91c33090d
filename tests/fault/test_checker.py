"""The checker of the random-fault suite can fail: each rule sees what it is there for.

A small journal and small tables in which all is well; then one thing is changed, as a
broken service would change it. What whole broken services look like to the checker is
tried by `make test-fault` (mutations.py).
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from tests.fault.checker import RULES, Evidence, check
from tests.fault.journal import (
    Attempt,
    Cancellation,
    Confirmation,
    EventKept,
    Journal,
    OfferHeld,
    PassTold,
    Purchase,
    ReadBack,
    ReaderLog,
    Told,
)
from tests.fault.mutations import MUTATIONS
from tests.fault.plan import Goods
from tests.fault.rows import EntryRow, EventRow, PassRow, Rows, StockRow

NOON_S = 1_800_000_000.0
GOODS = {
    "open": Goods("open", 49_000_000, ("energy_bundle_kwh", 100)),
    "hot": Goods("hot", 20_000_000, ("session_bundle", 10), stock=1),
    "few": Goods("few", 10_000_000, ("percentage_off", 20), max_purchases=1),
}
# (user, product): what is bought in the small run, in this order.
BOUGHT = (("alice", "open"), ("alice", "few"), ("bob", "hot"))


def instant(after_s: float) -> datetime:
    """So long after the beginning."""
    return datetime.fromtimestamp(NOON_S, UTC) + timedelta(seconds=after_s)


def wish(number: int, user_id: str, product_id: str, **changes: Any) -> Purchase:
    """A purchase that has not been tried."""
    price = GOODS[product_id].price_micros
    offer = OfferHeld(
        f"offer-{number}", bytes([number]), user_id, product_id, 1, price, NOON_S + 900
    )
    wished = Purchase(
        user_id, UUID(int=number), offer, f"car-{number}", f"pay-{number}", price, "plain"
    )
    return replace(wished, **changes)


def done(purchase: Purchase, number: int, at_s: float = 1.0) -> Attempt:
    """The answer that it is bought, as pass number so and so."""
    told = PassTold(
        purchase.user_id,
        str(UUID(int=100 + number)),
        str(purchase.request_id),
        purchase.offer.product_id,
        1,
        purchase.amount_micros,
        purchase.reference,
        purchase.vehicle_id,
        NOON_S + at_s,
    )
    return Attempt(NOON_S + at_s - 0.1, NOON_S + at_s + 0.1, 0, Told.DONE, told_pass=told)


def refused(reason: str, at_s: float = 2.0, **changes: Any) -> Attempt:
    """The answer that it is not bought."""
    attempt = Attempt(
        NOON_S + at_s, NOON_S + at_s + 0.1, 0, Told.REFUSED, "FAILED_PRECONDITION", reason
    )
    return replace(attempt, **changes)


def unclear(at_s: float = 0.5) -> Attempt:
    """No answer."""
    return Attempt(NOON_S + at_s, NOON_S + at_s + 0.1, 1, Told.UNCLEAR, "UNAVAILABLE")


def row(purchase: Purchase, number: int) -> PassRow:
    """The pass of a purchase."""
    return PassRow(
        purchase.user_id,
        str(UUID(int=100 + number)),
        purchase.request_id,
        purchase.offer.digest,
        purchase.offer.product_id,
        1,
        purchase.vehicle_id,
        purchase.amount_micros,
        "NOK",
        purchase.reference,
        instant(1),
    )


def small() -> Evidence:
    """Three purchases, one of them unclear at first, and three refusals with good cause."""
    bought = [wish(number, *who) for number, who in enumerate(BOUGHT)]
    for number, purchase in enumerate(bought):
        purchase.attempts = [done(purchase, number)]
    bought[0].attempts.insert(0, unclear())
    late = wish(10, "carol", "hot", attempts=[refused("SOLD_OUT")])
    greedy = wish(11, "alice", "few", attempts=[refused("PERSONAL_LIMIT_REACHED")])
    used = wish(12, "bob", "open", reference="pay-0", attempts=[refused("PAYMENT_REFERENCE_USED")])
    passes = tuple(row(purchase, number) for number, purchase in enumerate(bought))
    numbers = {0: 1, 1: 2, 2: 1}
    events = tuple(
        EventRow(p.user_id, numbers[n], "PASS_PURCHASED", p.pass_id, NOON_S + 1, n + 1)
        for n, p in enumerate(passes)
    )
    stream = [
        EventKept(
            f"cursor-{e.position}",
            f"event-{e.position}",
            e.user_id,
            e.event_seq,
            e.pass_id,
            e.event_type,
            e.time_s,
        )
        for e in events
    ]
    openings: list[tuple[int | None, int | None]] = [(100_000, None), (None, None), (None, 10)]
    rows = Rows(
        passes,
        tuple(
            EntryRow(p.user_id, p.pass_id, 1, "OPENING", *opening)
            for p, opening in zip(passes, openings, strict=True)
        ),
        events,
        (
            StockRow("few", None, 1, False),
            StockRow("hot", 1, 1, True),
            StockRow("open", None, 1, False),
        ),
        {p.payment_reference: (p.user_id, p.pass_id) for p in passes},
        {"alice": 2, "bob": 1},
        frozenset(),
        instant(60),
    )
    journal = Journal(
        purchases=[*bought, late, greedy, used],
        read_back=[ReadBack("alice", passes[0].pass_id, 1, "")],
        readers=[ReaderLog("reader 0", list(stream), 2)],
        failures=Counter(
            {
                ("PurchasePass", "UNAVAILABLE", ""): 1,
                ("PurchasePass", "FAILED_PRECONDITION", "SOLD_OUT"): 1,
            }
        ),
    )
    return Evidence(journal, rows, GOODS, stream)


def with_rows(evidence: Evidence, **changes: Any) -> Evidence:
    """The same run with other tables."""
    return replace(evidence, rows=replace(evidence.rows, **changes))


def changed(rows: tuple[Any, ...], number: int, **changes: Any) -> tuple[Any, ...]:
    """The rows, one of them otherwise."""
    return (*rows[:number], replace(rows[number], **changes), *rows[number + 1 :])


def with_purchase(purchase: Purchase) -> Evidence:
    """The small run and one purchase more."""
    evidence = small()
    evidence.journal.purchases.append(purchase)
    return evidence


def bought_too(purchase: Purchase, number: int) -> Evidence:
    """The small run and one more pass of `open` in all tables, acknowledged."""
    purchase.attempts = purchase.attempts or [done(purchase, number)]
    evidence = with_purchase(purchase)
    passed = row(purchase, number)
    seq = evidence.rows.last_event_seqs.get(purchase.user_id, 0) + 1
    event = EventRow(
        purchase.user_id, seq, "PASS_PURCHASED", passed.pass_id, NOON_S + 1, number + 1
    )
    kept = EventKept(
        f"cursor-{event.position}",
        f"event-{event.position}",
        event.user_id,
        seq,
        event.pass_id,
        event.event_type,
        event.time_s,
    )
    for log in evidence.journal.readers:
        log.kept.append(kept)
    opening = {"open": (100_000, None), "hot": (None, 10), "few": (None, None)}
    product_id = purchase.offer.product_id
    entry = EntryRow(purchase.user_id, passed.pass_id, 1, "OPENING", *opening[product_id])
    stocks = tuple(
        replace(s, sold=s.sold + 1) if s.product_id == product_id else s
        for s in evidence.rows.stocks
    )
    references = dict(evidence.rows.references)
    references.setdefault(purchase.reference, (purchase.user_id, passed.pass_id))
    found = with_rows(
        evidence,
        passes=(*evidence.rows.passes, passed),
        entries=(*evidence.rows.entries, entry),
        events=(*evidence.rows.events, event),
        stocks=stocks,
        references=references,
        last_event_seqs={**evidence.rows.last_event_seqs, purchase.user_id: seq},
    )
    return replace(found, stream=[*evidence.stream, kept])


def lost_commit() -> Evidence:
    """Told that it is bought, and it is nowhere."""
    purchase = wish(20, "dave", "open")
    purchase.attempts = [done(purchase, 20)]
    return with_purchase(purchase)


def key_forgotten() -> Evidence:
    """The retry bought a second pass."""
    first = small().journal.purchases[0]
    again = first.other()
    again.attempts = [done(again, 3)]
    return bought_too(again, 3)


def any_content() -> Evidence:
    """Another vehicle under the same key was told of the pass, too."""
    first = small().journal.purchases[0]
    other = first.other(vehicle_id="another")
    other.attempts = [done(first, 0)]
    return with_purchase(other)


def offer_again() -> Evidence:
    """One offer under two keys."""
    first = small().journal.purchases[0]
    return bought_too(first.other(request_id=UUID(int=21), reference="pay-21"), 3)


def reference_again() -> Evidence:
    """One payment for two passes."""
    return bought_too(wish(22, "dave", "open", reference="pay-0"), 3)


def oversold() -> Evidence:
    """Two of a stock of one."""
    return bought_too(wish(23, "dave", "hot"), 3)


def last_one_kept() -> Evidence:
    """Refused as sold out while there is one."""
    evidence = small()
    goods = {**GOODS, "hot": replace(GOODS["hot"], stock=2)}
    stocks = changed(evidence.rows.stocks, 1, stock=2, sold_out=False)
    return replace(with_rows(evidence, stocks=stocks), goods=goods)


def over_the_limit() -> Evidence:
    """A second one where one is allowed."""
    return bought_too(wish(24, "alice", "few"), 3)


def limit_too_low() -> Evidence:
    """Refused before the limit."""
    refusal = refused("PERSONAL_LIMIT_REACHED")
    return with_purchase(wish(25, "dave", "few", attempts=[refusal]))


def event_missing() -> Evidence:
    """A purchase of which nobody was told."""
    evidence = small()
    found = with_rows(
        evidence, events=evidence.rows.events[:2], last_event_seqs={"alice": 2, "bob": 0}
    )
    evidence.journal.readers[0].kept.pop()
    return replace(found, stream=evidence.stream[:2])


def event_doubled() -> Evidence:
    """A purchase that was told twice, with two numbers."""
    evidence = small()
    second = replace(evidence.rows.events[2], event_seq=2, position=4)
    events = (*evidence.rows.events, second)
    return with_rows(evidence, events=events, last_event_seqs={"alice": 2, "bob": 2})


def wrong_number() -> Evidence:
    """A gap in a user's numbers."""
    evidence = small()
    events = changed(evidence.rows.events, 1, event_seq=3)
    return with_rows(evidence, events=events, last_event_seqs={"alice": 3, "bob": 1})


def misplaced() -> Evidence:
    """A user's second event stands before the first."""
    evidence = small()
    first, second, third = evidence.rows.events
    events = (replace(second, position=1), replace(first, position=2), third)
    return with_rows(evidence, events=events)


def never_placed() -> Evidence:
    """An event that never gets its place in the stream."""
    evidence = small()
    return with_rows(evidence, events=changed(evidence.rows.events, 2, position=None))


def reader(change: Callable[[list[EventKept]], list[EventKept]]) -> Callable[[], Evidence]:
    """A reader that dealt with other events."""

    def made() -> Evidence:
        evidence = small()
        log = evidence.journal.readers[0]
        log.kept = change(log.kept)
        return evidence

    return made


def rebadged() -> Evidence:
    """An event that had another id when it was read before."""
    evidence = small()
    kept = evidence.journal.readers[0].kept
    kept[0] = replace(kept[0], event_id=kept[1].event_id)
    return evidence


def no_opening() -> Evidence:
    """A pass without the opening entry of its ledger."""
    evidence = small()
    return with_rows(evidence, entries=evidence.rows.entries[1:])


def other_opening() -> Evidence:
    """A pass that opens with more than was sold."""
    evidence = small()
    return with_rows(evidence, entries=changed(evidence.rows.entries, 0, energy_wh=100_001))


def miscounted() -> Evidence:
    """A counter that is not the number of passes."""
    evidence = small()
    return with_rows(evidence, stocks=changed(evidence.rows.stocks, 2, sold=7))


def reference_kept() -> Evidence:
    """A reference that has paid for nothing is kept."""
    evidence = small()
    references = {**evidence.rows.references, "pay-10": ("carol", str(UUID(int=110)))}
    return with_rows(evidence, references=references)


def refused_but_stored() -> Evidence:
    """Every answer said no, and there it is."""
    return bought_too(wish(26, "dave", "open", attempts=[refused("OFFER_EXPIRED", 901.0)]), 3)


def other_price() -> Evidence:
    """A micro-unit more than was offered."""
    evidence = small()
    price = GOODS["open"].price_micros + 1
    return with_rows(evidence, passes=changed(evidence.rows.passes, 0, price_micros=price))


def any_amount() -> Evidence:
    """Too little was paid."""
    return bought_too(wish(27, "dave", "open", amount_micros=1), 3)


def expired_sold() -> Evidence:
    """Asked for long after the offer's end."""
    purchase = wish(28, "dave", "open")
    purchase.attempts = [done(purchase, 3, at_s=1_000)]
    return bought_too(purchase, 3)


def forged_sold() -> Evidence:
    """An offer that the service has not made."""
    purchase = wish(29, "dave", "open")
    return bought_too(replace(purchase, offer=replace(purchase.offer, genuine=False)), 3)


def other_user() -> Evidence:
    """An offer that was made to somebody else."""
    return bought_too(wish(30, "dave", "open", claimed_user_id="erin"), 3)


def refused_without(reason: str) -> Callable[[], Evidence]:
    """A refusal for which there is no cause."""
    return lambda: with_purchase(wish(31, "dave", "open", attempts=[refused(reason)]))


def refused_after() -> Evidence:
    """Bought, then refused under the same key."""
    evidence = small()
    evidence.journal.purchases[0].attempts.append(refused("OFFER_EXPIRED", 901.0))
    return evidence


def judging_bought() -> Evidence:
    """What was only to be judged is there."""
    return bought_too(wish(32, "dave", "open", validate_only=True), 3)


def never_clear() -> Evidence:
    """Nobody ever said what became of it."""
    return with_purchase(wish(33, "dave", "open", attempts=[unclear()]))


def other_time() -> Evidence:
    """Bought before anybody asked."""
    evidence = small()
    purchase = evidence.journal.purchases[1]
    [attempt] = purchase.attempts
    assert attempt.told_pass is not None
    told = replace(attempt.told_pass, purchase_time_s=NOON_S - 60)
    purchase.attempts = [replace(attempt, told_pass=told)]
    return evidence


def not_shown() -> Evidence:
    """Acknowledged here, unknown there."""
    evidence = small()
    evidence.journal.read_back.append(ReadBack("alice", "some", 0, "PASS_NOT_FOUND"))
    return evidence


def failed(code: str, reason: str) -> Callable[[], Evidence]:
    """A call that ended so."""

    def made() -> Evidence:
        evidence = small()
        evidence.journal.failures["PurchasePass", code, reason] += 1
        return evidence

    return made


def held(**row_changes: Any) -> Evidence:
    """The small run and a hold of dave's, made at 1 s, that could be paid until 10 s; the
    changes say what became of it, and one event more is told if they say how it ended."""
    purchase = wish(50, "dave", "open", reference="", held=True)
    evidence = bought_too(purchase, 3)
    rows = evidence.rows
    hold = replace(rows.passes[-1], hold_expire_time=instant(10), **row_changes)
    types = ["PASS_HELD"]
    types += ["PASS_PURCHASED"] if hold.confirm_time is not None else []
    types += [f"PASS_{hold.closed_as}"] if hold.closed_as is not None else []
    events = tuple(
        EventRow("dave", n + 1, kind, hold.pass_id, NOON_S + 1 + n, 4 + n)
        for n, kind in enumerate(types)
    )
    kept = [
        EventKept(
            f"c-{e.position}",
            f"e-{e.position}",
            "dave",
            e.event_seq,
            e.pass_id,
            e.event_type,
            e.time_s,
        )
        for e in events
    ]
    stream = [*evidence.stream[:3], *kept]
    evidence.journal.readers[0].kept = list(stream)
    gone = hold.closed_as is not None or hold.confirm_time is None
    paid = hold.confirm_time is not None
    found = with_rows(
        evidence,
        passes=(*rows.passes[:3], hold),
        entries=rows.entries if paid else rows.entries[:3],
        events=(*rows.events[:3], *events),
        stocks=changed(rows.stocks, 2, sold=1 if gone else 2),
        references={
            **small().rows.references,
            **({hold.payment_reference: ("dave", hold.pass_id)} if paid else {}),
        },
        last_event_seqs={"alice": 2, "bob": 1, "dave": len(events)},
    )
    return replace(found, stream=stream)


def lapsed(**changes: Any) -> Evidence:
    """A hold that nobody paid."""
    return held(**{"close_time": instant(11), "closed_as": "LAPSED", **changes})


def confirmed(*, at_s: float = 5.0, asked: bool = True, **changes: Any) -> Evidence:
    """A hold that was paid."""
    evidence = held(
        confirm_time=instant(at_s),
        payment_reference="pay-50",
        start_time=instant(at_s),
        end_time=instant(at_s + 1_000),
        **changes,
    )
    if asked:
        row = evidence.rows.passes[-1]
        paid = Confirmation("dave", row.pass_id, "pay-50", row.price_micros, "held")
        paid.attempts = [Attempt(NOON_S + at_s, NOON_S + at_s + 0.1, 0, Told.DONE)]
        evidence.journal.confirmations.append(paid)
    return evidence


def confirmation(reason: str, reference: str = "pay-60") -> Callable[[], Evidence]:
    """Somebody tried to pay for a hold that had lapsed, and was refused so."""

    def made() -> Evidence:
        evidence = lapsed()
        row = evidence.rows.passes[-1]
        paid = Confirmation("dave", row.pass_id, reference, row.price_micros, "held")
        paid.attempts = [refused(reason, 4.0)]
        evidence.journal.confirmations.append(paid)
        return evidence

    return made


def cancelled(*, asked: bool = True, days: int = 14, refund_micros: int = 49_000_000) -> Evidence:
    """A pass of alice's that was paid and cancelled."""
    evidence = small()
    rows, first = evidence.rows, evidence.rows.passes[0]
    ended = replace(
        first,
        start_time=instant(1),
        end_time=instant(1_001),
        close_time=instant(5),
        closed_as="CANCELLED",
        refund_micros=refund_micros,
    )
    event = EventRow("alice", 3, "PASS_CANCELLED", first.pass_id, NOON_S + 5, 4)
    kept = EventKept(
        "c-4",
        "e-4",
        "alice",
        3,
        first.pass_id,
        "PASS_CANCELLED",
        NOON_S + 5,
        refund_micros,
        "pay-0",
    )
    if asked:
        end = Cancellation("alice", first.pass_id, "cancelled")
        told = evidence.journal.purchases[0].shown
        assert told is not None
        told = replace(told, state="CANCELLED", refund_micros=refund_micros)
        end.attempts = [Attempt(NOON_S + 5, NOON_S + 5.1, 0, Told.DONE, told_pass=told)]
        evidence.journal.cancellations.append(end)
    stream = [*evidence.stream, kept]
    evidence.journal.readers[0].kept = list(stream)
    taken_back = EntryRow("alice", first.pass_id, 2, "CANCELLATION", -100_000, None)
    found = with_rows(
        evidence,
        passes=(ended, *rows.passes[1:]),
        entries=(*rows.entries, taken_back),
        events=(*rows.events, event),
        stocks=changed(rows.stocks, 2, sold=0),
        last_event_seqs={"alice": 3, "bob": 1},
    )
    goods = {**GOODS, "open": replace(GOODS["open"], withdrawal_days=days)}
    return replace(found, stream=stream, goods=goods)


def told_other_refund() -> Evidence:
    """The answer and the row do not say the same."""
    evidence = cancelled()
    [end] = evidence.journal.cancellations
    [attempt] = end.attempts
    assert attempt.told_pass is not None
    told = replace(attempt.told_pass, refund_micros=1)
    end.attempts = [replace(attempt, told_pass=told)]
    return evidence


def lapsed_counts() -> Evidence:
    """Refused as sold out by a hold whose time is over."""
    evidence = small()
    hold = replace(evidence.rows.passes[2], hold_expire_time=instant(1.5))
    return with_rows(evidence, passes=(*evidence.rows.passes[:2], hold))


def place_kept() -> Evidence:
    """A hold has lapsed and still has its place in the stock."""
    evidence = lapsed()
    row = evidence.rows.passes[-1]
    return with_rows(evidence, holds=frozenset({("dave", row.pass_id)}))


def misbehaved() -> Evidence:
    """A server that ended by itself."""
    evidence = small()
    evidence.journal.misbehaved.append("server 0: out of memory")
    return evidence


CASES: list[tuple[str, Callable[[], Evidence]]] = [
    ("acknowledged_is_there", lost_commit),
    ("one_pass_for_a_key", key_forgotten),
    ("other_content_is_refused", any_content),
    ("offer_bought_once", offer_again),
    ("reference_pays_once", reference_again),
    ("stock_holds", oversold),
    ("stock_holds", last_one_kept),
    ("limits_hold", over_the_limit),
    ("limits_hold", limit_too_low),
    ("events_told_once", event_missing),
    ("events_told_once", event_doubled),
    ("events_numbered", wrong_number),
    ("events_placed", misplaced),
    ("events_placed", never_placed),
    ("readers_miss_nothing", reader(lambda kept: kept[:1] + kept[2:])),
    ("readers_miss_nothing", reader(lambda kept: [*kept[:2], kept[1], kept[2]])),
    ("readers_miss_nothing", reader(lambda kept: [kept[1], kept[0], kept[2]])),
    ("events_keep_their_names", rebadged),
    ("ledger_opened", no_opening),
    ("ledger_opened", other_opening),
    ("counters_hold", miscounted),
    ("refusals_store_nothing", reference_kept),
    ("refusals_store_nothing", refused_but_stored),
    ("price_as_offered", other_price),
    ("price_as_offered", any_amount),
    ("unfit_offers_are_refused", expired_sold),
    ("unfit_offers_are_refused", forged_sold),
    ("unfit_offers_are_refused", other_user),
    ("refusals_are_true", refused_without("OFFER_EXPIRED")),
    ("refusals_are_true", refused_without("REQUEST_ID_REUSED")),
    ("refusals_are_true", refused_without("OFFER_ALREADY_BOUGHT")),
    ("refusals_are_true", refused_without("PAYMENT_REFERENCE_USED")),
    ("refusals_are_true", refused_without("PAYMENT_MISMATCH")),
    ("refusals_are_true", refused_without("OFFER_INVALID")),
    ("refusals_are_true", refused_without("OFFER_OF_ANOTHER_USER")),
    ("refusals_are_true", refused_without("INVALID_FIELD")),
    ("stock_holds", refused_without("SOLD_OUT")),
    ("same_key_same_pass", refused_after),
    ("nothing_unasked", judging_bought),
    ("clear_in_the_end", never_clear),
    ("bought_while_asked", other_time),
    ("acknowledged_can_be_read", not_shown),
    ("failures_have_reasons", failed("INTERNAL", "INTERNAL")),
    ("failures_have_reasons", failed("UNKNOWN", "")),
    ("failures_have_reasons", failed("UNAVAILABLE", "NO_SUCH_REASON")),
    ("servers_stay_up", misbehaved),
    ("what_is_over_is_closed", held),
    ("what_is_over_is_closed", lambda: lapsed(close_time=instant(9))),
    ("what_is_over_is_closed", place_kept),
    ("confirmed_as_told", lambda: confirmed(at_s=10.0)),
    ("confirmed_as_told", confirmation("HOLD_EXPIRED")),
    ("confirmed_as_told", confirmation("PASS_CANCELLED")),
    ("confirmed_as_told", confirmation("PASS_ALREADY_PAID")),
    ("confirmed_as_told", confirmation("PAYMENT_REFERENCE_USED")),
    ("changes_were_asked_for", lambda: confirmed(asked=False)),
    ("changes_were_asked_for", lambda: cancelled(asked=False)),
    ("cancelled_as_told", told_other_refund),
    ("refunds_as_agreed", lambda: cancelled(refund_micros=48_990_000)),
    ("refunds_as_agreed", lambda: cancelled(days=0)),
    ("stock_holds", lapsed_counts),
    ("tables_verified", lambda: replace(small(), findings={"sold_counters": ["open"]})),
]


def test_a_run_in_which_all_is_well() -> None:
    """What is unclear at first, and refusals with good cause, are no breach."""
    assert [] == check(small())


def test_a_pass_more_is_well_too() -> None:
    """What the cases below are made with breaks nothing by itself."""
    assert [] == check(bought_too(wish(40, "dave", "open"), 3))


@pytest.mark.parametrize("well", [lapsed, confirmed, cancelled])
def test_what_may_become_of_a_pass(well: Callable[[], Evidence]) -> None:
    """A hold that lapses, one that is paid, a pass that is cancelled."""
    assert [] == check(well())


@pytest.mark.parametrize(
    ("rule", "broken"), CASES, ids=[f"{rule}-{number}" for number, (rule, _) in enumerate(CASES)]
)
def test_each_rule_sees_its_breach(rule: str, broken: Callable[[], Evidence]) -> None:
    """A rule that cannot fail would say nothing."""
    assert rule in [breach.rule for breach in check(broken())]


def test_every_rule_is_tried() -> None:
    """Also one that is added later."""
    assert {rule.__name__ for rule in RULES} == {rule for rule, _ in CASES}


def test_mutations_name_rules_that_there_are() -> None:
    """A mutation that is to be seen by a rule of another name would never be seen."""
    names = {rule.__name__ for rule in RULES}
    assert set() == {rule for m in MUTATIONS.values() for rule in m.seen_by} - names
