"""The rules of CaptureCharge, ReleaseCharge and ReverseCapture: pure, against a locked state.

A capture, in this order:

1. its CDR: captured already with the same content, it is the same answer; with other content it is
   refused, since an operator corrects a CDR by a credit (OCPI 2.2.1, 10.3.1, `credit`);
2. its session: captured by another CDR that has not been credited, it is refused;
3. the authorization, if it names one: of the same operator and location;
4. the passes: those of the authorization in their order, then, unless the station named one,
   the user's others in theirs. Each must be valid at the charge's start, and covers the periods in
   which its conditions hold, as far as its balance reaches now. What is reserved for this charge
   is part of that; whether the reservation has expired makes no difference.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from fractions import Fraction
from uuid import UUID
from zoneinfo import ZoneInfo

from voucher_grpc.domain.catalogue.product import (
    EnergyBundle,
    FlatPeriod,
    ValidityPeriod,
    ValidityStart,
    validity_end,
)
from voucher_grpc.domain.passes.state import Pass, PassWithTerms
from voucher_grpc.domain.places.location import VehicleProfile
from voucher_grpc.domain.pricing.amounts import Amount
from voucher_grpc.domain.pricing.applicable import conditions_hold_in
from voucher_grpc.domain.pricing.charge import Period, Quantity
from voucher_grpc.domain.pricing.engine import ChargePrice
from voucher_grpc.domain.pricing.tariff import Tariff
from voucher_grpc.domain.pricing.with_passes import UsedPass, price_with_passes
from voucher_grpc.domain.redemption.charge import (
    NOTHING_REQUESTED,
    Bill,
    CdrKey,
    Charge,
    ChargeStatus,
    PassUse,
    charge_id_for,
    compared,
    content_digest,
)
from voucher_grpc.domain.redemption.usable import (
    ChargePlace,
    place_rejection,
    usage_order,
    valid_at,
)
from voucher_grpc.errors import Reason, Refusal
from voucher_grpc.money import Money, round_half_away
from voucher_grpc.ocpi import PlaceKey, folded


@dataclass(frozen=True, slots=True)
class Cdr:
    """A finished charge as its operator tells it."""

    user_id: str
    charge_id: UUID | None
    place: PlaceKey
    vehicle: VehicleProfile
    session_id: str
    cdr_id: str
    start_time: datetime
    end_time: datetime
    periods: tuple[Period, ...]
    operator_cost: Money | None = None

    @property
    def content(self) -> bytes:
        """A digest of what must be the same under the same CDR."""
        return content_digest(
            self.charge_id,
            tuple(self.place),
            self.session_id,
            self.start_time,
            self.end_time,
            [(p.start, sorted(p.volumes.items()), p.power, p.current) for p in self.periods],
            self.operator_cost,
        )

    @property
    def key(self) -> CdrKey:
        """By which it is known."""
        return CdrKey(self.place.country_code, self.place.party_id, self.cdr_id)

    @property
    def session(self) -> str:
        """Its session as it is compared."""
        return compared(self.place.country_code, self.place.party_id, self.session_id)

    @property
    def new_charge_id(self) -> UUID:
        """Of a charge that was not authorized: its CDR is its key."""
        return charge_id_for(self.user_id, self.key.compared.encode())


@dataclass(frozen=True, slots=True)
class PricedCdr:
    """A CDR with its price without passes, by the tariff that prices it."""

    cdr: Cdr
    where: ChargePlace
    tariff: Tariff
    time_zone: str
    tax_basis_points: int | None
    price: ChargePrice
    remarks: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Captured:
    """The charge as captured, and the passes whose validity begins with it."""

    charge: Charge
    started: tuple[Pass, ...] = ()
    written: bool = True


def capture(
    asked: PricedCdr,
    authorized: Charge | None,
    of_cdr: Charge | None,
    of_session: Charge | None,
    passes: Sequence[PassWithTerms],
) -> Captured | Refusal:
    """The charge that a CDR makes. `authorized` is the one it names, `of_cdr` and `of_session`
    are those that were captured by the same CDR and the same session. The passes' balances are
    without what is reserved."""
    cdr = asked.cdr
    if of_cdr is not None:
        if of_cdr.capture_content == cdr.content:
            return Captured(of_cdr, written=False)
        return Refusal(
            Reason.CDR_CONFLICT,
            f"CDR {cdr.cdr_id} was captured with other content: credit it first",
        )
    if of_session is not None:
        return Refusal(
            Reason.SESSION_CAPTURED,
            f"session {cdr.session_id} was captured by CDR {of_session.cdr_id}: credit it first",
        )
    if cdr.charge_id is not None:
        if authorized is None:
            return charge_not_found()
        refused = _of_another_place(cdr, authorized)
        if refused is not None:
            return refused
    base = _base(asked, authorized)
    used = _used_passes(asked, authorized, passes)
    uses, total = _with_passes(asked, base, used)
    charge = replace(
        base,
        status=ChargeStatus.CAPTURED,
        uses=_all_uses(base, uses),
        session_id=cdr.session_id,
        cdr_id=cdr.cdr_id,
        capture_content=cdr.content,
        bill=_bill(asked, total),
    )
    started = [
        first_use(one, cdr.start_time)
        for one, use in zip(used, uses, strict=True)
        if use.energy_wh or use.sessions or use.saved_micros
    ]
    return Captured(charge, tuple(owned for owned in started if owned is not None))


def charge_not_found() -> Refusal:
    """Of a charge that is not the user's, or is not there."""
    return Refusal(Reason.CHARGE_NOT_FOUND, "the user has no such charge")


def _of_another_place(cdr: Cdr, authorized: Charge) -> Refusal | None:
    asked, was = cdr.place, authorized.place
    if (asked.country_code, asked.party_id) != (was.country_code, was.party_id):
        return charge_not_found()
    if folded(asked.location_id) != folded(was.location_id):
        return Refusal(
            Reason.CHARGE_AT_ANOTHER_PLACE,
            f"the charge was authorized at location {was.location_id}",
        )
    return None


def _base(asked: PricedCdr, authorized: Charge | None) -> Charge:
    """The charge before its capture. One that was captured and reversed stays as it is: what
    replaces it is another."""
    cdr = asked.cdr
    if authorized is not None and authorized.status not in (
        ChargeStatus.CAPTURED,
        ChargeStatus.REVERSED,
    ):
        return authorized
    return Charge(
        user_id=cdr.user_id,
        charge_id=cdr.new_charge_id,
        status=ChargeStatus.AUTHORIZED,
        content=b"",
        place=cdr.place,
        tariff=asked.tariff,
        time_zone=asked.time_zone,
        tax_basis_points=asked.tax_basis_points,
        authorize_time=cdr.start_time,
        expire_time=None,
        requested=NOTHING_REQUESTED,
        pay_as_you_go=True,
        named_pass=None if authorized is None else authorized.named_pass,
    )


def _used_passes(
    asked: PricedCdr, authorized: Charge | None, passes: Sequence[PassWithTerms]
) -> list[PassWithTerms]:
    """In their order, those that may cover anything of the charge."""
    cdr = asked.cdr
    by_id = {one.owned.pass_id: one for one in passes}
    reserved = [] if authorized is None else [use.pass_id for use in authorized.uses]
    named = None if authorized is None else authorized.named_pass
    first = [by_id[pass_id] for pass_id in reserved if pass_id in by_id]
    others = [
        one
        for one in usage_order(passes)
        if one.owned.pass_id not in reserved and named in (None, one.owned.pass_id)
    ]
    return [
        one
        for one in (*first, *others)
        if one.terms.price.currency_code == asked.tariff.currency_code
        and valid_at(one, cdr.start_time) is None
        and place_rejection(one.terms, asked.where) is None
    ]


def _with_passes(
    asked: PricedCdr, base: Charge, used: Sequence[PassWithTerms]
) -> tuple[list[PassUse], Amount]:
    """(what is taken from each pass, what is left to pay)."""
    zone = ZoneInfo(asked.time_zone)
    reserved = {use.pass_id: use for use in base.uses}
    covering = []
    for one in used:
        own = reserved.get(one.owned.pass_id, PassUse(one.owned.pass_id))
        balance = one.owned.balance
        inside = [
            conditions_hold_in(one.terms.conditions, period.period, zone)
            for period in asked.price.periods
        ]
        covering.append(
            UsedPass(
                one.terms.benefit,
                _plus(balance.energy_wh, own.reserved_energy_wh),
                _plus(balance.sessions, own.reserved_sessions),
                inside,
            )
        )
    found = price_with_passes(asked.price, covering)
    uses = [
        PassUse(
            one.owned.pass_id,
            energy_wh=taken.energy_wh,
            sessions=taken.sessions,
            saved_micros=round_half_away(taken.saved),
            of_balance=isinstance(one.terms.benefit, EnergyBundle | FlatPeriod),
        )
        for one, taken in zip(used, found.taken, strict=True)
    ]
    return uses, found.total


def _plus(balance: int | None, reserved: int) -> int | None:
    return None if balance is None else balance + reserved


def _all_uses(base: Charge, uses: Sequence[PassUse]) -> tuple[PassUse, ...]:
    """Those that took something, and those that were reserved and now are not."""
    reserved = {use.pass_id for use in base.uses}
    return tuple(
        use
        for use in (
            *uses,
            *(PassUse(p) for p in sorted(reserved - {use.pass_id for use in uses})),
        )
        if use.pass_id in reserved or use.energy_wh or use.sessions or use.saved_micros
    )


def _bill(asked: PricedCdr, total: Amount) -> Bill:
    cdr, price = asked.cdr, asked.price
    volumes = [p.period.volumes.get(Quantity.ENERGY, Fraction(0)) for p in price.periods]
    return Bill(
        start_time=cdr.start_time,
        end_time=cdr.end_time,
        energy_wh=round_half_away(sum(volumes, Fraction(0))),
        total=_rounded(total),
        pay_as_you_go=_rounded(price.total),
        operator_cost=cdr.operator_cost,
        remarks=asked.remarks,
    )


def _rounded(amount: Amount) -> tuple[int, int]:
    return round_half_away(amount.before_tax), round_half_away(amount.after_tax)


def first_use(one: PassWithTerms, at: datetime) -> Pass | None:
    """The pass with the validity that begins with its first use, if this is it."""
    owned, validity = one.owned, one.terms.validity
    if validity.start is not ValidityStart.FIRST_USE or owned.period.start_time is not None:
        return None
    end = validity_end(validity, at, ZoneInfo(owned.time_zone))
    return replace(owned, period=ValidityPeriod(at, end))


def release(charge: Charge | None) -> Charge | Refusal:
    """The charge with its reservation given back; one that has ended stays as it is."""
    if charge is None:
        return charge_not_found()
    if charge.status is ChargeStatus.AUTHORIZED:
        return ended(charge, ChargeStatus.RELEASED)
    if charge.status in (ChargeStatus.RELEASED, ChargeStatus.EXPIRED):
        return charge
    return Refusal(Reason.CHARGE_CAPTURED, "the charge was captured: reverse that instead")


def reverse(charge: Charge | None) -> Charge | Refusal:
    """The charge with what it took given back, once."""
    if charge is None:
        return Refusal(Reason.CDR_NOT_FOUND, "no capture by this CDR is known")
    if charge.status is ChargeStatus.REVERSED:
        return charge
    return ended(charge, ChargeStatus.REVERSED)


def expired(charge: Charge, now: datetime) -> bool:
    """Whether what is reserved is free again, whether or not that has been noted."""
    return (
        charge.status is ChargeStatus.AUTHORIZED
        and charge.expire_time is not None
        and now >= charge.expire_time
    )


def ended(charge: Charge, status: ChargeStatus) -> Charge:
    """The charge with nothing reserved or taken any more."""
    uses = tuple(PassUse(use.pass_id, of_balance=use.of_balance) for use in charge.uses)
    return replace(charge, status=status, uses=uses)
