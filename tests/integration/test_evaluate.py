"""`voucher-grpc evaluate`: the value of offers on real sessions, by the protocol."""

import json
import random
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from voucher_grpc.domain.tendencies.forecast import default_parameters
from voucher_grpc.edge.wire.sessions import session_from_message
from voucher_grpc.evaluation import backtest
from voucher_grpc.evaluation.months import UserMonth, all_months
from voucher_grpc.files.catalogue import read_catalogue, read_pay_as_you_go
from voucher_grpc.files.sessions import SessionFile

ROOT = Path(__file__).resolve().parent.parent.parent
CATALOGUE = ROOT / "examples" / "evaluation_catalogue.yaml"


def evaluate(sessions: Path, tmp_path: Path, *more: str) -> dict[str, Any]:
    """Run the command and read its numbers."""
    numbers = tmp_path / "numbers.json"
    command = [sys.executable, "-m", "voucher_grpc.cli", "evaluate", str(sessions)]
    command += ["--catalogue", str(CATALOGUE), "--json", str(numbers), *more]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    assert (0, "") == (done.returncode, done.stderr)
    result: dict[str, Any] = json.loads(numbers.read_text(encoding="utf-8"))
    return result


def real_months(shared_data: Path) -> list[UserMonth]:
    """The user-months of the Norwegian file."""
    path = shared_data / "norway_residential_sessions.csv"
    batches = SessionFile(path, country_code="NO", time_zone="Europe/Oslo").batches()
    now = datetime.now(UTC)
    return all_months(
        session_from_message(message, now).session
        for batch in batches
        for message in batch.sessions
    )


def test_offers_beat_the_last_30_days_on_real_sessions(shared_data: Path, tmp_path: Path) -> None:
    """Cross-fitted: at least +0.03 captured, -5 points of harm, both beyond chance."""
    path = shared_data / "norway_residential_sessions.csv"
    numbers = evaluate(path, tmp_path, "--plot", str(tmp_path / "plot.png"))
    assert "cross-fitted, 10 folds by user" == numbers["parameters"]
    last = numbers["baselines"]["last_30_days"]
    assert (1270, 0.736, 0.121) == (
        numbers["user_months"],
        round(last["captured_saving"], 3),
        round(last["harm_share"], 3),
    )
    paired = numbers["paired"]
    assert paired["captured_saving"]["value"] >= 0.03
    assert paired["captured_saving"]["low"] > 0
    assert paired["harm_share"]["value"] <= -0.05
    assert paired["harm_share"]["high"] < 0
    assert {"best_fixed", "random"} < set(numbers["baselines"])
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_users_not_seen_are_judged_by_the_shipped_parameters(
    shared_data: Path, tmp_path: Path
) -> None:
    """Sessions at other times are strangers'; under other names alone they are the same users'."""
    lines = (shared_data / "norway_residential_sessions.csv").read_text(encoding="utf-8")
    kept = [line for line in lines.splitlines() if "OSL_S" in line or "session_id" in line]
    renamed = "\n".join(kept).replace("OSL_S_KT", "NEW") + "\n"
    files = {"renamed": renamed, "strangers": renamed.replace(":00Z", ":07Z")}
    found = {}
    for name, text in files.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "s.csv").write_text(text, encoding="utf-8")
        found[name] = evaluate(tmp_path / name / "s.csv", tmp_path / name)["parameters"]
    version = default_parameters().version
    assert f"shipped, version {version}" == found["strangers"]
    assert "cross-fitted, 10 folds by user" == found["renamed"]


def test_shuffling_the_future_changes_no_decision(shared_data: Path) -> None:
    """What comes after a decision is not looked at."""
    months = real_months(shared_data)[:200]
    products = read_catalogue(CATALOGUE)
    price = read_pay_as_you_go(CATALOGUE).micros
    made = backtest.shipped_forecasts(default_parameters(), months)
    futures = [month.coming for month in months]
    random.Random(1).shuffle(futures)
    shuffled = [replace(m, coming=coming) for m, coming in zip(months, futures, strict=True)]
    priors = backtest.cross_fitted_priors(months, made)
    one = backtest.run(months, products, price, made, priors)
    two = backtest.run(shuffled, products, price, made, priors)
    np.testing.assert_array_equal(one.offers, two.offers)
    assert one.savings.sum() == pytest.approx(two.savings.sum())


def test_a_catalogue_without_a_price_is_refused_in_one_line(tmp_path: Path) -> None:
    """Exit code 2 and the key that is missing."""
    catalogue = tmp_path / "catalogue.yaml"
    text = CATALOGUE.read_text(encoding="utf-8")
    catalogue.write_text(text.replace("pay_as_you_go_per_kwh: 0.59 EUR\n", ""), encoding="utf-8")
    sessions = tmp_path / "none.csv"
    command = [sys.executable, "-m", "voucher_grpc.cli", "evaluate", str(sessions)]
    done = subprocess.run(
        [*command, "--catalogue", str(catalogue)], capture_output=True, text=True, check=False
    )
    assert 2 == done.returncode
    assert ["voucher-grpc: pay_as_you_go_per_kwh: is missing"] == [
        line.partition(": an ev")[0] for line in done.stderr.splitlines()
    ]


def test_a_simulation_is_printed_before_and_after(tmp_path: Path) -> None:
    """Two users of 10 kWh a day at 0.59, for two months each, with a pass for nothing: at a cent
    less first, and then at a price of 0.29. Ids may have spaces, and rows that cannot be judged
    are said."""
    sessions = tmp_path / "sessions.csv"
    start = datetime(2026, 1, 1, 12, tzinfo=UTC)
    lines = ["session_id,user_id,location_id,start_date_time,end_date_time,energy_kwh"]
    for user in ("ann", "ben"):
        for day in range(91):
            at = (start + timedelta(days=day)).isoformat()
            lines.append(f"{user} {day},{user} x,L 1,{at},,10")
    lines.append(f"late,ann,L,{(start + timedelta(days=9_999)).isoformat()},,10")
    lines.append("wrong,ann,L,today,,10")
    sessions.write_text("\n".join(lines) + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "voucher_grpc.cli", "simulate", str(sessions)]
    for option, name, price in (("--catalogue", "old", "0.58"), ("--changed", "new", "0.29")):
        catalogue = tmp_path / f"{name}.yaml"
        catalogue.write_text(
            "pay_as_you_go_per_kwh: 0.59 EUR\nproducts:\n"
            f"  - {{product_id: {name}, display_name: x, price: 0.00 EUR, time_zone: Europe/Oslo,\n"
            f"     benefit: {{energy_price_per_kwh: {price}}}, validity: {{days: 30}}}}\n",
            encoding="utf-8",
        )
        command += [option, str(catalogue)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert (0, "") == (done.returncode, done.stderr)
    assert "2 of 184 rows were refused and are not judged:" in done.stdout
    assert all(f"line {n} {name}: " in done.stdout for n, name in ((184, "late"), (185, "wrong")))
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.stdout.splitlines()]
    rows = {row[0]: row[1:] for row in cells if row}
    assert {
        "revenue from these users": ["696.00", "348.00", "-348.00"],
        "saved by users": ["12.00", "360.00", "+348.00"],
        "harm, % of user-months": ["0.00", "0.00", "+0.00"],
        "new sold": ["0", "4", "+4"],
        "old sold": ["4", "0", "-4"],
    } == rows
