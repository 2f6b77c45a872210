"""The verbs of `llamafarm models` that keep versions, look at them and release them."""

import json
import re

import pytest
from tiny_adapters import change_tensors

ACCURACY = "evaluation_results.benchmarks.medical_qa.accuracy"


def refs(rows):
    return [row["ref"] for row in rows]


def test_register_takes_the_words_of_the_seed(llamafarm):
    llamafarm.text("models", "import", "base", "--name", "llama-2-7b")
    facts = ("--base-model", "llama-2-7b", "--method", "lora", "--dataset", "medical_qa_v2")
    more = ("--capability", "chat", "--capability", "qa", "--usage-restrictions", "research", "--run", "r-17")
    made = llamafarm.json(
        "models",
        "register",
        "--model",
        "v1",
        "--name",
        "specialist",
        "--version",
        "1.2.0",
        *facts,
        *more,
        "--performance-metrics",
        "eval.json",
    )
    assert made["ref"] == "specialist:1.2.0"
    assert (made["base_model"], made["method"], made["dataset"], made["run"]) == (
        "llama-2-7b",
        "lora",
        "medical_qa_v2",
        "r-17",
    )
    assert made["base_digest"] == llamafarm.json("models", "describe", "llama-2-7b")["manifest"]
    assert made["capabilities"] == ["chat", "qa"]
    assert made["usage_restrictions"] == "research"
    assert made["metrics"]["evaluation_results"]["benchmarks"]["medical_qa"]["accuracy"] == 0.89


def test_register_without_a_folder_names_what_is_missing(llamafarm):
    assert "--model" in llamafarm.error("models", "register", "--name", "bot", "--version", "1.2.0")["message"]
    assert "v1 and v2" in llamafarm.error("models", "register", "v1", "--model", "v2")["message"]


def test_a_bump_raises_the_part_it_names_and_makes_another_version(bot):
    bumps = {"major": "bot:2.0.0", "minor": "bot:2.1.0", "patch": "bot:2.1.1"}
    for bump, ref in bumps.items():
        assert bot.json("models", "register", "v1", "--name", "bot", "--bump", bump)["ref"] == ref
    assert "--bump" in bot.error("models", "register", "v1", "--bump", "minor", "--version", "9.0.0")["hint"]
    assert "'huge'" in bot.error("models", "register", "v1", "--bump", "huge")["message"]


def test_the_same_idempotency_key_registers_once(llamafarm):
    key = ("--name", "bot", "--bump", "minor", "--idempotency-key", "job-7")
    first = llamafarm.json("models", "register", "v1", *key)
    assert llamafarm.json("models", "register", "v1", *key) == first
    assert llamafarm.json("models", "register", "v1", "--name", "bot", "--bump", "minor")["ref"] == "bot:1.1.0"


def test_push_publishes_the_next_version_or_the_one_named(bot):
    assert bot.json("models", "push", "v1", "new")["ref"] == "new:1.0.0"
    assert bot.json("models", "push", "v1", "new:3.0.0")["ref"] == "new:3.0.0"
    assert bot.json("models", "push", "v2", "new", "--alias", "staging")["ref"] == "new:3.1.0"
    assert bot.json("models", "describe", "new@staging")["version"] == "3.1.0"
    assert bot.error("models", "push", "v1", "new@staging")["code"] == "invalid_input"
    assert bot.error("models", "push", "v2", "new:3.0.0")["code"] == "conflict"


def test_pull_gives_a_folder_with_the_files(bot, folders):
    folder = bot.text("models", "pull", "bot:1.1.0").strip()
    assert (folders / folder / "notes.txt").read_text() == "better"
    pulled = bot.json("models", "pull", "bot:1.0.0", "--output", "out")
    assert pulled["version"] == "bot:1.0.0"
    assert sorted(path.name for path in (folders / "out").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert "out exists already" in bot.error("models", "pull", "bot:1.1.0", "--output", "out")["message"]


def test_list_shows_versions_aliases_and_results(bot):
    bot.text("models", "promote", "bot:1.1.0")
    shown = bot.text("models", "list")
    for text in ("bot:1.1.0", "@production", "adapter", "lora", "accuracy 0.89", "qa_v1"):
        assert text in shown
    assert re.search(r"just now|\d+ min ago", shown)
    rows = bot.json("models", "list")
    assert refs(rows) == ["base:1.0.0", "bot:1.1.0", "bot:1.0.0"]
    assert rows[1]["aliases"] == ["production"]


def test_list_filters_by_type_field_and_result(bot):
    assert refs(bot.json("models", "list", "--type", "adapters")) == ["bot:1.1.0", "bot:1.0.0"]
    assert refs(bot.json("models", "list", "--filter", "domain=medical", "--filter", "license=MIT")) == ["bot:1.0.0"]
    assert refs(bot.json("models", "list", "--filter", f"{ACCURACY}>0.8")) == ["bot:1.1.0"]
    assert refs(bot.json("models", "list", "--filter", f"{ACCURACY}>0.89")) == []
    assert "No version matches" in bot.text("models", "list", "--filter", "domain=law")


def test_retired_versions_are_listed_only_when_asked_for(bot):
    bot.text("models", "retire", "bot:1.0.0", "--message", "old")
    assert "bot:1.0.0" not in refs(bot.json("models", "list"))
    assert "bot:1.0.0" in refs(bot.json("models", "list", "--all"))
    assert refs(bot.json("models", "list", "--filter", "status=retired")) == ["bot:1.0.0"]


def test_files_that_live_on_or_were_retired_under_another_name_are_named(llamafarm):
    for name in ("bot", "team/copy"):
        llamafarm.text("models", "register", "v1", "--name", name)
    assert "The same files live on as team/copy:1.0.0." in llamafarm.text(
        "models", "retire", "bot:1.0.0", "--message", "pii"
    )
    assert "The same files were retired as bot:1.0.0: pii." in llamafarm.text(
        "models", "register", "v1", "--name", "bot"
    )
    assert llamafarm.json("models", "retire", "bot:1.1.0")["living_copies"] == ["team/copy:1.0.0"]
    again = llamafarm.json("models", "register", "v1", "--name", "bot")
    assert again["retired_copies"] == {"bot:1.0.0": "pii", "bot:1.1.0": ""}


def test_describe_says_everything(bot):
    bot.text("models", "promote", "bot:1.1.0")
    bot.text("models", "approve", "bot:1.1.0", "--env", "staging")
    shown = bot.text("models", "describe", "bot")
    for text in ("bot:1.1.0", "production", "lora", "medical", "staging: ann", "notes.txt", "0.89", "by ann", "base ("):
        assert text in shown
    known = bot.json("models", "describe", "bot:1.1.0")
    assert {file["path"]: file["size_bytes"] for file in known["files"]}["notes.txt"] == 6
    assert known["parameters"] == {"r": 16, "alpha": 16}
    assert known["approvals"] == {"staging": ["ann"]}
    assert (known["status"], known["principal"], known["aliases"]) == ("active", "ann", ["production"])


def test_a_purged_version_is_described_without_files(bot):
    bot.text("models", "retire", "bot:1.0.0")
    bot.text("models", "gc", "--delete", "--grace", "0s", "--retired-for", "0s")
    assert bot.json("models", "describe", "bot:1.0.0")["files"] is None
    assert "no longer kept" in bot.text("models", "describe", "bot:1.0.0")
    assert bot.json("models", "diff", "bot:1.0.0", "bot:1.1.0")["are_files_known"] is False


def test_the_past_can_be_asked_for(bot):
    bot.text("models", "promote", "bot:1.0.0")
    then = bot.json("models", "history", "bot")[0]["time"]
    bot.text("models", "promote", "bot:1.1.0")
    assert bot.json("models", "describe", "bot@production", "--at", then)["version"] == "1.0.0"
    assert bot.json("models", "describe", "bot@production")["version"] == "1.1.0"
    aliases = {row["ref"]: row["aliases"] for row in bot.json("models", "list", "--at", then)}
    assert aliases["bot:1.0.0"] == ["production"]
    assert bot.json("models", "list", "--at", "2020-01-01") == []
    assert bot.json("models", "pull", "bot", "--at", then)["version"] == "bot:1.0.0"
    assert bot.json("models", "diff", "bot", "bot:1.1.0", "--at", then)["left"] == "bot:1.0.0"
    assert bot.json("models", "trace", "bot", "--at", then)["root"] == "model:bot:1.0.0"
    assert bot.error("models", "describe", "bot", "--at", "2020-01-01")["code"] == "not_found"
    told = bot.json("models", "history", "bot")
    assert len(told) > len(before := bot.json("models", "history", "bot", "--at", then))
    assert before == [entry for entry in told if entry["time"] <= then]
    assert bot.error("models", "history", "bot", "--at", "2020-01-01")["code"] == "not_found"


def test_promote_and_rollback_move_the_alias(bot):
    assert bot.json("models", "promote", "bot:1.0.0")["alias"] == "bot@production"
    bot.text("models", "promote", "bot:1.1.0", "--reason", "better")
    assert bot.json("models", "rollback", "--name", "bot", "--reason", "complaints")["version"] == "bot:1.0.0"
    assert bot.json("models", "rollback", "bot", "--version", "1.1.0")["version"] == "bot:1.1.0"
    bot.text("models", "promote", "bot:1.0.0", "--env", "staging")
    assert bot.json("models", "describe", "bot@production")["version"] == "1.1.0"
    assert bot.error("models", "rollback")["code"] == "invalid_input"
    assert bot.error("models", "rollback", "bot", "--env", "nowhere")["code"] == "not_found"


def test_history_tells_what_happened_newest_first_and_why(bot):
    bot.text("models", "promote", "bot:1.0.0", "--reason", "first")
    bot.text("models", "promote", "bot:1.1.0")
    bot.text("models", "rollback", "bot", "--reason", "complaints")
    bot.text("models", "tag", "bot:1.0.0", "--add", "x")
    bot.text("registry", "policy", "set", "production", "--approvals", "1")
    assert bot.error("models", "promote", "bot:1.1.0")["code"] == "policy"
    told = bot.json("models", "history", "bot")
    assert [entry["action"] for entry in told] == [
        "refused: move alias",
        "tagged",
        "rolled back",
        "promoted",
        "promoted",
        "registered",
        "registered",
    ]
    assert (told[2]["details"], told[2]["reason"]) == ("production: 1.1.0 -> 1.0.0", "complaints")
    assert told[0]["refused"]
    moves = bot.json("models", "history", "bot", "--alias", "production")
    assert [entry["action"] for entry in moves] == ["refused: move alias", "rolled back", "promoted", "promoted"]
    shown = bot.text("models", "history", "bot")
    assert "complaints" in shown
    assert "production: 1.1.0 -> 1.0.0" in shown
    assert bot.error("models", "history", "bto")["hint"] == "Did you mean bot?"
    assert bot.error("models", "history", "bot", "--alias", "nowhere")["code"] == "not_found"


def test_diff_shows_what_differs(bot):
    found = bot.json("models", "diff", "bot:1.0.0", "bot:1.1.0")
    assert [pair["name"] for pair in found["parameters"]] == ["r"]
    assert {pair["name"]: (pair["left"], pair["right"]) for pair in found["fields"]}["license"] == ("MIT", "")
    files = {pair["name"]: (pair["left"] is None, pair["right"] is None) for pair in found["files"]}
    assert files == {"adapter_model.safetensors": (False, False), "notes.txt": (True, False)}
    assert found["num_same_files"] == 1
    shown = bot.text("models", "diff", "bot:1.0.0", "bot:1.1.0")
    assert "added" in shown
    assert "medical_qa.accuracy" in shown
    assert "removed" in bot.text("models", "diff", "bot:1.1.0", "bot:1.0.0")


def test_recorded_results_show_in_diff_with_their_difference(bot, folders):
    (folders / "later.json").write_text(json.dumps({"accuracy": 0.75}))
    bot.text("models", "record-metrics", "bot:1.0.0", "later.json")
    (folders / "later.json").write_text(json.dumps({"accuracy": 0.5}))
    bot.text("models", "record-metrics", "bot:1.1.0", "later.json")
    assert "-0.25" in bot.text("models", "diff", "bot:1.0.0", "bot:1.1.0")
    assert refs(bot.json("models", "list", "--filter", "accuracy>=0.75")) == ["bot:1.0.0"]


@pytest.mark.parametrize("content", ["", "[]", "{", "{}", '{"accuracy": NaN}', '{"acc": "0.99"}', '{"acc": true}'])
def test_a_file_without_usable_results_is_named(bot, folders, content):
    (folders / "bad.json").write_text(content)
    assert "bad.json" in bot.error("models", "record-metrics", "bot:1.0.0", "bad.json")["message"]


def test_tags_are_added_and_removed(bot):
    assert bot.json("models", "tag", "bot:1.0.0", "--add", "x", "--add", "y", "--remove", "qa")["tags"] == ["x", "y"]
    assert refs(bot.json("models", "list", "--filter", "tag=x")) == ["bot:1.0.0"]
    assert bot.error("models", "tag", "bot:1.0.0")["code"] == "invalid_input"
    assert bot.error("models", "tag", "bot:1.0.0", "--remove", "qa")["code"] == "not_found"


def test_a_deprecated_version_says_why_and_a_retired_one_is_not_pulled(bot):
    assert bot.json("models", "deprecate", "bot:1.0.0", "--message", "use 1.1")["deprecated"] == "use 1.1"
    assert "deprecated - use 1.1" in bot.text("models", "describe", "bot:1.0.0")
    bot.text("models", "promote", "bot:1.0.0")
    assert bot.error("models", "retire", "bot:1.0.0")["code"] == "conflict"
    bot.text("models", "promote", "bot:1.1.0")
    assert bot.json("models", "retire", "bot:1.0.0", "--message", "gone")["status"] == "retired"
    assert "gone" in bot.error("models", "pull", "bot:1.0.0")["message"]


def test_gc_deletes_nothing_unless_told_to(bot, folders):
    bot.text("models", "retire", "bot:1.1.0")
    stored = sorted((folders / "home" / "blobs").rglob("*"))
    for flags in ((), ("--dry-run",)):
        found = bot.json("models", "gc", "--grace", "0s", "--retired-for", "0s", *flags)
        assert found["dry_run"]
        assert found["purged"] == ["bot:1.1.0"]
        assert found["blobs"] == 2
    assert sorted((folders / "home" / "blobs").rglob("*")) == stored
    assert "Nothing was deleted" in bot.text("models", "gc", "--grace", "0s", "--retired-for", "0s")
    assert not bot.json("models", "gc", "--grace", "0s", "--retired-for", "0s", "--no-dry-run")["dry_run"]
    assert len(list((folders / "home" / "blobs").rglob("*"))) < len(stored)
    assert bot.error("models", "gc", "--dry-run", "--delete")["code"] == "invalid_input"


def test_trace_goes_down_to_the_base_and_up_to_what_came_of_it(bot):
    assert "is based on base:1.0.0" in bot.text("models", "trace", "bot:1.0.0")
    assert "bot:1.1.0" in bot.text("models", "trace", "base", "--direction", "up")
    assert "bot:1.1.0" not in bot.text("models", "trace", "base", "--direction", "down")
    assert bot.text("models", "trace", "bot:1.0.0", "--format", "dot").startswith("digraph")
    graph = bot.json("models", "trace", "bot:1.0.0")
    assert graph["root"] == "model:bot:1.0.0"
    for arguments in ((), ("bot", "--dataset", "qa"), ("bot", "--direction", "left"), ("bot", "--format", "svg")):
        assert bot.error("models", "trace", *arguments)["code"] == "invalid_input"


def test_trace_of_a_document_finds_what_learnt_from_it(bot):
    from llamafarm_ray.registry import DatasetRegistered, SourceDocument, open_registry
    from llamafarm_ray.registry.commands import RegisterDataset

    document = SourceDocument(path="/docs/dose.md", digest="sha256:" + "d" * 64, num_examples=4)
    dataset = DatasetRegistered(
        name="qa_v2", digest="sha256:" + "e" * 64, num_train=3, num_validation=1, documents=(document,)
    )
    open_registry().submit(RegisterDataset(dataset))
    bot.text("models", "register", "v2", "--name", "tuned", "--dataset", "qa_v2")
    for start in (("--document", "dose.md"), ("--document", document.digest), ("--dataset", "qa_v2")):
        shown = bot.text("models", "trace", *start)
        assert "tuned:1.0.0" in shown
        assert "dose.md" in shown
    assert bot.error("models", "trace", "--document", "nope.md")["code"] == "not_found"


def test_what_others_wrote_cannot_steer_the_terminal(bot):
    bot.text("models", "promote", "bot:1.0.0", "--reason", "\x1b[2Jgone\u202e [red]x[/] :bug:")
    bot.text("models", "deprecate", "bot:1.0.0", "--message", "\x1b]0;owned\x07")
    for command in (("history", "bot"), ("describe", "bot")):
        shown = bot.text("models", *command)
        assert "\x1b" not in shown
        assert "\x07" not in shown
        assert "\u202e" not in shown
    assert "[red]x[/] :bug:" in bot.text("models", "history", "bot")


def test_an_alias_is_removed_so_that_its_version_can_end(bot):
    bot.text("models", "promote", "bot:1.0.0", "--env", "lonely")
    assert "bot models unalias" not in bot.text("models", "unalias", "bot", "--env", "lonely")
    assert bot.error("models", "unalias", "bot", "--env", "lonely")["code"] == "not_found"
    assert "alias removed" in bot.text("models", "history", "bot", "--alias", "lonely")


def test_a_message_of_others_cannot_steer_the_terminal(bot):
    bot.text("models", "retire", "bot:1.0.0", "--message", "\x1b[2J\x1b]0;pwned\a")
    _, _, shown = bot.run("models", "pull", "bot:1.0.0")
    assert "pwned" in shown
    assert "\x1b[2J" not in shown
    assert "\a" not in shown


def test_names_of_other_tools_are_mended_on_request_and_notes_stand_beside_the_result(llamafarm, folders):
    change_tensors(
        folders / "v1", lambda old: {name.replace(".weight", ".default.weight"): one for name, one in old.items()}
    )
    (folders / "v1" / "optimizer.pt").write_bytes(b"state")
    command = ("models", "import", "v1", "--name", "bot")
    assert "--fix-names" in llamafarm.error(*command)["hint"]
    said = llamafarm.json(*command, "--fix-names")
    assert said["adapter"]["renamed"] == "`default` is taken out of its tensors' names"
    assert said["notes"][0] == "Left out, since they are no weights: optimizer.pt."
    _, out, err = llamafarm.run(*command, "--fix-names")
    assert out.startswith("Registered bot:1.0.0")
    assert "Left out, since they are no weights: optimizer.pt." in err
    assert "Its tensors were renamed" in err
