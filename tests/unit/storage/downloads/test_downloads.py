"""Models come from every source into the cache, once, checked, with a record; a hit costs no download."""

import json
import logging
import stat
import threading
import time
import zipfile

import fsspec
import pytest
from download_sources import CHOSEN, MODEL, WEIGHTS, content, files
from file_server import Fault, FileServer, file_server
from model_files import gguf_bytes, safetensors_bytes

from llamafarm_ray.errors import AccessDeniedError, InputError, NotFoundError
from llamafarm_ray.storage.downloads.downloads import Downloads
from llamafarm_ray.storage.downloads.providers.sources import parse_source


@pytest.fixture
def folder_url(web):
    for name, data in MODEL.items():
        web.files[f"/models/tiny/{name}"] = data
    return f"{web.url}/models/tiny"


@pytest.mark.parametrize("ending", ["", "/"])
def test_a_web_folder_that_is_listed(get, web, folder_url, ending):
    found = get(folder_url + ending)
    assert files(found.folder) == [name for name in CHOSEN if "/" not in name]
    assert (found.record.kind, found.record.name, found.record.licence) == ("web", "tiny", "apache-2.0")
    assert get(folder_url + ending).was_here
    web.files["/models/tiny/config.json"] = b'{"model_type": "qwen3"}'
    assert (get(folder_url + ending).folder / "config.json").read_bytes() == b'{"model_type": "qwen3"}'


class Unlisted(FileServer):
    def route(self, asked):
        return (403 if asked.path.endswith("/list/") else 404, {}, b"") if asked.path.endswith("/") else None


def test_a_web_folder_that_is_not_listed_has_the_usual_names(get):
    with file_server(Unlisted()) as web:
        for name, data in MODEL.items():
            web.files[f"/tiny/{name}"] = data
        found = get(f"{web.url}/tiny")
        assert files(found.folder) == ["README.md", "config.json", "model.safetensors", "tokenizer.json"]
        with pytest.raises(NotFoundError, match="no model at"):
            get(f"{web.url}/none")


def test_an_index_of_safetensors_names_its_shards(get, web):
    index = {"weight_map": {"w": "model-1.safetensors"}}
    shards = {"model-1.safetensors": WEIGHTS, "model-2.safetensors": safetensors_bytes(2.0)}
    for name, data in (MODEL | shards | {"model.safetensors.index.json": json.dumps(index).encode()}).items():
        web.files[f"/tiny/{name}"] = data
    found = get(f"{web.url}/tiny/model.safetensors.index.json")
    assert "model-1.safetensors" in files(found.folder)
    assert "model-2.safetensors" not in files(found.folder)
    assert "model.safetensors" not in files(found.folder)
    assert found.record.name == "tiny"
    web.files["/tiny/model.safetensors.index.json"] = b'{"weight_map": {"a": "../x.safetensors"}}'
    with pytest.raises(InputError, match="no index"):
        get(f"{web.url}/tiny/model.safetensors.index.json")


def test_one_file_of_the_web_is_a_model_of_its_own(get, web):
    web.files["/tiny.gguf"] = gguf_bytes(general__license="mit")
    found = get(f"{web.url}/tiny.gguf?token=very-secret")
    assert (files(found.folder), found.record.licence, found.record.name) == (["tiny.gguf"], "mit", "tiny")
    assert "secret" not in json.dumps(found.record.to_json())


def make_wheel(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize("place", ["local", "web"])
def test_a_wheel_gives_its_one_model(get, web, tmp_path, place):
    wheel = make_wheel(
        tmp_path / "llm_tiny-1-py3-none-any.whl",
        {"llm_tiny/__init__.py": b"", "llm_tiny/tiny.gguf": gguf_bytes(), "llm_tiny-1.dist-info/RECORD": b""},
    )
    web.files["/w/llm_tiny-1-py3-none-any.whl"] = wheel.read_bytes()
    found = get(str(wheel) if place == "local" else f"{web.url}/w/{wheel.name}")
    assert files(found.folder) == ["tiny.gguf"]


def test_a_zip_gives_the_folder_with_config_and_weights(get, tmp_path):
    members = {f"top/tiny/{name}": MODEL[name] for name in CHOSEN} | {"top/other.txt": b""}
    assert files(get(str(make_wheel(tmp_path / "m.zip", members))).folder) == CHOSEN
    members |= {f"top/second/{name}": MODEL[name] for name in CHOSEN}
    with pytest.raises(InputError, match="'top/second/', 'top/tiny/'"):
        get(str(make_wheel(tmp_path / "two.zip", members)))
    with pytest.raises(InputError, match="holds none"):
        get(str(make_wheel(tmp_path / "none.zip", {"a.txt": b""})))


def test_hostile_archives_are_refused(get, tmp_path, cache):
    members = {"config.json": b"{}", "model.safetensors": WEIGHTS}
    with pytest.raises(InputError, match="outside its folder"):
        get(str(make_wheel(tmp_path / "path.zip", members | {"../../evil.json": b"{}"})))
    bomb = make_wheel(tmp_path / "bomb.zip", members)
    data = bytearray(bomb.read_bytes())
    at = data.rindex(b"PK\x01\x02", 0, data.rindex(b"PK\x05\x06"))
    data[at + 24 : at + 28] = (10).to_bytes(4, "little")  # the last member would have 10 bytes
    bomb.write_bytes(data)
    with pytest.raises(InputError, match="no sound archive"):
        get(str(bomb))
    with pytest.raises(InputError, match=r"'zeros' would grow from \d+ to 8000000 bytes"):
        get(str(make_wheel(tmp_path / "grows.zip", members | {"zeros": bytes(8_000_000)})))
    link = zipfile.ZipInfo("chat_template.jinja")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with pytest.raises(InputError, match=r"'chat_template.jinja' is a link"):
        get(str(make_wheel(tmp_path / "link.zip", members | {link: b"/etc/passwd"})))
    (tmp_path / "no.zip").write_bytes(b"PK\x03\x04")
    with pytest.raises(InputError, match="no sound archive"):
        get(str(tmp_path / "no.zip"))
    assert not (tmp_path / "evil.json").exists()


def test_a_local_folder_is_taken_without_what_is_no_model(get, tmp_path):
    for name, data in MODEL.items():
        path = tmp_path / "local" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    found = get(str(tmp_path / "local"))
    assert files(found.folder) == CHOSEN
    assert get(str(tmp_path / "local")).was_here


@pytest.mark.s3
def test_a_folder_and_a_file_in_a_bucket(get, bucket):
    import fsspec

    fs = fsspec.filesystem("s3", skip_instance_cache=True)
    for name, data in (MODEL | {"alone/tiny.gguf": gguf_bytes()}).items():
        fs.pipe_file(f"{bucket}/tiny/{name}" if "/" not in name or "Pool" in name else f"{bucket}/{name}", data)
    found = get(f"{bucket}/tiny")
    assert content(found.folder) == {name: MODEL[name] for name in CHOSEN}
    assert get(f"{bucket}/tiny/").was_here
    assert files(get(f"{bucket}/alone/tiny.gguf").folder) == ["tiny.gguf"]
    fs.pipe_file(f"{bucket}/tiny/config.json", b'{"model_type": "qwen3"}')
    assert not get(f"{bucket}/tiny").was_here
    with pytest.raises(NotFoundError, match="nothing at"):
        get(f"{bucket}/none")


def test_any_fsspec_uri(get):
    import fsspec

    fs = fsspec.filesystem("memory")
    for name, data in MODEL.items():
        fs.pipe_file(f"/downloads-of-tests/{name}", data)
    assert files(get("memory://downloads-of-tests").folder) == CHOSEN
    with pytest.raises(InputError, match="can't be opened"):
        get("nonsense://x/y")


def test_a_login_from_netrc_stays_with_its_host(get, web, folder_url, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    web.login = "ann:very-secret"
    with pytest.raises(AccessDeniedError, match="asks for credentials") as caught:
        get(folder_url)
    assert "LLAMAFARM_BEARER_127_0_0_1" in caught.value.hint
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login ann password wrong-secret\n")
    with pytest.raises(AccessDeniedError, match="the credentials for it are not accepted") as caught:
        get(folder_url)
    assert "secret" not in repr(caught.value)
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login ann password very-secret\n")
    found = get(folder_url)
    assert "secret" not in json.dumps(found.record.to_json())
    assert "secret" not in caplog.text
    assert "YW5uOnZlcnktc2VjcmV0" not in caplog.text


def test_a_bearer_token_from_the_environment(get, web, folder_url, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    web.login = "Bearer very-secret"
    monkeypatch.setenv("LLAMAFARM_BEARER_127_0_0_1", "very-secret")
    assert files(get(folder_url).folder)
    assert "secret" not in caplog.text


@pytest.mark.parametrize("source", ["https://ann:very-secret@example.org/m.gguf", "s3://key:very-secret@bucket/m"])
def test_credentials_in_an_address_are_refused_without_a_word_of_them(get, source):
    with pytest.raises(InputError, match="user or password") as caught:
        get(source)
    assert "secret" not in str(caught.value)


def test_plain_http_and_texts_that_are_no_source_are_refused(get):
    with pytest.raises(InputError, match="not encrypted"):
        get("http://example.org/m.gguf")
    with pytest.raises(InputError, match="no folder or file here"):
        get("nothing")
    with pytest.raises(InputError, match="no revisions"):
        get("https://example.org/m.gguf", revision="v1")


def test_what_was_changed_in_the_cache_is_downloaded_again(get, hub, notes):
    found = get("owner/tiny")
    path = found.folder / "model.safetensors"
    path.chmod(0o644)
    path.write_bytes(WEIGHTS[:-1] + b"x")
    again = get("owner/tiny")
    assert not again.was_here
    assert path.read_bytes() == WEIGHTS
    assert "not in the cache as it was" in notes[-1]


def test_every_byte_is_hashed_once_after_the_machine_started_again(get, hub, monkeypatch, cache):
    get("owner/tiny")
    checked = []
    monkeypatch.setattr(cache, "is_sound", lambda digest: checked.append(digest) or True)
    monkeypatch.setattr("llamafarm_ray.storage.downloads.downloads.boot_id", lambda: "another")
    assert get("owner/tiny").was_here
    assert get("owner/tiny").was_here
    assert len(checked) == 1


def test_two_callers_download_it_once(get, hub, notes, cache):
    hub.cdn.fault = lambda _: time.sleep(0.05)
    found = []
    callers = [threading.Thread(target=lambda: found.append(get("owner/tiny"))) for _ in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert sorted(one.was_here for one in found) == [False, True, True]
    assert len(hub.cdn.asked) == 3, "one request for each of the three pieces"
    assert any("waiting" in note for note in notes)


def test_nothing_is_left_over(get, hub, cache):
    get("owner/tiny")
    assert [path.suffix for path in (cache.folder / "downloads").iterdir()] == [".json"]


def test_unfinished_downloads_are_dropped_when_they_are_old(get, hub, cache):
    hub.cdn.fault = lambda asked: Fault(status=404) if asked.range[0] else None
    with pytest.raises(NotFoundError):
        get("owner/tiny")
    downloads = Downloads(cache)
    assert downloads.drop_unfinished() == 0
    assert downloads.drop_unfinished(0, dry_run=True) > 0
    assert downloads.drop_unfinished(0) > 0
    assert downloads.unfinished_bytes() == 0


class Replaced:
    """A location whose file is replaced while a range of it is read."""

    def __init__(self, monkeypatch, uri, name, data):
        from llamafarm_ray.storage.location import Location

        read = Location.read_range
        self.times = 0

        def read_range(location, file, begin, end):
            found = read(location, file, begin, end)
            if file == name and begin >= 500 and not self.times:
                self.times += 1
                location._fs.pipe_file(f"{uri}/{name}", data)
            return found

        monkeypatch.setattr(Location, "read_range", read_range)


def test_an_object_that_is_replaced_meanwhile_is_started_over(get, notes, monkeypatch):
    import fsspec

    fs, uri = fsspec.filesystem("memory"), "memory://replaced-of-tests"
    fs.pipe_file(f"{uri}/config.json", b"{}")
    fs.pipe_file(f"{uri}/model.safetensors", WEIGHTS)
    other = safetensors_bytes(*range(300, 600))
    Replaced(monkeypatch, uri, "model.safetensors", other)
    found = get(uri)
    assert (found.folder / "model.safetensors").read_bytes() == other, "no mixture of both"
    assert any("starting over" in note for note in notes)


def test_a_folder_in_a_bucket_keeps_the_dot_in_its_name(get):
    for name in ("Qwen2.5-0.5B", "Qwen2.5-0.5B.gguf"):
        assert parse_source(f"memory://dots/{name}").name == "Qwen2.5-0.5B"
    fsspec.filesystem("memory").pipe_file("memory://dots/Qwen2.5-0.5B/model.safetensors", WEIGHTS)
    assert get("memory://dots/Qwen2.5-0.5B").record.name == "Qwen2.5-0.5B"


def test_a_query_tells_files_apart_and_a_signature_does_not(get, web, cache):
    web.files["/m.gguf"] = gguf_bytes(general__name="one")
    first = get(f"{web.url}/m.gguf?id=1&X-Amz-Signature=secret-1")
    with pytest.raises(NotFoundError, match="is not on this machine"):
        get(f"{web.url}/m.gguf?id=2", offline=True)
    again = get(f"{web.url}/m.gguf?X-Amz-Signature=secret-2&id=1", offline=True)
    assert (again.was_here, again.folder) == (True, first.folder)
    written = b"".join(path.read_bytes() for path in cache.folder.rglob("*") if path.is_file())
    assert b"secret" not in written
    assert b"id=1" not in written
