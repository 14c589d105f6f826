"""Costs calculated by hand, traffic shapes, refusals, and the command line."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving import __main__ as serving
from tests.conftest import ROOT
from tests.tools.plan.made import MEASURED, measured
from tools.load import SHARES, Load
from tools.plan import PlanError, measure, traffic
from tools.plan import cost as costs
from tools.plan.measured import instance, throughput
from tools.plan.outcome import MIDDLES, Outcome, bins
from tools.plan.plan import Wishes, plan, size
from tools.plan.rules import MEMORIES, SIZES

PRICES = costs.read(costs.DEFAULT, "1")


def main(arguments: list[str]) -> int:
    return serving.main(["plan", *arguments])


def test_the_cost_by_request_matches_a_hand_calculation() -> None:
    """A day of a million answers: 1,000 s of one vCPU and 2 GiB, 10 s of starting with two, 500 s idle."""
    outcome = Outcome("by hand", 86400.0, answered=1e6, active=1000, starting=10, idle_least=500, lifetime=2000)
    bill = costs.cost(outcome, 1, 2048, True, PRICES, costs.BY_REQUEST)
    assert bill.cpu == pytest.approx((1000 + 2 * 10) * 0.000024)
    assert bill.memory == pytest.approx(1010 * 2 * 0.0000025)
    assert bill.requests == pytest.approx(0.40)
    assert bill.idle == pytest.approx(500 * (1 + 2) * 0.0000025)
    assert bill.million == pytest.approx(bill.total) == pytest.approx(0.02448 + 0.00505 + 0.4 + 0.00375)
    # A month is 30 of these; CPU (30,600 vCPU-s) and memory (60,600 GiB-s) are free, and 2 of 30 million requests
    assert bill.month_free == pytest.approx(28 * 0.40 + 30 * 0.00375)


def test_the_cost_by_instance_matches_a_hand_calculation() -> None:
    """A day of two instances that never end: 2 vCPU and 4 GiB each, requests free."""
    outcome = Outcome("by hand", 86400.0, answered=1e6, active=10, lifetime=2 * 86400.0)
    bill = costs.cost(outcome, 2, 4096, True, PRICES, costs.BY_INSTANCE)
    assert bill.total == pytest.approx(2 * 86400 * (2 * 0.000018 + 4 * 0.000002))
    assert bill.month - bill.month_free == pytest.approx(240_000 * 0.000018 + 450_000 * 0.000002)


def test_the_date_of_the_prices_is_read_or_unknown() -> None:
    assert [costs.read(costs.DEFAULT, tier).date for tier in ("1", "2")] == ["2026-10-08", "unknown date"]


def test_bins_are_a_hundredth_wide() -> None:
    values: Any = np.geomspace(1e-4, 1e3, 500)
    assert MIDDLES[bins(values)] == pytest.approx(values, rel=0.0051)


@settings(max_examples=20, deadline=None)
@given(st.floats(0.01, 1e6), st.floats(1, 40))
def test_a_day_has_its_mean_and_its_peak(rate: float, times: float) -> None:
    shape = traffic.diurnal(rate, rate * times, traffic.DAY)
    assert shape.requests / shape.seconds == pytest.approx(rate, rel=1e-3)
    assert shape.rates.max() == pytest.approx(rate * times, rel=1e-3)
    assert shape.rates.min() >= 0


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 20), st.floats(0, 300), st.floats(1, 30), st.floats(31, 200), st.integers(0, 9))
def test_drawn_requests_are_sorted_and_as_many_as_expected(
    rate: float, peak: float, long: float, every: float, seed: int
) -> None:
    shape = traffic.bursts(rate, peak, long, every, 600)
    arrivals = shape.arrivals(np.random.default_rng(seed), 2)
    assert (np.diff(arrivals) >= 0).all()
    assert not len(arrivals) or 0 <= arrivals[0] <= arrivals[-1] < 2 * shape.seconds
    assert abs(len(arrivals) - 2 * shape.requests) <= 6 * np.sqrt(2 * shape.requests) + 1


def test_bursts_have_their_period_and_height() -> None:
    shape = traffic.bursts(1, 100, 10, 60, 120)
    assert shape.requests == pytest.approx(100 * 20 + 1 * 100)
    assert shape.rates[int(30.1 / traffic.STEP)] == shape.rates[int(39.9 / traffic.STEP)] == 100
    assert shape.rates[int(29.5 / traffic.STEP)] == shape.rates[int(40.5 / traffic.STEP)] == 1


def test_throughput_is_interpolated_and_shared_by_workers() -> None:
    assert throughput(measured(), 8, 1) == pytest.approx([0, 500, 900, 950, 1000, 1000, 1000, 1000, 1000])
    assert throughput(measured(), 4, 2) == pytest.approx([0, 500, 1000, 1400, 1800])


def test_a_start_waits_for_the_probe_and_for_its_cpu() -> None:
    assert instance(measured(), 1, 1, 1, 2.0, 0.0, 0.0).starts == pytest.approx([0.5, 0.5, 0.7])
    assert instance(measured(start_cpu_seconds=1.2), 1, 1, 1, 2.0, 1.0, 0.0).starts == pytest.approx([1.6, 1.6, 1.7])
    assert instance(measured(), 1, 1, 1, 2.0, 1.0, 10.0).starts == pytest.approx([11, 11, 11])


@given(st.floats(1, 25_000), st.sampled_from([None, *SIZES]))
def test_the_proposal_is_valid_on_cloud_run_and_large_enough_for_the_model(peak: float, cpu: int | None) -> None:
    try:
        memory, cpus, workers = size(measured(peak_mib=peak), Wishes(cpu=cpu))
    except PlanError:
        assert peak * 1.25 > (4096 if cpu is None else SIZES[cpu][1]) / 1.25 - 200
        return
    least, most, _ = SIZES[cpus]
    assert least <= memory <= most
    assert memory in MEMORIES
    assert memory > peak
    assert workers in (1, cpus)


def test_a_minimum_of_one_instance_avoids_cold_starts() -> None:
    shape = traffic.constant(1 / 1800, 86400)  # every half an hour: hardly ever a warm instance
    made = plan(measured(), shape, Wishes(), PRICES)
    cold, warm = (next(c for c in made.choices if c.service.least == least) for least in (0, 1))
    assert cold.outcome.cold / cold.outcome.answered == pytest.approx(np.exp(-0.5), abs=0.03)  # no one for 15 minutes
    assert warm.outcome.cold == 0
    assert cold.cost.month < warm.cost.month
    assert made.proposed is cold
    assert plan(measured(), shape, Wishes(p99=0.1), PRICES).proposed.service.least == 1


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    file = tmp_path / "measured.json"
    file.write_text(json.dumps(MEASURED))
    return file


def test_the_table_and_the_picture(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "plan.png"
    assert main(["--measured", str(saved), "--hours", "2", "--picture", str(picture)]) == 0
    table = capsys.readouterr().out
    for part in ("Proposed", "--memory 768Mi --cpu 1", "min 1, by request", "p99.9", "2026-10-08"):
        assert part in table
    assert max(map(len, table.splitlines())) <= 130
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_deploy_accepts_the_proposed_values(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--measured", str(saved), "--hours", "1", "--cpu", "2", "--no-picture"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Proposed")]
    arguments = [*line.split()[1:], "--project", "made-up-project", "--region", "us-central1", "--dry-run"]
    mine = os.environ | {"PYTHON": sys.executable}  # make's own would be one without our packages
    done = subprocess.run(arguments, cwd=ROOT, env=mine, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--cpu=2" in done.stdout
    assert "WORKERS" in line


def test_json_has_the_values_of_the_text(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--shape", "constant", "--rate", "1000000", "--hours", "1"]
    assert main(["--measured", str(saved), *arguments, "--json", "--no-picture"]) == 0
    report = json.loads(capsys.readouterr().out, parse_constant=lambda token: pytest.fail(token))
    proposed = report["proposed"]
    assert proposed["outcome"]["requests"] == pytest.approx(3.6e9)
    assert proposed["outcome"]["mean_instances"] == pytest.approx(1e6 / 1000 / 0.6, rel=0.05)
    assert proposed["service"]["billing"] == "instance"  # busy always: the lower price a second is the cheaper one
    assert len(report["over_time"]["p99"]) == len(report["over_time"]["instances"])


TRACES = [
    # lines                                                  said
    ("",                                                     "expected a timestamp a line, got an empty file"),
    ("1\n2\nnoon\n",                                         "line 3: expected seconds or ISO 8601, got 'noon'"),
    ("1\n\n2\n",                                             "line 2: expected seconds or ISO 8601, got ''"),
    ("1\nnan\n",                                             "line 2: expected a finite number of seconds, got 'nan'"),
    ("1\n2026-11-22T10:00:00Z\n",                            "line 2: expected seconds, as before, got '2026-11-22T"),
    ("0\n99999999\n",                                        "expected at most a year, got 1157 days"),
]  # fmt: skip


@pytest.mark.parametrize(("lines", "said"), TRACES)
def test_a_bad_trace_is_refused_by_line(lines: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "trace"
    file.write_text(lines)
    with pytest.raises(PlanError, match=r"^--trace: ") as refused:
        traffic.trace(file)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_unsorted_trace_is_sorted_and_reported(tmp_path: Path) -> None:
    file = tmp_path / "trace"
    file.write_text("2026-11-22T10:00:05Z\n2026-11-22T11:00:01+01:00\n2026-11-22T10:00:03.5Z\n")
    shape, notes = traffic.trace(file)
    assert shape.times is not None
    assert shape.times.tolist() == [0.0, 2.5, 4.0]
    assert "line 2 is earlier" in notes[0]
    assert shape.requests == 3


def without(*keys: str) -> str:
    document: Any = json.loads(costs.DEFAULT.read_text())
    inner = document
    for key in keys[:-1]:
        inner = inner[key]
    del inner[keys[-1]]
    return json.dumps(document)


REFUSED: list[tuple[list[str], str]] = [
    # arguments                                       said
    (["--memory", "16Gi", "--cpu", "1"],              "--memory: expected 512 to 4096 MiB with 1 vCPU, got 16384 MiB"),
    (["--memory", "1Gi", "--cpu", "8"],               "--memory: expected 4096 to 32768 MiB with 8 vCPU, got 1024 MiB"),
    (["--cpu", "3"],                                  "--cpu: expected one of 1, 2, 4, 6, 8, got 3"),
    (["--shape", "diurnal", "--rate", "5", "--peak", "1"], "--peak: expected at least the mean, 5, got 1"),
    (["--shape", "bursts", "--burst-seconds", "9000"], "--burst-seconds: expected less than --burst-every"),
    (["--trace", "/nowhere"],                         "--trace: /nowhere: No such file or directory"),
    (["--prices", "/nowhere"],                        "--prices: /nowhere: No such file or directory"),
    (["--tier", "9"],                                 "--tier: expected one of 1, 2"),
    (["--min", "5", "--max", "2"],                    "--max: expected at least 5"),
    (["model/"],                                      "--measured: expected alone"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "said"), REFUSED)
def test_impossible_options_are_refused_in_one_line(
    arguments: list[str], said: str, saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--measured", str(saved), "--no-picture", "--hours", "1", *arguments]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert said in printed.err
    assert len(printed.err.strip().splitlines()) == 1


USAGE = [
    (["--shape", "square"], "invalid choice: 'square'"),
    (["--rate", "-1"], "argument --rate: expected a number from 0 to 1e+07, got '-1'"),
    (["--rate", "nan"], "argument --rate: expected a number from 0 to 1e+07, got 'nan'"),
    (["--hours", "0"], "argument --hours: expected a number above 0"),
    (["--memory", "64Gi"], "argument --memory: expected 512Mi to 32Gi, got '64Gi'"),
    (["--memory", "lots"], "argument --memory: expected MiB or GiB, as 512Mi or 2Gi, got 'lots'"),
    (["--concurrency", "1001"], "argument --concurrency: expected a whole number from 1 to 1000, got '1001'"),
]


@pytest.mark.parametrize(("arguments", "said"), USAGE)
def test_a_misspelt_option_is_named(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "keys", [("date",), ("tiers",), ("tiers", "1", "request", "cpu_second"), ("free_each_month", "instance")]
)
def test_a_price_that_is_missing_is_named(keys: tuple[str, ...], tmp_path: Path) -> None:
    file = tmp_path / "prices.json"
    file.write_text(without(*keys))
    with pytest.raises(PlanError, match=r"expected the key " + ".".join(keys)):
        costs.read(file, "1")


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"start_seconds": []}, "start_seconds: expected numbers above 0"),
    ({"cpu_seconds": "much"}, "cpu_seconds: expected a number above 0, got 'much'"),
    ({"alone_ms": [1.0, 2.0]}, "alone_ms: expected 12 numbers, rising"),
    ({"loads": [{"concurrency": 2}]}, "loads: expected one for each concurrency"),
]


@pytest.mark.parametrize(("changed", "said"), WRONG)
def test_a_malformed_measurement_is_refused(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(PlanError, match=said):
        measured(**changed)


def test_the_command_measures_the_embedded_model(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "serving", "plan", "--starts", "1", "--seconds", "0.3", "--hours", "1"]
    files = ["--save", str(tmp_path / "m.json"), "--picture", str(tmp_path / "p.png")]
    done = subprocess.run([*command, *files], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Proposed" in done.stdout
    assert "start 1 of 1" in done.stderr
    assert (tmp_path / "p.png").exists()
    figures = json.loads((tmp_path / "m.json").read_text())
    assert [load["concurrency"] for load in figures["loads"]] == [1, 2, 4, 8, 16, 32]
    assert figures["peak_mib"] > figures["worker_mib"] > 0
    assert 0 < figures["cpu_seconds"] < 1


def test_a_load_without_an_answer_in_time_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    late = Load(0.0, 900.0, 900.0, 3, 0, 0.0, 0.0, 0, 0.0, (900.0,) * len(SHARES))
    monkeypatch.setattr(measure, "load", lambda *given, **more: late)
    server: Any = SimpleNamespace(port=1, cpu_seconds=lambda: 0.0)
    with pytest.raises(PlanError, match=r"--seconds: expected time for at least one answer with 4 clients, got 0\.1"):
        measure._load(server, Path("body"), 4, 0.1, {0})


def test_a_model_that_does_not_load_is_reported_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none"), "--no-picture"]) == 1
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith(f"plan: {tmp_path / 'none'}: ")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "saved_model.pb").write_bytes((ROOT / "model" / "saved_model.pb").read_bytes())
    (broken / "variables").mkdir()
    for name in ("variables.index", "variables.data-00000-of-00001"):
        (broken / "variables" / name).write_bytes(b"nothing of the kind")
    assert main([str(broken), "--no-picture", "--starts", "1"]) == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith(f"plan: {broken}: ")
    assert "cannot be loaded" in line
