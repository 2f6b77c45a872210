"""The verbs of `llamafarm registry`: soundness, the audit trail, rules, principals, the cache."""

import csv
import io
import json

import pytest


@pytest.fixture
def guarded(bot, monkeypatch):
    """The command line of somebody without a token, where a token is asked for; and the tokens."""
    tokens = {"root": bot.json("registry", "principal", "add", "root", "--role", "admin")["token"]}
    monkeypatch.setenv("LLAMAFARM_TOKEN", tokens["root"])
    for name, role, where in (("vera", "viewer", "medical"), ("dev", "developer", "*"), ("ops", "deployer", "*")):
        added = bot.json("registry", "principal", "add", name, "--role", role, "--namespace", where)
        tokens[name] = added["token"]
    monkeypatch.delenv("LLAMAFARM_TOKEN")
    bot.tokens = tokens
    bot.become = lambda name: monkeypatch.setenv("LLAMAFARM_TOKEN", tokens[name])
    return bot


def blobs(folders):
    return [path for path in (folders / "home" / "blobs").rglob("*") if path.is_file()]


def test_verify_counts_what_is_good(bot):
    found = bot.json("registry", "verify")
    assert (found["commits"], found["problems"]) == (3, [])
    assert found["blobs"] > 0
    assert "Nothing is wrong" in bot.text("registry", "verify")
    assert bot.json("registry", "verify", "--no-blobs")["blobs"] == 0


def test_verify_names_a_damaged_file_and_fails(bot, folders):
    damaged = next(path for path in blobs(folders) if path.read_bytes() == b"better")
    damaged.chmod(0o600)
    damaged.write_bytes(b"worse!")
    status, out, err = bot.run("registry", "verify")
    assert status == 1
    assert "bot:1.1.0: notes.txt: changed" in " ".join(out.split())
    assert "1 problem" in err
    assert bot.run("registry", "verify", "--no-blobs")[0] == 0


def test_a_kept_head_proves_that_a_tail_was_cut_off(bot, folders):
    head = bot.text("registry", "head").strip()
    assert bot.json("registry", "head")["sequence"] == 3
    assert bot.run("registry", "verify", "--head", head)[0] == 0
    max((folders / "home" / "log").iterdir()).unlink()
    assert bot.run("registry", "verify")[0] == 0
    assert "cut off" in bot.error("registry", "verify", "--head", head, status=1)["message"]


def test_the_audit_trail_says_who_what_when_and_why(bot, monkeypatch):
    monkeypatch.setenv("LLAMAFARM_PRINCIPAL", "bob")
    bot.text("models", "promote", "bot:1.0.0", "--reason", "go live")
    rows = bot.json("registry", "audit")
    assert [(row["sequence"], row["principal"], row["action"], row["target"]) for row in rows] == [
        (1, "ann", "registered", "base:1.0.0"),
        (2, "ann", "registered", "bot:1.0.0"),
        (3, "ann", "registered", "bot:1.1.0"),
        (4, "bob", "promoted", "bot:1.0.0"),
    ]
    assert rows[3]["reason"] == "go live"
    assert rows[3]["event"]["alias"] == "production"
    assert [row["sequence"] for row in bot.json("registry", "audit", "--principal", "bob")] == [4]
    assert [row["sequence"] for row in bot.json("registry", "audit", "--model", "base")] == [1]
    assert [row["sequence"] for row in bot.json("registry", "audit", "--since", rows[2]["time"])] == [3, 4]
    assert [row["sequence"] for row in bot.json("registry", "audit", "--until", rows[1]["time"])] == [1, 2]
    assert bot.json("registry", "audit", "--until", "2020-01-01") == []
    assert "go live" in bot.text("registry", "audit", "--since", "1h")


def test_what_a_policy_refused_is_in_the_trail(bot):
    bot.text("registry", "policy", "set", "production", "--license", "MIT")
    bot.error("models", "promote", "bot:1.1.0")
    [row] = bot.json("registry", "audit", "--refused")
    assert (row["action"], row["target"]) == ("refused: move alias", "bot:1.1.0")
    assert "licence" in row["details"]


@pytest.mark.parametrize("reason", ["=HYPERLINK(1)", "+1", "-1", "@SUM(1)", "\t=1", "\r=1"])
def test_no_cell_of_the_csv_is_a_formula(bot, reason):
    bot.text("models", "promote", "bot:1.0.0", "--reason", reason)
    rows = list(csv.DictReader(io.StringIO(bot.text("registry", "audit", "--format", "csv"), newline="")))
    assert len(rows) == 4
    assert rows[-1]["reason"] == f"'{reason}"
    assert rows[-1]["target"] == "bot:1.0.0"


def test_a_policy_is_set_shown_replaced_and_kept_in_its_history(bot, folders):
    bot.text("registry", "policy", "set", "production", "--metric", "accuracy>0.8", "--approvals", "1")
    assert bot.json("registry", "policy", "show")["production"]["metrics"] == {"accuracy": ">0.8"}
    refused = bot.error("models", "promote", "bot:1.0.0")
    assert "accuracy must be >0.8, and was not measured" in refused["message"]
    bot.text("registry", "policy", "set", "production", "--license", "MIT", "--reason", "looser")
    assert bot.json("registry", "policy", "show", "production")["production"]["metrics"] == {}
    bot.text("models", "promote", "bot:1.0.0")
    assert "So it was before" in bot.text("registry", "policy", "set", "production", "--license", "MIT")
    bot.text("registry", "policy", "set", "production", "--clear")
    assert bot.json("registry", "policy", "show") == {}
    assert "anything may be promoted" in bot.text("registry", "policy", "show", "production")
    told = bot.json("registry", "policy", "history", "production")
    first = told[-1]["time"]
    assert bot.json("registry", "policy", "show", "--at", first)["production"]["metrics"] == {"accuracy": ">0.8"}
    assert bot.json("registry", "policy", "show", "production", "--at", first)["production"]["approvals"] == 1
    assert "anything might be promoted" in bot.text("registry", "policy", "show", "--at", "2020-01-01")
    assert [(change["reason"], change["policy"]["licenses"]) for change in told] == [
        ("", []),
        ("looser", ["MIT"]),
        ("", []),
    ]
    assert "licence MIT" in bot.text("registry", "policy", "history", "production")


def test_a_signature_that_the_policy_asks_for_lets_a_version_through(bot, folders, monkeypatch):
    pytest.importorskip("model_signing")
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    secret = serialization.BestAvailableEncryption(b"open sesame")
    formats = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (folders / "key.pem").write_bytes(key.private_bytes(*formats, secret))
    public = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    (folders / "pub.pem").write_bytes(key.public_key().public_bytes(*public))
    bot.text("registry", "policy", "set", "production", "--signed-by", "pub.pem")
    assert "signed" in bot.error("models", "promote", "bot:1.0.0")["message"]
    monkeypatch.setenv("KEY_PASSWORD", "open sesame")
    signed = bot.json("models", "sign", "bot:1.0.0", "--key", "key.pem", "--password-env", "KEY_PASSWORD")
    assert len(signed["signatures"]) == 1
    bot.text("models", "promote", "bot:1.0.0")
    bot.text("models", "pull", "bot@production")
    assert "signed by" in bot.text("models", "describe", "bot:1.0.0")
    assert [entry["action"] for entry in bot.json("models", "history", "bot")][:2] == ["promoted", "signed"]


def test_a_new_principals_token_is_all_that_standard_output_holds(bot):
    status, out, err = bot.run("registry", "principal", "add", "root", "--role", "admin")
    assert status == 0
    assert out.startswith("lfr_")
    assert len(out.split()) == 1
    assert "LLAMAFARM_TOKEN" in err
    assert out.strip() not in err


def test_the_token_is_kept_nowhere(guarded, folders):
    guarded.become("root")
    for token in guarded.tokens.values():
        for path in (folders / "home").rglob("*"):
            assert not path.is_file() or token.encode() not in path.read_bytes()
    assert "token_digest" not in guarded.text("registry", "audit", "--format", "json")


def test_principals_are_listed_granted_and_revoked(guarded):
    guarded.become("root")
    added = guarded.json("registry", "principal", "add", "temp", "--role", "viewer", "--expires", "90d")
    assert set(added) == {"name", "token"}
    known = {row["name"]: row for row in guarded.json("registry", "principal", "list")}
    assert known["vera"]["grants"] == {"medical": "viewer"}
    assert known["temp"]["expires"] is not None
    assert "viewer in medical" in guarded.text("registry", "principal", "list")
    granted = guarded.json("registry", "principal", "grant", "vera", "--role", "deployer", "--namespace", "law")
    assert granted["grants"] == {"law": "deployer"}
    guarded.text("registry", "principal", "revoke", "temp")
    assert {row["name"]: row["status"] for row in guarded.json("registry", "principal", "list")}["temp"] == "revoked"
    added = guarded.json("registry", "audit", "--format", "json")
    then = next(entry["time"] for entry in added if entry["target"] == "temp" and "add" in entry["action"])
    known = {row["name"]: row for row in guarded.json("registry", "principal", "list", "--at", then)}
    assert (known["temp"]["status"], known["vera"]["grants"]) == ("active", {"medical": "viewer"})
    assert guarded.json("registry", "principal", "list", "--at", "2020-01-01") == []
    assert "There were no principals" in guarded.text("registry", "principal", "list", "--at", "2020-01-01")
    assert "last admin" in guarded.error("registry", "principal", "revoke", "root")["message"]


PROTECTED = [
    "models list",
    "models list --at 1s",
    "models describe bot",
    "models describe bot --at 1s",
    "models history bot",
    "models history bot --at 1s",
    "models diff bot:1.0.0 bot:1.1.0",
    "models trace bot",
    "models trace base --direction down",
    "models trace --dataset qa_v1",
    "models trace --document dose.md",
    "models pull bot",
    "models push v1 bot",
    "models register v1 --name bot",
    "models record-metrics bot eval.json",
    "models tag bot:1.0.0 --add x",
    "models sign bot:1.0.0 --key key.pem",
    "models promote bot:1.0.0",
    "models rollback bot --version 1.0.0",
    "models approve bot:1.0.0",
    "models deprecate bot:1.0.0",
    "models retire bot:1.0.0",
    "models gc",
    "registry head",
    "registry audit",
    "registry policy show",
    "registry policy show --at 1s",
    "registry policy set production --approvals 1",
    "registry policy history production",
    "registry principal add eve --role admin",
    "registry principal list",
    "registry principal list --at 1s",
    "registry principal grant vera --role admin",
    "registry principal revoke root",
    "models cache pin bot",
    "models cache unpin bot",
]


def test_nothing_is_told_or_done_without_a_token(guarded, subtests):
    for command in PROTECTED:
        with subtests.test(command):
            status, out, err = guarded.run(*command.split(), "--json")
            assert (status, out) == (2, "")
            assert json.loads(err)["error"]["code"] == "access_denied"
    guarded.become("root")
    refused = guarded.json("registry", "audit", "--refused")
    what = [(row["action"], row.get("target")) for row in refused]
    assert len(what) == len(set(what)) > 10, "the same refusal is there once in a minute"
    assert {row["principal"] for row in refused} == {"unknown"}


def test_a_viewer_of_a_namespace_sees_that_one_only(guarded):
    guarded.become("dev")
    guarded.text("models", "push", "v1", "medical/bot")
    guarded.become("vera")
    rows = guarded.json("models", "list", "--namespace", "medical")
    assert [row["ref"] for row in rows] == ["medical/bot:1.0.0"]
    assert guarded.json("models", "describe", "medical/bot")["principal"] == "dev"
    guarded.text("models", "trace", "medical/bot", "--direction", "down")
    assert [row["ref"] for row in guarded.json("models", "list")] == ["medical/bot:1.0.0"]
    for command in (
        "models list --namespace legal",
        "models describe bot",
        "models trace medical/bot",
        "models promote medical/bot",
    ):
        assert guarded.error(*command.split())["code"] == "access_denied"


def test_roles_end_where_they_say(guarded):
    guarded.become("dev")
    assert "deployer" in guarded.error("models", "promote", "bot:1.0.0")["message"]
    guarded.become("ops")
    guarded.text("models", "promote", "bot:1.0.0")
    assert guarded.error("registry", "audit")["code"] == "access_denied"
    guarded.become("root")
    refused = guarded.json("registry", "audit", "--refused")
    assert [(row["principal"], row["action"]) for row in refused] == [
        ("dev", "refused: move alias"),
        ("ops", "refused: manage principals"),
    ]
