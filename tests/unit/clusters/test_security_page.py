"""The tables of docs/security.md are what the code does: roles, ports, secrets by environment, containers."""

import inspect
import re

import pytest
import yaml
from kuberay import ROOT

from llamafarm_ray.config import json_schema, parse_config
from llamafarm_ray.registry.governance.access import Action, Role

PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
BASE = ROOT / "cluster" / "kubernetes" / "base"
WORDS = {
    Action.READ: "read the registry",
    Action.MOVE_ALIAS: "move aliases",
    Action.REGISTER_DATASET: "register",
    Action.SET_POLICY: "set policies",
}


def rows(first):
    """The rows of the table whose header begins with these cells."""
    _, _, below = PAGE.partition(f"| {first} |")
    table = re.search(r"\n\|[ -|]+\n((?:\|.*\n)+)", below)[1]
    return [[cell.strip() for cell in line.strip("|\n").split("|")] for line in table.splitlines()]


@pytest.mark.parametrize("role", Role)
def test_each_role_is_said_to_do_what_it_may(role):
    (said,) = [allowed for secret, _, allowed in rows("secret | where it is") if secret == f"key, role {role}"]
    for action in Action:
        word = WORDS.get(action, str(action))
        assert (word in said) == (action.least_role is role), (action, said)


def test_ports_are_those_of_the_scripts_and_manifests():
    ports = {row[0] for row in rows("port | by")} - {"others"}
    described = yaml.safe_load((BASE / "cluster.yaml").read_text(encoding="utf-8"))
    (head,) = described["spec"]["headGroupSpec"]["template"]["spec"]["containers"]
    service = yaml.safe_load((BASE / "serve.yaml").read_text(encoding="utf-8"))
    endpoint = yaml.safe_load(service["spec"]["serveConfigV2"])["http_options"]["port"]
    assert ports == {str(endpoint), *(str(port["containerPort"]) for port in head["ports"])}
    start = (ROOT / "cluster" / "start.sh").read_text(encoding="utf-8")
    assert "--port=6379 --dashboard-host=127.0.0.1" in start
    assert "RAY_AUTH_MODE=token" in start


def test_the_network_policy_lets_in_whom_the_table_names():
    policy = yaml.safe_load((BASE / "network.yaml").read_text(encoding="utf-8"))
    by_port = {}
    for rule in policy["spec"]["ingress"]:
        labels = [who["podSelector"].get("matchLabels", {}) for who in rule.get("from", [])]
        for port in rule.get("ports", []):
            by_port.setdefault(port["port"], []).extend(one.get("app.kubernetes.io/name") for one in labels)
    on_kubernetes = {row[0]: row[4] for row in rows("port | by")}
    assert by_port[8265] == ["kuberay"]
    assert "KubeRay" in on_kubernetes["8265"]
    assert by_port[8080] == ["prometheus"]
    assert "Prometheus" in on_kubernetes["8080"]
    assert {"ports": [{"port": 8000, "protocol": "TCP"}]} in policy["spec"]["ingress"]


def keys_of(schema):
    """All keys of the configuration's schema."""
    if isinstance(schema, dict):
        yield from schema.get("properties", {})
        for one in schema.values():
            yield from keys_of(one)
    elif isinstance(schema, list):
        for one in schema:
            yield from keys_of(one)


def test_no_key_of_the_configuration_is_for_a_secret_but_those_of_the_page():
    """A new one has to be decided upon: by the name of a variable, or cut out by `recorded`."""
    secret = re.compile(r"(api_key|password|secret|webhook|auth_token|credential)")
    found = {key for key in keys_of(json_schema()) if secret.search(key)}
    assert found == {"api_key_env", "password_env", "webhook_env", "webhook"}
    given = {re.search(r"(\w+)`", row[1])[1] for row in rows("secret | how it is given")[:3]}
    assert given == {"api_key_env", "webhook_env", "password_env"}


def test_records_of_runs_are_made_of_what_has_no_secrets():
    from llamafarm_ray.training import trainer
    from llamafarm_ray.training.monitoring import observer_settings
    from llamafarm_ray.workflows.tuning import tune

    for module in (observer_settings, trainer, tune):
        assert "recorded(config)" in inspect.getsource(module)
        assert not hasattr(module, "resolved"), f"{module.__name__} would write secrets"


def test_an_endpoint_for_other_machines_asks_for_keys_in_every_shipped_file():
    for path in sorted((ROOT / "serve_configs").glob("*.yaml")):
        described = yaml.safe_load(path.read_text(encoding="utf-8"))
        if described.get("http_options", {}).get("host") == "0.0.0.0":  # noqa: S104
            for application in described["applications"]:
                assert parse_config(application["args"]).deployment.require_key is True, path.name
