"""What is said of an offer: in each language, in full, and as that language writes it."""

import re
from collections.abc import Iterator
from dataclasses import replace
from importlib.resources import files

import pytest
from babel.numbers import format_currency
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.builders import NOW, PLACE, SPEC, make_buyer, make_demand, make_product, rank
from voucher_grpc.domain.catalogue.conditions import Restrictions, Selectors, UsageConditions
from voucher_grpc.domain.catalogue.product import Benefit, EnergyBundle, EnergyPrice, SessionBundle
from voucher_grpc.domain.offers import reason_texts
from voucher_grpc.domain.offers.columns import build_columns
from voucher_grpc.domain.offers.reason_codes import ReasonCode
from voucher_grpc.domain.offers.reason_texts import (
    CATALOGUES,
    DEFAULT_LANGUAGE,
    LONG_SILENCE_DAYS,
    MONEY,
    PERCENT,
    Sentence,
    choose_language,
    in_words,
    lookup,
)
from voucher_grpc.domain.offers.reasons import FIGURES, OfferReason, _window
from voucher_grpc.domain.tendencies.demand import Demands
from voucher_grpc.ocpi import Day

NIGHTS = UsageConditions((Restrictions(22 * 60, 6 * 60),), Selectors(locations=(PLACE,)))
MONDAYS = UsageConditions((Restrictions(day_of_week=frozenset({Day.MONDAY})),))
CHEAP = EnergyPrice(3_000_000)
EVERY_FIGURE = {
    "expected_saving": 1234.5,
    "energy_kwh_per_30_days": 1240.4,
    "cost_per_30_days": 6202.0,
    "length_days": 30.0,
    "silence_days": 1.0,
    "share_in_window": 0.672,
    "share_at_places": 0.5,
    "covered_energy_kwh": 95.0,
    "bundle_kwh": 100.0,
    "covered_sessions": 1.0,
    "bundle_sessions": 10.0,
    "saving_low": 12.0,
    "saving_high": 340.0,
    "break_even_kwh": 24.5,
    "break_even_sessions": 3.0,
}


def said(code: ReasonCode, **figures: float) -> OfferReason:
    """A reason with the figures above but for those given."""
    values = EVERY_FIGURE | figures
    return OfferReason(code, tuple(values[name] for name in FIGURES[code]))


def reasons() -> Iterator[OfferReason]:
    """Reasons as the ranking makes them, of every kind."""
    night = make_demand(hours={23: 1.0})
    cases: list[tuple[Benefit, UsageConditions, Demands | None]] = [
        (EnergyBundle(100_000), NIGHTS, night),
        (SessionBundle(10), UsageConditions(), night),
        (CHEAP, MONDAYS, night),
        (CHEAP, UsageConditions(), make_demand([1_000])),
        (CHEAP, UsageConditions(), make_demand(price_per_kwh=None)),
        (CHEAP, UsageConditions(), None),
        (CHEAP, UsageConditions(), make_demand([80_000, 100_000])),
    ]
    for benefit, conditions, demand in cases:
        product = make_product("p", benefit, conditions=conditions, default_offer=True)
        for choice in rank(build_columns([product]), demand, make_buyer(), NOW, 20).choices:
            yield from choice.reasons


def named(sentence: Sentence) -> set[str]:
    return {name for _, name, _ in sentence if name}


def test_every_reason_has_a_sentence_in_every_language() -> None:
    """A new reason is not put off to a later translation."""
    assert {"en", "ko"} <= set(CATALOGUES)
    for catalogue in CATALOGUES.values():
        assert set(ReasonCode) == set(catalogue.wordings), catalogue.language


def test_no_reason_is_said_twice_in_a_file() -> None:
    """Of two sentences for one reason YAML would take the last without a word."""
    for file in (files("voucher_grpc.domain.offers") / "texts").iterdir():
        if file.name.endswith(".yaml"):
            keys = re.findall(r"^  (\w+):", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert len(keys) == len(set(keys)), file.name


def test_every_figure_that_a_sentence_names_is_one_of_its_reason() -> None:
    """In every file, and of reasons as the ranking makes them."""
    made = {reason.code: set(reason.figures) for reason in reasons()}
    assert set(ReasonCode) == set(made), "the cases above make every reason"
    for catalogue in CATALOGUES.values():
        for code, wording in catalogue.wordings.items():
            missing = (named(wording.recent) | named(wording.silent)) - made[code]
            assert set() == missing, (catalogue.language, code)


def test_all_languages_quote_the_same_figures() -> None:
    """Nobody is told less for the language."""
    english = CATALOGUES[DEFAULT_LANGUAGE].wordings
    for catalogue in CATALOGUES.values():
        for code, wording in catalogue.wordings.items():
            assert named(english[code].recent) == named(wording.recent), catalogue.language
            assert named(english[code].silent) == named(wording.silent), catalogue.language


def test_every_kind_of_figure_is_known() -> None:
    """money, percent, or a unit with a form for every plural category of the language."""
    for catalogue in CATALOGUES.values():
        kinds = {
            kind
            for wording in catalogue.wordings.values()
            for sentence in (wording.recent, wording.silent)
            for _, name, kind in sentence
            if name
        }
        assert kinds - {MONEY, PERCENT} <= set(catalogue.units), catalogue.language
        assert all("other" in forms for forms in catalogue.units.values()), catalogue.language


@pytest.mark.parametrize("language", [c.language for c in CATALOGUES.values()])
def test_what_the_ranking_says_can_be_said_in_every_language(language: str) -> None:
    """Whole sentences, with nothing left to fill in; also of a user who has long been silent."""
    for reason in reasons():
        figures = reason.figures
        for silence_days in (1.0, 400.0) if "silence_days" in figures else (0.0,):
            spoken = figures | ({"silence_days": silence_days} if silence_days else {})
            text = in_words(OfferReason(reason.code, tuple(spoken.values())), "NOK", language)
            assert text.endswith("."), text
            assert "{" not in text
            assert ("400" in text) == (silence_days == 400.0), text


@pytest.mark.parametrize(
    ("language", "code", "text"),
    [
        ("en", "FITS_YOUR_HOURS", "67% of your charging starts in its hours."),
        (
            "en",
            "FITS_YOUR_SESSIONS",
            "It holds 10 sessions; you are expected to have 1 session under its conditions.",
        ),
        (
            "en",
            "SAVES_ON_USUAL_CHARGING",
            (
                "You are expected to charge about 1,240 kWh in 30 days; without a pass that is "
                "NOK\xa06,202.00. "
                "Over its 30 days this one is expected to save NOK\xa01,234.50."
            ),
        ),
        ("ko", "FITS_YOUR_PLACES", "충전의 50%가 이 이용권을 쓸 수 있는 장소에서 이루어져요."),
        (
            "ko-KR",
            "SAVES_ON_USUAL_CHARGING",
            (
                "30일에 약 1,240kWh 충전하실 것으로 예상돼요. 이용권이 없으면 "
                "NOK\xa06,202.00 정도 들어요. "
                "이 이용권을 쓰시면 30일 동안 NOK\xa01,234.50 정도 아끼실 수 있을 것으로 예상돼요."
            ),
        ),
    ],
)
def test_a_reason_reads_well(language: str, code: str, text: str) -> None:
    """The sentences as people see them."""
    assert text == in_words(said(ReasonCode(code)), "NOK", language)


def test_a_day_is_one_day() -> None:
    """The plural is that of the language."""
    reason = said(ReasonCode.SAVES_ON_USUAL_CHARGING, length_days=1.0)
    assert "Over its 1 day this" in in_words(reason, "NOK", "en")
    assert "1일 동안" in in_words(reason, "NOK", "ko")


def test_who_has_long_been_silent_hears_of_the_past() -> None:
    """From the bound on, in each language."""
    for language in ("en", "ko"):
        texts = [
            in_words(said(ReasonCode.NOTHING_PAYS, silence_days=days), "NOK", language)
            for days in (LONG_SILENCE_DAYS - 0.1, LONG_SILENCE_DAYS)
        ]
        assert ["60" in text for text in texts] == [False, True]


def test_korean_is_polite_throughout() -> None:
    """Every sentence ends in the same register (해요체), as all of a service should speak."""
    for wording in CATALOGUES["ko"].wordings.values():
        for sentence in (wording.recent, wording.silent):
            text = "".join(literal for literal, _, _ in sentence)
            assert text.endswith(".")
            for part in text.rstrip(".").split("."):
                assert part.removesuffix("()").endswith("요"), text


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (("ko",), "ko"),
        (("ko-KR",), "ko"),
        (("KO-kore-kr",), "ko"),
        (("ko-u-nu-latn",), "ko"),
        (("ko-x-a",), "ko"),
        (("en-GB", "ko"), "en"),
        (("", "ko"), "ko"),
        (("nb-NO", "ko-KR"), "ko"),
        (("nb", ""), "en"),
        (("kor",), "en"),
        (("x-ko",), "en"),
        (("-",), "en"),
        ((), "en"),
    ],
)
def test_the_language_is_looked_up_as_bcp_47_has_it(wanted: tuple[str, ...], found: str) -> None:
    """The request's, then the user's, then English; a region or a script more is no obstacle."""
    assert found == choose_language(*wanted)


@SPEC
@given(st.text("abknoz-XU12", max_size=35))
def test_any_tag_finds_a_language(tag: str) -> None:
    """Whatever passes the checks of form."""
    assert choose_language(tag).lower() in CATALOGUES
    assert lookup(tag) in (None, *(c.language for c in CATALOGUES.values()))


@SPEC
@given(
    st.floats(-1e9, 1e9),
    st.sampled_from(["NOK", "KRW", "EUR", "USD", "JPY", "KWD", "GBP"]),
    st.sampled_from(["en", "ko"]),
)
def test_money_is_written_as_the_language_writes_it(
    amount: float, currency_code: str, language: str
) -> None:
    """What is prepared for speed gives what CLDR gives, but for the space after a code."""
    reason = said(ReasonCode.NOTHING_PAYS, cost_per_30_days=amount)
    digits = {"KRW": 0, "JPY": 0, "KWD": 3}.get(currency_code, 2)
    expected = format_currency(round(amount, digits) + 0.0, currency_code, locale=language)
    text = in_words(reason, currency_code, language).replace(f"{currency_code}\xa0", currency_code)
    assert f"({expected})" in text


@pytest.mark.parametrize("value", [float("inf"), float("-inf")])
def test_a_number_without_bound_is_still_said(value: float) -> None:
    """An answer does not fail for its words."""
    for code in ReasonCode:
        assert in_words(OfferReason(code, (value,) * len(FIGURES[code])), "NOK", "ko")


@pytest.mark.parametrize("currency_code", ["NOK", "JPY", "KWD"])
@pytest.mark.parametrize("language", ["en", "ko"])
def test_amounts_are_written_alike_with_and_without_the_quick_way(
    language: str, currency_code: str
) -> None:
    """Also where the quick way would not give what Babel gives."""
    quick = reason_texts._money_format(language, currency_code)
    slow = replace(quick, quick=False)
    for amount in (0.0, -0.0001, 1.0, -12.5, 1234.567, -98765.4):
        assert quick.text(amount) == slow.text(amount)
    assert "1" in slow.text(1.0)


@pytest.mark.parametrize(
    ("restrictions", "expected"),
    [
        (Restrictions(start_minute=60), ReasonCode.FITS_YOUR_HOURS),
        (Restrictions(end_minute=60), ReasonCode.FITS_YOUR_HOURS),
        (Restrictions(day_of_week=frozenset({Day.MONDAY})), ReasonCode.FITS_YOUR_DAYS),
        (Restrictions(min_energy_wh=1), None),
    ],
)
def test_a_window_is_one_of_hours_if_it_has_a_start_or_an_end(
    restrictions: Restrictions, expected: ReasonCode | None
) -> None:
    """Either alone."""
    assert expected == _window((Restrictions(), restrictions))
