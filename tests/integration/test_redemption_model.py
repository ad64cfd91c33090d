"""Charges in any order against a model that knows nothing but sums."""

import itertools
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import Service
from tests.integration.shop import buy, create, fetch, outcome, signed_offer
from tests.integration.test_redemption import (
    MICROS,
    authorize,
    cdr,
    get_pass,
    moment,
    release,
    reverse,
    station,
)
from voucher_grpc.client import Client
from voucher_grpc.v1 import redemption_service_pb2 as pb
from voucher_grpc.v1.pass_pb2 import Pass, PassState

BUNDLE_KWH = 50
NUMBERS = itertools.count()
Step = tuple[str, int, int]
KINDS = ("authorize", "capture", "capture_unannounced", "release", "reverse", "again")
STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["authorize", "capture", "capture_unannounced", "release", "reverse", "again"]
        ),
        st.integers(0, 5),
        st.integers(1, 30),
    ),
    min_size=1,
    max_size=12,
)


@dataclass
class Known:
    """A charge as the model has it, kWh."""

    reserved: int = 0
    taken: int = 0
    captured: bool = False
    reversed: bool = False
    reference: str = ""
    request: Any = None


@dataclass
class Model:
    """A bundle and its charges."""

    charges: list[Known] = field(default_factory=list)

    @property
    def available(self) -> int:
        return BUNDLE_KWH - sum(c.reserved + c.taken for c in self.charges)

    @property
    def reserved(self) -> int:
        return sum(c.reserved for c in self.charges)

    def capture(self, of: Known | None, kwh: int) -> Known:
        """What was captured before stays: another CDR of it is another charge."""
        if of is None or of.captured:
            of = Known()
            self.charges.append(of)
        of.taken = min(kwh, self.available + of.reserved)
        of.reserved, of.captured = 0, True
        return of


class Street:
    """The real service, asked for what the model does."""

    def __init__(self, client: Client, user_id: str, place: str) -> None:
        self.client, self.user_id, self.place, self.model = client, user_id, place, Model()

    def pick(self, number: int) -> Known | None:
        charges = self.model.charges
        return charges[number % len(charges)] if charges else None

    async def do(self, step: Step) -> None:
        kind, number, kwh = step
        if kind == "authorize":
            await self.authorize(kwh)
        elif kind == "capture_unannounced":
            await self.capture(None, kwh)
        elif (known := self.pick(number)) is not None:
            await {
                "capture": lambda: self.capture(known, kwh),
                "release": lambda: self.release(known),
                "reverse": lambda: self.reverse(known),
                "again": lambda: self.again(known),
            }[kind]()

    async def authorize(self, kwh: int) -> None:
        expected = min(kwh, self.model.available)
        answer = await authorize(self.client, self.user_id, self.place, energy_wh=kwh * 1_000)
        if not expected:
            assert pb.ALLOWED_TYPE_NO_CREDIT == answer.allowed
            return
        assert [expected * 1_000] == [p.energy_wh for p in answer.passes]
        known = Known(expected, reference=answer.authorization_reference)
        self.model.charges.append(known)

    async def capture(self, known: Known | None, kwh: int) -> None:
        request = cdr(self.user_id, self.place, [kwh], moment())
        request.authorization_reference = known.reference if known is not None else ""
        captured = self.model.capture(known, kwh)
        charge = (await self.client.call(self.client.redemption.CaptureCharge, request)).charge
        captured.request, captured.reference = request, charge.authorization_reference
        assert captured.taken * 1_000 == sum(p.energy_wh for p in charge.passes)
        # 4 for each kWh that is not covered, and 5 for the session.
        left = (kwh - captured.taken) * 4 + 5
        assert left * MICROS == charge.total_cost.after_tax_micros

    async def release(self, known: Known) -> None:
        found = await outcome(release(self.client, self.user_id, known.reference))
        assert known.captured == (found == "CHARGE_CAPTURED")
        known.reserved = 0

    async def reverse(self, known: Known) -> None:
        if known.captured:
            found = await reverse(self.client, self.user_id, known.request.cdr_id)
            assert pb.CHARGE_STATUS_REVERSED == found.status
            known.taken, known.reversed = 0, True

    async def again(self, known: Known) -> None:
        """The same CDR is the same bill, also once it is reversed."""
        if known.captured:
            call = self.client.redemption.CaptureCharge
            charge = (await self.client.call(call, known.request)).charge
            assert known.reference == charge.authorization_reference

    async def check(self, one: Pass) -> None:
        found, model = await get_pass(self.client, one), self.model
        assert model.available * 1_000 == found.balance.energy_wh
        assert model.reserved * 1_000 == found.balance.reserved_energy_wh
        used_up = model.available + model.reserved == 0
        assert used_up == (found.state == PassState.PASS_STATE_EXHAUSTED)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=STEPS)
async def test_whatever_happens_the_balance_is_what_a_model_says(
    shared_service: Service, unique: str, steps: list[Step]
) -> None:
    """After each step; and the ledger never goes below zero on the way."""
    client = shared_service.client
    number = next(NUMBERS)
    user_id, place = f"{unique}-{number}", unique
    await station(shared_service, place)
    product = await create(
        client, user_id, benefit={"energy_bundle_kwh": BUNDLE_KWH}, price="100.00 NOK"
    )
    one = await buy(client, signed_offer(product, user_id))
    street = Street(client, user_id, place)
    for step in steps:
        await street.do(step)
        await street.check(one)
    sums = await fetch(
        shared_service.database_url,
        """SELECT min(total) AS least, max(total) AS greatest FROM (
            SELECT sum(energy_wh) OVER (ORDER BY entry_number) AS total
            FROM ledger_entries WHERE user_id = $1) s""",
        user_id,
    )
    assert 0 <= sums[0]["least"] <= sums[0]["greatest"] == BUNDLE_KWH * 1_000
