"""Reasons in words, from a catalogue file for each language (`texts/`).

A sentence names the figures it quotes, each with the kind it is shown as:
`{expected_saving:money}`. Kinds are `money`, `percent`, and the units that the
file defines in the plural forms of its language. Numbers and money are written
as the language writes them (CLDR, through Babel).
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.resources import files
from string import Formatter
from typing import Any, NamedTuple, TypeAlias

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

from voucher_grpc.domain.offers.reason_codes import ReasonCode
from voucher_grpc.domain.offers.reasons import FIGURES, OfferReason

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
    for file in (files("voucher_grpc.domain.offers") / "texts").iterdir():
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


def _counted(language: str, unit: str, number: int) -> str:
    """A whole number with its unit, in the plural form that goes with it."""
    catalogue = CATALOGUES[language.lower()]
    forms = catalogue.units[unit]
    form = forms.get(catalogue.locale.plural_form(number), forms["other"])
    return form.format(number=format_decimal(number, locale=catalogue.locale))


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
    digits_format: str
    before: str
    after: str
    symbols: Mapping[int, str]
    quick: bool

    def text(self, amount: float) -> str:
        if self.quick and math.isfinite(amount):
            return self._quick(amount)
        amount = round(amount, self.digits) + 0.0  # no minus before a zero
        return _babel_money(amount, self.currency_code, self.locale)

    def _quick(self, amount: float) -> str:
        number = format(abs(amount), self.digits_format)
        if self.symbols:
            number = number.translate(self.symbols)
        if amount < 0 and number.strip("0., "):
            return f"-{self.before}{number}{self.after}"
        return self.before + number + self.after

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
    found = _MoneyFormat(
        locale, currency_code, digits, f",.{digits}f", before, after, symbols, quick=True
    )
    return found if found.agrees() else replace(found, quick=False)


def _show(kind: str, language: str, currency_code: str) -> Callable[[float], str]:
    """What writes the figures of a kind."""
    if kind == MONEY:
        return _money_format(language, currency_code).text
    if kind == PERCENT:
        return _Whole(lambda number: _percent(language, number), 100).text
    return _Whole(lambda number: _counted(language, kind, number)).text


class _Whole:
    """Writes figures that are shown as whole numbers; what was written is kept.

    Bounded: at the bound it begins anew.
    """

    MAX_KEPT = 10_000

    def __init__(self, write: Callable[[int], str], times: int = 1) -> None:
        self._write = write
        self._times = times
        self._kept: dict[int, str] = {}

    def text(self, value: float) -> str:
        try:
            number = round(value * self._times)
        except (OverflowError, ValueError):
            return "∞"
        text = self._kept.get(number)
        if text is None:
            if len(self._kept) >= self.MAX_KEPT:
                self._kept.clear()
            text = self._kept[number] = self._write(number)
        return text


class _Template(NamedTuple):
    """A sentence with %s for its figures, and what writes each: (position, writer)."""

    text: str
    figures: tuple[tuple[int, Callable[[float], str]], ...]

    def filled(self, values: Sequence[float]) -> str:
        """The sentence with these figures."""
        return self.text % tuple([show(values[position]) for position, show in self.figures])


def _template(
    sentence: Sentence, names: Sequence[str], language: str, currency_code: str
) -> _Template:
    text, figures = "", []
    for literal, name, kind in sentence:
        text += literal.replace("%", "%%")
        if name:
            text += "%s"
            figures.append((names.index(name), _show(kind, language, currency_code)))
    return _Template(text, tuple(figures))


class Writer:
    """Writes reasons in one language, their money in one currency.

    `language` is one that has a file, as `choose_language` gives it.
    """

    def __init__(self, language: str, currency_code: str) -> None:
        self._recent: dict[ReasonCode, _Template] = {}
        # (the position of the days of silence, what is said after a long one)
        self._silent: dict[ReasonCode, tuple[int, _Template]] = {}
        for code, wording in CATALOGUES[language.lower()].wordings.items():
            names = FIGURES[code]
            self._recent[code] = _template(wording.recent, names, language, currency_code)
            if "silence_days" in names:
                silent = _template(wording.silent, names, language, currency_code)
                self._silent[code] = names.index("silence_days"), silent

    def words(self, reason: OfferReason) -> str:
        """The reason as a sentence."""
        code, values = reason
        if code in self._silent:
            position, silent = self._silent[code]
            if values[position] >= LONG_SILENCE_DAYS:
                return silent.filled(values)
        return self._recent[code].filled(values)


@lru_cache(maxsize=256)
def writer(language: str, currency_code: str) -> Writer:
    """The writer of a language, one that has a file, and a currency."""
    return Writer(language, currency_code)


def in_words(reason: OfferReason, currency_code: str, language: str = DEFAULT_LANGUAGE) -> str:
    """The reason as a sentence, in the language that `choose_language` makes of `language`."""
    return writer(choose_language(language), currency_code).words(reason)
