"""The rules of a purchase, in the order in which they are judged.

A batch of purchases is judged against one state of the database that is locked
by the batch: the users' rows first, then payment references, then the products'
stock. `judge` is pure: it says which passes to write and what each caller gets.
The order of the rules is part of the contract (docs/guarantees.md):

1. the key: same key and content is the same pass, other content is refused;
2. the offer: authentic, for this user, not bought, not expired, not withdrawn;
3. the payment: what was offered, by a reference that has not paid before. A hold has no
   reference yet (`change.Confirmation` brings it);
4. the personal limit;
5. the stock.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

from voucher_grpc.domain.catalogue.product import (
    EnergyBundle,
    FlatPeriod,
    PersonalLimit,
    SessionBundle,
    Terms,
    ValidityPeriod,
    ValidityStart,
    validity_period,
)
from voucher_grpc.domain.offer_ids.signer import OfferTerms, invalid_offer
from voucher_grpc.domain.passes.event import EventType
from voucher_grpc.domain.passes.state import Balance, Pass
from voucher_grpc.errors import Reason, Refusal
from voucher_grpc.money import Money


class PurchaseRequest(NamedTuple):
    """What PurchasePass was sent, checked for form; the offer_id is still to be verified.

    `payment_reference` is "" for a hold.
    """

    request_id: UUID
    offer_id: str
    user_id: str
    vehicle_id: str
    payment_reference: str
    amount: Money
    validate_only: bool


@dataclass(frozen=True, slots=True)
class Purchase:
    """One call of PurchasePass, with what its offer_id says.

    `offer` is None where the offer_id cannot be read or is not authentic;
    `user_id` is the one inside the offer_id (unverified in that case), or the
    one the caller gave. `payment_reference` is "" for a hold. `pass_id` follows from the
    key, see `pass_id_for`.
    """

    user_id: str
    request_id: UUID
    offer_digest: bytes
    offer: OfferTerms | None
    claimed_user_id: str
    vehicle_id: str
    payment_reference: str
    amount: Money
    arrival_time: datetime
    validate_only: bool = False
    pass_id: UUID = field(init=False, compare=False)

    def __post_init__(self) -> None:
        # Computed once: each step of a batch reads it.
        object.__setattr__(self, "pass_id", pass_id_for(self.user_id, self.request_id))


@dataclass(frozen=True, slots=True)
class StockState:
    """What belongs to a product across its revisions, read under its lock."""

    stock: int | None
    sold: int
    personal_limit: PersonalLimit | None
    withdrawn_before_revision: int


class Bought(NamedTuple):
    """A user's purchase that counts against a personal limit."""

    product_id: str
    purchase_time: datetime


@dataclass(slots=True)
class State:
    """The locked state a batch is judged against; `judge` moves it on.

    `passes` by (user_id, pass_id), `by_offer` by (user_id, offer_digest),
    `references` maps a payment reference to the pass it paid for. `bought` and the
    stocks' `sold` are without what was cancelled or has lapsed by `now`.
    """

    passes: dict[tuple[str, UUID], Pass]
    by_offer: dict[tuple[str, bytes], Pass]
    bought: dict[str, list[Bought]]
    references: dict[str, tuple[str, UUID]]
    stocks: dict[str, StockState]
    user_zones: Mapping[str, str]
    terms: Mapping[tuple[str, int], Terms]
    now: datetime
    hold_lifetime: timedelta


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a caller gets: the pass, newly written or known, or the refusal."""

    result: Pass | Refusal
    written: bool = False


def pass_id_for(user_id: str, request_id: UUID) -> UUID:
    """The name of the pass that a request buys.

    It is made from the idempotency key, so that the table's primary key is the
    promise of one pass for each (user, request_id), and no second index is
    needed for it.
    """
    digest = hashlib.blake2b(
        user_id.encode("ascii") + b"\0" + request_id.bytes, digest_size=16, person=b"pass"
    ).digest()
    return UUID(bytes=digest)


def opening_balance(terms: Terms) -> Balance:
    """What a new pass holds; the first entry of its ledger."""
    match terms.benefit:
        case EnergyBundle(energy_wh) | FlatPeriod(energy_wh):
            return Balance(energy_wh=energy_wh)
        case SessionBundle(sessions):
            return Balance(sessions=sessions)
        case _:
            return Balance()


def judge(purchases: Sequence[Purchase], state: State) -> list[Verdict]:
    """A verdict for each purchase, in order, as if they had come one after the other."""
    return [_verdict(purchase, state) for purchase in purchases]


def _verdict(purchase: Purchase, state: State) -> Verdict:
    known = state.passes.get((purchase.user_id, purchase.pass_id))
    if known is not None:
        return Verdict(_same_key(purchase, known))
    try:
        offer = _judge_offer(purchase, state)
        _judge_payment(purchase, offer, state)
        _judge_limit(purchase, offer, state)
        _judge_stock(offer, state)
    except Refusal as refusal:
        return Verdict(refusal)
    bought = _new_pass(purchase, offer, state)
    if purchase.validate_only:
        return Verdict(bought)
    _move_on(bought, state)
    return Verdict(bought, written=True)


def _same_key(purchase: Purchase, known: Pass) -> Pass | Refusal:
    paid_by = known.payment_reference if known.hold_expire_time is None else ""
    same = (
        known.offer_digest == purchase.offer_digest
        and known.vehicle_id == purchase.vehicle_id
        and paid_by == purchase.payment_reference
        and known.price == purchase.amount
    )
    if same:
        return known
    return Refusal(
        Reason.REQUEST_ID_REUSED,
        "request_id was used for a purchase with another offer, vehicle or payment",
    )


def _judge_offer(purchase: Purchase, state: State) -> OfferTerms:
    offer = purchase.offer
    if offer is None:
        raise invalid_offer()
    if purchase.claimed_user_id and purchase.claimed_user_id != offer.user_id:
        raise Refusal(Reason.OFFER_OF_ANOTHER_USER, "the offer was made to another user")
    bought = state.by_offer.get((purchase.user_id, purchase.offer_digest))
    if bought is not None:
        raise Refusal(
            Reason.OFFER_ALREADY_BOUGHT,
            "the offer was bought under another request_id",
            pass_id=str(bought.pass_id),
        )
    if purchase.arrival_time >= offer.expire_time:
        raise Refusal(
            Reason.OFFER_EXPIRED,
            "the offer has expired; ask for offers again",
            expire_time=offer.expire_time.isoformat(),
        )
    stock = state.stocks.get(offer.product_id)
    if stock is None or (offer.product_id, offer.product_revision) not in state.terms:
        # Signed by one of our keys, yet for a product that this database never had.
        raise Refusal(Reason.PRODUCT_NOT_FOUND, "the product of the offer is not known")
    if offer.product_revision < stock.withdrawn_before_revision:
        raise Refusal(Reason.OFFER_WITHDRAWN, "the offer was withdrawn; ask for offers again")
    return offer


def _judge_payment(purchase: Purchase, offer: OfferTerms, state: State) -> None:
    offered = Money(offer.price_micros, offer.currency_code)
    if purchase.amount != offered:
        raise payment_mismatch(purchase.amount, offered)
    payer = state.references.get(purchase.payment_reference)
    if payer is not None and payer != (purchase.user_id, purchase.pass_id):
        raise reference_used()


def payment_mismatch(paid: Money, offered: Money) -> Refusal:
    """Another amount or currency than that of the offer."""
    return Refusal(
        Reason.PAYMENT_MISMATCH, f"{paid} was paid, {offered} was offered", offered=str(offered)
    )


def reference_used() -> Refusal:
    """A reference pays once."""
    return Refusal(Reason.PAYMENT_REFERENCE_USED, "the payment reference has paid for another pass")


def counts_against(limit: PersonalLimit, bought: Bought, at: datetime) -> bool:
    """Whether a purchase counts: for ever, or while younger than `rolling_days`."""
    return not limit.rolling_days or at - bought.purchase_time < timedelta(days=limit.rolling_days)


def limit_reached(
    limit: PersonalLimit, product_id: str, bought: Sequence[Bought], at: datetime
) -> bool:
    """Whether a user has bought a product as often as the limit allows."""
    count = sum(1 for b in bought if b.product_id == product_id and counts_against(limit, b, at))
    return count >= limit.max_purchases


def _judge_limit(purchase: Purchase, offer: OfferTerms, state: State) -> None:
    limit = state.stocks[offer.product_id].personal_limit
    bought = state.bought.get(purchase.user_id, [])
    if limit is not None and limit_reached(limit, offer.product_id, bought, state.now):
        raise Refusal(
            Reason.PERSONAL_LIMIT_REACHED,
            f"{limit.max_purchases} bought already, which is the limit for one user",
            max_purchases=str(limit.max_purchases),
        )


def _judge_stock(offer: OfferTerms, state: State) -> None:
    stock = state.stocks[offer.product_id]
    if stock.stock is not None and stock.sold >= stock.stock:
        raise Refusal(Reason.SOLD_OUT, "the product is sold out")


def _new_pass(purchase: Purchase, offer: OfferTerms, state: State) -> Pass:
    terms = state.terms[offer.product_id, offer.product_revision]
    time_zone = state.user_zones.get(purchase.user_id) or terms.time_zone
    period = validity_period(terms.validity, state.now, ZoneInfo(time_zone))
    held = not purchase.payment_reference
    return Pass(
        user_id=purchase.user_id,
        pass_id=purchase.pass_id,
        request_id=purchase.request_id,
        offer_digest=purchase.offer_digest,
        product_id=offer.product_id,
        product_revision=offer.product_revision,
        vehicle_id=purchase.vehicle_id,
        price=purchase.amount,
        payment_reference=purchase.payment_reference,
        purchase_time=state.now,
        time_zone=time_zone,
        period=_NO_PERIOD if held else period,
        balance=Balance() if held else opening_balance(terms),
        ledger_entries=0 if held else 1,
        hold_expire_time=_hold_expire_time(terms, period, state) if held else None,
    )


_NO_PERIOD = ValidityPeriod(None, None)


def _hold_expire_time(terms: Terms, period: ValidityPeriod, state: State) -> datetime:
    """Also no later than a validity that ends at a fixed time: there would be nothing to pay."""
    latest = state.now + state.hold_lifetime
    fixed = terms.validity.start is ValidityStart.AT
    return min(latest, period.end_time) if fixed and period.end_time is not None else latest


def purchase_event(bought: Pass) -> EventType:
    """The type of the event that reports a purchase."""
    return EventType.PASS_PURCHASED if bought.paid_time is not None else EventType.PASS_HELD


def _move_on(bought: Pass, state: State) -> None:
    state.passes[bought.user_id, bought.pass_id] = bought
    state.by_offer[bought.user_id, bought.offer_digest] = bought
    if bought.payment_reference:
        state.references[bought.payment_reference] = (bought.user_id, bought.pass_id)
    state.bought.setdefault(bought.user_id, []).append(
        Bought(bought.product_id, bought.purchase_time)
    )
    stock = state.stocks[bought.product_id]
    state.stocks[bought.product_id] = StockState(
        stock.stock, stock.sold + 1, stock.personal_limit, stock.withdrawn_before_revision
    )
