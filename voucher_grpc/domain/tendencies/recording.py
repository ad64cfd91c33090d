"""How sessions that arrive are judged, and what they change in tendencies."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from voucher_grpc.domain.tendencies.tendency import Session, shape_weight
from voucher_grpc.errors import Reason, Refusal
from voucher_grpc.ocpi import PlaceKey, folded

SessionKey = tuple[str, str]
PlaceWeights = dict[PlaceKey, float]


class Outcome(StrEnum):
    """What became of a session that was not refused."""

    RECORDED = "RECORDED"
    UNCHANGED = "UNCHANGED"
    CORRECTED = "CORRECTED"
    CANCELLED = "CANCELLED"


@dataclass(frozen=True, slots=True)
class SentSession:
    """A session as it arrived; `correction` replaces what is stored."""

    session: Session
    correction: bool = False

    @property
    def key(self) -> SessionKey:
        return self.session.user_id, self.session.session_id


@dataclass(frozen=True, slots=True)
class Cancellation:
    """A session that does not count, whether it is recorded already or comes later.

    Ids are compared without regard to case, as OCPI has it: `session_id` is in small letters.
    """

    user_id: str
    session_id: str

    @property
    def key(self) -> SessionKey:
        return self.user_id, self.session_id


def _folded(key: SessionKey) -> SessionKey:
    user_id, session_id = key
    return user_id, folded(session_id)


def _content(session: Session) -> tuple[PlaceKey, datetime, datetime | None, int]:
    """What makes two sessions the same. The zone is the place's and may be corrected there."""
    place = PlaceKey(*map(folded, session.place))
    return place, session.start_time, session.end_time, session.energy_wh


def judge_sessions(
    sent: Sequence[SentSession | Cancellation],
    stored: Mapping[SessionKey, Session],
    cancelled: AbstractSet[SessionKey] = frozenset(),
) -> list[Outcome | Refusal]:
    """An outcome for each session, in order, as if they had come one after the other.

    One that is `cancelled` in the store, or by any of those sent, does not count.
    """
    known = dict(stored)
    not_counted = cancelled | {item.key for item in sent if isinstance(item, Cancellation)}
    outcomes: list[Outcome | Refusal] = []
    for item in sent:
        if isinstance(item, Cancellation) or _folded(item.key) in not_counted:
            outcomes.append(Outcome.CANCELLED)
            continue
        present = known.get(item.key)
        if present is None:
            outcomes.append(Outcome.RECORDED)
        elif _content(present) == _content(item.session):
            outcomes.append(Outcome.UNCHANGED)
            continue
        elif item.correction:
            outcomes.append(Outcome.CORRECTED)
        else:
            outcomes.append(
                Refusal(
                    Reason.SESSION_CONFLICT,
                    "the session is stored with other content; send it as a correction",
                    session_id=item.session.session_id,
                )
            )
            continue
        known[item.key] = item.session
    return outcomes


def add_place(weights: PlaceWeights, session: Session) -> None:
    """Add a session's energy to the weight of its place, down to the EVSE."""
    place = session.place
    key = PlaceKey(place.country_code, place.party_id, place.location_id, place.evse_uid)
    weight = shape_weight(session.start_time) * session.energy_wh
    weights[key] = weights.get(key, 0.0) + weight
