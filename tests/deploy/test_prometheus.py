"""The dashboard and the alerts: promtool reads them, and a real Prometheus that scrapes a server has data for each panel."""

import json
import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import yaml

from tests.conftest import ROOT
from tests.server import running
from tools.server import free_port

ALERTS, DASHBOARD = ROOT / "deploy" / "alerts.yaml", ROOT / "deploy" / "grafana-dashboard.json"
RULES = yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]
PANELS = json.loads(DASHBOARD.read_text())["panels"]
EXPRESSIONS = [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]


def program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed: make test-tools")
    return path


# For each alert, series that set it off (by the minute) and series that do not.
FIRING = {
    "ServingFails": ({"serving_requests_total{status='5xx'}": "0+2x60", "serving_requests_total{status='2xx'}": "0+98x60"},
                     {"serving_requests_total{status='5xx'}": "0+1x60", "serving_requests_total{status='2xx'}": "0+999x60"}),
    "ServingCannotLoad": ({"serving_loads_total{outcome='failed'}": "0x10 1x50"}, {"serving_loads_total{outcome='loaded'}": "0+1x60"}),
    "ServingRefuses": ({"serving_refused_total{status='429'}": "0+5x60", "serving_requests_total{status='4xx'}": "0+95x60"},
                       {"serving_refused_total{status='413'}": "0+5x60", "serving_requests_total{status='4xx'}": "0+95x60"}),
    "ServingIsSlow": ({"serving_request_seconds_bucket{action='predict',le='1'}": "0+9x60", "serving_request_seconds_bucket{action='predict',le='2.5'}": "0+10x60",
                       "serving_request_seconds_bucket{action='predict',le='+Inf'}": "0+10x60"},
                      {"serving_request_seconds_bucket{action='ready',le='1'}": "0+9x60", "serving_request_seconds_bucket{action='ready',le='+Inf'}": "0+10x60"}),
    "ServingLosesPredictions": ({"serving_logged_predictions_total{outcome='lost'}": "0x10 1x50"},
                                {"serving_logged_predictions_total{outcome='written'}": "0+1x60"}),
}  # fmt: skip


def test_every_alert_fires_when_it_should_and_only_then(tmp_path: Path) -> None:
    promtool = program("promtool")
    assert {rule["alert"] for rule in RULES} == set(FIRING)
    tests = []
    for rule in RULES:
        for fires, series in zip((True, False), FIRING[rule["alert"]]):
            given = [{"series": name.replace("{", "{job='j',"), "values": values} for name, values in series.items()]
            tests.append({
                "interval": "1m", "input_series": given,
                # The values of the annotations are the rule's business: that one fires is asked as a query.
                "promql_expr_test": [{
                    "expr": f"count(ALERTS{{alertname='{rule['alert']}', alertstate='firing', job='j'}})",
                    "eval_time": "19m", "exp_samples": [{"labels": "{}", "value": 1}] if fires else [],
                }],
            })  # fmt: skip
    file = tmp_path / "tests.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": tests}))
    for command in (["check", "rules", str(ALERTS)], ["test", "rules", str(file)]):
        run = subprocess.run([promtool, *command], capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stdout + run.stderr


@contextmanager
def prometheus(port: int, folder: Path) -> Iterator[Any]:
    """Run Prometheus, which scrapes a port and reads the alerts; give what asks its API."""
    own = free_port()
    configuration = {
        "global": {"scrape_interval": "250ms", "evaluation_interval": "250ms"},
        "rule_files": [str(ALERTS)],
        "scrape_configs": [{"job_name": "serving", "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}],
    }
    file = folder / "prometheus.yaml"
    file.write_text(yaml.safe_dump(configuration))
    command = [program("prometheus"), f"--config.file={file}", f"--storage.tsdb.path={folder / 'data'}",
               f"--web.listen-address=127.0.0.1:{own}", "--log.level=warn"]  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def ask(path: str, **query: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{own}/api/v1/{path}?{urlencode(query)}", timeout=10) as answer:
            return json.load(answer)["data"]

    try:
        yield ask
    finally:
        process.terminate()
        process.wait(30)


def test_every_panel_has_data_of_a_real_scrape(tmp_path: Path, examples: dict[str, Any]) -> None:
    program("prometheus")
    expressions = {text: text.replace("$job", ".*").replace("$__rate_interval", "2s") for _, text in EXPRESSIONS}
    with (
        running("standalone", METRICS="1", LOG_PREDICTIONS="1", LOG_PREDICTIONS_TO=str(tmp_path)) as server,
        prometheus(server.port, tmp_path) as ask,
    ):
        empty, end = set(expressions), time.monotonic() + 60
        while empty and time.monotonic() < end:
            assert server.ask("POST", "/", examples["pixels"]).status == 200
            assert server.ask("POST", "/", b"{").status == 400
            assert server.ask("POST", "/", b" " * 9_000_000).status == 413
            try:
                empty -= {text for text in empty if ask("query", query=expressions[text])["result"]}
                rules = ask("rules")["groups"]
            except OSError:
                pass  # it is starting
            time.sleep(0.1)
        assert empty == set()
        assert {rule["name"]: rule["health"] for group in rules for rule in group["rules"]} == dict.fromkeys(
            FIRING, "ok"
        )


def test_the_panels_do_not_overlap_and_show_only_existing_metrics() -> None:
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in PANELS]
    assert len({*places}) == len(PANELS) == len({panel["id"] for panel in PANELS})
    listed = set(re.findall(r"^    (serving_\w+)", (ROOT / "serving/core/telemetry/metrics.py").read_text(), re.M))
    texts = [text for _, text in EXPRESSIONS] + [rule["expr"] for rule in RULES]
    used = {re.sub(r"_(bucket|sum|count)$", "", name) for text in texts for name in re.findall(r"\bserving_\w+", text)}
    assert used <= listed
    assert {name for name in listed if not name.endswith("_seconds")} <= used  # each is on the dashboard
