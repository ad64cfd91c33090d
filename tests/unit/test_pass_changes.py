"""What comes after a purchase: confirming, cancelling, refunds, and the end by time."""

from dataclasses import replace
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.builders import NOW, SPEC, make_hold, make_pass, make_terms, nok
from voucher_grpc.domain.catalogue.product import (
    Benefit,
    EnergyBundle,
    EnergyPrice,
    FlatPeriod,
    PercentageOff,
    SessionBundle,
    Terms,
    ValidityPeriod,
)
from voucher_grpc.domain.passes.change import (
    Cancellation,
    Changed,
    ChangeState,
    Confirmation,
    close_due,
    judge_changes,
)
from voucher_grpc.domain.passes.event import EventType
from voucher_grpc.domain.passes.refund import refund_micros, unused_share, withdrawal_end
from voucher_grpc.domain.passes.state import Balance, ClosedAs, Pass, PassState, pass_state
from voucher_grpc.errors import Reason, Refusal
from voucher_grpc.money import Money

END = NOW + timedelta(minutes=10)  # of the hold
CONFIRM = Confirmation("alice", UUID(int=1), "pay-1", nok(49))
CANCEL = Cancellation("alice", UUID(int=1))
TICK = timedelta(microseconds=1)


def make_state(owned: Pass | None, terms: Terms | None = None, **changes: Any) -> ChangeState:
    """One pass; what is held has its place in the stock."""
    values: dict[str, Any] = {
        "passes": {} if owned is None else {owned.key: owned},
        "references": {},
        "holds": frozenset() if owned is None else frozenset([owned.key]),
        "in_use": frozenset(),
        "terms": {("pass", 1): terms or make_terms(withdrawal_days=14)},
        "now": NOW + timedelta(minutes=1),
    }
    return ChangeState(**{**values, **changes})


def heard(change: Confirmation | Cancellation, state: ChangeState) -> Pass | Reason:
    """The pass or why it was refused; a refusal changes nothing."""
    passes, references = dict(state.passes), dict(state.references)
    [verdict], changed = judge_changes([change], state)
    if isinstance(verdict.result, Refusal):
        assert ([], passes, references) == (changed, state.passes, state.references)
        return verdict.result.reason
    return verdict.result


def cancelled(owned: Pass) -> Pass:
    return replace(owned, closed_as=ClosedAs.CANCELLED, close_time=NOW)


def test_a_confirmed_hold_is_good_from_then_on() -> None:
    """Validity and balance begin with the payment, not with the hold."""
    state = make_state(make_hold())
    paid = heard(CONFIRM, state)
    assert isinstance(paid, Pass)
    assert ("pay-1", state.now, state.now) == (
        paid.payment_reference,
        paid.confirm_time,
        paid.paid_time,
    )
    assert (state.now, Balance(energy_wh=100_000), 1) == (
        paid.period.start_time,
        paid.balance,
        paid.ledger_entries,
    )
    assert {"pay-1": paid.key} == state.references
    assert PassState.ACTIVE is pass_state(paid, state.now)


@pytest.mark.parametrize(
    ("owned", "changes", "expected"),
    [
        (None, {}, Reason.PASS_NOT_FOUND),
        (cancelled(make_hold()), {}, Reason.PASS_CANCELLED),
        (make_hold(), {"now": END}, Reason.HOLD_EXPIRED),
        (make_hold(), {"holds": frozenset()}, Reason.HOLD_EXPIRED),
        (
            make_hold(closed_as=ClosedAs.LAPSED, close_time=END),
            {"now": NOW},
            Reason.HOLD_EXPIRED,
        ),
        (make_hold(price=nok(50)), {}, Reason.PAYMENT_MISMATCH),
        (make_hold(price=Money(49_000_000, "SEK")), {}, Reason.PAYMENT_MISMATCH),
        (
            make_hold(),
            {"references": {"pay-1": ("bob", UUID(int=9))}},
            Reason.PAYMENT_REFERENCE_USED,
        ),
        (make_pass(payment_reference="pay-0"), {}, Reason.PASS_ALREADY_PAID),
        (make_pass(price=nok(50)), {}, Reason.PAYMENT_MISMATCH),
        (cancelled(make_pass(payment_reference="pay-0")), {}, Reason.PASS_CANCELLED),
    ],
)
def test_a_confirmation_is_refused_by_its_reason(
    owned: Pass | None, changes: dict[str, Any], expected: Reason
) -> None:
    """To the instant, and by the place in the stock whatever the clock says."""
    assert expected is heard(CONFIRM, make_state(owned, **changes))


def test_a_hold_can_be_paid_until_its_last_moment() -> None:
    """The end is exclusive."""
    assert isinstance(heard(CONFIRM, make_state(make_hold(), now=END - TICK)), Pass)


@pytest.mark.parametrize(
    "owned",
    [make_pass(), cancelled(make_pass()), make_hold(confirm_time=NOW, payment_reference="pay-1")],
)
def test_the_same_payment_again_finds_the_pass(owned: Pass) -> None:
    """Whatever has become of it; nothing is written."""
    [verdict], changed = judge_changes([CONFIRM], make_state(owned, now=NOW + timedelta(days=99)))
    assert (owned, False, []) == (verdict.result, verdict.written, changed)


@pytest.mark.parametrize(
    ("owned", "changes", "expected"),
    [
        (None, {}, Reason.PASS_NOT_FOUND),
        (make_hold(), {"now": END}, Reason.HOLD_EXPIRED),
        (make_hold(), {"holds": frozenset()}, Reason.HOLD_EXPIRED),
        (make_pass(), {"now": NOW + timedelta(days=14)}, Reason.WITHDRAWAL_CLOSED),
        (make_pass(), {"now": NOW + timedelta(days=30)}, Reason.PASS_EXPIRED),
        (
            make_pass(closed_as=ClosedAs.EXPIRED, close_time=NOW),
            {},
            Reason.PASS_EXPIRED,
        ),
    ],
)
def test_a_cancellation_is_refused_by_its_reason(
    owned: Pass | None, changes: dict[str, Any], expected: Reason
) -> None:
    """To the instant."""
    assert expected is heard(CANCEL, make_state(owned, **changes))


def test_without_terms_only_a_hold_can_be_cancelled() -> None:
    """Nothing has been paid for it yet."""
    terms = make_terms()
    assert Reason.WITHDRAWAL_CLOSED is heard(CANCEL, make_state(make_pass(), terms))
    ended = heard(CANCEL, make_state(make_hold(), terms))
    assert isinstance(ended, Pass)
    assert (ClosedAs.CANCELLED, None, 0) == (
        ended.closed_as,
        ended.refund_micros,
        ended.ledger_entries,
    )


def test_the_time_for_cancelling_counts_from_the_payment() -> None:
    """A hold that was confirmed later can be cancelled later."""
    terms = make_terms(withdrawal_days=14)
    later = NOW + timedelta(minutes=5)
    held = make_hold(confirm_time=later, period=ValidityPeriod(later, later + timedelta(days=30)))
    assert later + timedelta(days=14) == withdrawal_end(terms, held)
    assert withdrawal_end(terms, make_hold()) is None
    assert withdrawal_end(make_terms(), make_pass()) is None
    state = make_state(held, now=later + timedelta(days=14) - TICK)
    assert isinstance(heard(CANCEL, state), Pass)


def test_a_cancelled_pass_is_empty_and_a_repetition_finds_it() -> None:
    """What was left stands in the ledger, what was refunded on the pass."""
    state = make_state(make_pass(balance=Balance(energy_wh=25_000), ledger_entries=3))
    [first, again], changed = judge_changes([CANCEL, CANCEL], state)
    assert (first.result, True, False) == (again.result, first.written, again.written)
    [change] = changed
    assert (Balance(energy_wh=0), 4, 12_250_000) == (
        change.after.balance,
        change.after.ledger_entries,
        change.after.refund_micros,
    )
    assert ("CANCELLATION", Balance(energy_wh=-25_000)) == change.entry
    assert (EventType.PASS_CANCELLED, True) == (change.event_type, change.gives_stock_back)


def test_asking_what_a_cancellation_would_give_changes_nothing() -> None:
    """validate_only, also before the real one in the same batch."""
    state = make_state(make_pass())
    asked, done = judge_changes([replace(CANCEL, validate_only=True), CANCEL], state)[0]
    assert (asked.result, False, True) == (done.result, asked.written, done.written)


def test_paid_and_cancelled_in_one_batch_is_both() -> None:
    """Each with its event and its entry, in their order."""
    _, changed = judge_changes([CONFIRM, CANCEL], make_state(make_hold()))
    assert [EventType.PASS_PURCHASED, EventType.PASS_CANCELLED] == [c.event_type for c in changed]
    assert [("OPENING", 1), ("CANCELLATION", 2)] == [
        (c.entry[0], c.after.ledger_entries) for c in changed if c.entry
    ]
    assert [True, False] == [c.ends_hold for c in changed]


def test_two_confirmations_of_two_holds_by_one_payment_pay_the_first() -> None:
    """In the order of the batch."""
    other = make_hold(pass_id=UUID(int=2))
    state = make_state(make_hold())
    state.passes[other.key] = other
    state.holds |= {other.key}
    verdicts, _ = judge_changes([CONFIRM, replace(CONFIRM, pass_id=UUID(int=2))], state)
    assert isinstance(verdicts[1].result, Refusal)
    assert Reason.PAYMENT_REFERENCE_USED is verdicts[1].result.reason


FIRST_USE = ValidityPeriod(None, None, NOW + timedelta(days=9))


@pytest.mark.parametrize(
    ("owned", "over_at", "closed_as"),
    [
        (make_hold(), END, ClosedAs.LAPSED),
        (make_pass(), NOW + timedelta(days=30), ClosedAs.EXPIRED),
        (make_pass(period=FIRST_USE), NOW + timedelta(days=9), ClosedAs.EXPIRED),
    ],
)
def test_what_is_over_is_closed_at_its_instant(
    owned: Pass, over_at: datetime, closed_as: ClosedAs
) -> None:
    """Not a microsecond before; and what has been closed is not closed again."""
    assert [] == close_due([owned], make_state(owned, now=over_at - TICK))
    [change] = close_due([owned], make_state(owned, now=over_at))
    assert (closed_as, over_at) == (change.after.closed_as, change.after.close_time)
    assert (f"PASS_{closed_as}", None) == (change.event_type, change.entry)
    assert (closed_as is ClosedAs.LAPSED) == change.gives_stock_back
    assert [] == close_due([change.after], make_state(owned, now=over_at))


@pytest.mark.parametrize(
    ("owned", "at", "expected"),
    [
        (make_hold(), END - TICK, PassState.PENDING),
        (make_hold(), END, PassState.LAPSED),
        (make_hold(closed_as=ClosedAs.LAPSED, close_time=END), NOW, PassState.LAPSED),
        (cancelled(make_hold()), NOW, PassState.CANCELLED),
        (cancelled(make_pass()), NOW + timedelta(days=99), PassState.CANCELLED),
        (make_pass(closed_as=ClosedAs.EXPIRED, close_time=NOW), NOW, PassState.EXPIRED),
    ],
)
def test_the_state_is_that_of_the_instant(owned: Pass, at: datetime, expected: PassState) -> None:
    """Whether or not it was noted."""
    assert expected is pass_state(owned, at)


@pytest.mark.parametrize(
    ("benefit", "balance", "days", "expected"),
    [
        (EnergyBundle(100_000), Balance(energy_wh=100_000), 13, Fraction(1)),
        (EnergyBundle(100_000), Balance(energy_wh=33_000), 0, Fraction(33, 100)),
        (EnergyBundle(100_000), Balance(energy_wh=0), 0, Fraction(0)),
        (SessionBundle(8), Balance(sessions=6), 5, Fraction(3, 4)),
        (FlatPeriod(100_000), Balance(energy_wh=100_000), 6, Fraction(4, 5)),
        (FlatPeriod(100_000), Balance(energy_wh=10_000), 6, Fraction(1, 10)),
        (EnergyPrice(1), Balance(), 6, Fraction(4, 5)),
        (PercentageOff(1), Balance(), 15, Fraction(1, 2)),
    ],
)
def test_the_unused_share_is_by_what_the_benefit_measures(
    benefit: Benefit, balance: Balance, days: int, expected: Fraction
) -> None:
    """Bundles by what is left, periods by time, a flat period by the lesser of both."""
    owned = make_pass(balance=balance)
    assert expected == unused_share(make_terms(benefit=benefit), owned, NOW + timedelta(days=days))


def test_what_has_not_begun_is_unused() -> None:
    """A first use to come, or a start to come."""
    terms = make_terms(benefit=EnergyPrice(1))
    later = ValidityPeriod(NOW + timedelta(days=5), NOW + timedelta(days=35))
    assert 1 == unused_share(terms, make_pass(period=FIRST_USE), NOW + timedelta(days=8))
    assert 1 == unused_share(terms, make_pass(period=later), NOW + timedelta(days=4))


@pytest.mark.parametrize(
    ("price", "seconds_left", "expected"),
    [
        (nok(49), 1, 0),  # 0.0000189 NOK
        (nok(49), 2_592_000 // 3, 16_330_000),  # 16.333… NOK to the øre
        (nok(49), 2_592_000 * 2 // 3, 32_670_000),
        (Money(9_900_000_000, "KRW"), 2_592_000 // 7, 1_414_000_000),  # 1414.28… won
        (nok(0), 2_592_000, 0),
    ],
)
def test_a_refund_is_payable(price: Money, seconds_left: int, expected: int) -> None:
    """Rounded half away from zero to the currency's smallest payable unit."""
    terms = make_terms(benefit=EnergyPrice(1))
    at = NOW + timedelta(days=30) - timedelta(seconds=seconds_left)
    assert expected == refund_micros(terms, make_pass(price=price), at)


@SPEC
@given(
    st.sampled_from([EnergyBundle(70_000), SessionBundle(7), FlatPeriod(70_000), EnergyPrice(1)]),
    st.integers(0, 7),
    st.integers(0, 10**9),
    st.integers(0, 31 * 86_400),
    st.integers(0, 31 * 86_400),
)
def test_a_refund_is_never_more_than_the_price_and_never_grows(
    benefit: Benefit, left: int, ore: int, one_s: int, other_s: int
) -> None:
    """From nothing to all, less as time goes by, in whole øre."""
    terms = make_terms(benefit=benefit)
    owned = make_pass(
        balance=Balance(energy_wh=left * 10_000, sessions=left), price=Money(ore * 10_000, "NOK")
    )
    sooner, later = (
        refund_micros(terms, owned, NOW + timedelta(seconds=s)) for s in sorted((one_s, other_s))
    )
    assert 0 <= later <= sooner <= owned.price.micros
    assert 0 == sooner % 10_000


def test_a_change_tells_what_it_is() -> None:
    """By what the pass has become."""
    held, paid = make_hold(), make_hold(confirm_time=NOW, ledger_entries=1)
    change = Changed(held, paid)
    assert (EventType.PASS_PURCHASED, True, False) == (
        change.event_type,
        change.ends_hold,
        change.gives_stock_back,
    )
