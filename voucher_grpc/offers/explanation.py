"""Reasons in words, from a catalogue file for each language (`texts/`).

A sentence names the figures it quotes, each with the kind it is shown as:
`{expected_saving:money}`. Kinds are `money`, `percent`, and the units that the
file defines in the plural forms of its language. Numbers and money are written
as the language writes them (CLDR, through Babel).
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from string import Formatter
from typing import Any, TypeAlias

import yaml
from babel import Locale
from babel.numbers import (
    format_currency,
    format_decimal,
    format_percent,
    get_currency_precision,
    get_decimal_symbol,
    get_group_symbol,
)

from voucher_grpc.offers.ranking import OfferReason, ReasonCode

DEFAULT_LANGUAGE = "en"
MONEY, PERCENT = "money", "percent"
# From so many days without a session on, a sentence says that it speaks of the past.
LONG_SILENCE_DAYS = 60
_NO_BREAK_SPACE = "\xa0"

# (literal text, figure, kind); figure and kind are "" where only text is left.
Sentence: TypeAlias = tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, slots=True)
class Wording:
    """How a reason is said of a user who charges, and of one who has long been silent."""

    recent: Sentence
    silent: Sentence


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The texts of one language: units by kind and plural category, wordings by reason."""

    language: str
    locale: Locale
    units: Mapping[str, Mapping[str, str]]
    wordings: Mapping[ReasonCode, Wording]


def _sentence(text: str) -> Sentence:
    return tuple(
        (literal, name or "", kind or "") for literal, name, kind, _ in Formatter().parse(text)
    )


def _wording(text: str | Mapping[str, str]) -> Wording:
    if isinstance(text, str):
        return Wording(_sentence(text), _sentence(text))
    return Wording(_sentence(text["recent"]), _sentence(text["silent"]))


def _load() -> dict[str, Catalogue]:
    """The catalogues by language in small letters; a file's name is its BCP 47 tag."""
    catalogues = {}
    for file in (files("voucher_grpc.offers") / "texts").iterdir():
        language, _, kind = file.name.rpartition(".")
        if kind != "yaml":
            continue
        content: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
        catalogues[language.lower()] = Catalogue(
            language,
            Locale.parse(language, sep="-"),
            content["units"],
            {ReasonCode(code): _wording(text) for code, text in content["reasons"].items()},
        )
    return catalogues


CATALOGUES: Mapping[str, Catalogue] = _load()


@lru_cache(maxsize=1024)
def lookup(language: str) -> str | None:
    """The language that has a file: BCP 47 (RFC 4647) lookup, so "ko-Kore-KR" finds "ko"."""
    subtags = language.lower().split("-")
    while subtags:
        found = CATALOGUES.get("-".join(subtags))
        if found is not None:
            return found.language
        subtags.pop()
        if subtags and len(subtags[-1]) == 1:  # "x" or "u" says what follows, not a language
            subtags.pop()
    return None


def choose_language(*wanted: str) -> str:
    """The first of the wanted languages that has a file, in the order of preference, else English.

    Each is a BCP 47 tag, or "" for no wish: the request's, then the user's.
    """
    found = (lookup(language) for language in wanted if language)
    return next((language for language in found if language), DEFAULT_LANGUAGE)


@lru_cache(maxsize=1024)
def _catalogue(language: str) -> Catalogue:
    return CATALOGUES[choose_language(language).lower()]


@lru_cache(maxsize=8192)
def _counted(language: str, unit: str, number: int) -> str:
    """A whole number with its unit, in the plural form that goes with it."""
    catalogue = CATALOGUES[language.lower()]
    forms = catalogue.units[unit]
    form = forms.get(catalogue.locale.plural_form(number), forms["other"])
    return form.format(number=format_decimal(number, locale=catalogue.locale))


@lru_cache(maxsize=256)
def _percent(language: str, hundredths: int) -> str:
    return format_percent(hundredths / 100, locale=CATALOGUES[language.lower()].locale)


def _babel_money(amount: float, currency_code: str, locale: Locale) -> str:
    """As CLDR has it, with the space that it wants between a code and digits."""
    text = format_currency(amount, currency_code, locale=locale)
    return re.sub(rf"({re.escape(currency_code)})(?=\d)", rf"\1{_NO_BREAK_SPACE}", text)


@dataclass(frozen=True, slots=True)
class _MoneyFormat:
    """Writes amounts of one currency in one language.

    An answer quotes many amounts, and Babel reads its pattern for each. So what
    stands around the digits is taken from Babel once, and where that would not
    give what Babel gives (other groups of digits, another minus) Babel writes.
    """

    locale: Locale
    currency_code: str
    digits: int
    before: str
    after: str
    symbols: Mapping[int, str]
    quick: bool

    def text(self, amount: float) -> str:
        amount = round(amount, self.digits) + 0.0  # no minus before a zero
        if not self.quick or not math.isfinite(amount):
            return _babel_money(amount, self.currency_code, self.locale)
        return self._quick(amount)

    def _quick(self, amount: float) -> str:
        number = f"{abs(amount):,.{self.digits}f}"
        if self.symbols:
            number = number.translate(self.symbols)
        return f"{'-' if amount < 0 else ''}{self.before}{number}{self.after}"

    def agrees(self) -> bool:
        """Whether the quick way gives what Babel gives."""
        return all(
            self._quick(sample) == _babel_money(sample, self.currency_code, self.locale)
            for sample in (0.0, 1.0, -1.0, 1234.0, -12345.0, 1234567.0)
        )


@lru_cache(maxsize=1024)
def _money_format(language: str, currency_code: str) -> _MoneyFormat:
    locale = CATALOGUES[language.lower()].locale
    before, after = re.split(r"0(?:\D0+)?", _babel_money(0.0, currency_code, locale), maxsplit=1)
    others = {",": get_group_symbol(locale=locale), ".": get_decimal_symbol(locale=locale)}
    symbols = str.maketrans({old: new for old, new in others.items() if old != new})
    digits = get_currency_precision(currency_code)
    found = _MoneyFormat(locale, currency_code, digits, before, after, symbols, quick=True)
    if found.agrees():
        return found
    return _MoneyFormat(locale, currency_code, digits, before, after, symbols, quick=False)


def _shown(value: float, kind: str, language: str, currency_code: str) -> str:
    if kind == MONEY:
        return _money_format(language, currency_code).text(value)
    if not math.isfinite(value):
        return "∞"
    if kind == PERCENT:
        return _percent(language, round(value * 100))
    return _counted(language, kind, round(value))


def in_words(reason: OfferReason, currency_code: str, language: str = DEFAULT_LANGUAGE) -> str:
    """The reason as a sentence, in the language that `choose_language` makes of `language`."""
    catalogue = _catalogue(language)
    wording, figures = catalogue.wordings[reason.code], reason.figures
    long_silence = figures.get("silence_days", 0.0) >= LONG_SILENCE_DAYS
    return "".join(
        literal + (_shown(figures[name], kind, catalogue.language, currency_code) if name else "")
        for literal, name, kind in (wording.silent if long_silence else wording.recent)
    )
