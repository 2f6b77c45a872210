"""Machines for a cluster, made of namespaces: a laptop, a head and two workers on a network of their own.

    sudo .venv/bin/python tests/hosts.py                     make them, open a shell on the laptop, remove them after it
    sudo .venv/bin/python tests/hosts.py on head ray status  run a command on one of them, from another terminal
    sudo .venv/bin/python tests/hosts.py remove              remove what a killed run left

Each machine has its own address, processes, /tmp, /dev/shm, home folder and host name; all but the laptop run an SSH
server. They share this checkout's environment, read-only. Only things with the mark `llamafarm` are ever removed: the
bridge, the network namespaces and their processes, and FOLDER.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

__all__ = [
    "BUCKET",
    "CLIENT",
    "GATEWAY",
    "HOSTS",
    "NODE_ENV",
    "S3_PORT",
    "Host",
    "attached",
    "hosts",
    "left",
    "remove",
    "why_not",
    "without_storage",
]

ROOT = Path(__file__).resolve().parents[1]
FOLDER = Path("/var/tmp/llamafarm-hosts")  # noqa: S108  (not in /tmp, which each machine has for itself)
BRIDGE = "llamafarm-hosts"
GATEWAY = "198.18.77.1"
"""This machine's own address in that network; 198.18.0.0/15 is kept for tests (RFC 2544)."""
CLIENT = "198.18.77.2"
"""Another of this machine, for clients of the cluster: it stays while the storage's is away."""
HOSTS = {"laptop": "198.18.77.10", "head": "198.18.77.11", "worker-1": "198.18.77.12", "worker-2": "198.18.77.13"}
S3_PORT = 9000
S3_URL = f"http://{GATEWAY}:{S3_PORT}"
BUCKET = "llamafarm-hosts"
NODE_ENV = f"""\
AWS_ENDPOINT_URL={S3_URL}
AWS_ACCESS_KEY_ID=test
AWS_SECRET_ACCESS_KEY=test
AWS_DEFAULT_REGION=us-east-1
AWS_EC2_METADATA_DISABLED=true
OMP_NUM_THREADS=1
"""
PROGRAMS = ("ip", "unshare", "nsenter", "mount", "sshd", "ssh", "ssh-keygen", "rsync", "make", "curl")
BOOT = """\
set -eu
mount --make-rprivate /
mount --bind {environment} {folder}/environment
mount -o remount,bind,ro {folder}/environment
mount --bind {python} {folder}/python
mount --bind {project} {folder}/project
mount --bind {folder}/tmp /tmp
mount --bind {folder}/home {home}
mount -t tmpfs -o size=2g tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mkdir -p /run/sshd {python} {root} {home}/llamafarm_ray/.venv
mount --bind {folder}/python {python}
mount --bind {folder}/project {root}
mount --bind {folder}/environment {root}/.venv
mount --bind {folder}/environment {home}/llamafarm_ray/.venv
mount --bind {folder}/hosts /etc/hosts
mount -t proc proc /proc
hostname {name}
ip link set lo up
exec {init}
"""
"""What is mounted from folders that another mount hides is taken aside first."""


@dataclass
class Host:
    """A machine: its name, address, and the process that is its first."""

    name: str
    address: str
    process: subprocess.Popen[bytes] | psutil.Process = field(repr=False)

    def command(self, *words: str, **variables: str) -> list[str]:
        """Return the command line that runs words on this machine, in the project's folder."""
        (first,) = psutil.Process(self.process.pid).children()
        path = f"PATH={ROOT}/.venv/bin:{os.defpath}:/usr/sbin:/sbin"
        inside = ["env", "-i", path, f"HOME={Path.home()}", "TERM=dumb", *(f"{k}={v}" for k, v in variables.items())]
        namespaces = ["--net", "--pid", "--mount", "--uts", "--ipc"]
        return ["nsenter", f"--target={first.pid}", *namespaces, f"--wd={ROOT}", *inside, *words]

    def run(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command on this machine to its end."""
        command = self.command(*words, **variables)
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )

    @property
    def home(self) -> Path:
        """Its home folder, as this machine sees it."""
        return FOLDER / self.name / "home"

    def processes(self) -> list[str]:
        """Return the command lines of its processes."""
        return self.run("ps", "-eo", "args", "--no-headers").stdout.splitlines()

    def crash(self) -> None:
        """Kill everything on it but what a reboot starts."""
        for pid in _pids(self.name):
            with contextlib.suppress(psutil.Error, ProcessLookupError):  # it may have ended
                if psutil.Process(pid).name() not in {"unshare", "sshd"}:
                    os.kill(pid, signal.SIGKILL)

    def cut(self) -> None:
        """Pull its network cable."""
        _ip("link", "set", _cable(self.name), "down")

    @contextlib.contextmanager
    def cut_from(self, address: str) -> Iterator[None]:
        """Lose what it sends to one address for the time of a block: its frames go to a card that nobody has."""
        neighbour = ("-n", f"llamafarm-{self.name}", "neigh")
        _ip(*neighbour, "replace", address, "lladdr", "02:00:00:00:00:01", "dev", "eth0", "nud", "permanent")
        try:
            yield
        finally:
            _ip(*neighbour, "delete", address, "dev", "eth0")

    @contextlib.contextmanager
    def small_disk(self, folder: Path, size: str = "64m") -> Iterator[Callable[[], None]]:
        """Put a disk of a size at a folder for the time of a block; gives what fills it."""
        full = folder / "full"
        mounted = self.run("sh", "-c", f"mkdir -p {folder} && mount -t tmpfs -o size={size} tmpfs {folder}")
        if mounted.returncode:
            raise RuntimeError(f"{folder} on {self.name} can't be mounted: {mounted.stdout}")
        try:
            yield lambda: self.run("dd", "if=/dev/zero", f"of={full}", "bs=1M", "oflag=append", "conv=notrunc") and None
        finally:
            self.run("umount", "--lazy", str(folder))

    def mend(self) -> None:
        """Plug its network cable in again."""
        _ip("link", "set", _cable(self.name), "up")


def why_not() -> str:
    """Return why this machine can't have such hosts; empty if it can."""
    if os.geteuid() != 0:
        return "hosts of namespaces need root"
    if missing := [name for name in PROGRAMS if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None]:
        return f"{', '.join(missing)} missing: apt-get install iproute2 util-linux openssh-server rsync make curl"
    if not (ROOT / ".venv" / "bin" / "ray").exists():
        return f"{ROOT / '.venv'} is missing: run make setup"
    if subprocess.run(["make", "-q", ".venv/.editable"], cwd=ROOT, capture_output=True, check=False).returncode:
        return f"{ROOT / '.venv'} is older than pyproject.toml or the locked packages: run make setup"
    made = subprocess.run(["ip", "netns", "add", "llamafarm-try"], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"no network namespaces here: {made.stderr.strip()}"
    _ip("netns", "delete", "llamafarm-try")
    return ""


@contextlib.contextmanager
def hosts() -> Iterator[dict[str, Host]]:
    """Make the machines for the time of a block, after removing what a killed run left.

    Raises:
        RuntimeError: another run has them.
    """
    with Path("/run/llamafarm-hosts.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RuntimeError("Another run has the hosts: wait for its end.") from error
        remove()
        try:
            yield _made()
        finally:
            remove()


def attached(name: str) -> Host:
    """Return a machine that another process made.

    Raises:
        RuntimeError: it does not run.
    """
    for pid in _pids(name):
        with contextlib.suppress(psutil.NoSuchProcess):  # it may have ended
            outer = psutil.Process(pid)
            if outer.name() == "unshare":
                return Host(name, HOSTS[name], outer)
    raise RuntimeError(f"The machine {name} does not run.")


@contextlib.contextmanager
def without_storage() -> Iterator[None]:
    """Let nobody reach this machine's own address in the network, where the storage is, for the time of a block."""
    _ip("address", "delete", f"{GATEWAY}/24", "dev", BRIDGE)
    try:
        yield
    finally:
        _ip("address", "add", f"{GATEWAY}/24", "dev", BRIDGE)


def left() -> list[str]:
    """Return what there is of the machines: namespaces, links, folders."""
    links = [path.name for path in Path("/sys/class/net").iterdir() if path.name in {BRIDGE, *map(_cable, HOSTS)}]
    return [
        *(name for name in _names() if name.startswith("llamafarm-")),
        *links,
        *map(str, FOLDER.parent.glob(FOLDER.name)),
    ]


def remove() -> None:
    """Remove the machines, with everything that runs on them, the network and the folder."""
    names = [name for name in _names() if name.startswith("llamafarm-")]
    deadline = time.monotonic() + 30
    while pids := [pid for name in names for pid in _pids(name.removeprefix("llamafarm-"))]:
        if time.monotonic() > deadline:
            raise RuntimeError(f"Processes {pids} do not end.")
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)
    for name in names:
        _ip("netns", "delete", name)
    for cable in map(_cable, HOSTS):  # the kernel takes them away some time after their namespaces
        with contextlib.suppress(RuntimeError):  # it did just now
            _ip("link", "delete", cable)
    if Path(f"/sys/class/net/{BRIDGE}").exists():
        _ip("link", "delete", BRIDGE)
    shutil.rmtree(FOLDER, ignore_errors=True)


def _made() -> dict[str, Host]:
    FOLDER.mkdir(mode=0o755)
    for name in ("login", "host"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "llamafarm-hosts", "-f", str(FOLDER / name)]
        subprocess.run(command, check=True)
    _ip("link", "add", BRIDGE, "type", "bridge")
    for address in (GATEWAY, CLIENT):
        _ip("address", "add", f"{address}/24", "dev", BRIDGE)
    keeps_others = Path("/proc/sys/net/ipv4/conf") / BRIDGE / "promote_secondaries"
    keeps_others.write_text("1", encoding="ascii")  # else the first address takes the others along when it is deleted
    _ip("link", "set", BRIDGE, "up")
    made = {}
    for name, address in HOSTS.items():
        _wire(name, address)
        made[name] = Host(name, address, _boot(name, address))
    for name, host in made.items():
        _wait_for(host, f"{name} did not start")
    return made


def _wire(name: str, address: str) -> None:
    space, cable = f"llamafarm-{name}", _cable(name)
    _ip("netns", "add", space)
    _ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", space)
    _ip("link", "set", cable, "master", BRIDGE, "up")
    _ip("-n", space, "address", "add", f"{address}/24", "dev", "eth0")
    _ip("-n", space, "link", "set", "eth0", "up")
    _ip("-n", space, "route", "add", "default", "via", GATEWAY)


def _boot(name: str, address: str) -> subprocess.Popen[bytes]:
    folder, home = FOLDER / name, FOLDER / name / "home"
    for one in ("environment", "python", "project", "tmp", "home/.ssh", "home/llamafarm_ray"):
        (folder / one).mkdir(parents=True)
    (folder / "tmp").chmod(0o1777)
    (folder / "hosts").write_text("127.0.0.1 localhost\n" + "".join(f"{a} {n}\n" for n, a in HOSTS.items()))
    (home / ".ssh").chmod(0o700)
    # Debian's, and a Python of the machine.
    (home / ".profile").write_text("[ -f ~/.bashrc ] && . ~/.bashrc\n")
    (home / ".bashrc").write_text(f"PATH={Path(sys.base_prefix) / 'bin'}:$PATH\n")
    init = "sleep infinity"
    if name == "laptop":
        shutil.copy(FOLDER / "login", home / ".ssh" / "id_ed25519")
    else:
        shutil.copy(FOLDER / "login.pub", home / ".ssh" / "authorized_keys")
        # On premises a bucket's credentials are written by hand.
        (home / ".llamafarm.env").write_text(NODE_ENV)
        (home / ".llamafarm.env").chmod(0o600)
        options = {"HostKey": FOLDER / "host", "PidFile": "none", "ListenAddress": address, "StrictModes": "no"}
        said = " ".join(f"-o {key}={value}" for key, value in options.items())
        init = f"{shutil.which('sshd', path='/usr/sbin:/usr/local/sbin')} -D -e -f /dev/null {said}"
    values = {
        "environment": ROOT / ".venv",
        "folder": folder,
        "home": Path.home(),
        "name": name,
        "project": ROOT if name == "laptop" else home / "llamafarm_ray",
        "python": sys.base_prefix,
        "root": ROOT,
    }
    script = BOOT.format(init=init, **{key: shlex.quote(str(value)) for key, value in values.items()})
    unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--uts", "--ipc", "sh", "-c", script]
    with (folder / "boot.log").open("w") as log:
        command = ["ip", "netns", "exec", f"llamafarm-{name}", *unshare]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)


def _wait_for(host: Host, what: str) -> None:
    """Return once the host's first process is what it boots into."""
    log = FOLDER / host.name / "boot.log"
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(psutil.Error):  # it may have ended
            first = psutil.Process(host.process.pid).children()
            if first and first[0].name() in {"sleep", "sshd"}:
                return
        time.sleep(0.05)
    raise RuntimeError(f"{what}:\n{log.read_text()}")


def _cable(name: str) -> str:
    return f"lf-{name}"


def _pids(name: str) -> list[int]:
    return [int(pid) for pid in _ip("netns", "pids", f"llamafarm-{name}").split()]


def _names() -> list[str]:
    return [line.split()[0] for line in _ip("netns", "list").splitlines()]


def _ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def main(words: list[str]) -> int:
    """Make the machines and open a shell on the laptop; or run a command on one; or remove them."""
    if reason := why_not():
        sys.stderr.write(f"Not here: {reason}\n")
        return 2
    if words == ["remove"]:
        remove()
        return 0
    if words[:1] == ["on"] and len(words) > 2:
        if words[1] not in HOSTS or f"llamafarm-{words[1]}" not in _names():
            sys.stderr.write(f"No machine {words[1]!r} runs. They are {', '.join(HOSTS)}, while {sys.argv[0]} runs.\n")
            return 2
        return subprocess.run(attached(words[1]).command(*words[2:]), check=False).returncode
    from s3 import s3_on

    with hosts() as made, s3_on(GATEWAY, S3_PORT) as files:
        files.mkdir(BUCKET)
        said = "\n".join(f"  {host.address}  {name}" for name, host in made.items())
        print(f"Machines, until this shell ends:\n{said}\n  {GATEWAY}  S3, at {S3_URL}", flush=True)  # noqa: T201
        return subprocess.run(made["laptop"].command("bash"), check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
