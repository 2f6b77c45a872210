"""Tokens on disk: the same rows in the same order, found again by all that decides them and by nothing else."""

import dataclasses

import pyarrow as pa
import pytest
from tiny_model import make_tiny_model

from llamafarm_ray.config import parse_config
from llamafarm_ray.errors import UserError
from llamafarm_ray.models.chat import tokenise_turns
from llamafarm_ray.models.tokenizer import load_tokenizer
from llamafarm_ray.training.batches import Layout, collate
from llamafarm_ray.training.methods.auto import Hardware
from llamafarm_ray.training.objectives import find_objective
from llamafarm_ray.training.plan import planning, preparing
from llamafarm_ray.training.plan.inputs import TrainingInputs
from llamafarm_ray.training.plan.job import RunFolder
from llamafarm_ray.training.plan.preparing import prepare_tokens
from llamafarm_ray.training.tokens import token_files
from llamafarm_ray.training.tokens.stream import read_epoch
from llamafarm_ray.training.tokens.token_files import TokenSettings, TokenStore, tokenizer_digest
from llamafarm_ray.training.tokens.tokenised import TokenisedData

SETTINGS = TokenSettings("sha256:t", "sft", None, 64, 1)


class InMemory:
    """The one method of a dataset that is used."""

    def __init__(self, num_rows):
        ids = [list(range(number, 2 * number + 1)) for number in range(1, num_rows + 1)]
        lists = pa.list_(pa.int32())
        self.table = pa.table(
            {
                "input_ids": pa.array(ids, lists),
                "labels": pa.array([[-100, *row[1:]] for row in ids], lists),
                "lengths": pa.array([[len(row)] for row in ids], lists),
                "tag": pa.array([0] * num_rows, pa.int32()),
            }
        )

    def iter_batches(self, *, batch_size, **_):
        for start in range(0, self.table.num_rows, batch_size):
            yield self.table.slice(start, batch_size)


def tokens(num_rows=50):
    return TokenisedData(InMemory(num_rows), "sha256:d", num_rows, 99, 12.5, {"empty answer": 2})


def plain(rows):
    return [(row.input_ids.tolist(), row.labels.tolist(), row.lengths.tolist(), row.tag) for row in rows]


def test_a_worker_reads_from_files_what_it_would_read_from_memory_in_every_epoch(tmp_path, monkeypatch):
    monkeypatch.setattr(token_files, "_ROWS_PER_SHARD", 20)
    monkeypatch.setattr(token_files, "_ROWS_PER_GROUP", 7)
    made = tokens()
    read = TokenStore(tmp_path, "sha256:rows").save(SETTINGS, "training", made)
    assert len(read.dataset.paths) == 3
    assert dataclasses.replace(read, dataset=None) == dataclasses.replace(made, dataset=None)
    for epoch in (0, 1, 2):
        expected = plain(read_epoch(made.dataset, epoch, 3, seed=5, buffer_rows=16))
        assert plain(read_epoch(read.dataset, epoch, 3, seed=5, buffer_rows=16)) == expected
        assert len(expected) == 47


def test_rows_from_files_are_packed_side_by_side_with_bounds_between_them(tmp_path):
    read = TokenStore(tmp_path, "sha256:rows").save(SETTINGS, "training", tokens(3))
    batch = collate(list(read_epoch(read.dataset, 0, 0, seed=1)), Layout(packed=True, pad_id=0))
    assert batch.input_ids.tolist() == [[1, 2, 2, 3, 4, 3, 4, 5, 6]]
    assert batch.position_ids.tolist() == [[0, 1, 0, 1, 2, 0, 1, 2, 3]]
    assert batch.bounds.tolist() == [0, 2, 5, 9]
    assert batch.labels.tolist() == [[-100, 2, -100, 3, 4, -100, 4, 5, 6]]


@pytest.mark.parametrize(
    "change",
    [
        {"tokenizer": "sha256:other"},
        {"objective": "pretraining"},
        {"objective_settings": {"beta": 0.2}},
        {"max_length": 65},
        {"seed": 2},
    ],
)
def test_tokens_are_found_for_the_same_settings_only(tmp_path, change):
    store = TokenStore(tmp_path, "sha256:rows")
    assert not store.has_others()
    store.save(SETTINGS, "training", tokens())
    assert store.load(SETTINGS, "training") is not None
    assert store.load(dataclasses.replace(SETTINGS, **change), "training") is None
    assert store.load(SETTINGS, "validation") is None
    assert TokenStore(tmp_path, "sha256:other rows").load(SETTINGS, "training") is None
    assert store.has_others()


def test_a_set_that_is_not_whole_is_made_again(tmp_path):
    store = TokenStore(tmp_path, "sha256:rows")
    shard = store.save(SETTINGS, "training", tokens()).dataset.paths[0]
    with open(shard, "r+b") as file:  # noqa: PTH123
        file.truncate(100)
    assert store.load(SETTINGS, "training") is None
    assert store.save(SETTINGS, "training", tokens()).num_rows == 50
    assert [path.name[:9] for path in tmp_path.iterdir()] == ["training-"]


def test_the_template_and_the_vocabulary_decide_the_tokenizers_digest_and_weights_do_not(tmp_path):
    base = make_tiny_model(tmp_path / "base")
    before = tokenizer_digest(base)
    (base / "model.safetensors").write_bytes(b"other weights")
    assert tokenizer_digest(base) == before
    template = base / "chat_template.jinja"
    template.write_text(template.read_text() + "\n")
    after = tokenizer_digest(base)
    assert after != before
    (base / "tokenizer.json").write_text((base / "tokenizer.json").read_text() + " ")
    assert tokenizer_digest(base) not in {before, after}


def test_rows_are_tokenized_once_for_each_base_model_template_and_seed(tmp_path, monkeypatch):
    base = make_tiny_model(tmp_path / "base")
    made = []
    monkeypatch.setattr(
        preparing, "tokenise", lambda rows, **settings: made.append((rows, settings["max_length"])) or tokens(rows)
    )
    store = TokenStore(tmp_path / "tokens", "sha256:rows")

    def prepare(validation_rows=None, **config):
        return prepare_tokens(
            parse_config(config), train_rows=5, validation_rows=validation_rows, base_model=base, store=store
        )

    first = prepare(validation_rows=2)
    assert made == [(5, 256), (2, 256)]  # the longest that the base model was made for
    assert (first.num_rows, first.is_new) == ({"training": 5, "validation": 2}, True)
    assert (first.num_tokens, first.num_dropped) == (2 * 99, {"empty answer": 4})
    assert dataclasses.replace(prepare(validation_rows=2), is_new=True) == first
    assert len(made) == 2
    assert prepare(seed=9).is_new
    (base / "chat_template.jinja").write_text((base / "chat_template.jinja").read_text() + " ")
    assert prepare().is_new
    assert len(made) == 4


def test_a_plan_takes_tokens_of_its_own_settings_and_says_when_it_finds_others_only(tmp_path, monkeypatch):
    base = make_tiny_model(tmp_path / "base")
    monkeypatch.setattr(planning, "find_hardware", lambda *_: Hardware(num_cpus=2.0))
    monkeypatch.setattr(planning, "machines", list)
    monkeypatch.setattr(planning, "check_before_start", lambda *_, **__: None)
    monkeypatch.setattr(planning, "tokenise", lambda rows, **_: tokens(rows))
    monkeypatch.setattr(preparing, "tokenise", lambda rows, **_: tokens(rows))
    store = TokenStore(tmp_path / "tokens", "sha256:rows")

    def plan(**config):
        return planning.make_plan(
            parse_config(config), TrainingInputs(7, None, base, tokens=store), RunFolder(tmp_path / "run")
        )

    prepare_tokens(parse_config({}), train_rows=5, validation_rows=None, base_model=base, store=store)
    found = plan()
    assert isinstance(found.train.dataset, token_files.TokenShards)
    assert (found.train.num_rows, found.job.plan.num_rows) == (5, 5)
    assert f"The training rows were tokenized before: {store.folder}." in found.reasons
    other = plan(seed=3)
    assert other.train.num_rows == 7
    assert any("not of these training rows and settings" in reason for reason in other.reasons)


LEAVES_OUT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'user' %}{{ m.content }}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_a_template_that_leaves_out_what_the_assistant_says_is_refused(tmp_path):
    tokenizer = load_tokenizer(make_tiny_model(tmp_path / "base"))
    messages = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "The cat."}]
    assert any(tokenise_turns(tokenizer, messages)[0].trained)
    tokenizer.chat_template = LEAVES_OUT
    with pytest.raises(UserError, match=r"leaves out what the assistant says in turn 2, .*'The cat\.'"):
        find_objective("sft").tokenise(tokenizer, {"messages": messages}, 64)
