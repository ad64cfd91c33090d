"""The rules of AuthorizeCharge: pure, against a state that the batch has locked.

In their order:

1. the key: the same request_id with the same content is the same charge, other content is
   refused;
2. the place has a tariff, or there is nothing to price the charge by;
3. the user's passes, in their order (`usable.usage_order`), or the one that was named: each that
   is usable here and now, and not used up, is taken until the amount asked for is reserved;
4. without one, whether the charge may be paid by the tariff.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

from voucher_grpc.domain.catalogue.conditions import asks_for_connector
from voucher_grpc.domain.catalogue.product import EnergyBundle, FlatPeriod, SessionBundle
from voucher_grpc.domain.passes.state import PassWithTerms
from voucher_grpc.domain.places.location import VehicleProfile
from voucher_grpc.domain.pricing.tariff import Tariff
from voucher_grpc.domain.redemption.charge import (
    NOTHING_REQUESTED,
    Charge,
    ChargeStatus,
    PassUse,
    Requested,
    charge_id_for,
    content_digest,
)
from voucher_grpc.domain.redemption.usable import (
    Allowed,
    ChargePlace,
    Condition,
    Rejection,
    permitted_evses,
    rejection,
    usage_order,
)
from voucher_grpc.errors import Reason, Refusal
from voucher_grpc.ocpi import PlaceKey


class Priced(NamedTuple):
    """What prices a charge at a place; `tariff` None: nothing does."""

    tariff: Tariff | None
    time_zone: str
    tax_basis_points: int | None


class PlaceTerms(NamedTuple):
    """The place of a charge, and what prices it there."""

    where: ChargePlace
    priced: Priced


@dataclass(frozen=True, slots=True)
class Authorization:
    """One call of AuthorizeCharge. `start_time` None: now."""

    user_id: str
    request_id: UUID
    place: PlaceKey
    vehicle: VehicleProfile
    start_time: datetime | None = None
    requested: Requested = NOTHING_REQUESTED
    named_pass: UUID | None = None
    pay_as_you_go_allowed: bool = False
    validate_only: bool = False

    @property
    def charge_id(self) -> UUID:
        return charge_id_for(self.user_id, self.request_id.bytes)

    @property
    def content(self) -> bytes:
        """A digest of what must be the same under the same key."""
        return content_digest(
            tuple(self.place),
            self.vehicle,
            self.start_time,
            tuple(self.requested),
            self.named_pass,
            self.pay_as_you_go_allowed,
        )


@dataclass(frozen=True, slots=True)
class Authorized:
    """The answer. `charge` is None where the charge is not allowed; `condition` is why no pass is
    used. The passes are good at `evse_uids` only, if there are any. `written`: whether it is a new
    charge that is to be stored."""

    allowed: Allowed
    condition: Condition | None
    charge: Charge | None
    evse_uids: tuple[str, ...] = ()
    written: bool = False


@dataclass(frozen=True, slots=True)
class ReservationLimits:
    """What the configuration says of authorizations."""

    lifetime: timedelta
    # Reserved where the station does not say how much it needs.
    energy_cap_wh: int


def authorize(
    asked: Authorization,
    placed: PlaceTerms,
    known: Charge | None,
    passes: Sequence[PassWithTerms],
    now: datetime,
    limits: ReservationLimits,
) -> Authorized | Refusal:
    """The answer to one call. `passes` are the user's, their balances without what is reserved;
    `known` is the charge of the same key."""
    if known is not None:
        if known.content != asked.content:
            return Refusal(
                Reason.REQUEST_ID_REUSED, "request_id was used for a charge with other content"
            )
        condition = Condition(known.condition) if known.condition else None
        return Authorized(Allowed.ALLOWED, condition, known, _evses(placed.where, known, passes))
    tariff = placed.priced.tariff
    if tariff is None:
        return Authorized(Allowed.NOT_ALLOWED, Condition.NO_TARIFF, None)
    usable, why = _usable(asked, placed, passes, now)
    uses = _reserved(usable, asked.requested.energy_wh or limits.energy_cap_wh)
    if not uses and not asked.pay_as_you_go_allowed:
        return Authorized(why.allowed, why.condition, None)
    charge = Charge(
        user_id=asked.user_id,
        charge_id=asked.charge_id,
        status=ChargeStatus.AUTHORIZED,
        content=asked.content,
        place=asked.place,
        tariff=tariff,
        time_zone=placed.priced.time_zone,
        tax_basis_points=placed.priced.tax_basis_points,
        authorize_time=now,
        expire_time=now + limits.lifetime,
        requested=asked.requested,
        pay_as_you_go=asked.pay_as_you_go_allowed,
        named_pass=asked.named_pass,
        uses=uses,
        condition="" if uses else why.condition.value,
    )
    evse_uids = _evses(placed.where, charge, passes)
    condition = None if uses else why.condition
    return Authorized(
        Allowed.ALLOWED, condition, charge, evse_uids, written=not asked.validate_only
    )


def _evses(where: ChargePlace, charge: Charge, passes: Sequence[PassWithTerms]) -> tuple[str, ...]:
    """Those at which the passes of the charge may be used; none where that is any."""
    used = {use.pass_id for use in charge.uses}
    selectors = [one.terms.conditions.selectors for one in passes if one.owned.pass_id in used]
    asking = [s for s in selectors if asks_for_connector(s)]
    if not asking or len(asking) < len(selectors):
        return ()
    return tuple(sorted({uid for s in asking for uid in permitted_evses(s, where)}))


# The reason that a caller is told, where each pass has another one: the one nearest to a use.
_NEAREST = (Allowed.NOT_ALLOWED, Allowed.NO_CREDIT, Allowed.BLOCKED, Allowed.EXPIRED)


def _usable(
    asked: Authorization, placed: PlaceTerms, passes: Sequence[PassWithTerms], now: datetime
) -> tuple[list[PassWithTerms], Rejection]:
    """(the passes that can be used, in their order; why no other can)."""
    at, zone = asked.start_time or now, ZoneInfo(placed.priced.time_zone)
    named = [p for p in passes if asked.named_pass in (None, p.owned.pass_id)]
    usable, rejections = [], []
    tariff = placed.priced.tariff
    currency_code = "" if tariff is None else tariff.currency_code
    for one in usage_order(named):
        if one.terms.price.currency_code != currency_code:
            continue  # its prices say nothing here
        found = rejection(one, placed.where, at, zone)
        if found is None:
            usable.append(one)
        else:
            rejections.append(found)
    nearest = min(rejections, key=lambda o: _NEAREST.index(o.allowed), default=None)
    return usable, nearest or Rejection(Allowed.NOT_ALLOWED, Condition.NO_PASS)


def _reserved(usable: Sequence[PassWithTerms], energy_wh: int) -> tuple[PassUse, ...]:
    """What is reserved: of bundles until the energy is covered; what has no balance covers all."""
    uses: list[PassUse] = []
    for one in usable:
        if energy_wh <= 0:
            break
        owned = one.owned
        match one.terms.benefit:
            case EnergyBundle() | FlatPeriod():
                part_wh = min(energy_wh, owned.balance.energy_wh or 0)
                uses.append(PassUse(owned.pass_id, reserved_energy_wh=part_wh))
                energy_wh -= part_wh
            case SessionBundle(max_energy_wh_per_session=cap_wh):
                uses.append(PassUse(owned.pass_id, reserved_sessions=1, of_balance=False))
                energy_wh = energy_wh - cap_wh if cap_wh else 0
            case _:
                uses.append(PassUse(owned.pass_id, of_balance=False))
                energy_wh = 0
    return tuple(uses)
