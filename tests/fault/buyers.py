"""Many buyers at once. Each scenario is a method; what must be true of its outcome is
not said here but by the checker.

Whatever is unclear (UNAVAILABLE, a deadline, a broken connection) is tried again
under the same key, at either server, until it is clear.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from random import Random
from uuid import UUID

from tests.fault.calls import Desk, unclear
from tests.fault.journal import (
    Cancellation,
    Confirmation,
    Journal,
    OfferHeld,
    Purchase,
    ReadBack,
    Told,
    Tried,
)
from tests.fault.links import BUYER
from tests.fault.market import CURRENCY, Market, held
from tests.fault.plan import Goods, Plan, Scenario
from voucher_grpc.client import CallFailed
from voucher_grpc.v1 import voucher_service_pb2 as pb

# Users that all buyers act for; and those that each buyer has.
_SHARED_USERS = 12
_OWN_USERS = 3
# How many purchases are settled at a time when all is over.
_AT_ONCE = 16


class Street:
    """What the buyers of a run share."""

    def __init__(self, plan: Plan, market: Market, desk: Desk, journal: Journal) -> None:
        self.plan = plan
        self.market = market
        self.desk = desk
        self.journal = journal
        self.open = True
        self._acknowledged: set[tuple[str, UUID]] = set()

    @property
    def acknowledged(self) -> int:
        """How many keys have bought."""
        return len(self._acknowledged)

    async def settle(self, wish: Tried, random: Random) -> None:
        """Try until it is clear what became of it, at most as long as buyers are patient."""
        end_s = time.monotonic() + self.plan.patience_s
        while not wish.clear and time.monotonic() < end_s:
            await self.attempt(wish, random)
            if not wish.clear:
                await asyncio.sleep(random.uniform(0.02, 0.2))

    async def attempt(
        self, wish: Tried, random: Random, server: int | None = None, **how: float
    ) -> None:
        """Try once, at any server if none is named."""
        if server is None:
            server = random.randrange(self.desk.servers)
        await self.desk.attempt(
            wish, random, server, **{"timeout_s": self.plan.call_timeout_s, **how}
        )
        if isinstance(wish, Purchase) and wish.acknowledged:
            self._acknowledged.add(wish.key)

    async def roll_call(self, random: Random, share: float) -> None:
        """Ask once more for what was ever unclear, and for a share of the rest."""
        asked = [
            wish
            for wish in self.journal.tried()
            if wish.with_outcome(Told.UNCLEAR) or random.random() < share
        ]

        async def ask(wish: Tried) -> None:
            await self.attempt(wish, random)
            await self.settle(wish, random)

        await _a_few_at_a_time([partial(ask, wish) for wish in asked])

    async def sell_out(self, random: Random) -> None:
        """Buy every product that can run out until it has."""
        for goods in self.market.scarce:
            # A stock without end is the checker's to tell.
            for number in range((goods.stock or 0) // _AT_ONCE + 2):
                users = [f"{BUYER}last-{goods.product_id}-{number}-{n}" for n in range(_AT_ONCE)]
                wishes = [self.wish(random, user, goods, "sell out") for user in users]
                await asyncio.gather(*(self.settle(wish, random) for wish in wishes))
                if any(wish.reason == "SOLD_OUT" for wish in wishes):
                    break

    def wish(
        self,
        random: Random,
        user_id: str,
        goods: Goods,
        scenario: str,
        lifetime_s: float = 900.0,
        *,
        forged: bool = False,
    ) -> Purchase:
        """A new purchase, written down before it is tried."""
        return self.wish_for(
            random, self.market.offer(user_id, goods, lifetime_s, forged=forged), scenario
        )

    def wish_for(self, random: Random, offer: OfferHeld, scenario: str) -> Purchase:
        """A new purchase of an offer."""
        return self.noted(
            Purchase(
                user_id=offer.user_id,
                request_id=UUID(int=random.getrandbits(128), version=4),
                offer=offer,
                vehicle_id=random.choice(("", f"car-{random.randrange(100)}")),
                reference=f"pay-{random.getrandbits(96):x}",
                amount_micros=offer.price_micros,
                scenario=scenario,
                claimed_user_id=random.choice(("", offer.user_id)),
            )
        )

    def noted(self, purchase: Purchase) -> Purchase:
        """The purchase, which is in the journal from now on."""
        self.journal.purchases.append(purchase)
        return purchase


async def _a_few_at_a_time(works: Sequence[Callable[[], Awaitable[None]]]) -> None:
    slots = asyncio.Semaphore(_AT_ONCE)

    async def work_on(work: Callable[[], Awaitable[None]]) -> None:
        async with slots:
            await work()

    await asyncio.gather(*(work_on(work) for work in works))


class Buyer:
    """Plays one scenario after the other until the street closes."""

    def __init__(self, street: Street, number: int) -> None:
        self._street = street
        self._random = Random(f"{street.plan.seed}/{number}")
        self._name = f"{BUYER}{number}"
        self._users = [f"{self._name}-{n}" for n in range(_OWN_USERS)]
        self._sold_out: set[str] = set()

    async def buy_on(self) -> None:
        """Until the street closes and all that was begun is clear."""
        scenarios, weights = zip(*self._street.plan.weights, strict=True)
        while self._street.open:
            [scenario] = self._random.choices(scenarios, weights)
            await SCENARIOS[scenario](self)

    def _user(self) -> str:
        drawn = self._random.random()
        if drawn < 0.1:
            self._users[self._random.randrange(_OWN_USERS)] = (
                f"{self._name}-{self._random.getrandbits(32):x}"
            )
        if drawn > 0.85:
            return f"{BUYER}shared-{self._random.randrange(_SHARED_USERS)}"
        return self._random.choice(self._users)

    def _wish(
        self, scenario: Scenario, goods: Goods | None = None, lifetime_s: float = 900.0
    ) -> Purchase:
        chosen = goods or self._street.market.choice(self._random)
        return self._street.wish(self._random, self._user(), chosen, scenario, lifetime_s)

    def _other(self, purchase: Purchase, **changes: object) -> Purchase:
        return self._street.noted(purchase.other(**changes))

    async def _settle(self, *wishes: Tried) -> None:
        await asyncio.gather(*(self._street.settle(wish, self._random) for wish in wishes))

    async def _once_more(self, wish: Tried) -> None:
        """Whoever repeats what is clear learns it again."""
        await self._street.attempt(wish, self._random)
        await self._settle(wish)

    def _reference(self) -> str:
        return f"pay-{self._random.getrandbits(96):x}"

    def _key(self) -> UUID:
        return UUID(int=self._random.getrandbits(128), version=4)

    async def _read_back(self, purchase: Purchase) -> None:
        """What was acknowledged can be read at once, at any server."""
        if purchase.shown is None:
            return
        pass_id = purchase.shown.pass_id
        request = pb.GetPassRequest(user_id=purchase.user_id, pass_id=pass_id)
        server = self._random.randrange(self._street.desk.servers)
        reason = ""
        try:
            await self._street.desk.call(
                "GetPass", request, self._random, server, self._street.plan.call_timeout_s
            )
        except CallFailed as failed:
            if unclear(failed):
                return
            reason = failed.reason
        read = ReadBack(purchase.user_id, pass_id, server, reason)
        self._street.journal.read_back.append(read)

    async def plain(self) -> None:
        """Buy one."""
        wish = self._wish(Scenario.PLAIN)
        await self._settle(wish)
        if self._random.random() < 0.3:
            await self._read_back(wish)

    async def again(self) -> None:
        """Whoever repeats what was acknowledged gets the same pass."""
        wish = self._wish(Scenario.AGAIN)
        await self._settle(wish)
        for _ in range(self._random.randint(1, 3)):
            await self._once_more(wish)

    async def both_servers(self) -> None:
        """The same call at all servers at the same moment."""
        wish = self._wish(Scenario.BOTH_SERVERS)
        await self._at_both(wish)

    async def _at_both(self, wish: Tried) -> None:
        servers = range(self._street.desk.servers)
        await asyncio.gather(*(self._street.attempt(wish, self._random, n) for n in servers))
        await self._settle(wish)

    async def other_content(self) -> None:
        """One key for two wishes that differ, together or one after the other."""
        wish = self._wish(Scenario.OTHER_CONTENT)
        goods = self._street.market.goods[wish.offer.product_id]
        changes = self._random.choice(
            (
                {"vehicle_id": "another"},
                {"reference": self._reference()},
                {"amount_micros": wish.amount_micros + 10_000},
                {"offer": self._street.market.offer(wish.user_id, goods)},
            )
        )
        if self._random.random() < 0.5:
            await self._settle(wish)
        await self._settle(wish, self._other(wish, **changes))

    async def other_key(self) -> None:
        """An offer is bought once, whatever the key."""
        wish = self._wish(Scenario.OTHER_KEY)
        if self._random.random() < 0.5:
            await self._settle(wish)
        other = self._other(
            wish,
            request_id=self._key(),
            reference=self._reference(),
        )
        await self._settle(wish, other)

    async def reference_twice(self) -> None:
        """The payment pays for one of two; the other one can then be paid otherwise."""
        wish, other = self._wish(Scenario.REFERENCE_TWICE), self._wish(Scenario.REFERENCE_TWICE)
        other.reference = wish.reference
        await self._settle(wish, other)
        for one in (wish, other):
            if one.reason == "PAYMENT_REFERENCE_USED":
                await self._settle(self._other(one, reference=self._reference()))

    async def limited(self) -> None:
        """A user wants more of a product than one user may have."""
        goods = self._street.market.choice(self._random, self._street.market.limited)
        user_id = self._user()
        wishes = [
            self._street.wish(self._random, user_id, goods, Scenario.LIMITED)
            for _ in range((goods.max_purchases or 0) + self._random.randint(0, 2))
        ]
        await self._settle(*wishes)

    async def hot(self) -> None:
        """Everybody wants what there is little of."""
        scarce = self._street.market.scarce
        if self._random.random() < 0.2:
            self._sold_out.clear()  # some is given back now and then
        left = [g for g in scarce if g.product_id not in self._sold_out]
        wish = self._wish(Scenario.HOT, self._random.choice(left or scarce))
        await self._settle(wish)
        if wish.reason == "SOLD_OUT":
            self._sold_out.add(wish.offer.product_id)

    async def wrong_amount(self) -> None:
        """A refused payment is not kept: the right amount buys under the same key."""
        wish = self._wish(Scenario.WRONG_AMOUNT)
        right = wish.amount_micros
        wish.amount_micros = right + self._random.choice((-10_000, 10_000, 1_000_000))
        await self._settle(wish)
        await self._settle(self._other(wish, amount_micros=right))

    async def expired(self) -> None:
        """Too late."""
        wish = self._wish(Scenario.EXPIRED, lifetime_s=-self._random.uniform(6, 60))
        await self._settle(wish)

    async def fleeting(self) -> None:
        """In time or not; if in time, then for good."""
        wish = self._wish(Scenario.FLEETING, lifetime_s=self._random.uniform(0.05, 0.6))
        await self._settle(wish)
        await asyncio.sleep(0.1)
        await self._once_more(wish)

    async def impatient(self) -> None:
        """Several tries that hardly give the service time, then a patient one."""
        wish = self._wish(Scenario.IMPATIENT)
        for _ in range(self._random.randint(1, 3)):
            timeout_s = self._random.uniform(0.001, 0.03)
            await self._street.attempt(wish, self._random, timeout_s=timeout_s)
        await self._settle(wish)

    async def hung_up(self) -> None:
        """The caller goes away in the middle, and comes back."""
        wish = self._wish(Scenario.HUNG_UP)
        after_s = self._random.uniform(0.0, 0.03)
        await self._street.attempt(wish, self._random, hang_up_after_s=after_s)
        await self._settle(wish)

    async def validated(self) -> None:
        """Judging writes nothing, so the key is still free, also for other content."""
        judged = self._wish(Scenario.VALIDATED)
        judged.validate_only = True
        await self._settle(judged)
        changes = {} if self._random.random() < 0.5 else {"vehicle_id": "another"}
        await self._settle(self._other(judged, validate_only=False, **changes))

    async def other_user(self) -> None:
        """An offer is good for its user only."""
        wish = self._wish(Scenario.OTHER_USER)
        wish.claimed_user_id = f"{BUYER}somebody-else"
        await self._settle(wish)

    async def forged(self) -> None:
        """An offer that the service has not made."""
        goods = self._street.market.choice(self._random)
        await self._settle(
            self._street.wish(self._random, self._user(), goods, Scenario.FORGED, forged=True)
        )

    async def asked(self) -> None:
        """Both signals at the service."""
        user_id = self._user()
        request = pb.RequestOffersRequest(user_id=user_id, currency_code=CURRENCY)
        server = self._random.randrange(self._street.desk.servers)
        try:
            answer = await self._street.desk.call(
                "RequestOffers", request, self._random, server, self._street.plan.call_timeout_s
            )
        except CallFailed:
            return
        for offer in answer.offers[:1]:
            wish = self._street.wish_for(self._random, held(user_id, offer), Scenario.ASKED)
            await self._settle(wish)

    def _hold(self, scenario: Scenario, goods: Goods | None = None) -> Purchase:
        """A new purchase that is to be paid later."""
        wish = self._wish(scenario, goods)
        wish.held, wish.reference = True, ""
        return wish

    def _confirmation(self, hold: Purchase, reference: str = "") -> Confirmation | None:
        """A payment for what was held; None if it was not."""
        if hold.shown is None:
            return None
        paid = Confirmation(
            hold.user_id,
            hold.shown.pass_id,
            reference or self._reference(),
            hold.amount_micros,
            hold.scenario,
        )
        self._street.journal.confirmations.append(paid)
        return paid

    def _cancellation(self, bought: Purchase) -> Cancellation | None:
        """The end of what was bought; None if it was not."""
        if bought.shown is None:
            return None
        ended = Cancellation(bought.user_id, bought.shown.pass_id, bought.scenario)
        self._street.journal.cancellations.append(ended)
        return ended

    async def _settle_some(self, *wishes: Tried | None) -> None:
        await self._settle(*(wish for wish in wishes if wish is not None))

    async def held(self) -> None:
        """Paid in time, paid when it may be too late, cancelled or forgotten."""
        hold = self._hold(Scenario.HELD)
        await self._settle(hold)
        await self._see_to(hold)
        await self._once_more(hold)

    async def held_scarce(self) -> None:
        """What is held is not there for others, until it is given back."""
        hold = self._hold(Scenario.HELD_SCARCE, self._random.choice(self._street.market.scarce))
        await self._settle(hold)
        await self._see_to(hold)

    async def _see_to(self, hold: Purchase) -> None:
        drawn = self._random.random()
        if drawn < 0.5:
            paid = self._confirmation(hold)
            await self._settle_some(paid)
            if paid is not None and drawn < 0.2:
                await self._at_both(paid)
        elif drawn < 0.65:
            # About when its time is over.
            lifetime_s = self._street.plan.hold_lifetime_s
            await asyncio.sleep(lifetime_s + self._random.uniform(-0.3, 0.1))
            await self._settle_some(self._confirmation(hold))
        elif drawn < 0.8:
            await self._settle_some(self._cancellation(hold))

    async def paid_twice(self) -> None:
        """One of two payments pays; the other one is free for something else."""
        hold = self._hold(Scenario.PAID_TWICE)
        await self._settle(hold)
        first, second = self._confirmation(hold), self._confirmation(hold)
        await self._settle_some(first, second)
        for payment in (first, second):
            if payment is not None and payment.reason:
                other = self._wish(Scenario.PAID_TWICE)
                other.reference = payment.reference
                await self._settle(other)

    async def reference_of_another(self) -> None:
        """A payment that pays for a purchase and for a hold."""
        hold, bought = self._hold(Scenario.REFERENCE_OF_ANOTHER), self._wish(Scenario.PLAIN)
        await self._settle(hold)
        await self._settle_some(bought, self._confirmation(hold, bought.reference))

    async def torn(self) -> None:
        """Confirmed and cancelled at the same moment: one after the other, whichever first."""
        hold = self._hold(Scenario.TORN)
        await self._settle(hold)
        await self._settle_some(self._confirmation(hold), self._cancellation(hold))

    async def too_late(self) -> None:
        """Confirmed and cancelled after its time."""
        hold = self._hold(Scenario.TOO_LATE)
        await self._settle(hold)
        await asyncio.sleep(self._street.plan.hold_lifetime_s + 0.2)
        await self._settle_some(self._confirmation(hold), self._cancellation(hold))

    async def cancelled(self) -> None:
        """Bought and given back, if its product's terms let it."""
        wish = self._wish(Scenario.CANCELLED)
        await self._settle(wish)
        ended = self._cancellation(wish)
        if ended is not None:
            await self._settle(ended)
            await self._once_more(ended)
            await self._once_more(wish)

    async def made_room(self) -> None:
        """What was cancelled counts against no limit and no stock."""
        market = self._street.market
        goods = self._random.choice([*market.limited, *market.scarce])
        user_id = self._user()
        for _ in range(2):
            wish = self._street.wish(self._random, user_id, goods, Scenario.MADE_ROOM)
            await self._settle(wish)
            await self._settle_some(self._cancellation(wish))

    async def brief(self) -> None:
        """A pass that is over before the run is."""
        goods = self._random.choice(self._street.market.brief)
        wish = self._wish(Scenario.BRIEF, goods)
        await self._settle(wish)
        if self._random.random() < 0.3:
            await asyncio.sleep(self._random.uniform(0.0, 1.0))
            await self._settle_some(self._cancellation(wish))


SCENARIOS: dict[Scenario, Callable[[Buyer], Awaitable[None]]] = {
    Scenario.PLAIN: Buyer.plain,
    Scenario.AGAIN: Buyer.again,
    Scenario.BOTH_SERVERS: Buyer.both_servers,
    Scenario.OTHER_CONTENT: Buyer.other_content,
    Scenario.OTHER_KEY: Buyer.other_key,
    Scenario.REFERENCE_TWICE: Buyer.reference_twice,
    Scenario.LIMITED: Buyer.limited,
    Scenario.HOT: Buyer.hot,
    Scenario.WRONG_AMOUNT: Buyer.wrong_amount,
    Scenario.EXPIRED: Buyer.expired,
    Scenario.FLEETING: Buyer.fleeting,
    Scenario.IMPATIENT: Buyer.impatient,
    Scenario.HUNG_UP: Buyer.hung_up,
    Scenario.VALIDATED: Buyer.validated,
    Scenario.OTHER_USER: Buyer.other_user,
    Scenario.FORGED: Buyer.forged,
    Scenario.ASKED: Buyer.asked,
    Scenario.HELD: Buyer.held,
    Scenario.HELD_SCARCE: Buyer.held_scarce,
    Scenario.PAID_TWICE: Buyer.paid_twice,
    Scenario.REFERENCE_OF_ANOTHER: Buyer.reference_of_another,
    Scenario.TORN: Buyer.torn,
    Scenario.TOO_LATE: Buyer.too_late,
    Scenario.CANCELLED: Buyer.cancelled,
    Scenario.MADE_ROOM: Buyer.made_room,
    Scenario.BRIEF: Buyer.brief,
}
