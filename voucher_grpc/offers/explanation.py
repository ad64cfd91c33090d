"""Reasons in words. Each sentence quotes the figures it rests on."""

from collections.abc import Callable, Mapping

from voucher_grpc.offers.ranking import OfferReason, ReasonCode

Figures = Mapping[str, float]


def _percent(share: float) -> str:
    return f"{share * 100:.0f} %"


# From so many days without a session on, a sentence says that it speaks of the past.
_LONG_SILENCE_DAYS = 60


def _you_charge(f: Figures) -> str:
    silence_days = f["silence_days"]
    energy = f"about {f['energy_kwh_per_30_days']:.0f} kWh in 30 days"
    if silence_days < _LONG_SILENCE_DAYS:
        return f"You charge {energy}"
    return f"You charged {energy} until your last session {silence_days:.0f} days ago"


def _saves(f: Figures, currency: str) -> str:
    return (
        f"{_you_charge(f)}; without a pass that is "
        f"{f['cost_per_30_days']:.2f} {currency}. Over its "
        f"{f['length_days']:.0f} days this one is expected to save "
        f"{f['expected_saving']:.2f} {currency}."
    )


def _nothing_pays(f: Figures, currency: str) -> str:
    return (
        f"{_you_charge(f)} "
        f"({f['cost_per_30_days']:.2f} {currency}); no pass on sale is expected to save you money."
    )


_SENTENCES: dict[ReasonCode, Callable[[Figures, str], str]] = {
    ReasonCode.SAVES_ON_USUAL_CHARGING: _saves,
    ReasonCode.FITS_YOUR_HOURS: lambda f, _: (
        f"{_percent(f['share_in_window'])} of your charging starts in its hours."
    ),
    ReasonCode.FITS_YOUR_DAYS: lambda f, _: (
        f"{_percent(f['share_in_window'])} of your charging starts on its days."
    ),
    ReasonCode.FITS_YOUR_PLACES: lambda f, _: (
        f"{_percent(f['share_at_places'])} of your charging happens at its places."
    ),
    ReasonCode.FITS_YOUR_ENERGY: lambda f, _: (
        f"You are expected to charge {f['covered_energy_kwh']:.0f} kWh under its conditions "
        f"of the {f['bundle_kwh']:.0f} kWh it holds."
    ),
    ReasonCode.FITS_YOUR_SESSIONS: lambda f, _: (
        f"You are expected to charge {f['covered_sessions']:.0f} times under its conditions "
        f"of the {f['bundle_sessions']:.0f} it holds."
    ),
    ReasonCode.NOTHING_PAYS: _nothing_pays,
    ReasonCode.PRICE_UNKNOWN: lambda f, _: (
        f"You charge about {f['energy_kwh_per_30_days']:.0f} kWh in 30 days, but no price is "
        "known at your places; this is our basic pass."
    ),
    ReasonCode.USER_UNKNOWN: lambda _f, _c: (
        "Too little is known of your charging to say what suits you; this is our basic pass."
    ),
}


def in_words(reason: OfferReason, currency_code: str) -> str:
    """The reason as a sentence."""
    return _SENTENCES[reason.code](reason.figures, currency_code)
