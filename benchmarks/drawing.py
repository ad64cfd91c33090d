"""Drawings of what the longer benchmarks found."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt


def draw_overload(results: Mapping[str, Any], path: Path) -> None:
    """Goodput against offered load, both in shares of the best goodput."""
    figure, axes = plt.subplots(figsize=(7, 4))
    names = {"closed": "closed loop", "slowed": "open loop, slowed database", "echo": "bare echo"}
    for kind, name in names.items():
        for rpc, part in results[kind].items():
            best = part["best_goodput_per_s"]
            points = part["points"]
            axes.plot(
                [p["factor"] for p in points],
                [p["goodput_per_s"] / best for p in points],
                marker="o",
                linestyle=":" if kind == "echo" else "-",
                label=f"{rpc}, {name}",
            )
    axes.axhline(0.85, color="grey", linewidth=0.8)
    axes.set(
        xlabel="offered: callers or calls a second, times those of the best goodput",
        ylabel="answered OK within 1 s, of the best",
        ylim=(0, 1.1),
        xticks=(1, 2, 4),
    )
    axes.legend(loc="lower left", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def draw_soak(samples: Sequence[Mapping[str, float]], names: Sequence[str], path: Path) -> None:
    """Each figure against the time."""
    figure, rows = plt.subplots(len(names), 1, figsize=(7, 1.6 * len(names)), sharex=True)
    for axes, name in zip(rows, names, strict=True):
        axes.plot([s["at_s"] for s in samples], [s[name] for s in samples], linewidth=1)
        axes.set_ylabel(name, fontsize=8)
        axes.set_ylim(bottom=0)
    rows[-1].set_xlabel("seconds")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def draw_attack(results: Mapping[str, Any], attack_s: float, path: Path) -> None:
    """Memory of the service and of the bare server against the time, for each attack."""
    figure, rows = plt.subplots(
        len(results), 1, figsize=(7, 1.8 * len(results)), sharex=True, squeeze=False
    )
    for axes, (kind, both) in zip(rows[:, 0], results.items(), strict=True):
        for name in ("service", "bare"):
            axes.plot(*zip(*both[name]["memory_mb"], strict=True), linewidth=1, label=name)
        axes.axvline(attack_s, color="grey", linewidth=0.8)
        axes.set_ylabel(f"{kind}\nMB", fontsize=8)
        axes.set_ylim(bottom=0)
    rows[0, 0].legend(fontsize=8)
    rows[-1, 0].set_xlabel("seconds; the attack ends at the line")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
