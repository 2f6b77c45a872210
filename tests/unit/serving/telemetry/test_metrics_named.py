"""docs/serving-metrics.md and the Grafana dashboard name the metrics and labels that exist."""

import json
import re
from pathlib import Path

import pytest

from llamafarm_ray.serving.telemetry.ray_metrics import METERS

ROOT = Path(__file__).parents[4]
DASHBOARD = json.loads((ROOT / "cluster" / "grafana_dashboard.json").read_text(encoding="utf-8"))
SHOWN = {f"ray_{meter.name}{'_bucket' if meter.bounds else ''}": meter for meter in METERS}
EXPRESSIONS = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def test_the_documentation_lists_each_metric_with_its_labels():
    documented = {}
    for line in (ROOT / "docs" / "serving-metrics.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("| `llamafarm_"):
            _, names, labels, *_ = line.split("|")
            for name in re.findall(r"`(\w+)`", names):
                documented[name] = tuple(re.findall(r"`(\w+)`", labels))
    assert documented == {meter.name: meter.labels for meter in METERS}


def test_the_dashboard_shows_each_metric():
    assert {name for one in EXPRESSIONS for name in re.findall(r"\bray_\w+", one)} == set(SHOWN)


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_a_panel_asks_for_labels_that_there_are(expression):
    for name, selector in re.findall(r"\b(ray_\w+)(?:\{(.*?)\})?", expression):
        labels = {*SHOWN[name].labels, *(["le"] if SHOWN[name].bounds else [])}
        assert set(re.findall(r"(\w+)\s*(?:=~|=)", selector)) <= labels
        for grouped in re.findall(r"by \((.*?)\)", expression):
            assert set(grouped.split(", ")) <= labels


def test_the_dashboards_variables_and_panels_fit_together():
    assert [variable["name"] for variable in DASHBOARD["templating"]["list"]] == ["datasource", "model"]
    used = set(re.findall(r"\$\{?(\w+)", json.dumps([DASHBOARD["panels"], DASHBOARD["templating"]])))
    assert used == {"datasource", "model", "__rate_interval", "__all"}
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in DASHBOARD["panels"]]
    assert len(set(places)) == len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
