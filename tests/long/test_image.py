"""The image's steps in a clean root: names and paths of cluster/Dockerfile, where no builder of images is needed."""

import json
import os
import platform
import re
import shutil
import subprocess
import sys

import pytest
from e2e_tools import ROOT
from image_steps import build

pytestmark = pytest.mark.long

DOCKERFILE = ROOT / "cluster" / "Dockerfile"


@pytest.fixture(scope="module", params=["cpu", "gpu"])
def image(request, tmp_path_factory):
    """The image, with stand-ins for Debian's and Python's packages."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("roots of namespaces need root, and unshare of util-linux")
    return build(DOCKERFILE, ROOT, tmp_path_factory.mktemp("image"), EXTRA=request.param)


def test_its_command_is_found_and_runs_without_root_and_may_write_its_cache_and_home(image):
    (image.root / "log").chmod(0o666)
    program = image.root / "opt" / "llamafarm" / ".venv" / "bin" / "llamafarm"
    program.write_text('#!/bin/sh\nid -u; touch "$LLAMAFARM_CACHE/blob" ./file && touch /opt/llamafarm/x\n')
    done = image.run(" ".join(json.loads(image.command)))
    assert done.stdout == "1000\n"
    assert "/opt/llamafarm/x" in done.stderr, "what is installed is read-only for it"
    assert done.stderr.count("\n") == 1, done.stderr


def test_packages_are_the_locked_ones_of_its_kind(image):
    lock = image.variables["EXTRA"]
    build_log = (image.root.parent / "build" / "log").read_text()
    assert f"-r requirements-{lock}.lock" in build_log
    assert ("download.pytorch.org/whl/cpu" in build_log) == (lock == "cpu")
    assert build_log.splitlines()[-1].endswith("-m pip install --no-cache-dir --no-deps --no-build-isolation .")
    assert not (image.root.parent / "build" / "root" / ".cache").exists()


def test_debian_has_its_packages(image):
    release = platform.freedesktop_os_release().get("VERSION_CODENAME")
    (base,) = re.findall(r"^ARG BASE=\S+-slim-(\w+)$", DOCKERFILE.read_text(encoding="utf-8"), re.MULTILINE)
    if shutil.which("apt-get") is None or release != base:
        pytest.skip(f"this machine is not Debian {base}")
    calls = [*image.calls(), *(image.root.parent / "build" / "log").read_text().splitlines()]
    installs = [call.split()[1:] for call in calls if call.startswith("apt-get install")]
    assert len(installs) == 2
    for words in installs:
        done = subprocess.run(["apt-get", "--simulate", *words], capture_output=True, text=True, check=False)
        if "Unable to locate package make" in done.stderr:
            pytest.skip("no list of packages here: apt-get update")
        assert done.returncode == 0, done.stderr


def test_what_is_copied_is_all_that_the_package_is_built_from(image, tmp_path):
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    source = image.root.parent / "build" / "opt" / "llamafarm"
    command = [*install, "--target", str(tmp_path), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "bin" / "llamafarm").exists()
    assert (tmp_path / "llamafarm_ray" / "cli" / "main.py").exists()
