"""What happens to a pass after its purchase: confirmed, cancelled, or over by its time.

Judged like purchases: against one state of the database under the users' locks and those
of the products' stock, in the order in which the changes stand in their batch. `holds`
are the passes whose hold still has its place in the stock: one that has lost it is over,
whatever a clock says.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID
from zoneinfo import ZoneInfo

from voucher_grpc.domain.catalogue.product import Terms, validity_period
from voucher_grpc.domain.passes.event import EventType
from voucher_grpc.domain.passes.ledger import LedgerEntry, LedgerKind
from voucher_grpc.domain.passes.purchase import (
    Purchase,
    Verdict,
    opening_balance,
    payment_mismatch,
    reference_used,
)
from voucher_grpc.domain.passes.refund import refund_micros, withdrawal_end
from voucher_grpc.domain.passes.state import Balance, ClosedAs, Pass, PassState, pass_state
from voucher_grpc.errors import Reason, Refusal
from voucher_grpc.money import Money


@dataclass(frozen=True, slots=True)
class Confirmation:
    """One call of ConfirmPurchase: a held pass has been paid."""

    user_id: str
    pass_id: UUID
    payment_reference: str
    amount: Money

    @property
    def key(self) -> tuple[str, UUID]:
        """Of the pass."""
        return self.user_id, self.pass_id


@dataclass(frozen=True, slots=True)
class Cancellation:
    """One call of CancelPass."""

    user_id: str
    pass_id: UUID
    validate_only: bool = False

    @property
    def key(self) -> tuple[str, UUID]:
        """Of the pass."""
        return self.user_id, self.pass_id


# What goes through one batch: each decides what the others find.
PassRequest = Purchase | Confirmation | Cancellation


@dataclass(frozen=True, slots=True)
class Changed:
    """A pass before and after a change."""

    before: Pass
    after: Pass

    @property
    def event_type(self) -> EventType:
        """The type of the event that reports it."""
        if self.after.closed_as is None:
            return EventType.PASS_PURCHASED
        return EventType(f"PASS_{self.after.closed_as}")

    @property
    def entry(self) -> LedgerEntry | None:
        """What the ledger says of it, if the balance changes."""
        if self.after.ledger_entries == self.before.ledger_entries:
            return None
        if self.after.closed_as is None:
            return LedgerEntry(LedgerKind.OPENING, self.after.balance)
        return LedgerEntry(LedgerKind.CANCELLATION, _negative(self.before.balance))

    @property
    def ends_hold(self) -> bool:
        """Whether a hold is no more, paid or not."""
        return self.before.paid_time is None

    @property
    def gives_stock_back(self) -> bool:
        """Whether it does not count as sold any more. An expired pass does."""
        return self.after.closed_as in (ClosedAs.LAPSED, ClosedAs.CANCELLED)


@dataclass(slots=True)
class ChangeState:
    """The locked state that changes are judged against; judging moves it on.

    `passes` by (user_id, pass_id), `references` maps a payment reference to the pass it
    paid for, `terms` are those of each pass's revision. A part of the passes `in_use` is reserved
    for charges that are under way.
    """

    passes: dict[tuple[str, UUID], Pass]
    references: dict[str, tuple[str, UUID]]
    holds: frozenset[tuple[str, UUID]]
    in_use: frozenset[tuple[str, UUID]]
    terms: Mapping[tuple[str, int], Terms]
    now: datetime

    def state_of(self, owned: Pass) -> PassState:
        """The state of a pass now."""
        state = pass_state(owned, self.now)
        lost = state is PassState.PENDING and owned.key not in self.holds
        return PassState.LAPSED if lost else state

    def terms_of(self, owned: Pass) -> Terms:
        """What it was bought on."""
        return self.terms[owned.product_id, owned.product_revision]


def judge_changes(
    changes: Iterable[Confirmation | Cancellation], state: ChangeState
) -> tuple[list[Verdict], list[Changed]]:
    """(a verdict for each, what changes), as if they had come one after the other."""
    verdicts: list[Verdict] = []
    changed: list[Changed] = []
    for change in changes:
        known = state.passes.get(change.key)
        try:
            if known is None:
                raise Refusal(Reason.PASS_NOT_FOUND, "the user has no such pass")
            if isinstance(change, Confirmation):
                after = _confirmed(change, known, state)
            else:
                after = _cancelled(known, state)
        except Refusal as refusal:
            verdicts.append(Verdict(refusal))
            continue
        written = after is not known and not getattr(change, "validate_only", False)
        verdicts.append(Verdict(after, written=written))
        if written:
            state.passes[after.key] = after
            if after.payment_reference:
                state.references[after.payment_reference] = after.key
            changed.append(Changed(known, after))
    return verdicts, changed


def _confirmed(change: Confirmation, known: Pass, state: ChangeState) -> Pass:
    if known.paid_time is not None:
        return _already_paid(change, known)
    _refuse_unless_pending(known, state)
    if change.amount != known.price:
        raise payment_mismatch(change.amount, known.price)
    if state.references.get(change.payment_reference, known.key) != known.key:
        raise reference_used()
    terms = state.terms_of(known)
    return replace(
        known,
        payment_reference=change.payment_reference,
        confirm_time=state.now,
        period=validity_period(terms.validity, state.now, ZoneInfo(known.time_zone)),
        balance=opening_balance(terms),
        ledger_entries=known.ledger_entries + 1,
    )


def _already_paid(change: Confirmation, known: Pass) -> Pass:
    """The pass as it is, if it was paid by this very payment."""
    if change.payment_reference != known.payment_reference:
        if known.closed_as is ClosedAs.CANCELLED:
            raise _cancelled_already()
        raise Refusal(Reason.PASS_ALREADY_PAID, "the pass was paid by another payment")
    if change.amount != known.price:
        raise payment_mismatch(change.amount, known.price)
    return known


def _cancelled_already() -> Refusal:
    return Refusal(Reason.PASS_CANCELLED, "the pass was cancelled")


def _refuse_unless_pending(known: Pass, state: ChangeState) -> None:
    """For a hold that was not paid."""
    pass_now = state.state_of(known)
    if pass_now is PassState.CANCELLED:
        raise _cancelled_already()
    if pass_now is not PassState.PENDING:
        expired = known.hold_expire_time
        raise Refusal(
            Reason.HOLD_EXPIRED,
            "the hold was not confirmed in time",
            hold_expire_time=expired.isoformat() if expired is not None else "",
        )


def _cancelled(known: Pass, state: ChangeState) -> Pass:
    if known.closed_as is ClosedAs.CANCELLED:
        return known
    ended = replace(known, close_time=state.now, closed_as=ClosedAs.CANCELLED)
    if known.paid_time is None:
        _refuse_unless_pending(known, state)
        return ended
    if state.state_of(known) is PassState.EXPIRED:
        raise Refusal(Reason.PASS_EXPIRED, "the pass is over")
    if known.key in state.in_use:
        raise Refusal(Reason.PASS_IN_USE, "a charge that is under way has a part of it reserved")
    terms = state.terms_of(known)
    end = withdrawal_end(terms, known)
    if end is None:
        raise Refusal(Reason.WITHDRAWAL_CLOSED, "the product has no withdrawal terms")
    if state.now >= end:
        raise Refusal(
            Reason.WITHDRAWAL_CLOSED,
            "the time for cancelling has passed",
            withdrawal_end_time=end.isoformat(),
        )
    nothing = Balance(*(None if b is None else 0 for b in _amounts(known.balance)))
    return replace(
        ended,
        balance=nothing,
        ledger_entries=known.ledger_entries + 1,
        refund_micros=refund_micros(terms, known, state.now),
    )


def close_due(due: Iterable[Pass], state: ChangeState) -> list[Changed]:
    """Those of the passes whose time has come: holds lapse, passes expire."""
    changed: list[Changed] = []
    for known in due:
        pass_now = state.state_of(known)
        if known.closed_as is None and pass_now in (PassState.LAPSED, PassState.EXPIRED):
            closed_as = ClosedAs(pass_now)
            after = replace(known, close_time=state.now, closed_as=closed_as)
            changed.append(Changed(known, after))
    return changed


def _amounts(balance: Balance) -> tuple[int | None, int | None]:
    return balance.energy_wh, balance.sessions


def _negative(balance: Balance) -> Balance:
    return Balance(*(None if b is None else -b for b in _amounts(balance)))
