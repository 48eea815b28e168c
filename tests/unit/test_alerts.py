"""The alerts and the dashboard of Grafana: Prometheus takes them, and they speak of figures that there are."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.containers.engine import Engine
from agent.exposition import Family, render
from agent.metrics import Metrics as NodeMetrics
from agent.metrics import families as of_node
from agent.status import LoopStatus, NodeStatus, PermitStatus, SpoolStatus
from dispatcher.core import Core
from dispatcher.queue import Limits
from dispatcher.routes.metrics import families as of_dispatcher
from dispatcher.store.sqlite import SqliteStore

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "deploy/prometheus/alerts.yaml"
PROMTOOL = shutil.which("promtool") or shutil.which("promtool", path=ROOT / ".cache/promtool/usr/bin")

_METRIC = re.compile(r"\b(?:fernd|process)_[a-z_]+\b")

needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not there: deploy/ensure-test-tools.sh")


def promtool(*arguments: str, stdin: bytes = b"") -> str:
    done = subprocess.run(
        [str(PROMTOOL), *arguments], input=stdin, capture_output=True, check=False, cwd=RULES.parent, timeout=50
    )
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, said
    return said


def figures(directory: Path) -> dict[str, list[Family]]:
    """What both programs expose; each family is always there, with or without a sample."""
    core = Core(SqliteStore(directory / "store"), Limits(), "1.2", rng=random.Random(1))
    status = NodeStatus(
        "n", "1.2", "ready", True, "", "http://d", True, 1.0, 2.0, -3.0, PermitStatus(1.5, 0.5, 100, 28, 3, 1),
        [], ["runc"], ["f.1"], SpoolStatus(2, 1, 100, 1000), [LoopStatus("link", 1.0, False)],
    )  # fmt: skip
    return {"dispatcher": of_dispatcher(core, 1.5), "node": of_node(status, NodeMetrics(), Engine().call_figures)}


def names(families: list[Family]) -> Iterator[str]:
    """The names under which a family can be asked for."""
    for family in families:
        name = family.name if family.name.startswith("process_") else f"fernd_{family.name}"
        yield name
        if family.kind == "histogram":
            yield from (name + part for part in ("_bucket", "_sum", "_count"))


def expressions(dashboard: Any) -> Iterator[str]:
    """All questions of a dashboard."""
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["definition"]


@needs_promtool
def test_prometheus_takes_the_figures(tmp_path: Path) -> None:
    """Names, units, HELP and TYPE of either program are as Prometheus wants them."""
    for families in figures(tmp_path).values():
        assert promtool("check", "metrics", stdin=render(families)) == ""


@needs_promtool
def test_prometheus_takes_the_rules() -> None:
    """The alerts can be loaded, and fire when they should and only then."""
    assert "SUCCESS" in promtool("check", "rules", RULES.name)
    assert "SUCCESS" in promtool("test", "rules", "alerts-test.yaml")


def test_each_alert_is_tested_and_explained() -> None:
    """An alert has a case in which it fires and one in which it does not, and a section of docs/operating.md."""
    text, tests = RULES.read_text(), (RULES.parent / "alerts-test.yaml").read_text()
    alerts = re.findall(r"- alert: (\w+)", text)
    night = (ROOT / "docs/operating.md").read_text().partition("## Woken at night\n")[2].partition("\n## ")[0]
    assert re.findall(r"^### (\w+)$", night, re.MULTILINE) == alerts
    assert re.findall(r"runbook: (\S+)", text) == [f"docs/operating.md#{name.lower()}" for name in alerts]
    for alert in alerts:
        assert f"alertname: {alert}, exp_alerts: []" in tests, alert
        assert f"alertname: {alert}\n" in tests, alert
    for section in night.split("\n### ")[1:]:
        assert all(word in section for word in ("Means:", "Look at:", "Cure:")), section.partition("\n")[0]


def test_alerts_and_dashboard_speak_of_figures_that_there_are(tmp_path: Path) -> None:
    """Every name that they ask for is exposed; and every figure of fernd is on the dashboard."""
    families = [family for found in figures(tmp_path).values() for family in found]
    known = set(names(families))
    asked = re.findall(r"expr:(.*?)\n +(?:for|labels):", RULES.read_text(), re.DOTALL)
    assert set(_METRIC.findall("\n".join(asked))) <= known
    dashboard = json.loads((ROOT / "deploy/grafana/fernd.json").read_text())
    shown = set(_METRIC.findall("\n".join(expressions(dashboard))))
    assert shown <= known
    of_ours = {f"fernd_{family.name}" for family in families if not family.name.startswith("process_")}
    assert {name for name in of_ours if not any(each.startswith(name) for each in shown)} == set()
