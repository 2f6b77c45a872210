"""Files: what is read, and how a file that can't be read is explained."""

import os
from typing import Any

import pytest

from llamafarm_ray.config import load_config, parse_config
from llamafarm_ray.config.loading.reading import MAX_FILE_BYTES
from llamafarm_ray.errors import ConfigError, InputError


@pytest.fixture
def write(tmp_path: Any) -> Any:
    def write(content: Any, name: Any = "config.yaml") -> Any:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.mark.parametrize("text", ["2e-4", "2E-4", "2.0e-4", "0.0002", ".0002", "+2e-4"])
def test_yaml_numbers_with_exponents_are_numbers(write: Any, text: Any) -> None:
    config = load_config(write(f"fine_tuning:\n  training:\n    learning_rate: {text}\n"))
    assert config.fine_tuning.training.learning_rate == 2e-4


@pytest.mark.parametrize("text", ["no", "off", "on", "yes", "1:30", "2024-01-15", "1_000"])
def test_yaml_1_1_surprises_are_texts(write: Any, text: Any) -> None:
    assert load_config(write(f"description: {text}\n")).description == text


def test_octal_looking_numbers_are_decimal(write: Any) -> None:
    assert load_config(write("seed: 010\n")).seed == 10


def test_a_file_without_a_known_ending_is_read_by_how_it_begins(write: Any) -> None:
    assert load_config(write('\n {"seed":\t7}', "config")).seed == 7
    assert load_config(write("seed: 7", "config.conf")).seed == 7


def test_a_byte_order_mark_is_allowed(write: Any) -> None:
    assert load_config(write(b"\xef\xbb\xbfseed: 7")).seed == 7
    assert load_config(write(b'\xef\xbb\xbf{"seed": 7}', "config.json")).seed == 7


def test_empty_sections_are_default_sections(write: Any) -> None:
    assert load_config(write("fine_tuning:\n  parameters:\ndataset:\nevaluation:\n")) == load_config(None)


def test_yaml_anchors_and_merges_work(write: Any) -> None:
    text = "fine_tuning: {training: &loop {epochs: 2}}\ntrainer: {<<: *loop, epochs: 2}\n"
    assert load_config(write(text)).fine_tuning.training.epochs == 2


def test_a_merged_key_may_be_written_again(write: Any) -> None:
    text = "model_config: &all {seed: 5, name: one}\nfine_tuning: {training: {epochs: 2}}\n"
    assert load_config(write(text)).seed == 5
    text = "deployment:\n  engine_kwargs: &base {a: 1, b: 2}\n  adapters: []\n"
    assert dict(load_config(write(text)).deployment.engine_kwargs) == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("name", "content", "line", "column"),
    [
        ("config.json", '{\n  "seed": 1,\n}', 3, 1),
        ("config.json", '{"seed": 1} trailing', 1, 13),
        ("config.json", '{\n "seed" 1}', 2, 9),
        ("config.yaml", "seed: 1\nname: [a\n", 3, 1),
        ("config.yaml", "seed: 1\n  name: a\n", 2, 7),
        ("config.yaml", "seed: 1\n---\nseed: 2\n", 2, 1),
        ("config.yaml", "seed: !!python/object/apply:os.getcwd []\n", 1, 7),
        ("config.yaml", "seed: !!timestamp 2024-01-15\n", 1, 7),
        ("config.yaml", "seed: 1\nname: a\x07b\n", 2, 8),
        ("config.yaml", "seed: !!int x\n", 1, 7),
        ("config.yaml", "? [a]\n: 1\n", 1, 3),
        ("config.yaml", "seed: &a [*a]\n", 1, 7),
    ],
)
def test_broken_files_are_explained_with_line_and_column(
    write: Any, name: Any, content: Any, line: Any, column: Any
) -> None:
    path = write(content, name)
    with pytest.raises(InputError, match=rf"line {line}, column {column}:") as caught:
        load_config(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_names_the_near_ones(write: Any) -> None:
    near = write("seed: 1", "lora_basic.yaml")
    with pytest.raises(InputError, match="There is no file") as caught:
        load_config(near.with_name("lora_basci.yaml"))
    assert str(near) in caught.value.hint
    with pytest.raises(InputError, match="There is no folder"):
        load_config(near.parent / "nowhere" / "a.yaml")


def test_a_folder_is_no_file(tmp_path: Any) -> None:
    with pytest.raises(InputError, match="is a folder"):
        load_config(tmp_path)


@pytest.mark.parametrize("path", ["a\0b", "x" * 5000])
def test_an_impossible_path_is_an_input_error(path: Any) -> None:
    with pytest.raises(InputError):
        load_config(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_an_input_error(write: Any) -> None:
    path = write("seed: 1")
    path.chmod(0)
    with pytest.raises(InputError, match="can't be read"):
        load_config(path)


def test_text_must_be_utf_8(write: Any) -> None:
    with pytest.raises(InputError, match=r"not UTF-8 text: byte 0xe9 in line 2"):
        load_config(write(b"seed: 1\nname: caf\xe9\n"))


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("config.yaml", "", "is empty"),
        ("config.yaml", "# nothing\n", "is empty"),
        ("config.yaml", "- a\n- b\n", "list"),
        ("config.yaml", "just text", "text"),
        ("config.json", "3", "number"),
        ("config.json", "[]", "list"),
    ],
)
def test_the_top_level_is_a_mapping(write: Any, name: Any, content: Any, what: Any) -> None:
    with pytest.raises(InputError, match=what) as caught:
        load_config(write(content, name))
    assert "mapping" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", '{"fine_tuning": {"method": "lora", "method": "full"}}'),
        ("config.yaml", "fine_tuning:\n  method: lora\n  method: full\n"),
    ],
)
def test_a_key_that_is_written_twice_is_a_mistake(write: Any, name: Any, content: Any) -> None:
    with pytest.raises(ConfigError, match=r"fine_tuning\.method: is given more than once"):
        load_config(write(content, name))


@pytest.mark.parametrize(
    ("name", "content", "key"),
    [
        ("config.json", '{"fine_tuning": {"training": {"learning_rate": NaN}}}', "fine_tuning.training.learning_rate"),
        ("config.json", '{"lr": 1e999}', "lr"),
        ("config.json", '{"tags": ["a", Infinity]}', r"tags\[1\]"),
        ("config.yaml", "lr: .nan", "lr"),
        ("config.yaml", "deployment: {engine_kwargs: {x: -.inf}}", "deployment.engine_kwargs.x"),
    ],
)
def test_numbers_that_are_none_are_refused_by_name(write: Any, name: Any, content: Any, key: Any) -> None:
    with pytest.raises(ConfigError, match=f"{key}: must be a finite number"):
        load_config(write(content, name))


def test_whole_numbers_have_a_size(write: Any) -> None:
    with pytest.raises(ConfigError, match=r"deployment\.engine_kwargs\.x: is a whole number of more than 63 bits"):
        load_config(write(f"deployment: {{engine_kwargs: {{x: {10**30}}}}}"))
    with pytest.raises(InputError):
        load_config(write(f'{{"seed": {"9" * 5000}}}', "config.json"))


def test_a_huge_file_is_refused(write: Any) -> None:
    with pytest.raises(InputError, match="bytes"):
        load_config(write("#" * (MAX_FILE_BYTES + 1)))


def bomb(reference: Any) -> Any:
    levels = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    levels += [
        f"{name}: &{name} [{', '.join([reference + below] * 9)}]"
        for below, name in zip("abcdefgh", "bcdefghi", strict=True)
    ]
    return "\n".join(levels)


def test_a_yaml_bomb_is_refused(write: Any) -> None:
    with pytest.raises(InputError, match="too many values"):
        load_config(write(bomb("*")))


def test_a_yaml_merge_bomb_is_refused(write: Any) -> None:
    levels = ["a: &a {" + ", ".join(f"k{n}: 1" for n in range(9)) + "}"]
    levels += [
        f"{name}: &{name} {{<<: [{', '.join(['*' + below] * 9)}]}}"
        for below, name in zip("abcdefgh", "bcdefghi", strict=True)
    ]
    with pytest.raises(InputError, match="keys in one mapping"):
        load_config(write("\n".join(levels)))


def test_many_repetitions_of_an_anchor_are_refused(write: Any) -> None:
    with pytest.raises(InputError, match="repetitions"):
        load_config(write("a: &a 1\ntags: [" + ", ".join(["*a"] * 200) + "]"))


@pytest.mark.parametrize("name", ["config.json", "config.yaml"])
@pytest.mark.parametrize("depth", [60, 50_000])
def test_deep_nesting_is_refused(write: Any, name: Any, depth: Any) -> None:
    with pytest.raises(InputError, match="nested too deeply"):
        load_config(write('{"a": ' + "[" * depth + "]" * depth + "}", name))


def test_documents_may_come_from_one_source_or_from_a_list() -> None:
    for path, read in (("docs", "docs"), (["docs", "s3://bucket/more"], ("docs", "s3://bucket/more"))):
        assert parse_config({"dataset": {"source": {"path": path}}}).dataset.source.path == read
