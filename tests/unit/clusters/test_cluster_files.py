"""The files of `ray up`, SkyPilot and the image: as Ray takes them, with every node set up and started alike."""

import json
import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
from pathlib import Path

import psutil
import pytest
import yaml
from kuberay import ROOT
from patience import wait_until


def read(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


CLUSTERS = [
    ROOT / "cluster.yaml",
    *sorted(path for path in (ROOT / "cluster").glob("*.yaml") if path.stem != "skypilot"),
]
CLOUDS = [path for path in CLUSTERS if read(path)["provider"]["type"] != "local"]
SCRIPTS = sorted((ROOT / "cluster").glob("*.sh"))


@pytest.mark.parametrize("path", CLUSTERS, ids=lambda path: path.stem)
def test_ray_up_takes_it(path):
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(read(path)))


@pytest.mark.parametrize("path", CLUSTERS, ids=lambda path: path.stem)
def test_its_first_line_is_the_command_that_uses_it(path):
    name = path.relative_to(ROOT).as_posix()
    assert path.read_text(encoding="utf-8").splitlines()[0].startswith(f"# ray up {name} ")


@pytest.mark.parametrize("path", CLUSTERS, ids=lambda path: path.stem)
def test_every_node_is_set_up_and_started_by_the_shared_scripts_with_rays_token(path):
    described = read(path)
    mounts = described["file_mounts"]
    assert "~/.ray/auth_token" in mounts
    assert "bash ~/llamafarm_ray/cluster/setup.sh" in described["setup_commands"][0]
    for role in ("head", "worker"):
        (command,) = described[f"{role}_start_ray_commands"]
        assert command.startswith(f"bash ~/llamafarm_ray/cluster/start.sh {role}")


@pytest.mark.parametrize("path", CLUSTERS, ids=lambda path: path.stem)
def test_what_setting_up_needs_is_sent_and_no_folder_that_holds_an_environment(path):
    mounts = read(path)["file_mounts"]
    assert all((ROOT / source).exists() for source in mounts.values() if not source.startswith("~"))
    assert "." not in mounts.values()  # Ray reads every file of a folder it sends, here 5 GB
    needed = {"Makefile", "pyproject.toml", "README.md", "LICENSE", "requirements-cpu.lock", "requirements-gpu.lock"}
    assert needed | {"cluster", "jobs", "llamafarm_ray", "serve_configs"} == set(mounts.values()) - {
        "~/.ray/auth_token"
    }


@pytest.mark.parametrize("path", CLOUDS, ids=lambda p: p.stem)
def test_training_has_spot_machines_first_and_on_demand_ones_of_the_same_size(path):
    types = read(path)["available_node_types"]
    spot, other = types["train_spot"], types["train"]
    assert spot["resources"] == other["resources"]
    assert spot["priority"] > other["priority"]
    assert "spot" in str(spot["node_config"]).lower()
    assert "spot" not in str(other["node_config"]).lower()
    assert types["head"]["resources"] == {"CPU": 0}
    assert all(kind.get("min_workers", 0) == 0 for kind in types.values())


@pytest.mark.parametrize("path", CLOUDS, ids=lambda p: p.stem)
def test_serving_has_machines_of_its_own_that_nobody_takes_away(path):
    types = read(path)["available_node_types"]
    serve, train = types["serve"], types["train"]
    assert "spot" not in str(serve["node_config"]).lower()
    assert serve["node_config"] != train["node_config"]
    assert serve["resources"]["GPU"] == 1


def test_every_kind_of_spot_machine_has_one_on_demand_to_fall_back_to():
    types = read(ROOT / "cluster.yaml")["available_node_types"]
    spot = {name for name, kind in types.items() if "InstanceMarketOptions" in kind["node_config"]}
    assert spot == {"train_spot", "data_spot"}
    for name in spot:
        other = types[name.removesuffix("_spot")]
        assert types[name]["priority"] > other["priority"]
        assert types[name]["resources"] == other["resources"]
        assert types[name]["node_config"]["InstanceType"] == other["node_config"]["InstanceType"]


def test_on_aws_no_key_is_on_a_disk():
    types = read(ROOT / "cluster.yaml")["available_node_types"]
    for name, kind in types.items():
        profile = kind["node_config"]["IamInstanceProfile"]["Arn"]
        assert profile.endswith("/llamafarm-head" if name == "head" else "/llamafarm-worker")
        assert kind["node_config"]["MetadataOptions"]["HttpTokens"] == "required"
        (disk,) = kind["node_config"]["BlockDeviceMappings"]
        assert disk["Ebs"]["Encrypted"] is True


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_bash_and_stop_at_the_first_failure(path):
    text = path.read_text(encoding="utf-8")
    assert text.startswith("#!/usr/bin/env bash\n")
    assert "\nset -euo pipefail\n" in text
    subprocess.run(["bash", "-n", str(path)], check=True)


@pytest.fixture
def machine(tmp_path):
    """A home folder, and programs that write down how they were called, in a PATH of their own."""
    programs, project = tmp_path / "bin", tmp_path / "llamafarm_ray"
    (project / "cluster").mkdir(parents=True)
    (project / ".venv" / "bin").mkdir(parents=True)
    programs.mkdir()
    (tmp_path / "home").mkdir()
    for script in SCRIPTS:
        (project / "cluster" / script.name).write_bytes(script.read_bytes())
    (project / "cluster" / "tls.env").write_bytes((ROOT / "cluster" / "tls.env").read_bytes())
    (project / "serve_configs").mkdir()
    (project / "serve_configs" / "serve.env").write_bytes((ROOT / "serve_configs" / "serve.env").read_bytes())
    log = tmp_path / "log"
    for program in [*(programs / name for name in ("make", "rsync", "python3.11", "cc")), project / ".venv/bin/ray"]:
        program.write_text(f'#!/bin/bash\necho "{program.name} $*" >> {shlex.quote(str(log))}\nenv >> {log}.env\n')
        program.chmod(0o755)

    def run(script, *arguments, **variables):
        environment = {"PATH": f"{programs}:{os.defpath}", "HOME": str(tmp_path / "home"), **variables}
        command = ["bash", str(project / "cluster" / script), *arguments]
        Path(f"{log}.env").unlink(missing_ok=True)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        return done, log.read_text().splitlines() if log.exists() else []

    run.home = tmp_path / "home"
    run.seen = lambda: dict(line.split("=", 1) for line in Path(f"{log}.env").read_text().splitlines() if "=" in line)
    return run


def test_setting_a_node_up_twice_changes_nothing(machine):
    file = machine.home / ".llamafarm.env"
    file.write_text("AWS_PROFILE=team\nLLAMAFARM_HOME=s3://old/home\n")
    for _ in range(2):
        done, calls = machine("setup.sh", LLAMAFARM_HOME="s3://my-bucket/home", EXTRA="cpu")
        assert done.returncode == 0, done.stderr
        assert file.read_text() == "AWS_PROFILE=team\nLLAMAFARM_HOME=s3://my-bucket/home\n"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    made = [call for call in calls if call.startswith("make ")]
    assert [call.split()[:3] for call in made] == [["make", "setup", "EXTRA=cpu"]] * 2
    assert sorted(path.name for path in machine.home.iterdir()) == [".bashrc", ".llamafarm.env"]
    assert (machine.home / ".bashrc").read_text().count("\n") == 1


@pytest.fixture
def bare(machine):
    """A machine whose PATH has nothing but what Debian's base system has, a Python without venv, and stand-ins."""
    programs = machine.home.parent / "bin"
    for name in ("bash", "cat", "chmod", "dirname", "env", "grep", "id", "mv", "sh", "touch"):
        (programs / name).symlink_to(shutil.which(name))

    def stand_in(name, *lines):
        (programs / name).write_text(
            "\n".join(["#!/bin/bash", f'echo "{name} $*" >> {machine.home.parent}/log', *lines])
        )
        (programs / name).chmod(0o755)

    stand_in("python3.11", '[ "$1" != -c ]')
    stand_in("uv", "echo /managed/python3.11")
    uv = (programs / "uv").read_text()
    (programs / "uv").unlink()
    stand_in("curl", f"cat <<'END'\ncat > {programs}/uv <<'UV'\n{uv}\nUV\nchmod 755 {programs}/uv\nEND")
    curl = (programs / "curl").read_text()
    (programs / "curl").unlink()
    stand_in("apt-get", f"cat > {programs}/curl <<'CURL'\n{curl}\nCURL\nchmod 755 {programs}/curl")
    stand_in("sudo", '"$@"')
    return lambda: machine("setup.sh", EXTRA="cpu", PATH=str(programs))


def test_a_machine_whose_python_has_no_venv_gets_another_python(bare):
    done, calls = bare()
    assert done.returncode == 0, done.stderr
    assert any(re.match(r"apt-get install .* curl ca-certificates$", call) for call in calls)
    assert "uv python install --quiet 3.11" in calls
    assert calls[-1] == "make setup EXTRA=cpu PYTHON=/managed/python3.11"


def test_an_environment_that_was_left_half_made_is_made_anew(tmp_path):
    (tmp_path / "Makefile").write_bytes((ROOT / "Makefile").read_bytes())
    (tmp_path / "requirements-cpu.lock").write_text("uv==1\n")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    half = tmp_path / ".venv" / "bin" / "python"
    half.write_text("#!/bin/sh\necho 'No module named pip' >&2\nexit 1\n")
    half.chmod(0o755)
    whole = tmp_path / "python"
    whole.write_text('#!/bin/sh\necho "$*" >> log\n[ "$2" != venv ] || cp "$0" .venv/bin/python\n')
    whole.chmod(0o755)
    command = ["make", ".venv/.installed-cpu", "EXTRA=cpu", f"PYTHON={whole}"]
    for _ in range(2):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        (tmp_path / ".venv" / ".installed-cpu").unlink()
    calls = (tmp_path / "log").read_text().splitlines()
    assert calls.count("-m venv --clear .venv") == 1, "one that works is left alone"


def test_on_aws_the_head_may_read_the_parameters_that_name_its_images():
    text = (ROOT / "cluster.yaml").read_text(encoding="utf-8")
    assert "resolve:ssm:/aws/service/" in text
    assert "ssm:GetParameters" in text.split("cluster_name:")[0]


def test_ray_is_in_the_path_of_whom_ray_down_logs_in_as(machine):
    machine("setup.sh", EXTRA="cpu")
    command = [
        "bash",
        "-c",
        "set -e; source ~/.bashrc; command -v ray; echo $RAY_AUTH_MODE; printenv RAY_USE_TLS || true",
    ]
    environment = {"HOME": str(machine.home), "PATH": os.defpath}

    def said():
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()

    plain = [str(machine.home.parent / "llamafarm_ray/.venv/bin/ray"), "token"]
    assert said() == plain
    (machine.home / ".ray" / "tls").mkdir(parents=True)
    assert said() == [*plain, "1"]


def ready(machine):
    (machine.home / ".llamafarm.env").write_text("LLAMAFARM_HOME=s3://my-bucket/home\n")
    (machine.home / ".ray").mkdir()
    (machine.home / ".ray" / "auth_token").write_text("f" * 64)
    (machine.home / ".ray" / "auth_token").chmod(0o644)


def test_a_head_listens_for_jobs_on_loopback_and_asks_for_the_token(machine):
    ready(machine)
    done, calls = machine("start.sh", "head")
    assert done.returncode == 0, done.stderr
    assert calls[0] == "ray stop"
    assert "--head" in calls[1]
    assert "--dashboard-host=127.0.0.1" in calls[1]
    seen = machine.seen()
    assert seen["RAY_AUTH_MODE"] == "token"
    assert seen["LLAMAFARM_HOME"] == "s3://my-bucket/home"
    assert seen["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
    assert stat.S_IMODE((machine.home / ".ray" / "auth_token").stat().st_mode) == 0o600


def test_on_machines_of_ones_own_the_autoscaler_is_the_one_that_starts_them(machine):
    ready(machine)
    sent = {"RAY_enable_autoscaler_v2": "1", "RAY_CLOUD_INSTANCE_ID": "i-1", "RAY_NODE_TYPE_NAME": "head"}
    for provider, kept in [("aws", sent), ("local", {"RAY_enable_autoscaler_v2": "0"})]:
        (machine.home / "ray_bootstrap_config.yaml").write_text(json.dumps({"provider": {"type": provider}}))
        done, _ = machine("start.sh", "head", **sent)
        assert done.returncode == 0, done.stderr
        seen = machine.seen()
        assert {name: seen[name] for name in sent if name in seen} == kept


def test_certificates_are_good_for_the_given_addresses_and_no_others(machine):
    folder = machine.home / ".ray" / "tls"
    done, _ = machine("tls.sh", str(folder), "192.0.2.1", "head.example.com")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["ca.crt", "node.crt", "node.key"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}

    def is_good_for(*name):
        command = ["openssl", "verify", "-CAfile", str(folder / "ca.crt"), *name, str(folder / "node.crt")]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    assert is_good_for("-verify_ip", "192.0.2.1")
    assert is_good_for("-verify_hostname", "head.example.com")
    assert not is_good_for("-verify_ip", "192.0.2.2")


def test_an_address_that_is_none_makes_no_certificate_and_is_told(machine):
    done, _ = machine("tls.sh", str(machine.home / "tls"), "192.0.2")
    assert done.returncode == 1
    assert "bad ip address" in done.stderr
    assert list((machine.home / "tls").iterdir()) == []


def test_nodes_with_certificates_speak_tls_and_others_do_not(machine):
    ready(machine)
    machine("start.sh", "head")
    assert "RAY_USE_TLS" not in machine.seen()
    folder = machine.home / ".ray" / "tls"
    machine("tls.sh", str(folder), "192.0.2.1")
    (folder / "node.key").chmod(0o644)  # as a copy may have it
    done, _ = machine("start.sh", "head")
    assert done.returncode == 0, done.stderr
    seen = machine.seen()
    assert seen["RAY_USE_TLS"] == "1"
    files = {"CA_CERT": "ca.crt", "SERVER_CERT": "node.crt", "SERVER_KEY": "node.key"}
    assert all(seen[f"RAY_TLS_{name}"] == str(folder / file) for name, file in files.items())
    assert stat.S_IMODE((folder / "node.key").stat().st_mode) == 0o600


def test_a_jobs_python_is_the_projects(machine):
    ready(machine)
    machine("start.sh", "head")
    assert machine.seen()["PATH"].startswith(str(machine.home.parent / "llamafarm_ray/.venv/bin:"))


def test_more_arguments_are_for_ray_start(machine):
    ready(machine)
    _, calls = machine("start.sh", "worker", "--num-cpus=1", "--labels=rack=2", RAY_HEAD_IP="192.0.2.1")
    assert calls[1] == "ray start --address=192.0.2.1:6379 --num-cpus=1 --labels=rack=2"


def test_a_worker_joins_the_head_that_ray_up_names(machine):
    ready(machine)
    done, calls = machine("start.sh", "worker", RAY_HEAD_IP="192.0.2.1")
    assert done.returncode == 0, done.stderr
    assert calls[1] == "ray start --address=192.0.2.1:6379"


@pytest.mark.parametrize("role", ["head", "worker"])
def test_of_a_node_whose_raylet_has_ended_nothing_is_left(machine, role):
    ready(machine)
    ray, pids = machine.home.parent / "llamafarm_ray/.venv/bin/ray", machine.home.parent / "pids"
    node, other = "0" * 55 + "a", "0" * 55 + "b"
    programs = [
        f"raylet --raylet_socket_name=/x --node_id={node} --y --gcs-address=192.0.2.1:6379",
        "log_monitor.py --x --gcs-address=192.0.2.1:6379",
        f"haproxy -f {machine.home}/{node}/haproxy.cfg -sf 744",
        f"haproxy -f {machine.home}/{other}/haproxy.cfg",
        "worker.py --raylet-name=/x/sockets/raylet --y --gcs-address=192.0.2.1:6379",
    ]
    run = f'(exec -a "$program" sleep 60) </dev/null >/dev/null 2>&1 &\n echo $! >> {pids}'
    is_there = 'until tr "\\0" " " <"/proc/$!/cmdline" | grep -qF "$program"; do sleep 0.05; done'
    started = "\n".join(f"program={shlex.quote(program)}\n{run}\n{is_there}" for program in programs)
    ray.write_text(ray.read_text() + f'if [ "$1" = start ]; then\n{started}\nfi\n')
    done, _ = machine("start.sh", role, **({"RAY_HEAD_IP": "192.0.2.1"} if role == "worker" else {}))
    assert done.returncode == 0, done.stderr
    raylet, monitor, proxy, of_another_node, worker = processes = [*map(int, pids.read_text().split())]
    try:
        os.kill(raylet, signal.SIGKILL)
        wait_until(lambda: not any(map(psutil.pid_exists, (monitor, proxy))), 5)
        assert psutil.pid_exists(of_another_node)
        assert psutil.pid_exists(worker), "the raylet's own processes are its own affair"
    finally:
        for pid in filter(psutil.pid_exists, processes):
            psutil.Process(pid).kill()


@pytest.mark.parametrize("num_failures", [2, 3])
def test_a_worker_on_which_ray_does_not_start_is_tried_again(machine, num_failures):
    ready(machine)
    ray = machine.home.parent / "llamafarm_ray/.venv/bin/ray"
    failing = f'[ "$1" != start ] || [ "$(grep -c "ray start" {machine.home.parent}/log)" -gt {num_failures} ]\n'
    ray.write_text(ray.read_text() + failing)
    done, calls = machine("start.sh", "worker", RAY_HEAD_IP="192.0.2.1")
    assert done.returncode == (0 if num_failures < 3 else 1)
    assert [call.split()[1] for call in calls] == ["stop", *["start", "stop"] * num_failures, "start"][: 1 + 2 * 3]
    assert "Ray did not start, attempt 1 of 3." in done.stderr


@pytest.mark.parametrize("missing", [".llamafarm.env", ".ray/auth_token"])
def test_a_node_without_its_home_or_token_does_not_start(machine, missing):
    ready(machine)
    (machine.home / missing).unlink()
    done, calls = machine("start.sh", "head")
    assert done.returncode == 1
    assert f"~/{missing} is missing" in done.stderr
    assert calls == []


def test_the_image_is_pinned_small_and_runs_as_no_root():
    text = (ROOT / "cluster" / "Dockerfile").read_text(encoding="utf-8")
    (base,) = re.findall(r"^ARG BASE=(\S+)$", text, re.MULTILINE)
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+", base)
    assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) == {"${BASE}"}
    users = re.findall(r"^USER (\S+)", text, re.MULTILINE)
    assert users == ["1000:1000"]
    assert text.index("COPY Makefile") < text.index("COPY llamafarm_ray"), "packages are a layer of their own"
    for update in re.findall(r"^RUN apt-get update.*?(?=^\S)", text, re.MULTILINE | re.DOTALL):
        assert "--no-install-recommends" in update
        assert "rm -rf /var/lib/apt/lists/*" in update
    ignored = (ROOT / "cluster" / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    allowed = {line[1:] for line in ignored if line.startswith("!")}
    copied = set(" ".join(re.findall(r"^COPY (?!--)(.*) \S+$", text, re.MULTILINE)).split())
    assert {name.replace("${EXTRA}", extra) for name in copied for extra in ("cpu", "gpu")} == allowed
    assert all((ROOT / name).exists() for name in allowed)


def test_skypilots_task_trains_and_goes_on_where_it_was():
    task = read(ROOT / "cluster" / "skypilot.yaml")
    assert set(task) <= {"name", "resources", "workdir", "envs", "setup", "run", "file_mounts", "num_nodes"}
    choices = task["resources"]["any_of"]
    assert [choice["use_spot"] for choice in choices][-1] is False
    assert (ROOT / task["envs"]["CONFIG"]).exists()
    assert task["envs"]["CHECKPOINTS"].startswith("s3://")
    assert (ROOT / task["setup"].split()[-1]).exists()
    command = shlex.split(task["run"])
    assert command[:3] == [".venv/bin/llamafarm", "models", "train"]
    assert "fine_tuning.training.checkpoint_location=$CHECKPOINTS" in command
