"""Sessions that arrive are judged one after the other, each counted once."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.builders import NOW, PLACE, SPEC, make_session
from voucher_grpc.domain.tendencies.recording import (
    Outcome,
    PlaceWeights,
    SentSession,
    add_place,
    judge_sessions,
)
from voucher_grpc.domain.tendencies.tendency import Session, shape_weight
from voucher_grpc.errors import Reason, Refusal
from voucher_grpc.ocpi import PlaceKey

STORED = make_session()
KEY = (STORED.user_id, STORED.session_id)


def labels(sent: list[SentSession], stored: dict[tuple[str, str], Session]) -> list[str]:
    """Outcomes and reasons as names."""
    return [
        str(o.reason) if isinstance(o, Refusal) else str(o) for o in judge_sessions(sent, stored)
    ]


CHANGES = [
    {"energy_wh": 1},
    {"start_time": NOW},
    {"end_time": None},
    {"end_time": NOW},
    {"place": PlaceKey("NO", "OSL", "work")},
    {"place": PlaceKey("NO", "OSL", "home", "1")},
]


@pytest.mark.parametrize("change", CHANGES)
def test_other_content_is_a_conflict_unless_it_is_a_correction(change: dict[str, object]) -> None:
    """Place, times and energy are the content."""
    other = replace(STORED, **change)  # type: ignore[arg-type]
    assert ["SESSION_CONFLICT"] == labels([SentSession(other)], {KEY: STORED})
    assert ["CORRECTED"] == labels([SentSession(other, correction=True)], {KEY: STORED})


@pytest.mark.parametrize("correction", [False, True])
def test_the_same_content_again_is_unchanged(correction: bool) -> None:
    """Also as a correction, and whatever the zone, which is the place's."""
    again = replace(STORED, time_zone="Asia/Tokyo")
    assert ["UNCHANGED"] == labels([SentSession(again, correction)], {KEY: STORED})


def test_a_session_of_another_user_is_another_session() -> None:
    """The key is (user_id, session_id)."""
    bobs = replace(STORED, user_id="bob", energy_wh=1)
    assert ["RECORDED"] == labels([SentSession(bobs)], {KEY: STORED})


def test_a_correction_of_what_is_not_known_is_recorded() -> None:
    """The caller meant it to be there."""
    assert ["RECORDED"] == labels([SentSession(STORED, correction=True)], {})


def test_what_came_before_in_a_batch_counts_as_stored() -> None:
    """The same twice, then other content, then a correction, then the first again."""
    other = replace(STORED, energy_wh=1)
    sent = [
        SentSession(STORED),
        SentSession(STORED),
        SentSession(other),
        SentSession(other, correction=True),
        SentSession(other),
        SentSession(STORED),
    ]
    assert [
        "RECORDED",
        "UNCHANGED",
        "SESSION_CONFLICT",
        "CORRECTED",
        "UNCHANGED",
        "SESSION_CONFLICT",
    ] == labels(sent, {})


def test_a_conflict_names_its_session() -> None:
    """So that a bulk sender finds it."""
    [refusal] = judge_sessions([SentSession(replace(STORED, energy_wh=1))], {KEY: STORED})
    assert isinstance(refusal, Refusal)
    assert (Reason.SESSION_CONFLICT, {"session_id": "s"}) == (refusal.reason, refusal.metadata)


sessions = st.builds(
    lambda name, energy, correction: SentSession(make_session(name, energy_wh=energy), correction),
    st.sampled_from("abc"),
    st.integers(0, 2),
    st.booleans(),
)


@SPEC
@given(st.lists(sessions, max_size=12), st.integers(0, 12))
def test_a_batch_may_be_split_anywhere(sent: list[SentSession], cut: int) -> None:
    """Sending one after the other gives the same outcomes, and the same is stored."""
    stored: dict[tuple[str, str], Session] = {}
    apart: list[str] = []
    for part in (sent[:cut], sent[cut:]):
        outcomes = judge_sessions(part, stored)
        apart += labels(part, stored)
        for item, outcome in zip(part, outcomes, strict=True):
            if outcome in (Outcome.RECORDED, Outcome.CORRECTED):
                stored[item.key] = item.session
    assert labels(sent, {}) == apart


@SPEC
@given(st.lists(sessions, max_size=12))
def test_sending_all_again_changes_nothing(sent: list[SentSession]) -> None:
    """What was kept is unchanged: a call that broke off is sent again without harm."""
    stored: dict[tuple[str, str], Session] = {}
    for item, outcome in zip(sent, judge_sessions(sent, {}), strict=True):
        if outcome in (Outcome.RECORDED, Outcome.CORRECTED):
            stored[item.key] = item.session
    assert {"UNCHANGED"} >= set(labels([SentSession(s) for s in stored.values()], stored))


def test_a_places_weight_is_its_energy_down_to_the_evse() -> None:
    """Connectors of one EVSE are one place; a session 90 days younger weighs twice."""
    weights: PlaceWeights = {}
    evse = PlaceKey("NO", "OSL", "home", "1")
    old, young = NOW - timedelta(days=90), NOW
    add_place(weights, make_session(place=evse._replace(connector_id="a"), start_time=old))
    add_place(weights, make_session(place=evse._replace(connector_id="b"), start_time=young))
    add_place(weights, make_session(start_time=old))
    unit = shape_weight(old) * 10_000
    assert {evse: pytest.approx(3 * unit), PLACE: pytest.approx(unit)} == weights
