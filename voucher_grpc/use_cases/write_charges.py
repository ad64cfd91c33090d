"""AuthorizeCharge, CaptureCharge, ReleaseCharge and ReverseCapture: one transaction for all that
waited.

As with purchases the users' rows are locked first, so that all that happens to a user's passes
comes one after the other, on whichever server (store/pass_locks.py). What is judged is read after
that by statements of their own. A charge whose reservation is over is ended before anything else of
its user is judged: reservations count by their instant, whether or not that was noted.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from uuid import UUID
from zoneinfo import ZoneInfo

from voucher_grpc.domain.passes.state import Pass, PassWithTerms
from voucher_grpc.domain.pricing.engine import Pricer
from voucher_grpc.domain.pricing.remarks import remarks
from voucher_grpc.domain.redemption.authorize import (
    Authorization,
    Authorized,
    PlaceTerms,
    ReservationLimits,
    authorize,
)
from voucher_grpc.domain.redemption.capture import (
    Captured,
    Cdr,
    PricedCdr,
    capture,
    ended,
    expired,
    release,
    reverse,
)
from voucher_grpc.domain.redemption.charge import CdrKey, Charge, ChargeStatus
from voucher_grpc.domain.redemption.effects import effects
from voucher_grpc.errors import Reason, Refusal
from voucher_grpc.money import BASIS_POINTS
from voucher_grpc.runtime.clock import DatabaseClock
from voucher_grpc.runtime.event_loop_share import EventLoopShare
from voucher_grpc.store.catalogue import RevisionCache
from voucher_grpc.store.charges import (
    ChargeLookups,
    ChargeWrites,
    Entry,
    due_users,
    read_charges,
    read_passes_by_key,
    read_user_passes,
    write_charges,
)
from voucher_grpc.store.dedicated_connection import DedicatedConnection
from voucher_grpc.store.driver import Connection, by_index
from voucher_grpc.store.pass_locks import Key, lock_users
from voucher_grpc.use_cases.batch_retries import run_with_retries
from voucher_grpc.use_cases.charge_places import ChargePlaces


@dataclass(frozen=True, slots=True)
class Release:
    """One call of ReleaseCharge, by the operator of the charge's place."""

    user_id: str
    charge_id: UUID
    country_code: str
    party_id: str

    @property
    def party(self) -> tuple[str, str]:
        return self.country_code, self.party_id


@dataclass(frozen=True, slots=True)
class Reversal:
    """One call of ReverseCapture: an OCPI credit CDR names the CDR that it cancels."""

    user_id: str
    cdr: CdrKey


ChargeRequest = Authorization | Cdr | Release | Reversal
ChargeAnswer = Authorized | Charge


@dataclass(slots=True)
class _State:
    """The locked state of a batch; judging moves it on."""

    charges: dict[Key, Charge]
    passes: dict[str, dict[UUID, PassWithTerms]]
    now: datetime
    written: ChargeWrites = field(default_factory=ChargeWrites)
    _by_cdr: dict[tuple[str, str], Key] = field(init=False, default_factory=dict)
    _by_session: dict[tuple[str, str], Key] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        for charge in self.charges.values():
            self._index(charge)

    def of(self, user_id: str) -> list[PassWithTerms]:
        return list(self.passes.get(user_id, {}).values())

    def captured_by(self, user_id: str, cdr: CdrKey) -> Charge | None:
        """The charge that a CDR has captured, reversed or not."""
        return self._find(self._by_cdr.get((user_id, cdr.compared)))

    def of_session(self, user_id: str, session: str) -> Charge | None:
        """The charge that a session's CDR has captured, and none has reversed."""
        found = self._find(self._by_session.get((user_id, session)))
        return found if found is not None and found.status is ChargeStatus.CAPTURED else None

    def _find(self, key: Key | None) -> Charge | None:
        return None if key is None else self.charges[key]

    def _index(self, charge: Charge) -> None:
        """A batch may have hundreds of captures: none looks through all charges."""
        if charge.cdr_id:
            self._by_cdr[charge.user_id, charge.cdr.compared] = charge.key
        if charge.status is ChargeStatus.CAPTURED:
            self._by_session[charge.user_id, charge.session] = charge.key

    def change(self, after: Charge) -> None:
        """Note what becomes of a charge and of its passes."""
        before, owned = self.charges.get(after.key), self.passes.get(after.user_id, {})
        known = {pass_id: one.owned for pass_id, one in owned.items()}
        after = replace(after, uses=tuple(use for use in after.uses if use.pass_id in known))
        for effect in effects(before, after, known):
            one = effect.after
            count = known[one.pass_id].ledger_entries
            for number, (kind, amounts) in enumerate(effect.entries, count + 1):
                entry = Entry(one.pass_id, number, kind, amounts.energy_wh, amounts.sessions)
                self.written.entries.append((after.user_id, entry))
            for event in effect.events:
                self.written.events.append((after.user_id, event, one.pass_id))
            self._keep(one)
            if after.status in (ChargeStatus.CAPTURED, ChargeStatus.REVERSED):
                self.written.passes[one.key] = one
        self.charges[after.key] = self.written.charges[after.key] = after
        self._index(after)

    def start(self, owned: Pass) -> None:
        """Note the validity that begins with a pass's first use."""
        known = self.passes[owned.user_id][owned.pass_id].owned
        after = replace(known, period=owned.period)
        self._keep(after)
        self.written.passes[after.key] = after

    def _keep(self, owned: Pass) -> None:
        of_user = self.passes[owned.user_id]
        of_user[owned.pass_id] = PassWithTerms(owned, of_user[owned.pass_id].terms)


class ChargeWriter:
    """Judges and writes batches, one transaction a batch."""

    def __init__(
        self,
        dedicated: DedicatedConnection,
        clock: DatabaseClock,
        revisions: RevisionCache,
        share: EventLoopShare,
        limits: ReservationLimits,
        places: ChargePlaces,
    ) -> None:
        self._dedicated = dedicated
        self._clock = clock
        self._revisions = revisions
        self._share = share
        self._limits = limits
        self._places = places

    async def write(
        self, requests: Sequence[ChargeRequest]
    ) -> Sequence[ChargeAnswer | BaseException]:
        """The answer or the refusal of each."""
        return await run_with_retries(requests, self._run)

    async def end_expired(self, limit: int) -> bool:
        """Give back what is reserved for charges whose time has passed; whether more may wait.

        Any server may do it, and several at once: the users' locks decide.
        """

        async def work(connection: Connection) -> int:
            due = await due_users(connection, limit)
            if due:
                await self._batch(connection, [], sorted(set(due)))
            return len(due)

        return await self._dedicated.run(work) == limit

    async def _run(
        self, requests: Sequence[ChargeRequest]
    ) -> Sequence[ChargeAnswer | BaseException]:
        return await self._dedicated.run(lambda connection: self._batch(connection, requests))

    async def _batch(
        self,
        connection: Connection,
        requests: Sequence[ChargeRequest],
        others: Sequence[str] = (),
    ) -> Sequence[ChargeAnswer | BaseException]:
        """`others` are users of whom nothing is asked but that what is over is ended."""
        placed = await self._places.find(
            connection, [r for r in requests if isinstance(r, Authorization | Cdr)]
        )
        priced = await self._priced(connection, [r for r in requests if isinstance(r, Cdr)], placed)
        async with by_index(connection):
            users = sorted({*others, *(r.user_id for r in requests)})
            # Who only gives back has been here before.
            new = [r.user_id for r in requests if isinstance(r, Authorization | Cdr)]
            sequences, _ = await lock_users(connection, new, users)
            now = self._clock.now()
            state = await self._read(connection, requests, users, now)
            self._end_expired(state)
            answers = [self._judge(r, placed, priced, state) for r in requests]
            await write_charges(connection, state.written, sequences, now)
        return answers

    async def _priced(
        self,
        connection: Connection,
        cdrs: Sequence[Cdr],
        placed: Mapping[int, PlaceTerms | Refusal],
    ) -> Mapping[int, PricedCdr | Refusal]:
        """By the identity of the CDR what its charge costs without passes.

        Before the locks: a charge keeps the tariff that it was authorized with.
        """
        keys = [(cdr.user_id, cdr.charge_id) for cdr in cdrs if cdr.charge_id is not None]
        known = await read_charges(connection, ChargeLookups(keys, ()), (), _NEVER) if keys else {}
        found: dict[int, PricedCdr | Refusal] = {}
        for cdr in cdrs:
            at = placed[id(cdr)]
            charge = None if cdr.charge_id is None else known.get((cdr.user_id, cdr.charge_id))
            found[id(cdr)] = at if isinstance(at, Refusal) else await self._price(cdr, at, charge)
        return found

    async def _price(
        self, cdr: Cdr, placed: PlaceTerms, charge: Charge | None
    ) -> PricedCdr | Refusal:
        tariff, time_zone, tax = placed.priced
        if charge is not None:
            tariff, time_zone, tax = charge.tariff, charge.time_zone, charge.tax_basis_points
        if tariff is None:
            return Refusal(
                Reason.TARIFF_NOT_FOUND, "no tariff is known for the place at the charge's start"
            )
        periods = cdr.periods
        rate = None if tax is None else Fraction(tax, BASIS_POINTS)
        pricer = Pricer(tariff, ZoneInfo(time_zone), rate)
        price = await self._share.run(pricer.priced(periods))
        said = tuple((w.remark.value, w.text) for w in remarks(tariff, periods, price))
        return PricedCdr(cdr, placed.where, tariff, time_zone, tax, price, said)

    async def _read(
        self,
        connection: Connection,
        requests: Sequence[ChargeRequest],
        users: Sequence[str],
        now: datetime,
    ) -> _State:
        charges = await read_charges(connection, _asked(requests), users, now)
        starts = [r.start_time for r in requests if isinstance(r, Cdr)]
        since = min([now - _TOLD_AS_EXPIRED, *starts])
        owned = await read_user_passes(connection, users, since)
        used = await self._used_elsewhere(connection, charges.values(), owned)
        for one in used:
            owned.setdefault(one.user_id, []).append(one)
        terms = await self._revisions.terms(
            connection,
            {(p.product_id, p.product_revision) for passes in owned.values() for p in passes},
        )
        passes = {
            user_id: {
                p.pass_id: PassWithTerms(p, terms[p.product_id, p.product_revision]) for p in some
            }
            for user_id, some in owned.items()
        }
        return _State(charges, passes, now)

    async def _used_elsewhere(
        self,
        connection: Connection,
        charges: Iterable[Charge],
        owned: Mapping[str, Sequence[Pass]],
    ) -> Sequence[Pass]:
        """The passes that charges have something of, and that are not open any more."""
        read = {p.key for passes in owned.values() for p in passes}
        missing = sorted({(c.user_id, use.pass_id) for c in charges for use in c.uses} - read)
        if not missing:
            return []
        return await read_passes_by_key(connection, missing)

    def _end_expired(self, state: _State) -> None:
        over = [c for c in state.charges.values() if expired(c, state.now)]
        for charge in over:
            state.change(ended(charge, ChargeStatus.EXPIRED))

    def _judge(
        self,
        request: ChargeRequest,
        placed: Mapping[int, PlaceTerms | Refusal],
        priced: Mapping[int, PricedCdr | Refusal],
        state: _State,
    ) -> ChargeAnswer | Refusal:
        match request:
            case Authorization():
                at = placed[id(request)]
                return at if isinstance(at, Refusal) else self._authorize(request, at, state)
            case Cdr():
                return _capture(request, priced[id(request)], state)
            case Release():
                before = state.charges.get((request.user_id, request.charge_id))
                if before is not None and request.party != before.place[:2]:
                    before = None
                return _changed(before, release(before), state)
            case Reversal():
                before = state.captured_by(request.user_id, request.cdr)
                return _changed(before, reverse(before), state)

    def _authorize(
        self, asked: Authorization, placed: PlaceTerms, state: _State
    ) -> Authorized | Refusal:
        known = state.charges.get((asked.user_id, asked.charge_id))
        found = authorize(asked, placed, known, state.of(asked.user_id), state.now, self._limits)
        if isinstance(found, Authorized) and found.written and found.charge is not None:
            state.change(found.charge)
        return found


# So long after its end a pass is still the reason that a user is told.
_TOLD_AS_EXPIRED = timedelta(days=30)
_NEVER = datetime.min.replace(tzinfo=UTC)


def _capture(cdr: Cdr, priced: PricedCdr | Refusal, state: _State) -> ChargeAnswer | Refusal:
    if isinstance(priced, Refusal):
        return priced
    found = capture(
        priced,
        None if cdr.charge_id is None else state.charges.get((cdr.user_id, cdr.charge_id)),
        state.captured_by(cdr.user_id, cdr.key),
        state.of_session(cdr.user_id, cdr.session),
        state.of(cdr.user_id),
    )
    if isinstance(found, Captured) and found.written:
        state.change(found.charge)
        for owned in found.started:
            state.start(owned)
    return found.charge if isinstance(found, Captured) else found


def _changed(before: Charge | None, found: Charge | Refusal, state: _State) -> Charge | Refusal:
    if isinstance(found, Charge) and found is not before:
        state.change(found)
    return found


def _asked(requests: Sequence[ChargeRequest]) -> ChargeLookups:
    keys: list[Key] = []
    cdrs: list[tuple[str, str, str]] = []
    for request in requests:
        match request:
            case Authorization() | Release():
                keys.append((request.user_id, request.charge_id))
            case Cdr():
                cdrs.append((request.user_id, request.key.compared, request.session))
                if request.charge_id is not None:
                    keys.append((request.user_id, request.charge_id))
                keys.append((request.user_id, request.new_charge_id))
            case Reversal(user_id, key):
                cdrs.append((user_id, key.compared, ""))
    return ChargeLookups(keys, cdrs)
