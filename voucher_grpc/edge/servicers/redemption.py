"""RedemptionService: passes are used at charging stations."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import grpc

from voucher_grpc.domain.redemption.authorize import Authorization, Authorized
from voucher_grpc.domain.redemption.capture import Cdr
from voucher_grpc.domain.redemption.charge import Charge
from voucher_grpc.domain.redemption.token import Token
from voucher_grpc.domain.redemption.usable import Allowed, Condition
from voucher_grpc.edge.servicers.listing import Lists, Row, row
from voucher_grpc.edge.wire.checks import Checks
from voucher_grpc.edge.wire.pages import Page
from voucher_grpc.edge.wire.paging import instant_and_id, read_page_token
from voucher_grpc.edge.wire.places import profile_from_message
from voucher_grpc.edge.wire.redemption import (
    MAX_CDR_ID_CHARS,
    ChargeUser,
    authorized_message,
    cdr_key_from_message,
    charge_message,
    charge_uuid,
    operator_cost_from_message,
    party_from_message,
    pass_uuid,
    periods_from_message,
    place_from_message,
    reference_from_message,
    requested_from_message,
    span_from_message,
    start_from_message,
    who_from_message,
)
from voucher_grpc.runtime.batching import Batcher
from voucher_grpc.runtime.clock import DatabaseClock
from voucher_grpc.store.charges import ChargeStore
from voucher_grpc.store.slices import Slice
from voucher_grpc.store.tokens import TokenStore, token_not_found
from voucher_grpc.use_cases.write_charges import (
    ChargeAnswer,
    ChargeRequest,
    Release,
    Reversal,
)
from voucher_grpc.v1 import redemption_service_pb2 as pb
from voucher_grpc.v1 import redemption_service_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]
MAX_PAGE_SIZE = 1_000
MAX_SESSION_ID_CHARS = 36
# Each has the tariff that priced it.
_CHARGES_OF_A_SLICE = 20


class RedemptionServicer(redemption_service_pb2_grpc.RedemptionServiceServicer):
    """Authorizes charges, and takes them from passes."""

    def __init__(
        self,
        authorizations: Batcher[ChargeRequest, ChargeAnswer],
        captures: Batcher[ChargeRequest, ChargeAnswer],
        charges: ChargeStore,
        tokens: TokenStore,
        clock: DatabaseClock,
        lists: Lists,
    ) -> None:
        self._authorizations = authorizations
        self._captures = captures
        self._charges = charges
        self._tokens = tokens
        self._clock = clock
        self._lists = lists

    async def AuthorizeCharge(
        self, request: pb.AuthorizeChargeRequest, context: Context
    ) -> pb.AuthorizeChargeResponse:
        self._authorizations.check_admission(context.time_remaining())
        checks = Checks()
        who = who_from_message(checks, request)
        asked = Authorization(
            user_id=who.user_id,
            request_id=checks.uuid("request_id", request.request_id),
            place=place_from_message(checks, request),
            vehicle=profile_from_message(checks, "vehicle", request.vehicle),
            start_time=start_from_message(checks, request, self._clock.now()),
            requested=requested_from_message(checks, request),
            named_pass=pass_uuid(checks, "pass_id", request.pass_id),
            pay_as_you_go_allowed=request.pay_as_you_go_allowed,
            validate_only=request.validate_only,
        )
        checks.done()
        if who.token is not None:
            token = await self._token(who)
            if not token.valid:
                return authorized_message(
                    Authorized(Allowed.BLOCKED, Condition.TOKEN_BLOCKED, None)
                )
            asked = replace(asked, user_id=token.user_id)
        answer = await self._authorizations.submit(asked, context.time_remaining())
        if not isinstance(answer, Authorized):
            raise TypeError("an authorization was answered by a charge")
        message = authorized_message(answer)
        if asked.validate_only:
            message.authorization_reference = ""
        return message

    async def CaptureCharge(
        self, request: pb.CaptureChargeRequest, context: Context
    ) -> pb.CaptureChargeResponse:
        self._captures.check_admission(context.time_remaining())
        checks = Checks()
        start, end = span_from_message(checks, request, self._clock.now())
        reference = reference_from_message(checks, request, required=False)
        who = who_from_message(checks, request)
        place = place_from_message(checks, request)
        session_id = checks.identifier(
            "session_id", request.session_id, required=True, max_chars=MAX_SESSION_ID_CHARS
        )
        cdr_id = checks.identifier(
            "cdr_id", request.cdr_id, required=True, max_chars=MAX_CDR_ID_CHARS
        )
        vehicle = profile_from_message(checks, "vehicle", request.vehicle)
        operator_cost = operator_cost_from_message(checks, request)
        checks.done()
        periods = periods_from_message(checks, request, start, end)
        checks.done()
        asked = Cdr(
            user_id=await self._user_id(who),
            charge_id=charge_uuid(reference) if reference else None,
            place=place,
            vehicle=vehicle,
            session_id=session_id,
            cdr_id=cdr_id,
            start_time=start,
            end_time=end,
            periods=periods,
            operator_cost=operator_cost,
        )
        return pb.CaptureChargeResponse(charge=await self._charge(asked, context))

    async def ReleaseCharge(
        self, request: pb.ReleaseChargeRequest, context: Context
    ) -> pb.ReleaseChargeResponse:
        checks = Checks()
        who = who_from_message(checks, request)
        reference = reference_from_message(checks, request, required=True)
        party = party_from_message(checks, request)
        checks.done()
        asked = Release(await self._user_id(who), charge_uuid(reference), *party)
        return pb.ReleaseChargeResponse(charge=await self._charge(asked, context))

    async def ReverseCapture(
        self, request: pb.ReverseCaptureRequest, context: Context
    ) -> pb.ReverseCaptureResponse:
        checks = Checks()
        who = who_from_message(checks, request)
        cdr = cdr_key_from_message(checks, request)
        checks.done()
        asked = Reversal(await self._user_id(who), cdr)
        return pb.ReverseCaptureResponse(charge=await self._charge(asked, context))

    async def _user_id(self, who: ChargeUser) -> str:
        """Whose charge it is; a blocked token still tells. Raises TOKEN_NOT_FOUND."""
        return who.user_id if who.token is None else (await self._token(who)).user_id

    async def _token(self, who: ChargeUser) -> Token:
        """The token that a station has read. Raises TOKEN_NOT_FOUND, also for another user's."""
        if who.token is None:
            raise token_not_found()
        token = await self._tokens.get(who.token)
        if who.user_id not in ("", token.user_id):
            raise token_not_found()
        return token

    async def _charge(self, asked: ChargeRequest, context: Context) -> pb.Charge:
        answer = await self._captures.submit(asked, context.time_remaining())
        if not isinstance(answer, Charge):
            raise TypeError("a charge was answered by an authorization")
        return charge_message(answer)

    async def GetCharge(
        self, request: pb.GetChargeRequest, context: Context
    ) -> pb.GetChargeResponse:
        checks = Checks()
        user_id = checks.identifier("user_id", request.user_id, required=True)
        reference = reference_from_message(checks, request, required=True)
        checks.done()
        found = await self._charges.get(user_id, charge_uuid(reference))
        return pb.GetChargeResponse(charge=charge_message(found))

    async def ListCharges(
        self, request: pb.ListChargesRequest, context: Context
    ) -> pb.ListChargesResponse:
        checks = Checks()
        user_id = checks.identifier("user_id", request.user_id, required=True)
        size = checks.number("page_size", request.page_size, 0, MAX_PAGE_SIZE) or 50
        checks.done()
        scope = ("ListCharges", user_id)
        last = read_page_token(request.page_token, scope, 2)
        start = instant_and_id(last) if last else None

        async def read(last: Sequence[str] | None, limit: int) -> Slice[Charge]:
            after = instant_and_id(last) if last else start
            limit = min(limit, _CHARGES_OF_A_SLICE)
            charges = await self._charges.page(user_id, after, limit)
            return Slice(charges, more=len(charges) == limit)

        page = Page(pb.ListChargesResponse.DESCRIPTOR, "charges", scope, size)
        return await self._lists.answer(page, read, _charge_row, context)  # type: ignore[return-value]


def _charge_row(charge: Charge) -> Row:
    key = (charge.authorize_time.isoformat(), str(charge.charge_id))
    return row(key, charge_message(charge))
