"""`llamafarm models download` and `models cache`: models from anywhere, and this machine's copies of them."""

import json
import os
import re

import pytest
from file_server import hub_server
from model_files import safetensors_bytes
from signing_key import make_key

from llamafarm_ray.cli.models.download import TransferLine
from llamafarm_ray.registry import open_registry
from llamafarm_ray.registry.governance.access import Role
from llamafarm_ray.registry.signing import key_digest, sign
from llamafarm_ray.types import Digest

MODEL = {
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": safetensors_bytes(*range(50)),
    "tokenizer.json": b"{}",
    "README.md": b"---\nlicense: apache-2.0\n---\n",
}


@pytest.fixture
def hub(llamafarm, monkeypatch, tmp_path):
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "HF_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "huggingface"))
    with hub_server() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        server.add("owner/tiny", MODEL)
        yield server


def release(digest):
    """End this process's use of a version, as the end of a command's process does."""
    open_registry().content.release(Digest(digest))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_download_prints_the_folder_and_json_has_the_record(llamafarm, hub, folders):
    folder = llamafarm.text("models", "download", "owner/tiny").strip()
    assert names(folders / folder) == sorted(MODEL)
    record = llamafarm.json("models", "download", "owner/tiny")
    assert (record["folder"], record["was_here"]) == (folder, True)
    assert (record["source"], record["licence"]) == ("hf://owner/tiny", "apache-2.0")
    assert record["resolved"] == hub.repos["owner/tiny", "main"][0]


def test_output_is_a_folder_of_ones_own_with_the_record(llamafarm, hub, folders):
    llamafarm.text("models", "download", "owner/tiny", "--output", "mine")
    assert names(folders / "mine") == sorted([*MODEL, "download.json"])
    assert json.loads((folders / "mine" / "download.json").read_text())["source"] == "hf://owner/tiny"
    (folders / "mine" / "config.json").write_text("{}")  # it is the user's to change
    hub.asked.clear()
    assert "exists already" in llamafarm.error("models", "download", "owner/tiny", "--output", "mine")["message"]
    assert hub.asked == []


def test_name_registers_it_with_licence_and_source(llamafarm, hub):
    assert llamafarm.json("models", "download", "owner/tiny", "--name", "tiny")["version"] == "tiny:1.0.0"
    said = llamafarm.json("models", "describe", "tiny")
    assert said["license"] == "apache-2.0"
    assert said["description"].startswith("Downloaded from hf://owner/tiny at ")
    assert llamafarm.json("models", "download", "owner/tiny", "--name", "tiny")["version"] == "tiny:1.0.0"


def test_what_is_downloaded_and_copied_registers_as_the_same_files(llamafarm, hub):
    llamafarm.text("models", "download", "owner/tiny", "--name", "tiny", "--output", "mine")
    made = llamafarm.json("models", "import", "mine", "--name", "copy")
    assert made["manifest"] == llamafarm.json("models", "describe", "tiny")["manifest"]


@pytest.fixture
def signed(hub, tmp_path):
    """A model whose files, and one that is not downloaded, were signed; the public key."""
    files = {**MODEL, "picture.png": b"a llama"}
    for name, data in files.items():
        (tmp_path / "signed").mkdir(exist_ok=True)
        (tmp_path / "signed" / name).write_bytes(data)
    made = sign(tmp_path / "signed", make_key(tmp_path / "key.pem"))
    (tmp_path / "public.pem").write_text(made.public_key)
    hub.add("owner/signed", {**files, "model.sig": made.bundle})
    return made, tmp_path / "public.pem"


def test_a_signature_by_the_given_key_is_checked_and_recorded(llamafarm, hub, folders, signed):
    made, key = signed
    asked = ["models", "download", "owner/signed", "--verify-signature", str(key), "--output", "mine"]
    said = llamafarm.json(*asked, "--name", "signed")
    assert said["signed_by"] == key_digest(made.public_key)
    assert names(folders / "mine") == sorted([*MODEL, "model.sig", "download.json"])
    assert json.loads((folders / "mine" / "download.json").read_text())["signed_by"] == said["signed_by"]
    assert said["signed_by"] in llamafarm.json("models", "describe", "signed")["description"]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"config.json": b'{"model_type": "gpt2"}'}, "1 files of hf://owner/signed differ from those that were signed"),
        ({"chat_template.jinja": b"x"}, "1 files of hf://owner/signed were not signed: chat_template.jinja"),
        ({"model.sig": b"{}"}, "The signature is not good"),
        ({"model.sig": None}, "has no signature model.sig"),
    ],
)
def test_files_that_the_given_key_did_not_sign_are_refused(llamafarm, hub, folders, signed, changed, told):
    made, key = signed
    files = {**MODEL, "model.sig": made.bundle, **changed}
    hub.add("owner/signed", {name: data for name, data in files.items() if data is not None})
    asked = ["models", "download", "owner/signed", "--verify-signature", str(key), "--output", "mine"]
    assert told in llamafarm.error(*asked, "--name", "signed", status=1)["message"]
    assert not (folders / "mine").exists()
    assert llamafarm.json("models", "list") == []


def test_another_key_and_no_key_are_refused(llamafarm, hub, folders, signed, tmp_path):
    made, _ = signed
    other = sign(tmp_path / "signed", make_key(tmp_path / "other.pem"))
    assert other.public_key != made.public_key
    (tmp_path / "other-public.pem").write_text(other.public_key)
    asked = ["models", "download", "owner/signed", "--verify-signature"]
    assert "not good" in llamafarm.error(*asked, str(tmp_path / "other-public.pem"), status=1)["message"]
    hub.asked.clear()
    assert "can't be read" in llamafarm.error(*asked, str(tmp_path / "nothing.pem"))["message"]
    assert hub.asked == []


def test_offline_downloads_nothing(llamafarm, hub, monkeypatch):
    error = llamafarm.error("models", "download", "owner/tiny", "--offline")
    assert (error["code"], "not on this machine" in error["message"]) == ("not_found", True)
    llamafarm.text("models", "download", "owner/tiny")
    hub.asked.clear()
    assert llamafarm.json("models", "download", "owner/tiny", "--offline")["was_here"]
    assert hub.asked == []


@pytest.mark.parametrize("command", ["train --dataset x --base-model owner/tiny", "evaluate --model owner/tiny"])
def test_offline_holds_for_base_models_too(llamafarm, hub, monkeypatch, command):
    monkeypatch.setenv("HF_HUB_OFFLINE", "")  # so that what the verb sets is undone
    llamafarm.error("models", *command.split(), "--offline")
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert hub.asked == []


def test_a_base_model_that_is_downloaded_on_the_way_is_shown(llamafarm, hub):
    sizes = {
        "vocab_size": 50,
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
    }
    hub.add("owner/tiny", {**MODEL, "config.json": json.dumps({"model_type": "llama", **sizes}).encode()})
    status, _, shown = llamafarm.run("models", "convert", "owner/tiny", "--to", "gguf", "--output", "out")
    assert status == 2
    assert re.search(r"Downloading owner/tiny: [\d,]+ B of [\d,]+ B", shown)
    _, _, shown = llamafarm.run("models", "convert", "owner/tiny", "--to", "gguf", "--output", "out", "--json")
    assert "Downloading" not in shown


def test_the_bar_tells_bytes_rate_and_time_left(monkeypatch):
    shown, now = [], [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])

    class Bar:
        def __call__(self, stage, fraction):
            shown.append((stage, round(fraction, 2)))

        def detail(self, line):
            shown.append(line)

    line = TransferLine(Bar())
    line(0, 4_000_000_000)
    now[0] += 2.0
    line(1_000_000_000, 4_000_000_000)
    now[0] += 0.01
    line(1_000_000_001, 4_000_000_000)
    assert shown == [
        ("Download", 0.0),
        "0 B of 4 GB",
        ("Download", 0.25),
        "1 GB of 4 GB  500 MB/s  0:06 left",
    ]


def test_the_cache_is_listed_pinned_and_evicted(bot):
    assert "Nothing is in" in bot.text("models", "cache", "list")
    for version in ("1.0.0", "1.1.0"):
        release(bot.json("models", "pull", f"bot:{version}")["digest"])
    bot.text("models", "cache", "pin", "bot:1.0.0")
    rows = bot.json("models", "cache", "list")
    assert [(row["versions"], row["pinned"]) for row in rows] == [(["bot:1.1.0"], False), (["bot:1.0.0"], True)]
    assert "pinned" in bot.text("models", "cache", "list")
    assert "Nothing had to go" in bot.text("models", "cache", "evict", "--max", "1GB")
    assert bot.json("models", "cache", "evict", "--max", "0")["evicted"] == ["bot:1.1.0"]
    bot.text("models", "cache", "unpin", "bot:1.0.0")
    assert "evicted bot:1.0.0" in bot.text("models", "cache", "evict", "--max", "0")


def test_the_cache_is_listed_without_a_token_and_without_names_that_one_may_not_read(bot, monkeypatch):
    digest = bot.json("models", "pull", "bot:1.0.0")["digest"]
    token = open_registry().add_principal("root", {"*": Role.ADMIN})
    (row,) = bot.json("models", "cache", "list")
    assert (row["digest"], row["versions"]) == (digest, [])
    assert "bot" not in bot.text("models", "cache", "verify")
    monkeypatch.setenv("LLAMAFARM_TOKEN", token)
    assert bot.json("models", "cache", "list")[0]["versions"] == ["bot:1.0.0"]


def test_downloads_are_listed_pinned_and_evicted_by_their_source(llamafarm, hub):
    digest = llamafarm.json("models", "download", "owner/tiny")["manifest"]
    (row,) = llamafarm.json("models", "cache", "list")
    assert (row["digest"], row["sources"], row["in_use"]) == (digest, ["hf://owner/tiny"], True)
    assert "in use" in llamafarm.error("models", "cache", "evict", "owner/tiny")["message"]
    release(digest)
    llamafarm.text("models", "cache", "pin", "owner/tiny")
    assert "is pinned and stays" in llamafarm.error("models", "cache", "evict", "hf://owner/tiny")["message"]
    llamafarm.text("models", "cache", "unpin", digest[:20])
    planned = llamafarm.json("models", "cache", "evict", "owner/tiny", "--dry-run")
    assert (planned["evicted"], planned["dry_run"]) == (["hf://owner/tiny"], True)
    assert planned["freed_bytes"] == sum(len(data) for data in MODEL.values())
    assert len(llamafarm.json("models", "cache", "list")) == 1, "nothing went"
    assert "evicted hf://owner/tiny" in llamafarm.text("models", "cache", "evict", "owner/tiny")
    assert llamafarm.json("models", "cache", "list") == []
    assert llamafarm.error("models", "cache", "evict", "owner/tiny")["code"] == "not_found"


def test_what_is_shared_is_free_again_with_the_last_that_has_it(llamafarm, hub):
    first = llamafarm.json("models", "download", "owner/tiny")["manifest"]
    hub.add("owner/other", MODEL | {"config.json": b'{"a": 1}'})
    second = llamafarm.json("models", "download", "owner/other")["manifest"]
    for digest in (first, second):
        release(digest)
    alone = llamafarm.json("models", "cache", "evict", "owner/other", "--dry-run")["freed_bytes"]
    assert alone == 8, "its config; the other files are owner/tiny's too"
    both = llamafarm.json("models", "cache", "evict", "--max", "0", "--dry-run")["freed_bytes"]
    assert both == sum(len(data) for data in MODEL.values()) + 8


def test_the_base_of_a_registered_adapter_is_kept(llamafarm, hub, folders):
    llamafarm.text("models", "import", "base", "--name", "base")
    digest = llamafarm.json("models", "download", "owner/tiny")["manifest"]
    release(digest)
    registry = open_registry()
    registry.register(folders / "base", name="tuned", kind="merged", base_digest=digest)
    assert "is referenced and stays" in llamafarm.error("models", "cache", "evict", "owner/tiny")["message"]
    assert llamafarm.json("models", "cache", "evict", "--max", "0")["evicted"] == []
    (row,) = [row for row in llamafarm.json("models", "cache", "list") if row["digest"] == digest]
    assert row["referenced"]


def test_verify_names_what_was_damaged(llamafarm, hub, folders):
    record = llamafarm.json("models", "download", "owner/tiny")
    assert llamafarm.text("models", "cache", "verify").strip() == "hf://owner/tiny is right"
    path = folders / record["folder"] / "config.json"
    path.chmod(0o644)
    path.write_bytes(b'{"model_type": "gpt2!"}')
    status, out, _ = llamafarm.run("models", "cache", "verify", "owner/tiny", "--json")
    assert (status, json.loads(out)[0]["sound"]) == (1, False)
    assert "was damaged" in llamafarm.run("models", "cache", "verify")[1]
    llamafarm.text("models", "download", "owner/tiny")
    assert llamafarm.json("models", "cache", "verify")[0]["sound"]


def test_unused_models_are_compressed_and_come_back(llamafarm, hub, folders):
    hub.add("owner/zeros", MODEL | {"model.safetensors": safetensors_bytes(*[0.0] * 40_000)})
    digest = llamafarm.json("models", "download", "owner/zeros")["manifest"]
    assert "is in use and stays" in llamafarm.error("models", "cache", "compress", "owner/zeros")["message"]
    release(digest)
    assert "Nothing is to compress" in llamafarm.text("models", "cache", "compress")
    planned = llamafarm.json("models", "cache", "compress", "--older-than", "0s", "--dry-run")
    assert (planned["compressed"], planned["dry_run"]) == (["hf://owner/zeros"], True)
    assert 100_000 < planned["freed_bytes"] < 160_088
    assert "about 160 kB would be" in llamafarm.text("models", "cache", "compress", "owner/zeros", "--dry-run")
    assert not llamafarm.json("models", "cache", "list")[0]["compressed"]
    assert "compressed hf://owner/zeros" in llamafarm.text("models", "cache", "compress", "owner/zeros")
    (row,) = llamafarm.json("models", "cache", "list")
    assert (row["compressed"], row["in_use"]) == (True, False)
    assert row["frees_bytes"] < 10_000 < row["size_bytes"]
    assert "compressed" in llamafarm.text("models", "cache", "list")
    assert "is right" in llamafarm.text("models", "cache", "verify")
    record = llamafarm.json("models", "download", "owner/zeros")
    assert record["was_here"]
    assert names(folders / record["folder"]) == sorted(MODEL)
    assert not llamafarm.json("models", "cache", "list")[0]["compressed"]


def test_a_time_in_the_environment_compresses_what_was_not_used_for_it(llamafarm, hub, monkeypatch):
    hub.add("owner/zeros", MODEL | {"model.safetensors": safetensors_bytes(*[0.0] * 40_000)})
    release(llamafarm.json("models", "download", "owner/zeros")["manifest"])
    monkeypatch.setenv("LLAMAFARM_CACHE_COMPRESS_AFTER", "0s")
    release(llamafarm.json("models", "download", "owner/tiny")["manifest"])
    rows = {row["sources"][0]: row["compressed"] for row in llamafarm.json("models", "cache", "list")}
    assert rows == {"hf://owner/zeros": True, "hf://owner/tiny": False}


def test_a_limit_in_the_environment_holds_for_downloads(llamafarm, hub, monkeypatch):
    release(llamafarm.json("models", "download", "owner/tiny")["manifest"])
    monkeypatch.setenv("LLAMAFARM_CACHE_MAX", "1")
    hub.add("owner/other", {**MODEL, "model.safetensors": safetensors_bytes(1.0)})
    llamafarm.text("models", "download", "owner/other")
    assert [row["sources"] for row in llamafarm.json("models", "cache", "list")] == [["hf://owner/other"]]


@pytest.mark.parametrize("arguments", [[], ["owner/tiny", "--max", "0"]])
def test_evict_wants_models_or_a_limit(llamafarm, arguments):
    assert "Give either models or a limit" in llamafarm.error("models", "cache", "evict", *arguments)["message"]
    assert llamafarm.error("models", "cache", "evict", "--max", "lots")["code"] == "invalid_input"
