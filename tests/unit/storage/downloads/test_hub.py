"""Models of a hub come with the files that a model needs, once, and whole."""

import json

import pytest
from download_sources import CARD, CHOSEN, MODEL, WEIGHTS, content, files
from file_server import Fault
from model_files import gguf_bytes

from llamafarm_ray.errors import AccessDeniedError, InputError, IntegrityError, NotFoundError, StorageError
from llamafarm_ray.types import Digest


def test_a_hubs_model_comes_with_the_files_that_a_model_needs(get, hub):
    found = get("owner/tiny")
    assert content(found.folder) == {name: MODEL[name] for name in CHOSEN}
    commit = hub.repos["owner/tiny", "main"][0]
    record = found.record
    assert (record.kind, record.source, record.resolved, record.licence) == (
        "hub", "hf://owner/tiny", commit, "apache-2.0",
    )  # fmt: skip
    weights = next(file for file in record.files if file.path == "model.safetensors")
    assert weights.digest == Digest.of(WEIGHTS)
    assert weights.address == f"{hub.url}/owner/tiny/resolve/{commit}/model.safetensors"
    assert "secret" not in json.dumps(record.to_json())


def test_a_second_call_asks_once_whether_the_hub_has_another_commit(get, hub):
    get("owner/tiny")
    hub.asked.clear()
    hub.cdn.asked.clear()
    found = get("owner/tiny")
    assert found.was_here
    assert [asked.path for asked in hub.asked + hub.cdn.asked] == ["/api/models/owner/tiny/revision/main"]
    hub.asked.clear()
    assert get("owner/tiny", revision=found.record.resolved).record.manifest == found.record.manifest
    hub.asked.clear()
    assert get(f"hf://owner/tiny@{found.record.resolved}").was_here
    assert hub.asked == [], "a commit can't change"


def test_a_new_commit_fetches_only_what_changed(get, hub, notes):
    get("owner/tiny")
    hub.cdn.asked.clear()
    hub.add("owner/tiny", MODEL | {"config.json": b'{"model_type": "qwen3"}'})
    found = get("owner/tiny")
    assert (found.folder / "config.json").read_bytes() == b'{"model_type": "qwen3"}'
    assert hub.cdn.asked == [], "the weights are in the cache"


def test_a_hub_that_is_not_reached_leaves_what_is_here(get, hub, notes):
    get("owner/tiny")
    hub.fault = lambda _: Fault(status=503)
    assert get("owner/tiny").was_here
    assert "answered 503" in notes[-1]
    assert "is used" in notes[-1]
    with pytest.raises(StorageError, match="answered 503"):
        get("owner/other")


def test_offline_takes_only_what_is_here(get, hub, monkeypatch):
    get("owner/tiny")
    hub.asked.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert get("owner/tiny").was_here
    with pytest.raises(NotFoundError, match="hf://owner/other is not on this machine") as caught:
        get("owner/other")
    assert "Downloaded here: hf://owner/tiny" in caught.value.hint
    assert hub.asked == []


def test_offline_takes_what_hugging_faces_cache_has_links_included(get, tmp_path):
    repo = tmp_path / "huggingface" / "hub" / "models--owner--tiny"
    commit = "a" * 40
    for name in CHOSEN:
        blob, link = repo / "blobs" / Digest.of(MODEL[name]).hex, repo / "snapshots" / commit / name
        blob.parent.mkdir(parents=True, exist_ok=True)
        link.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(MODEL[name])
        link.symlink_to(blob)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    found = get("owner/tiny", offline=True)
    assert files(found.folder) == CHOSEN
    assert not any(path.is_symlink() for path in found.folder.rglob("*"))
    assert found.record.resolved == commit


def test_a_gated_model_says_what_to_do(get, hub, monkeypatch):
    hub.gated.add("owner/tiny")
    hub.accepts = "hf_right"
    with pytest.raises(AccessDeniedError, match="owner/tiny is gated") as caught:
        get("owner/tiny")
    assert f"Accept them at {hub.url}/owner/tiny, then set HF_TOKEN" in caught.value.hint
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(AccessDeniedError, match="the account of your token has not done so"):
        get("owner/tiny")
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    assert files(get("owner/tiny").folder) == CHOSEN
    assert all("authorization" not in asked.headers for asked in hub.cdn.asked), "the token stays with the hub"


def test_the_token_that_a_login_stored_is_used(get, hub, tmp_path):
    hub.accepts = "hf_right"
    with pytest.raises(NotFoundError, match="no such model, or a private one"):
        get("owner/tiny")
    (tmp_path / "huggingface").mkdir()
    (tmp_path / "huggingface" / "token").write_text("hf_right\n")
    assert files(get("owner/tiny").folder) == CHOSEN


@pytest.mark.parametrize(
    ("source", "revision", "message"),
    [("owner/none", "", "no such model"), ("owner/tiny", "v9", "owner/tiny has no revision 'v9'")],
)
def test_what_the_hub_does_not_have_is_named(get, hub, source, revision, message):
    with pytest.raises(NotFoundError, match=message):
        get(source, revision=revision)


def test_a_hubs_page_is_its_model(get, hub):
    hub.add("owner/tiny", MODEL | {"config.json": b"{}"}, "v1")
    found = get(f"{hub.url}/owner/tiny/tree/v1")
    assert (found.record.source, found.record.revision) == ("hf://owner/tiny", "v1")


def test_a_damaged_file_of_the_hub_is_refused(get, hub):
    other = Fault(body=b'{"model_type": "gpt2!"}')
    hub.fault = lambda asked: other if asked.path.endswith("/config.json") and "Pool" not in asked.path else None
    with pytest.raises(IntegrityError, match="git:"):
        get("owner/tiny")
    hub.fault = lambda _: None
    assert content(get("owner/tiny").folder) == {name: MODEL[name] for name in CHOSEN}


def test_damaged_weights_of_the_hub_are_refused(get, hub):
    hub.cdn.fault = lambda _: Fault(body=b"x" * len(WEIGHTS))
    with pytest.raises(IntegrityError, match="was announced with the digest"):
        get("owner/tiny")
    hub.cdn.fault = lambda _: None
    assert content(get("owner/tiny").folder) == {name: MODEL[name] for name in CHOSEN}


def test_a_signed_address_that_expires_is_asked_for_again(get, hub):
    hub.cdn.fault = lambda asked: Fault(status=403) if asked.number == 1 else None
    assert (get("owner/tiny").folder / "model.safetensors").read_bytes() == WEIGHTS


def test_several_ggufs_are_a_question_and_one_is_an_answer(get, hub):
    hub.add("owner/quants", {"README.md": CARD, "a-Q4_K_M.gguf": gguf_bytes(), "a-Q8_0.gguf": gguf_bytes()})
    with pytest.raises(InputError, match=r"has 2 GGUF files: a-Q4_K_M.gguf") as caught:
        get("owner/quants")
    assert "--include 'a-Q4_K_M.gguf'" in caught.value.hint
    assert files(get("owner/quants", include=["*Q8_0*"]).folder) == ["README.md", "a-Q8_0.gguf"]
    with pytest.raises(NotFoundError, match="no file '\\*Q2"):
        get("owner/quants", include=["*Q2*"])


def test_a_model_with_pickles_alone_is_refused(get, hub):
    hub.add("owner/old", {"config.json": b"{}", "pytorch_model.bin": b"\x80\x02"})
    with pytest.raises(InputError, match=r"only as pytorch_model.bin"):
        get("owner/old")
    with pytest.raises(InputError, match="pickled code"):
        get("owner/old", include=["*.bin"])
    assert hub.cdn.asked == []


def test_a_name_that_leaves_the_folder_is_refused(get, hub):
    hub.add("owner/bad", {"../../evil.json": b"{}", "model.safetensors": WEIGHTS})
    with pytest.raises(InputError, match="outside its folder"):
        get("owner/bad")


SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


def sharded(*names, weight_map):
    """The tiny model with its one tensor in each of these files, and an index."""
    rest = {name: data for name, data in MODEL.items() if not name.endswith(".safetensors")}
    index = {"model.safetensors.index.json": json.dumps({"weight_map": weight_map}).encode()}
    return rest | index | dict.fromkeys(names, WEIGHTS)


def test_a_model_without_a_file_of_its_index_is_refused_before_weights_are_fetched(get, hub):
    hub.add("owner/half", sharded(SHARDS[0], weight_map={"w": SHARDS[0], "x": SHARDS[1]}))
    with pytest.raises(InputError, match=f"is incomplete: .*index.json names 1 files that are not there: {SHARDS[1]}"):
        get("owner/half")
    assert hub.cdn.asked == []
    assert SHARDS[0] in files(get("owner/half", include=[SHARDS[0]]).folder), "which was asked for"


def test_a_model_whose_files_lack_a_tensor_of_its_index_is_refused(get, hub):
    hub.add("owner/other", sharded(*SHARDS[:1], weight_map={"w": SHARDS[0], "x": SHARDS[0]}))
    with pytest.raises(InputError, match=r"1 tensors are not in the files that model.safetensors.index.json names: x"):
        get("owner/other")


def test_an_index_beside_the_weights_in_one_file_is_not_theirs(get, hub):
    hub.add("owner/one", sharded("model.safetensors", weight_map={"w": SHARDS[0]}))
    assert "model.safetensors" in files(get("owner/one").folder)
