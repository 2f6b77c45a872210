"""Models come out of OCI registries: ModelPack's artifacts, plain ones, Ollama's, with and without tokens."""

import base64
import gzip
import io
import json
import tarfile

import pytest
import zstandard
from file_server import Fault
from model_files import gguf_bytes, safetensors_bytes
from oci_registry import oci_registry

from llamafarm_ray.errors import AccessDeniedError, InputError, IntegrityError, NotFoundError
from llamafarm_ray.storage.downloads.downloads import Downloads
from llamafarm_ray.storage.downloads.remote import Patience
from llamafarm_ray.storage.node_cache.cache import Cache

QUICK = Patience(connect_s=10, read_s=30, attempts=3, first_wait_s=0.001, max_wait_s=0.01)
MODEL = {"config.json": b"{}", "model.safetensors": safetensors_bytes(*range(300)), "tokenizer.json": b"{}"}
RAW = "application/vnd.cncf.model.weight.v1.raw"
TITLE = "org.opencontainers.image.title"


@pytest.fixture
def registry(monkeypatch, tmp_path):
    for name in ("NETRC", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    with oci_registry() as server:
        yield server


@pytest.fixture
def get(tmp_path):
    cache = Cache(tmp_path / "cache")
    return lambda source, **options: Downloads(cache, patience=QUICK, piece_bytes=500).get(source, **options)


def reference(registry, rest):
    return f"oci://{registry.url.removeprefix('http://')}/{rest}"


def titled(files, title=TITLE):
    return [(RAW, {title: name}, data) for name, data in files.items()]


def content(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def tar(files, compress=gzip.compress, links=()):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for name, target in links:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
    return compress(buffer.getvalue())


def test_a_plain_artifact_has_its_files_by_their_titles(get, registry):
    digest = registry.push("models/tiny", "v1", titled(MODEL | {"notes.bin": b"x"}))
    found = get(reference(registry, "models/tiny:v1"))
    assert content(found.folder) == MODEL
    assert (found.record.kind, found.record.name, found.record.resolved) == ("oci", "tiny", digest)
    assert get(reference(registry, "models/tiny"), revision="v1").was_here


def test_a_tag_that_moved_is_downloaded_and_a_digest_is_not_asked_for_again(get, registry):
    first = registry.push("models/tiny", "latest", titled(MODEL))
    get(reference(registry, "models/tiny"))
    registry.push("models/tiny", "latest", titled(MODEL | {"config.json": b'{"a": 1}'}))
    assert content(get(reference(registry, "models/tiny")).folder)["config.json"] == b'{"a": 1}'
    assert content(get(reference(registry, f"models/tiny@{first}")).folder) == MODEL
    registry.asked.clear()
    assert get(reference(registry, f"models/tiny@{first}")).was_here
    assert registry.asked == []


def test_a_modelpack_artifact_names_paths_and_licence(get, registry):
    registry.push(
        "models/tiny",
        "v1",
        titled(MODEL, "org.cncf.model.filepath"),
        config={"descriptor": {"licenses": ["Apache-2.0"]}},
        config_type="application/vnd.cncf.model.config.v1+json",
        artifactType="application/vnd.cncf.model.manifest.v1+json",
    )
    found = get(reference(registry, "models/tiny:v1"))
    assert content(found.folder) == MODEL
    assert found.record.licence == "Apache-2.0"


@pytest.mark.parametrize(
    "kind", ["application/vnd.cncf.model.weight.v1.tar+gzip", "application/vnd.x.v1.tar", "application/x.tar+zstd"]
)
def test_layers_that_are_packed_are_unpacked(get, registry, kind):
    pack = {"gzip": gzip.compress, "zstd": zstandard.compress}.get(kind.rpartition("+")[2], bytes)
    weights = {"model.safetensors": MODEL["model.safetensors"], "junk.pt": b"x"}
    layers = [(kind, {}, tar(weights, pack)), *titled({"config.json": b"{}", "tokenizer.json": b"{}"})]
    registry.push("models/tiny", "v1", layers)
    assert content(get(reference(registry, "models/tiny:v1")).folder) == MODEL


def test_layers_are_unpacked_in_the_manifests_order_and_a_later_one_stays(get, registry):
    kind = "application/vnd.x.v1.tar"
    numbered = [(kind, {}, tar({"config.json": b'{"layer": %d}' % number}, bytes)) for number in range(12)]
    registry.push("models/tiny", "v1", [(kind, {}, tar(MODEL, bytes)), *numbered])
    found = content(get(reference(registry, "models/tiny:v1")).folder)
    assert found == MODEL | {"config.json": b'{"layer": 11}'}


def test_an_ollama_model_is_a_gguf_with_a_licence(get, registry):
    layers = [
        ("application/vnd.ollama.image.model", {}, gguf_bytes()),
        ("application/vnd.ollama.image.license", {}, b"MIT"),
        ("application/vnd.ollama.image.params", {}, b"{}"),
    ]
    registry.push("library/tiny", "latest", layers)
    assert sorted(content(get(reference(registry, "library/tiny")).folder)) == ["LICENSE", "model.gguf"]


def test_an_index_leads_to_its_one_model(get, registry):
    digest = registry.push("models/tiny", "data", titled(MODEL))
    entry = {"digest": digest, "size": 1, "artifactType": "application/vnd.cncf.model.manifest.v1+json"}
    registry.put("models/tiny", "v1", {"manifests": [entry, {"digest": "sha256:" + "0" * 64, "size": 1}]})
    assert content(get(reference(registry, "models/tiny:v1")).folder) == MODEL
    registry.put("models/tiny", "two", {"manifests": [entry, entry]})
    with pytest.raises(InputError, match="an index of 2 artifacts"):
        get(reference(registry, "models/tiny:two"))


def test_a_token_is_got_and_renewed(get, registry):
    registry.push("models/tiny", "v1", titled(MODEL))
    registry.accepts = "first"

    def expire(asked):
        if "/blobs/" in asked.path and registry.accepts == "first":
            registry.accepts = "second"

    registry.fault = expire
    assert content(get(reference(registry, "models/tiny:v1")).folder) == MODEL
    asked = [one for one in registry.asked if one.path == "/token"]
    assert asked[0].query == {"service": ["tests"], "scope": ["repository:models/tiny:pull"]}


def test_a_login_of_docker_is_used_for_the_token(get, registry, tmp_path):
    registry.push("models/tiny", "v1", titled(MODEL))
    auth = base64.b64encode(b"ann:very-secret").decode()
    registry.accepts, registry.accepts_login = "right", f"Basic {auth}"
    with pytest.raises(AccessDeniedError) as caught:
        get(reference(registry, "models/tiny:v1"))
    assert "secret" not in str(caught.value)
    host = registry.url.removeprefix("http://")
    (tmp_path / "config.json").write_text(json.dumps({"auths": {host: {"auth": auth}}}))
    found = get(reference(registry, "models/tiny:v1"))
    assert content(found.folder) == MODEL
    assert "secret" not in json.dumps(found.record.to_json())


def test_what_is_not_there_or_not_right_is_named(get, registry):
    with pytest.raises(NotFoundError, match="404"):
        get(reference(registry, "models/none:v1"))
    with pytest.raises(InputError, match="no reference"):
        get("oci://Host/Up:per:case")
    digest = registry.push("models/tiny", "v1", titled(MODEL))
    registry.manifests["models/tiny", digest] += b" "
    with pytest.raises(IntegrityError, match="when it was asked for"):
        get(reference(registry, f"models/tiny@{digest}"))
    registry.push("models/zstd", "v1", [("application/vnd.cncf.model.weight.v1.tar+zstd", {}, b"x")])
    with pytest.raises(InputError, match="no sound archive"):
        get(reference(registry, "models/zstd:v1"))


def test_a_damaged_layer_is_refused(get, registry):
    registry.push("models/tiny", "v1", titled(MODEL))
    size = len(MODEL["model.safetensors"])
    weights = registry.blob("models/tiny", MODEL["model.safetensors"])["digest"]
    registry.fault = lambda asked: Fault(body=b"x" * size) if asked.path.endswith(weights) else None
    with pytest.raises(IntegrityError, match=f"announced with the digest {weights}"):
        get(reference(registry, "models/tiny:v1"))


@pytest.mark.parametrize("files", [{"../evil": b"x"}, {"/abs": b"x"}])
def test_hostile_layers_are_refused(get, registry, files, tmp_path):
    registry.push("models/tiny", "v1", [("application/x.tar+gzip", {}, tar(MODEL | files))])
    with pytest.raises(InputError, match="outside its folder"):
        get(reference(registry, "models/tiny:v1"))


def test_links_in_layers_are_refused(get, registry):
    layer = ("application/x.tar+gzip", {}, tar(MODEL, links=[("chat_template.jinja", "/etc/passwd")]))
    registry.push("models/tiny", "v1", [layer])
    with pytest.raises(InputError, match=r"'chat_template.jinja' is a link"):
        get(reference(registry, "models/tiny:v1"))


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress], ids=["gzip", "zstd"])
def test_layers_that_grow_beyond_all_measure_are_refused(get, registry, tmp_path, pack):
    kind = f"application/x.tar+{'gzip' if pack is gzip.compress else 'zstd'}"
    registry.push("models/tiny", "v1", [(kind, {}, tar(MODEL | {"zeros.json": bytes(8_000_000)}, pack))])
    with pytest.raises(InputError, match=r"it would grow from \d+ to \d+ bytes"):
        get(reference(registry, "models/tiny:v1"))
    assert not list(tmp_path.rglob("zeros.json"))
