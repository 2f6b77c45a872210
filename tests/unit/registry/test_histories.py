"""Ten random histories of a registry, with two writers, against an oracle of plain dictionaries."""

import datetime as dt
import random
import shutil
from pathlib import Path

import pytest

from llamafarm_ray.errors import AccessDeniedError, PolicyError, UserError
from llamafarm_ray.registry import DatasetRegistered, Policy, RegistryService, SourceDocument
from llamafarm_ray.registry.commands import (
    Grant,
    PromoteRollout,
    RegisterDataset,
    Revoke,
    SetPolicy,
    StartRollout,
    StepRollout,
    StopRollout,
)
from llamafarm_ray.registry.gc import collect
from llamafarm_ray.registry.governance.access import Action, Role
from llamafarm_ray.registry.history.verify import verify
from llamafarm_ray.registry.lineage import trace, trace_document
from llamafarm_ray.registry.rollouts import CanaryPlan, Step
from llamafarm_ray.storage import Location, Manifest
from llamafarm_ray.types import Digest, ModelKind, ModelRef, Version
from llamafarm_ray.workflows.governance.audit import audit
from llamafarm_ray.workflows.versions.list_models import list_versions

NUM_STEPS = 80
RANKS = {"viewer": 0, "developer": 1, "deployer": 2, "admin": 3}
MODELS = ("bot", "crew/bot", "archive/bot")
DATASETS = ("facts", "crew/facts")
ALIASES = ("production", "staging")
PEOPLE = ("ann", "bob", "cat")
PATHS = ("a.md", "b.md", "old/c.md")
PLAN = CanaryPlan(steps=(Step(percent=5, dwell_s=60), Step(percent=50, dwell_s=60)))
DENIED, REFUSED = "denied", "refused"


def space_of(name):
    return name.partition("/")[0] if "/" in name else ""


class Oracle:
    """The registry as dictionaries: of versions, aliases, rollouts, people and documents."""

    def __init__(self):
        self.people = {}  # name: {"grants", "alive", "holder"}
        self.versions = {}  # (model, number): {"manifest", "license", "retired", "approvals"}
        self.learnt = {}  # manifest: texts
        self.documents = set()  # (path, text)
        self.datasets = {}  # name: [(digest, texts)], newest last
        self.aliases = {}  # (model, alias): stack of numbers, newest last
        self.policies = {}  # alias: (approvals, licenses)
        self.rollouts = {}  # (model, alias): {"candidate", "step"}
        self.done = []  # (who, event types)

    def may(self, who, need, space):
        if not self.people:
            return True
        person = self.people.get(who)
        if person is None or not person["alive"]:
            return False
        roles = [person["grants"].get(space), person["grants"].get("*")]
        return any(role is not None and RANKS[role] >= RANKS[need] for role in roles)

    def next_number(self, model):
        numbers = [int(number.split(".")[1]) for name, number in self.versions if name == model]
        return f"1.{max(numbers) + 1}.0" if numbers else "1.0.0"

    def target(self, model, alias):
        stack = self.aliases.get((model, alias))
        return stack[-1] if stack else None

    def meets(self, who, model, number, alias):
        approvals, licenses = self.policies.get(alias, (0, ()))
        version = self.versions[model, number]
        if licenses:
            same = [one["license"] for one in self.versions.values() if one["manifest"] == version["manifest"]]
            if version["license"] not in licenses or any(one and one not in licenses for one in same):
                return False
        given = version["approvals"].get(alias, set())
        counted = set()
        for name, holder in given:
            is_hers = not self.people or (name in self.people and self.people[name]["holder"] == holder)
            if is_hers and self.may(name, "deployer", space_of(model)):
                counted.add(name)
        return len(counted - {who}) >= approvals

    def holder(self, who):
        return self.people[who]["holder"] if who in self.people else 0

    def moved(self, model, alias, number, *, back=False):
        stack = self.aliases.setdefault((model, alias), [])
        if back and number in stack:
            del stack[stack.index(number) + 1 :]
        else:
            stack[:] = [one for one in stack if one != number] + [number]
        self.rollouts.pop((model, alias), None)


class World:
    """The registry under test beside its oracle: an operation is done in both, and their outcomes are compared."""

    def __init__(self, folder, seed):
        self.random = random.Random(seed)
        self.oracle = Oracle()
        self.home = Location(folder / "home")
        self.folder = folder
        self.tokens = {}
        self.holders = 0
        self.services = {}
        self.recorded = []
        self.folders = {}

    def service(self, who):
        """One of two writers of the home, as somebody."""
        writer = self.random.randrange(2)
        token = self.tokens.get(who)
        key = (writer, who, token)
        if key not in self.services:
            cache = self.folder / f"cache{writer}"
            self.services[key] = RegistryService(self.home, principal=who, token=token, cache=cache)
        return self.services[key]

    def somebody(self):
        admins = [name for name in PEOPLE if self.oracle.people and self.oracle.may(name, "admin", "*")]
        return self.random.choice(admins if admins and self.random.random() < 0.5 else PEOPLE)

    def version(self):
        known = sorted(self.oracle.versions)
        return self.random.choice(known) if known else None

    def step(self):
        verb = self.random.choice(VERBS)
        before = len(self.recorded)
        verb(self)
        assert len(self.recorded) <= before + 1

    def compare(self, who, what, expected, act, *events):
        """Do an operation; it must end as the oracle expects: None, denied or refused."""
        self.recorded.append((who, what, expected))
        try:
            result = act(self.service(who))
        except AccessDeniedError:
            found, result = DENIED, None
        except UserError:
            found, result = REFUSED, None
        else:
            found = None
        assert found == expected, self.recorded
        if expected is None and events:
            self.oracle.done.append((who, events))
        return result


def _build(world):
    name, who = world.random.choice(DATASETS), world.somebody()
    documents = {(world.random.choice(PATHS), world.random.choice("xyz")) for _ in range(world.random.randint(1, 3))}
    texts = frozenset(text for _, text in documents)
    made = DatasetRegistered(
        name=name,
        digest=Digest.of("".join(sorted(texts)).encode()),
        num_train=3,
        num_validation=0,
        documents=tuple(
            SourceDocument(path=path, digest=Digest.of(text.encode()), num_examples=1)
            for path, text in sorted(documents)
        ),
    )
    is_allowed = world.oracle.may(who, "developer", space_of(name))
    world.compare(
        who,
        f"build {name} of {sorted(documents)}",
        None if is_allowed else DENIED,
        lambda registry: registry.submit(RegisterDataset(made)),
        "dataset_registered",
    )
    if is_allowed:
        world.oracle.documents |= documents
        world.oracle.datasets.setdefault(name, []).append((made.digest, texts))


def _register(world, model, manifest, texts, what, **details):
    oracle, who = world.oracle, world.somebody()
    license_id = world.random.choice(["MIT", "GPL-3.0-only", ""])
    number = oracle.next_number(model)
    is_allowed = oracle.may(who, "developer", space_of(model))
    world.compare(
        who,
        f"{what} {model}:{number}",
        None if is_allowed else DENIED,
        lambda registry: registry.register(
            world.folders[manifest], name=model, kind=ModelKind.CUSTOM, license=license_id, **details
        ),
        "version_registered",
    )
    if is_allowed:
        oracle.learnt.setdefault(manifest, texts)
        version = {"manifest": manifest, "license": license_id, "retired": False, "purged": False, "approvals": {}}
        oracle.versions[model, number] = version


def _note(world, text):
    """Return the manifest of a folder with this text."""
    folder = world.folder / "notes" / Digest.of(text.encode()).removeprefix("sha256:")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "note.txt").write_text(text)
    manifest = Manifest.of_folder(folder).digest
    world.folders[manifest] = folder
    return manifest


def _train(world):
    if not world.oracle.datasets:
        return
    name = world.random.choice(sorted(world.oracle.datasets))
    digest, texts = world.random.choice(world.oracle.datasets[name])
    manifest = _note(world, f"trained {digest} {world.random.randrange(2)}")
    details = {"dataset": world.random.choice([name, ""]), "dataset_digest": digest}
    _register(world, world.random.choice(MODELS), manifest, texts, f"train on {name}:", **details)


def _copy(world):
    if (chosen := world.version()) is not None:
        manifest = world.oracle.versions[chosen]["manifest"]
        _register(world, world.random.choice(MODELS), manifest, set(), f"copy {chosen} to")


def _combine(world):
    parents = [one for one in (world.version(), world.version()) if one is not None]
    if parents:
        manifests = sorted({world.oracle.versions[one]["manifest"] for one in parents})
        texts = set().union(*(world.oracle.learnt[one] for one in manifests))
        manifest = _note(world, f"combined {manifests}")
        details = {"derived_from": tuple(manifests)}
        _register(world, world.random.choice(MODELS), manifest, texts, f"combine {parents} into", **details)


def _promote(world):
    if (chosen := world.version()) is None:
        return
    (model, number), alias, who = chosen, world.random.choice(ALIASES), world.somebody()
    oracle = world.oracle
    expected, events = None, ("alias_moved",)
    if not oracle.may(who, "deployer", space_of(model)):
        expected = DENIED
    elif not oracle.meets(who, model, number, alias):
        expected = REFUSED
    elif oracle.target(model, alias) == number:
        events = ()
    elif oracle.versions[chosen]["retired"]:
        expected = REFUSED
    world.compare(
        who,
        f"promote {chosen} to {alias}",
        expected,
        lambda registry: registry.promote(f"{model}:{number}", alias),
        *events,
    )
    if expected is None and events:
        oracle.moved(model, alias, number)


def _unalias(world):
    (model, alias), who = (world.random.choice(MODELS), world.random.choice(ALIASES)), world.somebody()
    oracle, expected = world.oracle, None
    has_rules = oracle.policies.get(alias, (0, ())) != (0, ())
    if not oracle.may(who, "deployer", space_of(model)):
        expected = DENIED
    elif oracle.target(model, alias) is None:
        expected = REFUSED
    elif has_rules and not oracle.may(who, "admin", "*"):
        expected = DENIED
    world.compare(
        who, f"unalias {model}@{alias}", expected, lambda registry: registry.unalias(model, alias), "alias_removed"
    )
    if expected is None:
        del oracle.aliases[model, alias]
        oracle.rollouts.pop((model, alias), None)


def _rollback(world):
    (model, alias), who = (world.random.choice(MODELS), world.random.choice(ALIASES)), world.somebody()
    oracle, expected = world.oracle, None
    stack = oracle.aliases.get((model, alias), [])
    earlier = [number for number in stack[:-1] if not oracle.versions[model, number]["retired"]]
    if not oracle.may(who, "deployer", space_of(model)):
        expected = DENIED
    elif not earlier or (model, alias) in oracle.rollouts:
        expected = REFUSED
    world.compare(
        who, f"roll back {model}@{alias}", expected, lambda registry: registry.rollback(model, alias), "alias_moved"
    )
    if expected is None:
        oracle.moved(model, alias, earlier[-1], back=True)


def _approve(world):
    if (chosen := world.version()) is None:
        return
    (model, number), alias, who = chosen, world.random.choice(ALIASES), world.somebody()
    oracle = world.oracle
    is_allowed = oracle.may(who, "deployer", space_of(model))
    given = oracle.versions[chosen]["approvals"].setdefault(alias, set())
    mark = (who, oracle.holder(who))
    events = () if mark in given else ("promotion_approved",)
    world.compare(
        who,
        f"approve {chosen} for {alias}",
        None if is_allowed else DENIED,
        lambda registry: registry.approve(f"{model}:{number}", alias),
        *events,
    )
    if is_allowed:
        given.add(mark)


def _retire(world):
    if (chosen := world.version()) is None:
        return
    (model, number), who, oracle, expected = chosen, world.somebody(), world.oracle, None
    is_held = any(oracle.target(model, alias) == number for alias in ALIASES) or any(
        name == model and rollout["candidate"] == number for (name, _), rollout in oracle.rollouts.items()
    )
    if not oracle.may(who, "deployer", space_of(model)):
        expected = DENIED
    elif oracle.versions[chosen]["retired"] or is_held:
        expected = REFUSED
    world.compare(
        who, f"retire {chosen}", expected, lambda registry: registry.retire(f"{model}:{number}"), "version_retired"
    )
    if expected is None:
        oracle.versions[chosen]["retired"] = True


def _set_policy(world):
    alias, who = world.random.choice(ALIASES), world.somebody()
    rules = world.random.choice([(0, ()), (1, ()), (0, ("MIT",)), (1, ("MIT", ""))])
    rules = (rules[0], tuple(one for one in rules[1] if one))
    is_allowed = world.oracle.may(who, "admin", "*")
    events = () if world.oracle.policies.get(alias, (0, ())) == rules else ("policy_set",)
    policy = Policy(approvals=rules[0], licenses=rules[1])
    world.compare(
        who,
        f"set {alias} to {rules}",
        None if is_allowed else DENIED,
        lambda registry: registry.submit(SetPolicy(alias, policy)),
        *events,
    )
    if is_allowed:
        world.oracle.policies[alias] = rules


def _start_rollout(world):
    if (chosen := world.version()) is None:
        return
    alias, who, oracle = world.random.choice(ALIASES), world.somebody(), world.oracle
    fitting = sorted(one for one in oracle.versions if oracle.target(one[0], alias) not in {None, one[1]})
    (model, number) = chosen = world.random.choice([*fitting, chosen])
    expected, now = None, oracle.target(model, alias)
    if not oracle.may(who, "deployer", space_of(model)):
        expected = DENIED
    elif (
        now in {None, number}
        or oracle.versions[chosen]["retired"]
        or (model, alias) in oracle.rollouts
        or not oracle.meets(who, model, number, alias)
    ):
        expected = REFUSED
    command = StartRollout(ModelRef(model, version=Version.parse(number)), alias, PLAN)
    world.compare(
        who, f"roll out {chosen} to {alias}", expected, lambda registry: registry.submit(command), "rollout_started"
    )
    if expected is None:
        oracle.rollouts[model, alias] = {"candidate": number, "step": 0}


def _of_rollout(world, command, what, event, check):
    known = sorted(world.oracle.rollouts)
    model, alias = world.random.choice(known) if known else (world.random.choice(MODELS), "production")
    who, oracle = world.somebody(), world.oracle
    rollout = oracle.rollouts.get((model, alias))
    expected = None
    if not oracle.may(who, "deployer", space_of(model)):
        expected = DENIED
    elif rollout is None or not check(oracle, who, model, alias, rollout):
        expected = REFUSED
    world.compare(
        who, f"{what} {model}@{alias}", expected, lambda registry: registry.submit(command(model, alias)), event
    )
    return (model, alias) if expected is None else None


def _meets_still(oracle, who, model, alias, rollout):
    return oracle.meets(who, model, rollout["candidate"], alias)


def _step_rollout(world):
    def check(oracle, who, model, alias, rollout):
        return rollout["step"] == 0 and _meets_still(oracle, who, model, alias, rollout)

    if done := _of_rollout(world, StepRollout, "step", "rollout_stepped", check):
        world.oracle.rollouts[done]["step"] += 1


def _abort_rollout(world):
    if done := _of_rollout(world, StopRollout, "abort", "rollout_stopped", lambda *_: True):
        del world.oracle.rollouts[done]


def _promote_rollout(world):
    if done := _of_rollout(world, PromoteRollout, "promote", "alias_moved", _meets_still):
        world.oracle.moved(*done, world.oracle.rollouts[done]["candidate"])


def _add(world):
    name, who, oracle = world.somebody(), world.somebody(), world.oracle
    grants = {world.random.choice(["", "crew", "*"]): world.random.choice(list(RANKS))}
    if not oracle.people:
        if world.random.random() < 0.7:  # access control begins somewhere in the middle
            return
        grants = {"*": "admin"}
    expected = None
    if not oracle.may(who, "admin", "*"):
        expected = DENIED
    elif name in oracle.people and oracle.people[name]["alive"]:
        expected = REFUSED
    token = world.compare(
        who,
        f"add {name} {grants}",
        expected,
        lambda registry: registry.add_principal(name, {space: Role(role) for space, role in grants.items()}),
        "principal_added",
    )
    if expected is None:
        world.holders += 1
        oracle.people[name] = {"grants": grants, "alive": True, "holder": world.holders}
        world.tokens[name] = token


def _is_last_admin(oracle, name):
    admins = {one for one, it in oracle.people.items() if it["alive"] and it["grants"].get("*") == "admin"}
    return admins == {name}


def _revoke(world):
    name, who, oracle, expected = world.somebody(), world.somebody(), world.oracle, None
    if not oracle.may(who, "admin", "*"):
        expected = DENIED
    elif name not in oracle.people or _is_last_admin(oracle, name):
        expected = REFUSED
    if name in oracle.people and not oracle.people[name]["alive"]:
        return
    world.compare(who, f"revoke {name}", expected, lambda registry: registry.submit(Revoke(name)), "principal_revoked")
    if expected is None:
        oracle.people[name]["alive"] = False


def _grant(world):
    name, who, oracle, expected = world.somebody(), world.somebody(), world.oracle, None
    grants = {world.random.choice(["", "crew", "*"]): world.random.choice(list(RANKS))}
    if name in oracle.people and not oracle.people[name]["alive"]:
        return
    if not oracle.may(who, "admin", "*"):
        expected = DENIED
    elif name not in oracle.people or (grants.get("*") != "admin" and _is_last_admin(oracle, name)):
        expected = REFUSED
    command = Grant(name, {space: Role(role) for space, role in grants.items()})
    world.compare(
        who, f"grant {name} {grants}", expected, lambda registry: registry.submit(command), "principal_granted"
    )
    if expected is None:
        oracle.people[name]["grants"] = grants


def _collect(world):
    who = world.somebody()
    is_allowed = world.oracle.may(who, "admin", "*")
    purged = world.random.choice([None, dt.timedelta(0)])
    world.compare(
        who,
        f"collect {'retired' if purged is not None else ''}",
        None if is_allowed else DENIED,
        lambda registry: collect(registry, grace=dt.timedelta(0), purge_retired_after=purged, dry_run=False),
    )
    if is_allowed and purged is not None:
        for version in world.oracle.versions.values():
            version["purged"] |= version["retired"]


def _restore(world):
    """Go on with a copy of the home, as after a restored backup; writers that are open stay with the old one."""
    if not Path(world.home.uri).is_dir():  # nothing is committed yet
        return
    world.recorded.append(("", "restore", None))
    copy = world.folder / f"home{len(world.recorded)}"
    shutil.copytree(world.home.uri, copy)
    world.home, world.services = Location(copy), {}


VERBS = [
    *([_build, _train, _train, _copy, _combine, _promote, _promote, _unalias, _rollback, _approve, _approve] * 2),
    *[_retire, _set_policy, _start_rollout, _start_rollout, _step_rollout, _step_rollout, _abort_rollout],
    *[_promote_rollout, _add, _add, _revoke, _grant, _grant, _collect, _restore],
]


def check_all(world):
    oracle = world.oracle
    reader = RegistryService(world.home, principal="eve", cache=world.folder / "cache")
    state = reader.refresh()
    told = {
        (name, number): (record.registered.manifest, record.license, record.retired is not None, record.purged)
        for name, model in state.models.items()
        for number, record in model.versions.items()
    }
    assert told == {
        key: (one["manifest"], one["license"], one["retired"], one["purged"]) for key, one in oracle.versions.items()
    }
    aliases = {
        (name, alias): moves[-1].version
        for name, model in state.models.items()
        for alias, moves in model.aliases.items()
        if moves
    }
    assert aliases == {key: stack[-1] for key, stack in oracle.aliases.items()}
    assert {(one.model, one.alias): (one.candidate, one.step) for one in state.rollouts_under_way()} == {
        key: (one["candidate"], one["step"]) for key, one in oracle.rollouts.items()
    }
    check_lineage(world, state)
    check_people(world, state)
    check_files(world)
    assert verify(world.home).problems == ()


def check_files(world):
    """Check what a version's number and a bare name give: the files of a living version."""
    oracle = world.oracle
    for who in PEOPLE:
        registry = RegistryService(world.home, principal=who, token=world.tokens.get(who), cache=world.folder / "cache")
        for (model, number), version in oracle.versions.items():
            text = (world.folders[version["manifest"]] / "note.txt").read_text()
            if not oracle.may(who, "viewer", space_of(model)) or version["retired"]:
                with pytest.raises(UserError):
                    registry.pull(f"{model}:{number}")
            else:
                assert (registry.pull(f"{model}:{number}") / "note.txt").read_text() == text
        for model in {model for model, _ in oracle.versions}:
            meant = oracle.target(model, "production")
            if not oracle.may(who, "viewer", space_of(model)):
                meant = AccessDeniedError
            elif meant is None and oracle.policies.get("production", (0, ())) != (0, ()):
                meant = PolicyError
            if meant in {AccessDeniedError, PolicyError}:
                with pytest.raises(meant):
                    registry.resolve(model)
            elif meant is not None:
                assert registry.resolve(model).ref == f"{model}:{meant}"


def check_lineage(world, state):
    oracle = world.oracle
    learnt = {
        f"{model}:{number}": {one for one in oracle.documents if one[1] in oracle.learnt[version["manifest"]]}
        for (model, number), version in oracle.versions.items()
    }
    ids = {f"document:{Digest.of(text.encode())}:{path}": (path, text) for path, text in oracle.documents}
    for ref, documents in learnt.items():
        assert {ids[node.id] for node in trace(state, ref, "down").nodes if node.kind == "document"} == documents
    for path, text in oracle.documents:
        for asked, place in ((path, 0), (Digest.of(text.encode()), 1)):
            found = {node.label for node in trace_document(state, asked).nodes if node.kind == "model"}
            meant = path if place == 0 else text
            assert found == {ref for ref, known in learnt.items() if any(one[place] == meant for one in known)}


def check_people(world, state):
    """Check what each may, and sees: `list`, and the audit."""
    oracle = world.oracle
    needs = {Action.READ: "viewer", Action.REGISTER: "developer", Action.MOVE_ALIAS: "deployer"}
    for who in PEOPLE:
        registry = RegistryService(world.home, principal=who, token=world.tokens.get(who), cache=world.folder / "cache")
        for space in ("", "crew", "archive", "*"):
            for action, role in {**needs, Action.SET_POLICY: "admin"}.items():
                assert registry.may(action, space) == oracle.may(who, role, space), (who, action, space)
        readable = {space for space in ("", "crew", "archive") if oracle.may(who, "viewer", space)}
        meant = {
            (f"{model}:{number}", tuple(sorted(alias for alias in ALIASES if oracle.target(model, alias) == number)))
            for (model, number), version in oracle.versions.items()
            if space_of(model) in readable and not version["retired"]
        }
        if readable:
            listed = {(one.record.ref, tuple(sorted(one.aliases))) for one in list_versions(registry)}
            assert listed == meant
        if oracle.may(who, "admin", "*"):
            entries = [one for one in audit(registry) if not one.refused]
            told = [(one.principal, one.event.type) for one in entries if one.event.type in KNOWN]
            assert told == [(name, event) for name, events in oracle.done for event in events]
    assert state.sequence >= len([one for one in oracle.done if one[1]])


KNOWN = {
    "dataset_registered", "version_registered", "alias_moved", "alias_removed", "promotion_approved",
    "version_retired", "policy_set", "rollout_started", "rollout_stepped", "rollout_stopped", "principal_added",
    "principal_revoked", "principal_granted",
}  # fmt: skip


@pytest.mark.parametrize("seed", range(10))
def test_a_registry_is_what_dictionaries_say_after_a_random_history(tmp_path, seed):
    world = World(tmp_path, seed)
    for number in range(NUM_STEPS):
        world.step()
        if number % 40 == 39:
            check_all(world)
