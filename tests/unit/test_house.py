"""The house is in order: imports run downward, private parts are touched in one place, every shipped file parses."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections import Counter, defaultdict
from importlib import metadata
from pathlib import Path

import pytest
import yaml

from llamafarm_ray.config import load_config, parse_config

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "llamafarm_ray"
SOURCES = sorted(PACKAGE.rglob("*.py"))
CONFIGS = [*sorted((ROOT / "jobs" / "configs").rglob("*.*")), *sorted((ROOT / "jobs" / "demo").glob("*.yaml"))]
USED_BY_OTHERS = {"pyopenssl"}
"""Libraries that another one imports, and does not ask for."""
SERVE_CONFIGS = sorted((ROOT / "serve_configs").rglob("*.yaml"))


def imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_imports_run_downward_only():
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-logo", "--no-cache"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_rays_private_parts_and_vllm_are_touched_in_files_of_their_own():
    named = [(path.relative_to(PACKAGE).as_posix(), name.split(".")) for path in SOURCES for name in imports(path)]
    assert {path for path, name in named if name[0] == "vllm"} == {
        "serving/engines/vllm/adapters.py",
        "serving/engines/vllm/base_rows.py",
        "serving/engines/vllm/grammars.py",
        "serving/engines/vllm/imports.py",
        "serving/engines/vllm/numbers.py",
        "serving/engines/vllm/offline.py",
        "serving/engines/vllm/process.py",
        "serving/engines/vllm/speed.py",
        "serving/engines/vllm/token_ids.py",
        "serving/engines/vllm/worker.py",
    }
    private = [(path, ".".join(name)) for path, name in named if name[0] == "ray" and "._" in ".".join(name)]
    assert {path for path, _ in private} == {
        "clusters/ray_private.py",
        "serving/engines/vllm/ray_llm.py",
        "serving/ray_serve/cluster_state.py",
        "serving/ray_serve/ports.py",
        "serving/ray_serve/replicas.py",
        "serving/ray_serve/state.py",
    }
    places = Counter(name for _, name in {*private})
    assert [name for name, count in places.items() if count > 1] == [], "a private name is touched in one file"


def test_every_declared_library_is_used():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    declared = [*project["dependencies"], *(line for extra in extras if extra != "dev" for line in extras[extra])]
    modules = defaultdict(set)
    for module, distributions in metadata.packages_distributions().items():
        for distribution in distributions:
            modules[distribution.lower().replace("_", "-")].add(module)
    words = {word for path in SOURCES for word in re.findall(r"\w+", path.read_text(encoding="utf-8"))}
    for line in declared:
        name = re.match(r"[\w-]+", line)[0].lower().replace("_", "-")
        used = modules.get(name, {name.replace("-", "_")})  # one that is not installed here is called as it is imported
        assert used & words or name in USED_BY_OTHERS, f"nothing imports {name}: pyproject.toml need not ask for it"


def test_no_sentence_of_a_docstring_begins_with_a_headless_clause():
    """ "What is stored" or "Whoever asks" is no subject: the sentence names the thing or the person."""
    start = re.compile(r"(?:^|[.!?] )((?:What|Who|Whoever|Whatever|Which|Whose|How) [^.!?]*)(?:[.!]|$)")
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = " ".join((ast.get_docstring(node) or "").split())
                found += [f"{path.relative_to(PACKAGE)}: {match[1]}" for match in start.finditer(text)]
    assert found == []


def test_a_folder_of_the_package_holds_eighteen_modules_at_most():
    folders = Counter(path.parent.relative_to(PACKAGE) for path in SOURCES if path.name != "__init__.py")
    assert {folder.as_posix(): count for folder, count in folders.items() if count > 18} == {}


def test_the_tables_of_contributing_are_the_tree():
    rows = re.findall(r"^\| (.+?) \| (.+?) \|$", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.MULTILINE)
    named = {path for row in rows for cell in row for path in re.findall(r"`([\w/]+(?:/|\.py))`", cell)}
    assert [path for path in sorted(named) if not (PACKAGE / path).exists()] == []
    folders = {f"{path.parent.relative_to(PACKAGE).as_posix()}/" for path in SOURCES} - {"./"}
    assert folders - named == set()


def test_no_module_is_called_utils():
    assert [path for path in SOURCES if "util" in path.stem] == []


def test_there_are_configs_to_check():
    assert len([path for path in CONFIGS if path.parent.name == "configs"]) >= 5
    assert len(SERVE_CONFIGS) >= 2


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_shipped_config_parses_and_starts_with_its_command(path):
    load_config(path)
    command = path.read_text(encoding="utf-8").splitlines()[0]
    if path.parent.name == "configs":
        assert re.fullmatch(rf"# llamafarm models (train|tune|deploy) --config jobs/configs/{path.name}", command)


@pytest.mark.parametrize("path", SERVE_CONFIGS, ids=lambda path: path.name)
def test_every_serve_config_parses_and_names_what_exists(path):
    from ray.serve.schema import ServeDeploySchema

    described = ServeDeploySchema.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    for application in described.applications:
        assert application.import_path == "llamafarm_ray.serving.application:build"
        parse_config(application.args)


def test_the_environment_in_the_docs_is_the_one_that_is_asked_for():
    from llamafarm_ray.serving.application import SERVE_ENV

    lines = (ROOT / "serve_configs" / "serve.env").read_text(encoding="utf-8").splitlines()
    assert dict(line.split("=") for line in lines if not line.startswith("#")) == SERVE_ENV | {
        "RAY_worker_niceness": "0"
    }


def test_the_exported_schema_is_current():
    from llamafarm_ray.config import json_schema

    exported = json.loads((ROOT / "docs" / "config.schema.json").read_text(encoding="utf-8"))
    assert exported == json_schema(), "run: llamafarm models schema > docs/config.schema.json"


PAGES = [*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md"))]


def anchors(page):
    """The anchors that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_relative_links_in_the_docs_lead_somewhere(page):
    links = re.findall(r"\]\((?!https?:|mailto:)([^)#]*)(?:#([^)]+))?\)", page.read_text(encoding="utf-8"))
    for link, anchor in links:
        target = page.parent / link if link else page
        assert target.exists(), f"there is no {link}"
        assert not anchor or anchor in anchors(target), f"{target.name} has no #{anchor}"


def test_a_page_of_the_docs_is_short_and_in_the_index():
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    for page in PAGES[len(list(ROOT.glob("*.md"))) :]:
        assert len(page.read_text(encoding="utf-8").split()) <= 2000, f"{page.name} is too long: split it"
        assert page.name == "README.md" or f"({page.name})" in index, f"docs/README.md does not list {page.name}"
