"""Holds what the clients were told against what the database holds: pure functions.

Each rule looks at the evidence of one run, when all is quiet, and yields a sentence
for each breach. The rules rest on nothing that the service computes: they are a
second reading of docs/guarantees.md from outside. That each can fail is shown by
`mutations.py` on a service that breaks it, and by test_checker.py on a small journal.
"""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fractions import Fraction
from functools import cached_property
from math import floor
from typing import TypeVar
from uuid import UUID

from tests.fault.journal import (
    Attempt,
    Cancellation,
    Confirmation,
    EventKept,
    Journal,
    Purchase,
    Told,
)
from tests.fault.plan import Goods
from tests.fault.rows import PassRow, Rows
from voucher_grpc.errors import Reason

# The machine's clock may be set while a run lasts.
CLOCK_S = 1.0
# For instants that the database takes between a question and its answer.
HAIR_S = 0.05
# A server learns what time it is from an answer that may come as late as a statement
# is given time; so late may it be in knowing that an offer has expired.
LATE_S = 4.0
MAX_SHOWN = 5
# The least amount of the currency that can be paid.
PAYABLE_MICROS = 10_000
T = TypeVar("T")
_TRANSPORT = {"UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED"}


@dataclass(frozen=True)
class Evidence:
    """A run that is over; `stream` is what a reader of the whole stream sees at the end."""

    journal: Journal
    rows: Rows
    goods: dict[str, Goods]
    stream: list[EventKept]
    findings: dict[str, list[str]] = field(default_factory=dict)

    @cached_property
    def by_key(self) -> dict[tuple[str, UUID], list[PassRow]]:
        """Passes by the key they were bought under."""
        found = defaultdict(list)
        for row in self.rows.passes:
            found[row.key].append(row)
        return dict(found)

    @cached_property
    def by_reference(self) -> dict[str, list[PassRow]]:
        """Passes by what paid for them."""
        found = defaultdict(list)
        for row in self.rows.passes:
            found[row.payment_reference].append(row)
        return dict(found)

    @cached_property
    def by_offer(self) -> dict[bytes, list[PassRow]]:
        """Passes by offer."""
        found = defaultdict(list)
        for row in self.rows.passes:
            found[row.offer_digest].append(row)
        return dict(found)

    @cached_property
    def by_id(self) -> dict[tuple[str, str], PassRow]:
        """Passes by (user_id, pass_id)."""
        return {(row.user_id, row.pass_id): row for row in self.rows.passes}

    @cached_property
    def sold(self) -> dict[str, "Counted"]:
        """What has counted as sold of each product, over time."""
        return _counted(self.rows, lambda row: row.product_id)

    @cached_property
    def had(self) -> dict[tuple[str, str], "Counted"]:
        """What has counted of a user's passes of a product, over time."""
        return _counted(self.rows, lambda row: (row.user_id, row.product_id))

    def acknowledgements(self) -> Iterator[tuple[Purchase, Attempt]]:
        """Every answer that said: bought."""
        for purchase in self.journal.purchases:
            if not purchase.validate_only:
                for attempt in purchase.with_outcome(Told.DONE):
                    yield purchase, attempt

    def refusals(self) -> Iterator[tuple[Purchase, Attempt]]:
        """Every answer that said no."""
        for purchase in self.journal.purchases:
            for attempt in purchase.with_outcome(Told.REFUSED):
                yield purchase, attempt


class Counted:
    """How many passes counted at each time, by the instants that stand in their rows."""

    def __init__(self, spans: Sequence[tuple[float, float | None]]) -> None:
        # What ends at an instant does not count for what begins at it.
        moves = [(begin_s, 1) for begin_s, _ in spans]
        moves += [(end_s, -1) for _, end_s in spans if end_s is not None]
        self._times: list[float] = []
        self._counts: list[int] = []
        count = 0
        for time_s, move in sorted(moves):
            count += move
            self._times.append(time_s)
            self._counts.append(count)

    @property
    def most(self) -> int:
        """The most that ever counted at a time."""
        return max(self._counts, default=0)

    @property
    def last(self) -> int:
        """What counts in the end."""
        return self._counts[-1] if self._counts else 0

    def most_between(self, begin_s: float, end_s: float) -> int:
        """The most at any instant between two."""
        first = max(bisect_right(self._times, begin_s) - 1, 0)
        last = bisect_right(self._times, end_s)
        return max(self._counts[first:last], default=0)


_NOTHING = Counted(())


def _counted(rows: Rows, group: Callable[[PassRow], T]) -> dict[T, Counted]:
    spans = defaultdict(list)
    for row in rows.passes:
        end = row.counts_until
        spans[group(row)].append(
            (row.purchase_time.timestamp(), None if end is None else end.timestamp())
        )
    return {name: Counted(found) for name, found in spans.items()}


@dataclass(frozen=True, slots=True)
class Breach:
    """A rule, how often it was broken, and the first few times."""

    rule: str
    times: int
    first: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.rule} ({self.times}): " + "; ".join(self.first)


def _named(purchase: Purchase) -> str:
    return f"{purchase.scenario} {purchase.user_id}/{purchase.request_id}"


def acknowledged_is_there(evidence: Evidence) -> Iterator[str]:
    """What was acknowledged is in the database as it was told and as it was wanted."""
    for purchase, attempt in evidence.acknowledgements():
        rows = {row.pass_id: row for row in evidence.by_key.get(purchase.key, ())}
        told = attempt.told_pass
        row = rows.get(told.pass_id) if told is not None else None
        if told is None or row is None:
            yield f"{_named(purchase)} was told {told}, there is {list(rows)}"
            continue
        shown = (told.user_id, told.request_id, told.product_id, told.product_revision)
        kept = (row.user_id, str(row.request_id), row.product_id, row.product_revision)
        paid = (told.vehicle_id, told.price_micros)
        # A hold is shown without a reference until it is paid.
        references = ("", row.payment_reference) if purchase.held else (row.payment_reference,)
        if (
            shown != kept
            or paid != (row.vehicle_id, row.price_micros)
            or told.reference not in references
        ):
            yield f"{_named(purchase)} was told {told}, there is {row}"


def one_pass_for_a_key(evidence: Evidence) -> Iterator[str]:
    """One pass for each (user, request_id), in the database and in what anybody was told."""
    for key, rows in evidence.by_key.items():
        if len(rows) > 1:
            yield f"{key} has {len(rows)} passes"
    told = defaultdict(set)
    for purchase, attempt in evidence.acknowledgements():
        if attempt.told_pass is not None:
            told[purchase.key].add(attempt.told_pass.pass_id)
    for key, passes in told.items():
        if len(passes) > 1:
            yield f"{key} was told of {sorted(passes)}"


def same_key_same_pass(evidence: Evidence) -> Iterator[str]:
    """Whoever repeats what was bought with the same content hears of the pass, never a refusal."""
    for wish in evidence.journal.tried():
        done = wish.with_outcome(Told.DONE)
        if done and not getattr(wish, "validate_only", False):
            heard_s = min(attempt.heard_s for attempt in done)
            for refused in wish.with_outcome(Told.REFUSED):
                if refused.sent_s > heard_s:
                    yield f"{wish} was done, then refused: {refused.reason}"
    for purchase in evidence.journal.purchases:
        last = purchase.attempts[-1] if purchase.attempts else None
        same = any(r.content == purchase.content for r in evidence.by_key.get(purchase.key, ()))
        if same and last is not None and last.told is Told.REFUSED and not purchase.validate_only:
            yield f"{_named(purchase)} is bought, yet was refused in the end: {last.reason}"


def other_content_is_refused(evidence: Evidence) -> Iterator[str]:
    """A key that has bought one thing buys no other; what was told is what was wanted."""
    for purchase, attempt in evidence.acknowledgements():
        contents = [row.content for row in evidence.by_key.get(purchase.key, ())]
        if contents and purchase.content not in contents:
            yield f"{_named(purchase)} wanted other content than {attempt.told_pass} has"


def nothing_unasked(evidence: Evidence) -> Iterator[str]:
    """Every pass was asked for, with this very content."""
    asked = defaultdict(set)
    for purchase in evidence.journal.purchases:
        if not purchase.validate_only:
            asked[purchase.key].add(purchase.content)
    for row in evidence.rows.passes:
        if row.content not in asked[row.key]:
            yield f"nobody asked for {row}"


def refusals_store_nothing(evidence: Evidence) -> Iterator[str]:
    """Where every answer was a refusal there is no pass; a reference is kept only by its pass."""
    for purchase in evidence.journal.purchases:
        told = {attempt.told for attempt in purchase.attempts}
        if told == {Told.REFUSED}:
            for row in evidence.by_key.get(purchase.key, ()):
                if row.content == purchase.content:
                    yield f"{_named(purchase)} was always refused, yet there is {row.pass_id}"
    for reference, owner in evidence.rows.references.items():
        rows = evidence.by_reference.get(reference, ())
        if owner not in [(row.user_id, row.pass_id) for row in rows]:
            yield f"{reference} is kept for {owner}, which it has not paid for"


def offer_bought_once(evidence: Evidence) -> Iterator[str]:
    """An offer is one pass, under whatever keys."""
    for rows in evidence.by_offer.values():
        if len(rows) > 1:
            yield f"one offer bought {[row.pass_id for row in rows]} for {rows[0].user_id}"


def reference_pays_once(evidence: Evidence) -> Iterator[str]:
    """A payment reference is one pass, and is kept with it."""
    for reference, rows in evidence.by_reference.items():
        if not reference:  # a hold that was not paid
            continue
        if len(rows) > 1:
            yield f"{reference} paid for {[row.pass_id for row in rows]}"
        if evidence.rows.references.get(reference) not in [(r.user_id, r.pass_id) for r in rows]:
            yield f"{reference} has paid and is kept for {evidence.rows.references.get(reference)}"


def stock_holds(evidence: Evidence) -> Iterator[str]:
    """Never more sold than there is at any time; nobody is refused while there is one left.

    What was cancelled counts until then, and a hold that was not paid to the end of its time.
    """
    for goods in evidence.goods.values():
        most = evidence.sold.get(goods.product_id, _NOTHING).most
        if goods.stock is not None and most > goods.stock:
            yield f"{goods.product_id}: {most} sold of {goods.stock}"
    for purchase, attempt in evidence.refusals():
        if attempt.reason == Reason.SOLD_OUT:
            goods = evidence.goods[purchase.offer.product_id]
            sold = evidence.sold.get(goods.product_id, _NOTHING)
            most = sold.most_between(attempt.sent_s - HAIR_S, attempt.heard_s + HAIR_S)
            if goods.stock is None or most < goods.stock:
                yield f"{_named(purchase)} was refused with {most} of {goods.stock} sold"


def limits_hold(evidence: Evidence) -> Iterator[str]:
    """Never more for one user than the limit at any time, and up to the limit. As stock_holds."""
    for (user_id, product_id), had in evidence.had.items():
        limit = evidence.goods[product_id].max_purchases
        if limit is not None and had.most > limit:
            yield f"{user_id} had {had.most} of {product_id}, the limit is {limit}"
    for purchase, attempt in evidence.refusals():
        if attempt.reason == Reason.PERSONAL_LIMIT_REACHED:
            limit = evidence.goods[purchase.offer.product_id].max_purchases
            had = evidence.had.get((purchase.user_id, purchase.offer.product_id), _NOTHING)
            most = had.most_between(attempt.sent_s - HAIR_S, attempt.heard_s + HAIR_S)
            if limit is None or most < limit:
                yield f"{_named(purchase)} was refused with {most} of {limit}"


def price_as_offered(evidence: Evidence) -> Iterator[str]:
    """The price paid is the price offered, to the micro-unit; another amount buys nothing."""
    offers = {p.offer.digest: p.offer for p in evidence.journal.purchases}
    for row in evidence.rows.passes:
        offer = offers.get(row.offer_digest)
        if offer is not None and row.price_micros != offer.price_micros:
            yield f"{row.pass_id} cost {row.price_micros}, {offer.price_micros} was offered"
    for purchase, _ in evidence.acknowledgements():
        if purchase.amount_micros != purchase.offer.price_micros:
            yield f"{_named(purchase)} paid {purchase.amount_micros}, not what was offered"


def unfit_offers_are_refused(evidence: Evidence) -> Iterator[str]:
    """What is forged, another user's or expired is not sold."""
    for purchase, attempt in evidence.acknowledgements():
        if not purchase.offer.genuine:
            yield f"{_named(purchase)} bought a forged offer"
        if purchase.claimed_user_id not in ("", purchase.offer.user_id):
            yield f"{_named(purchase)} bought another user's offer"
        if purchase.first_sent_s > purchase.offer.expire_s + LATE_S:
            yield f"{_named(purchase)} bought at {attempt.heard_s} what had expired"


def _is_true(evidence: Evidence, purchase: Purchase, attempt: Attempt) -> bool:
    """Whether a refusal of a purchase names a reason that there was."""
    rows = evidence.by_key.get(purchase.key, ())
    match attempt.reason:
        case Reason.REQUEST_ID_REUSED:
            return any(row.content != purchase.content for row in rows)
        case Reason.OFFER_ALREADY_BOUGHT:
            bought = evidence.by_offer.get(purchase.offer.digest, ())
            return attempt.named_pass_id in [r.pass_id for r in bought if r.key != purchase.key]
        case Reason.PAYMENT_REFERENCE_USED:
            paid = evidence.by_reference.get(purchase.reference, ())
            return any(row.key != purchase.key for row in paid)
        case Reason.PAYMENT_MISMATCH:
            return purchase.amount_micros != purchase.offer.price_micros
        case Reason.OFFER_EXPIRED:
            return attempt.heard_s >= purchase.offer.expire_s - CLOCK_S
        case Reason.OFFER_OF_ANOTHER_USER:
            return purchase.claimed_user_id not in ("", purchase.offer.user_id)
        case Reason.OFFER_INVALID:
            return not purchase.offer.genuine
        case Reason.SOLD_OUT | Reason.PERSONAL_LIMIT_REACHED:
            return True  # stock_holds and limits_hold look at them
        case _:
            return False


def refusals_are_true(evidence: Evidence) -> Iterator[str]:
    """Every refusal names a reason, and the reason is so."""
    for purchase, attempt in evidence.refusals():
        if not _is_true(evidence, purchase, attempt):
            yield f"{_named(purchase)} was refused without cause: {attempt.code} {attempt.reason}"


def clear_in_the_end(evidence: Evidence) -> Iterator[str]:
    """Whoever goes on asking learns what became of it."""
    for wish in evidence.journal.tried():
        if not wish.clear:
            yield f"{wish} is not clear"


def bought_while_asked(evidence: Evidence) -> Iterator[str]:
    """A pass was bought between the first try and the first answer that told of it."""
    for purchase, attempt in evidence.acknowledgements():
        told = attempt.told_pass
        begin_s = purchase.first_sent_s - HAIR_S
        if told is None or not begin_s <= told.purchase_time_s <= attempt.heard_s + HAIR_S:
            yield f"{_named(purchase)} was asked for from {begin_s} on and told {told}"


def acknowledged_can_be_read(evidence: Evidence) -> Iterator[str]:
    """What was acknowledged is shown at once, by any server."""
    for read in evidence.journal.read_back:
        if read.reason:
            yield f"{read.user_id}/{read.pass_id} at server {read.server}: {read.reason}"


def failures_have_reasons(evidence: Evidence) -> Iterator[str]:
    """No call fails for a fault of the service's own; who is refused is told why."""
    for (method, code, reason), times in evidence.journal.failures.items():
        published = reason in set(Reason) and reason != Reason.INTERNAL
        if not published and not (reason == "" and code in _TRANSPORT):
            yield f"{method} ended {times} times with {code} {reason or 'without a reason'}"


def servers_stay_up(evidence: Evidence) -> Iterator[str]:
    """A server that nobody kills goes on, and one that is asked to stop does."""
    yield from evidence.journal.misbehaved


def _opening(goods: Goods) -> tuple[int | None, int | None]:
    name, amount = goods.benefit
    if name in ("energy_bundle_kwh", "flat_fair_use_kwh"):
        return amount * 1_000, None
    return None, amount if name == "session_bundle" else None


def ledger_opened(evidence: Evidence) -> Iterator[str]:
    """Each pass that was paid has one opening entry over what its product gives, one that was
    cancelled then one that takes it back, and there are no others."""
    entries = defaultdict(list)
    for entry in evidence.rows.entries:
        entries[entry.user_id, entry.pass_id].append(entry)
    for row in evidence.rows.passes:
        found = entries.pop((row.user_id, row.pass_id), [])
        given = [(e.kind, e.entry_number, e.energy_wh, e.sessions) for e in found]
        opening = _opening(evidence.goods[row.product_id])
        should = [("OPENING", 1, *opening)] if row.paid_time is not None else []
        if should and row.closed_as == "CANCELLED":
            energy_wh, sessions = (None if o is None else -o for o in opening)
            should.append(("CANCELLATION", 2, energy_wh, sessions))
        if given != should:
            yield f"{row.pass_id} of {row.product_id} has the entries {given}"
    for user_id, pass_id in entries:
        yield f"entries stand without the pass {user_id}/{pass_id}"


def counters_hold(evidence: Evidence) -> Iterator[str]:
    """The counter of a product is what counts of its passes, and its flag says what it says."""
    for row in evidence.rows.stocks:
        sold = evidence.sold.get(row.product_id, _NOTHING).last
        if row.sold != sold:
            yield f"{row.product_id} counts {row.sold}, there are {sold}"
        if row.sold_out != (row.stock is not None and row.sold >= row.stock):
            yield f"{row.product_id} says sold_out {row.sold_out} at {row.sold} of {row.stock}"


def events_told_once(evidence: Evidence) -> Iterator[str]:
    """Each change of a pass has one event, in the order in which they happened, and nothing is
    told of what has not happened."""
    told = defaultdict(list)
    for event in sorted(evidence.rows.events, key=lambda e: (e.user_id, e.event_seq)):
        told[event.user_id, event.pass_id].append(event.event_type)
    for row in evidence.rows.passes:
        should = ["PASS_HELD"] if row.hold_expire_time is not None else []
        should += ["PASS_PURCHASED"] if row.paid_time is not None else []
        should += [f"PASS_{row.closed_as}"] if row.closed_as is not None else []
        found = told.pop((row.user_id, row.pass_id), [])
        if found != should:
            yield f"of {row.user_id}/{row.pass_id} {found} was told, {should} has happened"
    for what, types in told.items():
        yield f"{types} was told of {what}, which is not there"


def events_numbered(evidence: Evidence) -> Iterator[str]:
    """A user's events are 1, 2, 3 and so on, and the next number follows them."""
    numbers = defaultdict(list)
    for event in evidence.rows.events:
        numbers[event.user_id].append(event.event_seq)
    for user_id, found in numbers.items():
        if sorted(found) != list(range(1, len(found) + 1)):
            yield f"{user_id} has events {sorted(found)}"
        if evidence.rows.last_event_seqs.get(user_id) != max(found):
            yield f"{user_id} has event {max(found)}, the next one is another number"


def events_placed(evidence: Evidence) -> Iterator[str]:
    """Every event has a place in the stream of its own, and a user's are in order."""
    positions = Counter(event.position for event in evidence.rows.events)
    for position, times in positions.items():
        if position is None or times > 1:
            yield f"{times} events have the position {position}"
    last: dict[str, int] = {}
    for event in evidence.rows.events:
        if event.event_seq < last.get(event.user_id, 0):
            yield f"{event.user_id}: event {event.event_seq} stands after {last[event.user_id]}"
        last[event.user_id] = event.event_seq


def readers_miss_nothing(evidence: Evidence) -> Iterator[str]:
    """Who resumes from its cursor deals with every event once, each user's in order."""
    placed = sorted(
        (e for e in evidence.rows.events if e.position is not None), key=lambda e: e.position or 0
    )
    should = [(e.user_id, e.event_seq, e.pass_id, e.event_type) for e in placed]
    logs = {log.name: log.kept for log in evidence.journal.readers}
    for name, kept in (*logs.items(), ("the whole stream", evidence.stream)):
        has = [(e.user_id, e.event_seq, e.pass_id, e.event_type) for e in kept]
        if has == should:
            continue
        times = Counter(has)
        yield (
            f"{name}: {len(has)} events of {len(should)},"
            f" {sum((Counter(should) - times).values())} missed,"
            f" {sum(count - 1 for count in times.values() if count > 1)} repeated,"
            f" {len(_disordered(kept))} out of a user's order"
        )


def _disordered(kept: list[EventKept]) -> list[str]:
    last: dict[str, int] = {}
    found = []
    for event in kept:
        if event.event_seq < last.get(event.user_id, 0):
            found.append(event.event_id)
        last[event.user_id] = max(event.event_seq, last.get(event.user_id, 0))
    return found


def events_keep_their_names(evidence: Evidence) -> Iterator[str]:
    """An event has the same id, cursor and time whenever it is read, and an id is one event."""
    seen = {e.event_id: e for e in evidence.stream}
    if len(seen) != len(evidence.stream):
        yield f"{len(evidence.stream)} events have {len(seen)} ids"
    for log in evidence.journal.readers:
        changed = [e for e in log.kept if seen.get(e.event_id, e) != e]
        if changed:
            yield f"{log.name} saw {changed[0]}, later it was {seen[changed[0].event_id]}"


def _is_true_of_pass(
    row: PassRow, wish: Confirmation | Cancellation, attempt: Attempt, evidence: Evidence
) -> bool:
    """Whether a refusal to confirm or to cancel names a reason that there was."""

    def is_over(end: datetime | None) -> bool:
        return end is not None and attempt.heard_s + HAIR_S >= end.timestamp()

    match attempt.reason:
        case Reason.HOLD_EXPIRED:
            return row.paid_time is None and is_over(row.hold_expire_time)
        case Reason.PASS_CANCELLED:
            return row.closed_as == "CANCELLED"
        case Reason.PASS_EXPIRED:
            return is_over(row.end_time)
        case Reason.WITHDRAWAL_CLOSED:
            return row.paid_time is not None and not (
                evidence.goods[row.product_id].withdrawal_days
            )
    if not isinstance(wish, Confirmation):
        return False
    match attempt.reason:
        case Reason.PASS_ALREADY_PAID:
            return row.payment_reference not in ("", wish.reference)
        case Reason.PAYMENT_REFERENCE_USED:
            paid = evidence.by_reference.get(wish.reference, ())
            return any(other.pass_id != row.pass_id for other in paid)
        case Reason.PAYMENT_MISMATCH:
            return wish.amount_micros != row.price_micros
    return False


def confirmed_as_told(evidence: Evidence) -> Iterator[str]:
    """A hold that was told to be paid is, by this payment, before its time was over; who is
    refused is refused for a reason that is so."""
    for wish in evidence.journal.confirmations:
        row = evidence.by_id.get((wish.user_id, wish.pass_id))
        for attempt in wish.attempts:
            if attempt.told is Told.REFUSED:
                if row is None or not _is_true_of_pass(row, wish, attempt, evidence):
                    yield f"{wish} was refused without cause: {attempt.reason}, there is {row}"
            elif attempt.told is Told.DONE and (
                row is None or row.paid_time is None or row.payment_reference != wish.reference
            ):
                yield f"{wish} was told to be paid, there is {row}"
    for row in evidence.rows.passes:
        confirmed, expired = row.confirm_time, row.hold_expire_time
        if confirmed is not None and (expired is None or confirmed >= expired):
            yield f"{row} was confirmed after its time"


def cancelled_as_told(evidence: Evidence) -> Iterator[str]:
    """What was told to be cancelled is, with the refund that was told; who is refused is
    refused for a reason that is so."""
    for wish in evidence.journal.cancellations:
        row = evidence.by_id.get((wish.user_id, wish.pass_id))
        for attempt in wish.attempts:
            if attempt.told is Told.REFUSED:
                if row is None or not _is_true_of_pass(row, wish, attempt, evidence):
                    yield f"{wish} was refused without cause: {attempt.reason}, there is {row}"
            elif attempt.told is Told.DONE:
                told = attempt.told_pass
                if row is None or row.closed_as != "CANCELLED" or told is None:
                    yield f"{wish} was told to be cancelled, there is {row}"
                elif (told.state, told.refund_micros) != ("CANCELLED", row.refund_micros):
                    yield f"{wish} was told {told}, there is {row}"


def changes_were_asked_for(evidence: Evidence) -> Iterator[str]:
    """What is confirmed or cancelled is so because somebody asked, and was not always refused."""

    def possible(wishes: Sequence[Confirmation | Cancellation]) -> set[tuple[str, ...]]:
        return {
            (w.user_id, w.pass_id, getattr(w, "reference", ""))
            for w in wishes
            if {a.told for a in w.attempts} - {Told.REFUSED}
        }

    confirmed = possible(evidence.journal.confirmations)
    cancelled = possible(evidence.journal.cancellations)
    for row in evidence.rows.passes:
        key = (row.user_id, row.pass_id)
        if row.confirm_time is not None and (*key, row.payment_reference) not in confirmed:
            yield f"nobody has paid for {row}, or was refused each time"
        if row.closed_as == "CANCELLED" and (*key, "") not in cancelled:
            yield f"nobody has cancelled {row}, or was refused each time"


def what_is_over_is_closed(evidence: Evidence) -> Iterator[str]:
    """What has ended by its time is noted to have, once it has; a hold has its place until then."""
    now = evidence.rows.now - timedelta(seconds=LATE_S)
    for row in evidence.rows.passes:
        end = row.end_time if row.paid_time is not None else row.hold_expire_time
        how = "EXPIRED" if row.paid_time is not None else "LAPSED"
        if row.closed_as is None and end is not None and end <= now:
            yield f"{row} is over and not closed"
        if row.closed_as not in (None, "CANCELLED") and (
            row.closed_as != how or row.close_time is None or end is None or row.close_time < end
        ):
            yield f"{row} was closed without cause"
        if (row.user_id, row.pass_id) in evidence.rows.holds and (
            row.paid_time is not None or row.closed_as is not None
        ):
            yield f"{row} still has the place of a hold"


def _agreed_refund(row: PassRow, goods: Goods) -> int:
    """As ledger_opened, a second reading: nothing of these passes is ever used but time."""
    name, _ = goods.benefit
    share = Fraction(1)
    if name not in ("energy_bundle_kwh", "session_bundle"):
        assert row.start_time is not None
        assert row.end_time is not None
        assert row.close_time is not None
        microsecond = timedelta(microseconds=1)
        left = (row.end_time - row.close_time) // microsecond
        share = min(share, Fraction(left, (row.end_time - row.start_time) // microsecond))
    return PAYABLE_MICROS * floor(row.price_micros * share / PAYABLE_MICROS + Fraction(1, 2))


def refunds_as_agreed(evidence: Evidence) -> Iterator[str]:
    """What is given back for a cancelled pass is what its product's terms say, for a hold
    nothing, and the event says the same."""
    told = {
        (e.user_id, e.pass_id): (e.refund_micros, e.refund_reference)
        for e in evidence.stream
        if e.event_type == "PASS_CANCELLED"
    }
    for row in evidence.rows.passes:
        paid = row.closed_as == "CANCELLED" and row.paid_time is not None
        goods = evidence.goods[row.product_id]
        should = _agreed_refund(row, goods) if paid else None
        if row.refund_micros != should:
            yield f"{row} gives back {row.refund_micros}, {should} is agreed"
        if paid and not goods.withdrawal_days:
            yield f"{row} was cancelled, which its product does not allow"
        in_event = told.get((row.user_id, row.pass_id), (None, ""))
        if in_event != (should, row.payment_reference if paid else ""):
            yield f"{row} was told with {in_event}"


def tables_verified(evidence: Evidence) -> Iterator[str]:
    """`voucher-grpc verify` finds nothing."""
    for check, keys in evidence.findings.items():
        yield f"{check}: {keys}"


RULES: tuple[Callable[[Evidence], Iterator[str]], ...] = (
    acknowledged_is_there,
    one_pass_for_a_key,
    same_key_same_pass,
    other_content_is_refused,
    nothing_unasked,
    refusals_store_nothing,
    offer_bought_once,
    reference_pays_once,
    stock_holds,
    limits_hold,
    price_as_offered,
    unfit_offers_are_refused,
    refusals_are_true,
    clear_in_the_end,
    bought_while_asked,
    acknowledged_can_be_read,
    failures_have_reasons,
    servers_stay_up,
    ledger_opened,
    counters_hold,
    events_told_once,
    events_numbered,
    events_placed,
    readers_miss_nothing,
    events_keep_their_names,
    confirmed_as_told,
    cancelled_as_told,
    changes_were_asked_for,
    what_is_over_is_closed,
    refunds_as_agreed,
    tables_verified,
)


def check(evidence: Evidence) -> list[Breach]:
    """Every rule that was broken."""
    breaches = []
    for rule in RULES:
        found = list(rule(evidence))
        if found:
            breaches.append(Breach(rule.__name__, len(found), tuple(found[:MAX_SHOWN])))
    return breaches
