"""TendencyService: sessions in, habits out."""

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc

from voucher_grpc.domain.tendencies.recording import Cancellation, Outcome, SentSession
from voucher_grpc.edge.wire.checks import MAX_ID_CHARS, Checks
from voucher_grpc.edge.wire.sessions import (
    cancellation_from_message,
    preferences_message,
    profile_type_from_message,
    session_from_message,
    tendency_message,
)
from voucher_grpc.edge.wire.status import status_of
from voucher_grpc.errors import Refusal
from voucher_grpc.runtime.clock import DatabaseClock
from voucher_grpc.store.sessions import TendencyStore
from voucher_grpc.telemetry.metrics import Metrics
from voucher_grpc.use_cases.record_sessions import RecordSessions
from voucher_grpc.v1 import tendency_service_pb2 as pb
from voucher_grpc.v1 import tendency_service_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]
MAX_SESSIONS_PER_MESSAGE = 1_000
MAX_REFUSALS_REPORTED = 1_000
Verdict = Outcome | Refusal


class TendencyServicer(tendency_service_pb2_grpc.TendencyServiceServicer):
    """Learns and shows habits."""

    def __init__(
        self,
        record: RecordSessions,
        tendencies: TendencyStore,
        clock: DatabaseClock,
        metrics: Metrics,
    ) -> None:
        self._record_sessions = record
        self._tendencies = tendencies
        self._clock = clock
        self._metrics = metrics

    async def RecordSessions(
        self, request_iterator: AsyncIterator[pb.RecordSessionsRequest], context: Context
    ) -> pb.RecordSessionsResponse:
        report = pb.RecordSessionsResponse()
        index = 0
        async for message in request_iterator:
            checks = Checks()
            checks.bounded("sessions", message.sessions, MAX_SESSIONS_PER_MESSAGE)
            checks.done()
            verdicts = await self._record(message.sessions)
            _add_to_report(report, index, message.sessions, verdicts)
            index += len(verdicts)
            for outcome, count in Counter(_label(v) for v in verdicts).items():
                self._metrics.sessions.labels(outcome).inc(count)
        return report

    async def _record(self, messages: Sequence[pb.ChargingSession]) -> list[Verdict]:
        """A verdict for each session, in order."""
        now = self._clock.now()
        verdicts: list[Verdict | None] = []
        sent: list[SentSession | Cancellation] = []
        for message in messages:
            try:
                sent.append(
                    cancellation_from_message(message)
                    if message.cancelled
                    else session_from_message(message, now)
                )
                verdicts.append(None)
            except Refusal as refusal:
                verdicts.append(refusal)
        judged = iter(await self._record_sessions.record(sent))
        return [verdict if verdict is not None else next(judged) for verdict in verdicts]

    async def GetTendency(
        self, request: pb.GetTendencyRequest, context: Context
    ) -> pb.GetTendencyResponse:
        checks = Checks()
        user_id = checks.identifier("user_id", request.user_id, required=True)
        checks.done()
        known = await self._tendencies.get_tendency(user_id)
        return pb.GetTendencyResponse(
            tendency=tendency_message(
                user_id,
                known.tendency,
                known.places,
                known.profile_type,
                known.read_time,
            )
        )

    async def DeclarePreferences(
        self, request: pb.DeclarePreferencesRequest, context: Context
    ) -> pb.DeclarePreferencesResponse:
        checks = Checks()
        user_id = checks.identifier("user_id", request.user_id, required=True)
        if not request.HasField("preferences"):
            checks.wrong("preferences", "is missing")
        wish = profile_type_from_message(
            checks, "preferences.profile_type", request.preferences.profile_type
        )
        checks.done()
        await self._tendencies.declare_preferences(user_id, wish)
        return pb.DeclarePreferencesResponse(preferences=preferences_message(wish))

    async def DeleteSessions(
        self, request: pb.DeleteSessionsRequest, context: Context
    ) -> pb.DeleteSessionsResponse:
        checks = Checks()
        user_id = checks.identifier("user_id", request.user_id, required=True)
        checks.bounded("session_ids", request.session_ids, MAX_SESSIONS_PER_MESSAGE, low=1)
        for number, one in enumerate(request.session_ids[: MAX_SESSIONS_PER_MESSAGE + 1]):
            checks.identifier(f"session_ids[{number}]", one, required=True)
        checks.done()
        ids = list(dict.fromkeys(request.session_ids))
        deleted = await self._record_sessions.delete(user_id, ids)
        return pb.DeleteSessionsResponse(session_ids=[one for one in ids if one in deleted])


def _label(verdict: Verdict) -> str:
    return "REFUSED" if isinstance(verdict, Refusal) else verdict.value


def _add_to_report(
    report: pb.RecordSessionsResponse,
    first_index: int,
    messages: Sequence[pb.ChargingSession],
    verdicts: Sequence[Verdict],
) -> None:
    for offset, (message, verdict) in enumerate(zip(messages, verdicts, strict=True)):
        if verdict is Outcome.RECORDED:
            report.recorded += 1
        elif verdict is Outcome.UNCHANGED:
            report.unchanged += 1
        elif verdict is Outcome.CORRECTED:
            report.corrected += 1
        elif verdict is Outcome.CANCELLED:
            report.cancelled += 1
        elif isinstance(verdict, Refusal):
            report.refused += 1
            if len(report.refusals) < MAX_REFUSALS_REPORTED:
                report.refusals.add(
                    index=first_index + offset,
                    session_id=message.session_id[:MAX_ID_CHARS],
                    status=status_of(verdict),
                )
