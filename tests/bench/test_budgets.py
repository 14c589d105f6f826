"""Budgets of the benchmarks, met or missed, and the page of results."""

import json
from operator import le

import pytest

from bench.budgets import Budget, verdicts
from bench.page import markdown
from bench.report import Results, parts

BUDGET = Budget("ours", "start_seconds", le, 0.5, "naive")
# ours                      naive                     verdict
VERDICTS = [
    ({"start_seconds": 1.0}, {"start_seconds": 2.0},  "met"),
    ({"start_seconds": 1.1}, {"start_seconds": 2.0},  "MISSED"),
    ({"start_seconds": 1.0}, {},                      "not measured"),
    ({},                     {"start_seconds": 2.0},  "not measured"),
]  # fmt: skip


@pytest.mark.parametrize(("ours", "naive", "word"), VERDICTS)
def test_a_budget_is_met_only_where_both_sides_were_measured(
    monkeypatch: pytest.MonkeyPatch, ours: dict[str, float], naive: dict[str, float], word: str
) -> None:
    monkeypatch.setattr("bench.budgets.BUDGETS", (BUDGET,))
    (verdict,) = verdicts({"mlp": {"ours": ours, "naive": naive}})
    assert verdict.word == word


def test_a_budget_compares_two_models_where_it_names_two(monkeypatch: pytest.MonkeyPatch) -> None:
    budget = Budget("baked", "start_seconds", le, 1.3, "baked", model="mobilenet", of_model="mlp")
    monkeypatch.setattr("bench.budgets.BUDGETS", (budget,))
    small, large = {"baked": {"start_seconds": 2.0}}, {"baked": {"start_seconds": 2.5}}
    assert [(verdict.ratio, verdict.word) for verdict in verdicts({"mlp": small, "mobilenet": large})] == [
        (1.25, "met")
    ]
    assert verdicts({"mobilenet": large}) == []


def test_the_page_names_each_subject_that_was_not_measured_with_its_reason() -> None:
    results = Results()
    results.add("mlp", "naive", {"start_seconds": 2.0, "start: model": 3.0})
    results.add("mlp", "naive", {"start_seconds": 4.0, "start: model": 5.0})
    results.fail("mlp", "mosec", "not measured: it cannot be installed")
    results.fail("digits", "twin", "not measured: strings")
    text = "\n".join(markdown(part) for part in parts(results, [1, 16]))
    assert "| naive | 3.000 |" in text
    assert "- mosec: not measured: it cannot be installed" in text
    assert "- twin: not measured: strings" in text
    assert json.dumps("ours") not in text
