"""Ray's token is for its user's eyes only, whoever wrote it and however."""

import logging
import os
import stat
import threading
from pathlib import Path

import pytest

from llamafarm_ray.serving.ray_serve.token import close_token, make_token


@pytest.fixture
def token(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / ".ray" / "auth_token"


def permissions(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_first_token_is_made_closed_and_kept(token):
    before = os.umask(0)
    try:
        make_token()
    finally:
        os.umask(before)
    assert (permissions(token), permissions(token.parent)) == (0o600, 0o700)
    made = token.read_text()
    assert len(made) == 64
    make_token()
    assert token.read_text() == made
    assert list(token.parent.iterdir()) == [token]


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o666, 0o604])
@pytest.mark.parametrize("start", [make_token, close_token])
def test_one_that_others_can_read_is_closed_at_the_next_start(token, mode, start):
    token.parent.mkdir()
    token.write_text("rays")
    token.chmod(mode)
    start()
    assert (permissions(token), token.read_text()) == (0o600, "rays")


def test_one_in_a_file_that_ray_is_told_of_is_closed_too(token, tmp_path, monkeypatch):
    named = tmp_path / "token"
    named.write_text("mine")
    named.chmod(0o644)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(named))
    make_token()
    assert permissions(named) == 0o600
    assert not token.exists()


@pytest.mark.parametrize(("name", "value"), [("RAY_AUTH_MODE", "disabled"), ("RAY_AUTH_TOKEN", "in the environment")])
def test_none_is_made_where_none_is_needed(token, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    make_token()
    assert not token.exists()


def test_two_starts_at_once_have_one_token(token):
    seen = []

    def start():
        make_token()
        seen.append(token.read_text())

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(seen)) == 1
    assert len(seen[0]) == 64


def test_one_that_can_not_be_closed_is_said(token, monkeypatch, caplog):
    token.parent.mkdir()
    token.write_text("mounted")
    token.chmod(0o644)

    def refused(*_args, **_options):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "chmod", refused)
    with caplog.at_level(logging.WARNING):
        close_token()
    assert f"Others can read Ray's token in {token}" in caplog.text
