"""README's section on clusters: the cluster test types each of its commands, and no other in their place."""

import ast

import pytest
import readme_commands
from kuberay import ROOT

TYPED = ["tests/hosts_cluster.py", "tests/long/test_hosts.py"]


def called(name):
    """The first arguments of each call of a function in the modules of the cluster test."""
    calls = (
        node
        for path in TYPED
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute)
    )
    found = [call for call in calls if getattr(call.func, "attr", getattr(call.func, "id", "")) == name]
    return [call.args[0].value if call.args and isinstance(call.args[0], ast.Constant) else None for call in found]


def test_the_cluster_test_types_each_command_of_readme():
    typed = {begins for begins in called("readme") if begins}
    left = [line for line in readme_commands.commands() if not line.startswith(("export ", *typed))]
    assert left == []
    assert all(any(line.startswith(begins) for line in readme_commands.commands()) for begins in typed)


def test_what_readme_exports_is_in_the_environment_of_what_is_typed():
    assert readme_commands.exports() == {"RAY_AUTH_MODE": "token"}
    assert len(called("exports")) == 4  # of typed commands, of the dashboard, and of both forms of a job


@pytest.mark.parametrize("step", ["dashboard", "down", "job", "serve", "up"])
def test_the_cluster_test_takes_each_of_the_steps(step):
    assert called(step)


def test_a_command_that_readme_has_and_no_test_types_is_found(monkeypatch, tmp_path):
    text = readme_commands.README.read_text(encoding="utf-8")
    changed = tmp_path / "README.md"
    changed.write_text(
        text.replace("\nray down cluster.yaml", "\nray exec cluster.yaml 'ray status'\nray down cluster.yaml")
    )
    monkeypatch.setattr(readme_commands, "README", changed)
    with pytest.raises(AssertionError):
        test_the_cluster_test_types_each_command_of_readme()


def test_words_that_readme_does_not_have_cannot_be_replaced():
    with pytest.raises(AssertionError, match="has no"):
        readme_commands.readme("ray down", model="other")
