"""Dashboards, alert rules and docs/monitoring.md name the metrics that the code exports, and Prometheus takes them."""

import ast
import json
import re
import shutil
import signal
import subprocess
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from llamafarm_ray.telemetry.catalog import EVERY_METER

ROOT = Path(__file__).parents[3]
PACKAGE = ROOT / "llamafarm_ray"
MONITORING = ROOT / "cluster" / "monitoring"
PAGE = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
DASHBOARDS = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted((MONITORING / "dashboards").iterdir())}
GROUPS = yaml.safe_load((MONITORING / "alerts.yml").read_text(encoding="utf-8"))["groups"]
RULES = {rule["alert"]: rule for group in GROUPS for rule in group["rules"]}
PANELS = [
    pytest.param(target["expr"], id=f"{name}-{panel['title']}-{target['refId']}")
    for name, board in DASHBOARDS.items()
    for panel in board["panels"]
    for target in panel["targets"]
]
EXPRESSIONS = [*PANELS, *(pytest.param(rule["expr"], id=name) for name, rule in RULES.items())]
EXPORTED = {f"ray_{meter.name}{'_bucket' if meter.bounds else ''}": meter for meter in EVERY_METER}
BY_PROMETHEUS = {"instance", "job"}
NO_PROMTOOL = "promtool is not installed: apt-get install --no-install-recommends prometheus"
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason=NO_PROMTOOL)


def names_in(expression):
    return set(re.findall(r"\bray_\w+", expression))


@cache
def rays_source():
    """The text of Ray's modules that export metrics."""
    ray = Path(find_spec("ray").submodule_search_locations[0])
    folders = ("dashboard", "serve/_private", "data/_internal", "autoscaler")
    return "\n".join(path.read_text("utf-8") for folder in folders for path in (ray / folder).rglob("*.py"))


def test_a_metric_has_one_entry():
    assert len(EXPORTED) == len(EVERY_METER)
    for meter in EVERY_METER:
        assert meter.name.endswith("_total") == (meter.kind == "counter")
        assert bool(meter.bounds) == (meter.kind == "histogram")


def test_the_documentation_lists_each_metric_with_its_labels():
    documented = {}
    for line in PAGE.splitlines():
        if line.startswith("| `llamafarm_"):
            _, names, labels, *_ = line.split("|")
            for name in re.findall(r"`(\w+)`", names):
                documented[name] = tuple(re.findall(r"`(\w+)`", labels))
    assert documented == {meter.name: meter.labels for meter in EVERY_METER}


def test_the_code_exports_each_metric_and_no_other():
    """By the names in the source: those put together of a prefix and a part are looked for by both."""
    texts = {
        node.value
        for path in PACKAGE.rglob("*.py")
        if path != PACKAGE / "telemetry" / "catalog.py"
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    areas = ("training", "registry", "rollout", "dataset", "requests", "errors", "latency", "time", "inter", "adapter")
    named = {one for one in texts if re.fullmatch(rf"llamafarm_({'|'.join(areas)})s?_[a-z_]+", one)}
    assert {one for one in named if not one.endswith("_")} - {"llamafarm_ray"} <= {one.name for one in EVERY_METER}
    for meter in EVERY_METER:
        parts = [one for one in texts if one.startswith("llamafarm_") and meter.name.startswith(one)]
        assert any(meter.name == one or any(meter.name == one + rest for rest in texts) for one in parts) or any(
            meter.name == f"llamafarm_{part}_tokens_total" for part in ("prompt", "completion")
        ), meter.name


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_asks_for_metrics_and_labels_that_there_are(expression):
    selected = re.findall(r"\b(ray_\w+)(?:\{(.*?)\})?", expression)
    assert selected or "up{" in expression
    for name, selector in selected:
        if name not in EXPORTED:
            assert not name.startswith("ray_llamafarm_"), name
            assert f'"{name.removeprefix("ray_")}"' in rays_source(), f"Ray has no {name}"
            continue
        labels = {*EXPORTED[name].labels, "ReplicaId", *BY_PROMETHEUS, *(["le"] if EXPORTED[name].bounds else [])}
        assert set(re.findall(r"(\w+)\s*(?:=~|!=|=)", selector or "")) <= labels
        for grouped in re.findall(r"by \((.*?)\)", expression):
            assert set(grouped.split(", ")) <= labels | {"application", "deployment"}


def test_every_metric_is_on_a_dashboard():
    shown = {name for panel in PANELS for name in names_in(panel.values[0])}
    assert set(EXPORTED) <= shown


@pytest.mark.parametrize("name", DASHBOARDS)
def test_a_dashboard_is_one_of_grafanas_model(name):
    board = DASHBOARDS[name]
    assert {"title", "uid", "schemaVersion", "panels", "templating", "time", "refresh"} <= set(board)
    assert (board["uid"], board["tags"]) == (f"llamafarm-{name}", ["llamafarm"])
    first, *others = board["templating"]["list"]
    assert (first["name"], first["type"], first["query"]) == ("datasource", "datasource", "prometheus")
    used = set(re.findall(r"\$\{?(\w+)", json.dumps([board["panels"], others])))
    variables = {one["name"] for one in board["templating"]["list"]}
    assert variables <= used | {"datasource"}
    assert used - variables <= {"__rate_interval", "__range", "__all"}
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    cells = set()
    for panel in board["panels"]:
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["type"] in {"timeseries", "bargauge", "stat", "table"}
        assert panel["title"]
        assert panel["description"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"]) > 0
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        here = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & here, "panels overlap"
        cells |= here


def test_dashboards_have_addresses_of_their_own_and_are_documented():
    assert len({board["uid"] for board in DASHBOARDS.values()}) == len(DASHBOARDS)
    assert {f"{name}.json" for name in DASHBOARDS} == set(re.findall(r"^\| (\w+\.json) \|", PAGE, re.MULTILINE))


def test_every_alert_is_told_of_and_has_a_test():
    headings = {heading.lower() for heading in re.findall(r"^### (\w+)$", PAGE, re.MULTILINE)}
    tests = yaml.safe_load((MONITORING / "alerts_test.yml").read_text(encoding="utf-8"))["tests"]
    raised = {one["alertname"] for test in tests for one in test["alert_rule_test"] if one["exp_alerts"]}
    quiet = {one["alertname"] for test in tests for one in test["alert_rule_test"] if not one["exp_alerts"]}
    assert raised == set(RULES)
    assert len(quiet) >= len(RULES) // 2
    for name, rule in RULES.items():
        assert name in PAGE
        assert rule["labels"]["severity"] in {"warning", "critical"}
        page, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert (page, anchor in headings) == ("docs/monitoring.md", True), name


def promtool(*arguments):
    done = subprocess.run(["promtool", *arguments], cwd=MONITORING, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_promtool_takes_the_rules_and_their_tests():
    promtool("check", "rules", "alerts.yml")
    promtool("test", "rules", "alerts_test.yml")
    promtool("check", "config", "prometheus.yml")


@needs_promtool
def test_promtool_takes_every_expression_of_the_dashboards(tmp_path):
    plain = [re.sub(r"\$__(rate_interval|range)", "5m", panel.values[0]) for panel in PANELS]
    rules = [{"record": f"panel:{number}", "expr": re.sub(r"\$\w+", ".*", one)} for number, one in enumerate(plain)]
    file = tmp_path / "panels.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    promtool("check", "rules", str(file))


PROGRAM = """#!/bin/sh
echo "$0 $*" >> "$CALLS"
env | grep -E '^(GF_|PROMETHEUS_URL|DASHBOARDS|RAY_DASHBOARDS)' >> "$CALLS" || true
[ -z "$ENDS" ] || exit 3
exec sleep 60
"""


@pytest.fixture
def machine(tmp_path):
    """Starts the script with stand-ins for the programs that are named."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("bash", "sh", "env", "dirname", "sed", "cp", "mkdir", "realpath", "basename", "grep", "sleep"):
        (programs / name).symlink_to(shutil.which(name))

    def start(*installed, ends="1", **variables):
        for name in installed:
            (programs / name).write_text(PROGRAM)
            (programs / name).chmod(0o755)
        found = tmp_path / "discovery.json"
        if variables.pop("has_ray", True):
            found.write_text('[{"labels": {"job": "ray"}, "targets": ["127.0.0.1:1"]}]')
        environment = {"PATH": str(programs), "CALLS": str(tmp_path / "calls"), "ENDS": ends, "HOME": str(tmp_path)}
        return subprocess.Popen(
            ["bash", str(MONITORING / "start.sh"), str(found)],
            env=environment | {"MONITORING_DATA": str(tmp_path / "data")} | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    start.calls = tmp_path / "calls"
    start.data = tmp_path / "data"
    return start


def test_without_prometheus_it_says_what_to_install(machine):
    process = machine()
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "apt-get install --no-install-recommends prometheus" in said


def test_without_ray_it_says_how_to_start_one(machine):
    process = machine("prometheus", has_ray=False)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "llamafarm up" in said
    assert not machine.calls.exists()


def test_prometheus_alone_reads_rays_file_on_loopback(machine):
    process = machine("prometheus", PROMETHEUS_PORT="19090")
    said, _ = process.communicate(timeout=60)
    assert "Grafana is not installed" in said
    assert "--web.listen-address=127.0.0.1:19090" in machine.calls.read_text()
    config = yaml.safe_load((machine.data / "prometheus.yml").read_text())
    (named,) = config["scrape_configs"][0]["file_sd_configs"][0]["files"]
    assert json.loads(Path(named).read_text())[0]["labels"]["job"] == "ray"
    assert (machine.data / "alerts.yml").read_text() == (MONITORING / "alerts.yml").read_text()
    assert process.returncode == 1, "it ended by itself"


def test_rays_dashboard_may_show_the_panels_that_ray_made(machine, tmp_path):
    """Ray's own names: of the variables for other ports, and of the data source that its dashboards ask."""
    from ray.dashboard.modules.metrics import metrics_head

    process = machine("prometheus", "grafana", GRAFANA_PORT="13000")
    said, _ = process.communicate(timeout=60)
    assert f"{metrics_head.GRAFANA_HOST_ENV_VAR}=http://127.0.0.1:13000" in said
    assert metrics_head.PROMETHEUS_HOST_ENV_VAR in said
    assert metrics_head.DEFAULT_GRAFANA_HOST.endswith(":3000")
    source = yaml.safe_load((MONITORING / "grafana" / "datasources" / "prometheus.yml").read_text())
    assert source["datasources"][0]["name"] == metrics_head.DEFAULT_PROMETHEUS_NAME


def test_grafana_gets_the_dashboards_and_both_end_with_the_script(machine):
    from patience import wait_until

    process = machine("prometheus", "grafana", ends="")
    try:
        wait_until(
            lambda: machine.calls.exists() and "\nDASHBOARDS" in machine.calls.read_text(), 60, lambda: "no start"
        )
        calls = machine.calls.read_text()
        assert "grafana server --homepath" in calls
        assert "GF_SERVER_HTTP_ADDR=127.0.0.1" in calls
        assert "GF_SECURITY_ALLOW_EMBEDDING=true" in calls
        made_by_ray = machine.data.parent / "session_latest" / "metrics" / "grafana" / "dashboards"
        assert f"\nRAY_DASHBOARDS={made_by_ray}" in calls
        assert f"DASHBOARDS={MONITORING / 'dashboards'}" in calls
        provisioned = Path(re.search(r"GF_PATHS_PROVISIONING=(.+)", calls)[1])
        source = yaml.safe_load((provisioned / "datasources" / "prometheus.yml").read_text())
        assert source["datasources"][0]["url"] == "$PROMETHEUS_URL"
        for name, variable in [("llamafarm", "$DASHBOARDS"), ("ray", "$RAY_DASHBOARDS")]:
            provider = yaml.safe_load((provisioned / "dashboards" / f"{name}.yml").read_text())
            assert provider["providers"][0]["options"]["path"] == variable
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 0
