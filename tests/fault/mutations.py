"""Ways to break the service, each one rule, and which rule of the checker must see it.

A mutation replaces a statement or a function of the service in the process of a
server (mutant.py), and may take a constraint away that would stand behind the rule.
A text that is not there any more is an error: the mutation has to be written anew.
"""

import dataclasses
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from tests.fault.plan import Fault, Plan, Scenario, Size, make_plan

# Small: what is broken in a rule shows soon. Which faults the seed draws is part of it.
_SIZE = Size(0, 0.8, 350, longest_s=40, patience_s=8, ends_after_s=(1.5, 3))
_SEED = 1


class NotApplicable(Exception):
    """The service is not written any more the way that the mutation supposes."""


@dataclass(frozen=True)
class Mutation:
    """What is broken, how, and by which rules of the checker it must be seen (one is enough).

    `statements` are run in the database; `faults` and `scenarios` are what makes it show.
    """

    what: str
    break_it: Callable[[], None]
    seen_by: tuple[str, ...]
    statements: tuple[str, ...] = ()
    faults: tuple[Fault, ...] = ()
    needs_clock: bool = False
    scenarios: tuple[Scenario, ...] = ()

    def plan(self) -> Plan:
        """The run in which it must be seen, and which the service must pass without it.

        All scenarios have their share in it, those of the mutation a large one; what is
        scarce is soon sold.
        """
        plan = make_plan(_SEED, _SIZE, self.faults)
        weights = tuple((s, 30 if s in self.scenarios else 3) for s in Scenario)
        goods = tuple(replace(g, stock=g.stock and min(g.stock, 5)) for g in plan.goods)
        return replace(plan, weights=weights, goods=goods, hold_lifetime_s=1)


def _restate(area: str, name: str, old: str, new: str) -> None:
    """Change a part of a statement of the service, before any module has loaded it."""
    from voucher_grpc.store import queries

    if "voucher_grpc.store.passes" in sys.modules:
        raise NotApplicable("the service has loaded its statements already")
    load = queries.load

    def changed(area_wanted: str) -> dict[str, str]:
        statements = load(area_wanted)
        if area_wanted == area:
            if statements[name].count(old) != 1:
                raise NotApplicable(f"{area}.{name} does not have {old!r} once")
            statements[name] = statements[name].replace(old, new)
        return statements

    queries.load = changed  # type: ignore[assignment]


def _rule(name: str, wrapped: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Put another function in the place of one of the rules of a purchase."""
    from voucher_grpc.domain.passes import purchase

    original = getattr(purchase, name)
    setattr(purchase, name, wrapped(original))


def _ends_otherwise(changed: Callable[[Any], Awaitable[None]]) -> None:
    """Let transactions of purchases end another way than by a plain COMMIT."""
    from voucher_grpc.use_cases import write_passes

    @asynccontextmanager
    async def by_index(connection: Any) -> AsyncIterator[None]:
        await connection.execute("BEGIN")
        yield
        await changed(connection)

    setattr(write_passes, "by_index", by_index)  # noqa: B010 - not exported from there


def _rolls_back_some() -> None:
    count = 0

    async def end(connection: Any) -> None:
        nonlocal count
        count += 1
        await connection.execute("ROLLBACK" if count % 10 == 0 else "COMMIT")

    _ends_otherwise(end)


def _does_not_wait_for_the_disk() -> None:
    async def end(connection: Any) -> None:
        await connection.execute("SET LOCAL synchronous_commit = off")
        await connection.execute("COMMIT")

    _ends_otherwise(end)


def _forgets_keys() -> None:
    from voucher_grpc.domain.passes import purchase

    def other_id(user_id: str, request_id: UUID) -> UUID:
        return uuid4()

    purchase.pass_id_for = other_id
    _rule("_judge_offer", _without(by_offer={}))
    _rule("_judge_payment", _without(references={}))


def _without(**parts: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A rule that does not see a part of the state (its last argument)."""

    def wrapped(rule: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *arguments: rule(*arguments[:-1], replace(arguments[-1], **parts))

    return wrapped


def _takes_any_content() -> None:
    _rule("_same_key", lambda _: lambda purchase, known: known)


def _sells_offers_again() -> None:
    _rule("_judge_offer", _without(by_offer={}))


def _sells_without_stock() -> None:
    _rule("_judge_stock", lambda _: lambda offer, state: None)


def _does_not_lock_stock() -> None:
    _restate("passes", "lock_stock", " FOR UPDATE", "")


def _keeps_the_last_one() -> None:
    def wrapped(rule: Callable[..., Any]) -> Callable[..., Any]:
        def judge(offer: Any, state: Any) -> None:
            stock = state.stocks[offer.product_id]
            fewer = stock if stock.stock is None else replace(stock, stock=stock.stock - 1)
            rule(offer, replace(state, stocks={offer.product_id: fewer}))

        return judge

    _rule("_judge_stock", wrapped)


def _has_no_limits() -> None:
    _rule("_judge_limit", lambda _: lambda purchase, offer, state: None)


def _refuses_within_the_limit() -> None:
    _rule("limit_reached", lambda _: lambda limit, product_id, bought, at: bool(bought))


def _takes_references_again() -> None:
    _rule("_judge_payment", _without(references={}))


def _tells_not_all() -> None:
    _restate("passes", "write", "pass_id, purchase_time FROM input\n), numbered", "pass_id,"
             " purchase_time FROM input WHERE get_byte(uuid_send(pass_id), 3) % 16 <> 0"
             "\n), numbered")  # fmt: skip


def _tells_twice() -> None:
    again = (
        "pass_id, purchase_time FROM input UNION ALL SELECT user_id, event_seq + 1000000,"
        " event_type, pass_id, purchase_time FROM input"
        " WHERE get_byte(uuid_send(pass_id), 3) % 16 = 0\n), numbered"
    )
    _restate("passes", "write", "pass_id, purchase_time FROM input\n), numbered", again)


def _sends_twice() -> None:
    _restate("events", "page", "position > $1::bigint", "position >= $1::bigint")


def _skips_in_the_stream() -> None:
    _restate("events", "page", "position > $1::bigint", "position > $1::bigint + 1")


def _turns_users_events_round() -> None:
    old = "row_number() OVER (ORDER BY user_id, event_seq)"
    _restate("events", "sequence", old, old.replace("event_seq)", "event_seq DESC)"))


def _places_before_the_commit() -> None:
    told = "INSERT INTO events (user_id, event_seq, event_type, pass_id, event_time)"
    _restate("passes", "write", told, told.replace("event_time)", "event_time, position)"))
    _restate("passes", "write", "pass_id, purchase_time FROM input\n), numbered",
             "pass_id, purchase_time, nextval('early_positions')"
             " FROM input\n), numbered")  # fmt: skip
    _restate("passes", "change", told, told.replace("event_time)", "event_time, position)"))
    _restate("passes", "change", "$17::timestamptz\n    FROM unnest($18",
             "$17::timestamptz, nextval('early_positions')\n    FROM unnest($18")  # fmt: skip
    last = "(SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM early_positions)"
    for name, old in (
        ("end_of_stream", "stream_id, last_position"),
        ("page", "s.stream_id, s.last_position"),
    ):
        new = old.partition(",")[0] + f", {last} AS last_position"
        _restate("events", name, old, new)


def _forgets_openings() -> None:
    old = "WHERE hold_expire_time IS NULL\n), held"
    new = f"WHERE get_byte(uuid_send(pass_id), 3) % 16 <> 0 AND {old.removeprefix('WHERE ')}"
    _restate("passes", "write", old, new)


def _opens_with_less() -> None:
    old = "1, 'OPENING', energy_wh, sessions"
    _restate("passes", "write", old, "1, 'OPENING', energy_wh - 1, sessions - 1")


def _miscounts() -> None:
    _restate("passes", "write", "SET sold = s.sold + n.passes,", "SET sold = s.sold + 1,")


def _keeps_references_of_the_refused() -> None:
    _restate("passes", "give_back_references", "= k.pass_id", "= k.pass_id AND false")


def _writes_refused_payments() -> None:
    def wrapped(rule: Callable[..., Any]) -> Callable[..., Any]:
        def judge(purchase: Any, offer: Any, state: Any) -> None:
            rule(replace(purchase, amount=replace(
                purchase.amount, micros=offer.price_micros)), offer, state)  # fmt: skip

        return judge

    _rule("_judge_payment", wrapped)


def _charges_more() -> None:
    def wrapped(make: Callable[..., Any]) -> Callable[..., Any]:
        def charged(*arguments: Any) -> Any:
            bought = make(*arguments)
            price = replace(bought.price, micros=bought.price.micros + 1)
            return replace(bought, price=price)

        return charged

    _rule("_new_pass", wrapped)


def _sells_the_expired() -> None:
    def wrapped(rule: Callable[..., Any]) -> Callable[..., Any]:
        def judge(purchase: Any, state: Any) -> Any:
            early = purchase.arrival_time - timedelta(days=1)
            return rule(replace(purchase, arrival_time=early), state)

        return judge

    _rule("_judge_offer", wrapped)


def _takes_forged_offers() -> None:
    from voucher_grpc.domain.offer_ids.signer import OfferSigner

    read = OfferSigner.read
    OfferSigner.read = (  # type: ignore[method-assign]
        lambda self, offer_id: dataclasses.replace(read(self, offer_id), authentic=True)
    )


def _sells_to_anybody() -> None:
    def wrapped(rule: Callable[..., Any]) -> Callable[..., Any]:
        return lambda purchase, state: rule(replace(purchase, claimed_user_id=""), state)

    _rule("_judge_offer", wrapped)


def _believes_its_wall_clock() -> None:
    from voucher_grpc.runtime.clock import DatabaseClock

    DatabaseClock.now = lambda self: datetime.now(UTC)  # type: ignore[method-assign]


def _writes_what_it_judges() -> None:
    _rule("_verdict", lambda rule: lambda purchase, state: rule(
        replace(purchase, validate_only=False), state))  # fmt: skip


def _says_no_when_unclear() -> None:
    from voucher_grpc.errors import Reason, Refusal, StoreUnavailable
    from voucher_grpc.use_cases.write_passes import PassWriter

    run = PassWriter._run

    async def hasty(self: Any, requests: Any) -> Any:
        try:
            return await run(self, requests)
        except StoreUnavailable:
            return [Refusal(Reason.SOLD_OUT, "the product is sold out")] * len(requests)

    PassWriter._run = hasty  # type: ignore[method-assign]


def _change_rule(name: str, wrapped: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """As _rule, of what happens after the purchase."""
    from voucher_grpc.domain.passes import change

    setattr(change, name, wrapped(getattr(change, name)))


def _keeps_the_stock_of(how: str) -> None:
    """What ends so is not given back."""
    from voucher_grpc.domain.passes.change import Changed

    gives_back = Changed.gives_stock_back.fget  # type: ignore[attr-defined]
    Changed.gives_stock_back = property(  # type: ignore[assignment, method-assign]
        lambda self: gives_back(self) and self.after.closed_as != how
    )


def _keeps_the_stock_of_the_lapsed() -> None:
    _restate("passes", "free_expired", "hold_expire_time <= $2", "hold_expire_time <= $2 AND false")
    _keeps_the_stock_of("LAPSED")


def _waits_for_the_sweep() -> None:
    _restate("passes", "free_expired", "hold_expire_time <= $2", "hold_expire_time <= $2 AND false")


def _counts_the_cancelled() -> None:
    counts = "AND (o.closed_as IS NULL OR o.closed_as = 'EXPIRED')"
    _restate("passes", "bought", counts, "")


def _confirms_too_late() -> None:
    from voucher_grpc.domain.passes import change
    from voucher_grpc.domain.passes.state import PassState

    state_of = change.ChangeState.state_of

    def patient(self: Any, owned: Any) -> Any:
        found = state_of(self, owned)
        late = found is PassState.LAPSED and owned.closed_as is None
        return PassState.PENDING if late else found

    change.ChangeState.state_of = patient  # type: ignore[method-assign]


def _confirms_with_used_payments() -> None:
    _change_rule("_confirmed", _without(references={}))


def _gives_back_less() -> None:
    _change_rule("refund_micros", lambda rule: lambda *known: max(0, rule(*known) - 10_000))


def _cancels_everything() -> None:
    _change_rule(
        "withdrawal_end", lambda _: lambda terms, owned: owned.purchase_time + timedelta(days=14)
    )


def _closes_nothing() -> None:
    _restate("passes", "due", "WHERE close_time IS NULL", "WHERE false AND close_time IS NULL")


def _tells_the_end_twice() -> None:
    told = "FROM unnest($18::text[], $19::bigint[], $20::text[], $21::uuid[]) AS e\n"
    again = (
        f"{told.strip()} UNION ALL SELECT e.user_id, e.event_seq + 1000000, e.event_type,"
        " e.pass_id, $17::timestamptz FROM unnest($18::text[], $19::bigint[], $20::text[],"
        " $21::uuid[]) AS e (user_id, event_seq, event_type, pass_id)"
        " WHERE e.event_type IN ('PASS_EXPIRED', 'PASS_LAPSED')\n"
    )
    _restate("passes", "change", told, again)


def _does_not_tell_the_end() -> None:
    told = "FROM unnest($18::text[], $19::bigint[], $20::text[], $21::uuid[]) AS e\n"
    named = told.replace("AS e", "AS e (user_id, event_seq, event_type, pass_id)")
    _restate("passes", "change", told, f"{named} WHERE e.event_type <> 'PASS_EXPIRED'\n")


_DROP_STOCK = "ALTER TABLE product_stock DROP CONSTRAINT never_oversold"
_DROP_OFFER = "ALTER TABLE passes DROP CONSTRAINT an_offer_is_bought_once"

MUTATIONS: dict[str, Mutation] = {
    "lost-commit": Mutation(
        "acknowledges what it has rolled back", _rolls_back_some, ("acknowledged_is_there",)
    ),
    "early-answer": Mutation(
        "acknowledges before the disk has it",
        _does_not_wait_for_the_disk,
        ("acknowledged_is_there", "same_key_same_pass"),
        faults=(Fault.KILL_POSTGRES,) * 5,
    ),
    "key-forgotten": Mutation(
        "two passes for one key", _forgets_keys, ("one_pass_for_a_key",), (_DROP_OFFER,)
    ),
    "any-content": Mutation(
        "the same key with other content is accepted",
        _takes_any_content,
        ("other_content_is_refused",),
    ),
    "offer-again": Mutation(
        "an offer is bought twice", _sells_offers_again, ("offer_bought_once",), (_DROP_OFFER,)
    ),
    "no-stock": Mutation(
        "more sold than there is", _sells_without_stock, ("stock_holds",), (_DROP_STOCK,)
    ),
    "stock-not-locked": Mutation(
        "the stock is read without its lock",
        _does_not_lock_stock,
        ("stock_holds",),
        (_DROP_STOCK,),
    ),
    "last-one-kept": Mutation("the last one is refused", _keeps_the_last_one, ("stock_holds",)),
    "no-limit": Mutation(
        "a personal limit is exceeded",
        _has_no_limits,
        ("limits_hold",),
        scenarios=(Scenario.LIMITED,),
    ),
    "limit-too-low": Mutation(
        "a second one is refused where two are allowed",
        _refuses_within_the_limit,
        ("limits_hold",),
        scenarios=(Scenario.LIMITED, Scenario.MADE_ROOM),
    ),
    "reference-again": Mutation(
        "a payment reference pays twice", _takes_references_again, ("reference_pays_once",)
    ),
    "event-missing": Mutation("some purchases are not told", _tells_not_all, ("events_told_once",)),
    "event-doubled": Mutation("some purchases are told twice", _tells_twice, ("events_told_once",)),
    "event-sent-twice": Mutation(
        "a reader that goes on gets its last event again",
        _sends_twice,
        ("readers_miss_nothing",),
    ),
    "event-skipped": Mutation(
        "a reader that goes on misses one", _skips_in_the_stream, ("readers_miss_nothing",)
    ),
    "events-turned": Mutation(
        "a user's events are out of order",
        _turns_users_events_round,
        ("readers_miss_nothing", "events_placed"),
    ),
    "early-position": Mutation(
        "positions are given before the commit",
        _places_before_the_commit,
        ("readers_miss_nothing",),
        ("CREATE SEQUENCE early_positions",),
        (Fault.LATE_COMMIT,) * 3,
    ),
    "no-opening": Mutation(
        "some passes have no opening entry", _forgets_openings, ("ledger_opened",)
    ),
    "other-opening": Mutation(
        "passes open with less than was sold", _opens_with_less, ("ledger_opened",)
    ),
    "miscounted": Mutation(
        "a batch counts as one sale", _miscounts, ("counters_hold", "failures_have_reasons")
    ),
    "reference-kept": Mutation(
        "a refused payment's reference is kept",
        _keeps_references_of_the_refused,
        ("refusals_store_nothing",),
    ),
    "any-amount": Mutation(
        "another amount than offered buys", _writes_refused_payments, ("price_as_offered",)
    ),
    "other-price": Mutation(
        "a pass costs more than was offered", _charges_more, ("price_as_offered",)
    ),
    "expired-sold": Mutation(
        "an expired offer buys", _sells_the_expired, ("unfit_offers_are_refused",)
    ),
    "forged-sold": Mutation(
        "a forged offer buys", _takes_forged_offers, ("unfit_offers_are_refused",)
    ),
    "other-user": Mutation(
        "another user's offer buys", _sells_to_anybody, ("unfit_offers_are_refused",)
    ),
    "wall-clock": Mutation(
        "the server's own clock decides",
        _believes_its_wall_clock,
        ("refusals_are_true", "unfit_offers_are_refused"),
        faults=(Fault.JUMP_CLOCK,) * 4,
        needs_clock=True,
    ),
    "judging-buys": Mutation(
        "validate_only buys", _writes_what_it_judges, ("nothing_unasked", "bought_while_asked")
    ),
    "lapsed-counts": Mutation(
        "a hold that has lapsed keeps its place in the stock",
        _keeps_the_stock_of_the_lapsed,
        ("stock_holds", "counters_hold"),
    ),
    "sweep-decides": Mutation(
        "a hold keeps its place until it is noted that it has lapsed",
        _waits_for_the_sweep,
        ("stock_holds",),
        scenarios=(Scenario.HELD_SCARCE, Scenario.HOT),
    ),
    "cancelled-sold": Mutation(
        "what was cancelled is not back in the stock",
        lambda: _keeps_the_stock_of("CANCELLED"),
        ("stock_holds", "counters_hold"),
    ),
    "cancelled-limits": Mutation(
        "what was cancelled counts against the limit",
        _counts_the_cancelled,
        ("limits_hold",),
        scenarios=(Scenario.MADE_ROOM,),
    ),
    "late-confirmation": Mutation(
        "a hold is confirmed after its time", _confirms_too_late, ("confirmed_as_told",)
    ),
    "reference-confirms": Mutation(
        "a used payment confirms a hold", _confirms_with_used_payments, ("reference_pays_once",)
    ),
    "less-back": Mutation(
        "less is given back than agreed", _gives_back_less, ("refunds_as_agreed",)
    ),
    "cancels-all": Mutation(
        "what cannot be cancelled is", _cancels_everything, ("refunds_as_agreed",)
    ),
    "never-over": Mutation(
        "nothing is noted to be over", _closes_nothing, ("what_is_over_is_closed",)
    ),
    "end-told-twice": Mutation(
        "the end of a pass is told twice", _tells_the_end_twice, ("events_told_once",)
    ),
    "end-untold": Mutation(
        "the end of a pass is not told", _does_not_tell_the_end, ("events_told_once",)
    ),
    "hasty-no": Mutation(
        "an unclear outcome is told as a refusal",
        _says_no_when_unclear,
        ("refusals_store_nothing", "stock_holds", "same_key_same_pass"),
        faults=(Fault.CUT_AFTER_COMMIT,) * 3,
    ),
}
