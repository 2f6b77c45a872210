"""Signatures: made, recorded only when good, asked for by a policy, checked at every pull."""

import subprocess

import pytest
from signing_key import make_key

from llamafarm_ray.errors import InputError, IntegrityError, PolicyError
from llamafarm_ray.registry import Change, CommitLog, Identity, Policy, RegistryService, signing
from llamafarm_ray.registry.commands import SetPolicy, Sign
from llamafarm_ray.registry.governance.access import Role
from llamafarm_ray.types import Digest, ModelKind, ModelRef


@pytest.fixture
def key(tmp_path):
    return make_key(tmp_path / "key.pem")


@pytest.fixture
def bot(registry, folder):
    return registry.register(folder, name="bot", kind=ModelKind.ADAPTER)


@pytest.fixture
def signed(registry, bot, key):
    """Signed, and a policy that asks for that signature."""
    record = registry.sign(bot.ref, key)
    registry.submit(SetPolicy("production", Policy(signed_by=record.signers)))
    return record


def test_a_signed_version_may_be_promoted_and_pulled_anywhere(registry, signed, tmp_path):
    registry.promote(signed.ref, "production")
    assert RegistryService(registry.home, cache=tmp_path / "elsewhere").pull("bot@production")


def test_an_unsigned_version_may_not(registry, signed, folder):
    del signed
    (folder / "note.txt").write_text("other")
    unsigned = registry.register(folder, name="bot", kind=ModelKind.ADAPTER)
    with pytest.raises(PolicyError, match="signed with a key of"):
        registry.promote(unsigned.ref, "production")


def test_what_an_alias_points_at_is_not_pulled_once_its_policy_asks_for_another_key(registry, signed, tmp_path):
    registry.promote(signed.ref, "production")
    other = registry.sign(signed.ref, make_key(tmp_path / "other.pem"))
    (new,) = set(other.signers) - set(signed.signers)
    registry.submit(SetPolicy("production", Policy(signed_by=(new,))))
    assert registry.pull("bot")
    registry.submit(SetPolicy("production", Policy(signed_by=("sha256:" + "0" * 64,))))
    with pytest.raises(PolicyError, match="not signed with a key that 'production' asks for"):
        registry.pull("bot")


@pytest.mark.parametrize(
    "bundle", [b"", b"{}", b"\xff\xfe", b"[" * 5000, b'{"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json"}']
)
def test_a_bad_signature_is_not_recorded(registry, signed, bundle):
    (event,) = signed.signatures.values()
    digest = registry.content.publish_bytes(bundle)
    with pytest.raises(IntegrityError, match="not good"):
        registry.submit(Sign(ModelRef.parse(signed.ref), digest, event.public_key, event.key))


def test_a_signature_of_other_files_is_not_recorded(registry, signed, folder):
    (event,) = signed.signatures.values()
    (folder / "note.txt").write_text("other")
    other = registry.register(folder, name="bot", kind=ModelKind.ADAPTER)
    with pytest.raises(IntegrityError, match="not good"):
        registry.submit(Sign(ModelRef.parse(other.ref), event.signature, event.public_key, event.key))


def test_a_signature_cannot_name_another_key_than_its_own(registry, signed, tmp_path):
    (event,) = signed.signatures.values()
    foreign = signing.sign(registry.pull(signed.ref), make_key(tmp_path / "other.pem")).public_key
    with pytest.raises(InputError, match="not the one it names"):
        registry.submit(Sign(ModelRef.parse(signed.ref), event.signature, foreign, event.key))


def test_a_developer_may_sign_where_tokens_are_asked_for(registry, bot, key):
    root = RegistryService(registry.home, token=registry.add_principal("root", {"*": Role.ADMIN}))
    dan = Identity("x", root.add_principal("dan", {"*": Role.DEVELOPER}))
    signature = signing.sign(root.pull(bot.ref), key)
    digest = root.content.publish_bytes(signature.bundle)
    command = Sign(ModelRef.parse(bot.ref), digest, signature.public_key, signing.key_digest(signature.public_key))
    registry.submit(command, identity=dan)  # the service itself has no token, as the actor has none
    assert registry.state.resolve(ModelRef.parse(bot.ref)).signatures


@pytest.mark.parametrize("data", [b"", b"no key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_a_file_without_a_key_cannot_sign(registry, bot, tmp_path, data):
    (tmp_path / "bad.pem").write_bytes(data)
    with pytest.raises(InputError, match=r"bad\.pem can't be used to sign"):
        registry.sign(bot.ref, tmp_path / "bad.pem")
    with pytest.raises(InputError, match="can't be used to sign"):
        registry.sign(bot.ref, tmp_path / "missing.pem")


def test_the_librarys_own_command_verifies_what_was_exported(registry, signed, key, tmp_path):
    (event,) = signed.signatures.values()
    (tmp_path / "signature").write_bytes(registry.content.read_blob(Digest(event.signature)))
    (tmp_path / "key.pub").write_text(event.public_key)
    registry.content.export(Digest(signed.registered.manifest), tmp_path / "out")
    command = ["model_signing", "verify", "key", str(tmp_path / "out"), "--signature", str(tmp_path / "signature")]
    import sys
    from pathlib import Path

    tool = Path(sys.executable).with_name(command[0])
    done = subprocess.run(
        [str(tool), *command[1:], "--public_key", str(tmp_path / "key.pub")],
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert key.is_file()


def test_a_signature_that_is_not_good_stops_every_pull(registry, signed, folder):
    """Somebody with the bucket's credentials wrote a signature of other files into the log."""
    (event,) = signed.signatures.values()
    (folder / "note.txt").write_text("other")
    other = registry.register(folder, name="bot", kind=ModelKind.ADAPTER)
    forged = event.model_copy(update={"version": other.registered.version})
    change = Change(time=registry.state.time, principal="eve", idempotency_key="e", events=(forged,))
    CommitLog(registry.home).append(registry.head, [change])
    registry.promote(other.ref, "production")
    with pytest.raises(IntegrityError, match="not good"):
        registry.pull("bot@production")


def test_what_a_policy_asks_to_be_signed_can_be_signed(registry, signed, folder, key):
    del signed
    registry.submit(SetPolicy("production", Policy()))
    (folder / "note.txt").write_text("other")
    unsigned = registry.register(folder, name="bot", kind=ModelKind.ADAPTER)
    registry.promote("bot:1.0.0", "production")
    registry.promote(unsigned.ref, "production")
    registry.promote("bot:1.0.0", "production")
    registry.submit(SetPolicy("production", Policy(signed_by=registry.resolve("bot:1.0.0").signers)))
    with pytest.raises(PolicyError, match="must be signed"):
        registry.rollback("bot", "production", version="1.1.0")
    registry.sign(unsigned.ref, key)
    assert registry.rollback("bot", "production", version="1.1.0").ref == unsigned.ref
    assert registry.pull("bot")


def test_a_refused_pull_is_in_the_audit_trail(registry, signed):
    registry.promote(signed.ref, "production")
    registry.submit(SetPolicy("production", Policy(signed_by=("sha256:" + "0" * 64,))))
    with pytest.raises(PolicyError):
        registry.pull("bot")
    last = list(registry.commits())[-1].changes[-1].events[-1]
    assert (last.type, last.target, last.rule) == ("refused", signed.ref, "signed_by")
