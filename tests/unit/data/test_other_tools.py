"""Descriptions of other tools say which file holds a dataset and what its fields are called."""

import json

import pytest
import yaml

from llamafarm_ray.data.reading import read_dataset
from llamafarm_ray.errors import InputError


@pytest.fixture
def folder(tmp_path):
    """A folder with examples in the layouts that the descriptions below tell about."""
    files = {
        "pairs.json": [{"q": "Q?", "more": "of X", "a": "A.", "sys": "Be brief.", "past": [["Hi", "Hello"]]}],
        "chats.json": [
            {
                "turns": [
                    {"who": "USER", "says": "Weather?"},
                    {"who": "CALL", "says": '{"name": "weather", "arguments": {"city": "Bonn"}}'},
                    {"who": "RESULT", "says": "rain"},
                    {"who": "BOT", "says": "It rains."},
                ],
                "tools": '[{"name": "weather", "description": "Now.", "parameters": {"type": "object"}}]',
            }
        ],
        "better.json": [{"q": "Q?", "good": "A.", "bad": "B."}],
        "judged.json": [{"instruction": "Q?", "output": "A.", "liked": False}],
        "texts.json": [{"body": "All of it."}],
    }
    for name, records in files.items():
        (tmp_path / name).write_text(json.dumps(records))
    return tmp_path


TAGS = {
    "role_tag": "who",
    "content_tag": "says",
    "user_tag": "USER",
    "assistant_tag": "BOT",
    "observation_tag": "RESULT",
    "function_tag": "CALL",
}
FACTORY = {
    "pairs": {
        "file_name": "pairs.json",
        "columns": {"prompt": "q", "query": "more", "response": "a", "system": "sys", "history": "past"},
    },
    "chats": {
        "file_name": "chats.json",
        "formatting": "sharegpt",
        "columns": {"messages": "turns", "tools": "tools"},
        "tags": TAGS,
    },
    "better": {
        "file_name": "better.json",
        "ranking": True,
        "columns": {"prompt": "q", "chosen": "good", "rejected": "bad"},
    },
    "judged": {
        "file_name": "judged.json",
        "columns": {"prompt": "instruction", "response": "output", "kto_tag": "liked"},
    },
    "texts": {"file_name": "texts.json", "columns": {"prompt": "body"}},
    "remote": {"hf_hub_url": "org/name"},
    "sampled": {"file_name": "pairs.json", "num_samples": 5},
    "odd": {"file_name": "pairs.json", "columns": {"question": "q"}},
    "gone": {"file_name": "gone.json"},
}


@pytest.fixture
def factory(folder):
    def read(name, **entries):
        (folder / "dataset_info.json").write_text(json.dumps(entries or FACTORY))
        return read_dataset(folder / f"dataset_info.json{name}")

    return read


def test_llama_factorys_columns_are_read_as_it_reads_them(factory):
    (row,) = factory("#pairs").rows["train"]
    said = [(turn["role"], turn["content"]) for turn in row["messages"]]
    assert said == [
        ("system", "Be brief."),
        ("user", "Hi"),
        ("assistant", "Hello"),
        ("user", "Q?\nof X"),
        ("assistant", "A."),
    ]
    assert row["document"] == "pairs.json"
    better = factory("#better")
    assert (better.kind.name, better.rows["train"][0]["rejected"]) == ("preference", "B.")
    judged = factory("#judged")
    assert (judged.kind.name, judged.rows["train"][0]["label"]) == ("judgement", False)
    texts = factory("#texts")
    assert (texts.kind.name, texts.rows["train"][0]["text"]) == ("text", "All of it.")
    assert len(factory("", pairs=FACTORY["pairs"]).rows["train"]) == 1


def test_llama_factorys_tags_name_the_turns_of_tools(factory):
    (row,) = factory("#chats").rows["train"]
    assert [turn["role"] for turn in row["messages"]] == ["user", "assistant", "tool", "assistant"]
    (call,) = json.loads(row["messages"][1]["tool_calls"])
    assert call["function"] == {"name": "weather", "arguments": {"city": "Bonn"}}
    assert json.loads(row["tools"])[0]["function"]["name"] == "weather"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", r"describes 9 datasets\. Name one: .*#pairs"),
        ("#pears", "describes no dataset 'pears'. Did you mean pairs"),
        ("#remote", "hf_hub_url names a dataset elsewhere"),
        ("#sampled", "num_samples is not available"),
        ("#odd", "columns has 'question', which is not available"),
        ("#gone", r"there is no file '.*gone\.json'"),
    ],
)
def test_what_a_list_of_llama_factory_asks_for_and_can_not_get_is_named(factory, name, message):
    with pytest.raises(InputError, match=message):
        factory(name)


@pytest.fixture
def axolotl(folder):
    def read(*entries, **others):
        (folder / "axolotl.yaml").write_text(yaml.safe_dump({"datasets": entries, **others}))
        return read_dataset(folder / "axolotl.yaml")

    return read


CHATS = {
    "path": "chats.json",
    "type": "chat_template",
    "field_messages": "turns",
    "message_property_mappings": {"role": "who", "content": "says"},
    "roles": {"user": ["USER"], "assistant": ["BOT", "CALL"], "tool": ["RESULT"]},
}


def test_axolotls_entries_are_read_together(folder, axolotl):
    (folder / "alpaca.json").write_text(json.dumps([{"instruction": "Q?", "input": "", "output": "A."}]))
    (folder / "orca.json").write_text(json.dumps([{"system_prompt": "S", "question": "Q2?", "response": "A."}]))
    custom = {"field_instruction": "q", "field_output": "a"}
    found = axolotl(
        {"path": "alpaca.json", "type": "alpaca"},
        {"path": "orca.json", "type": "alpaca_w_system.load_open_orca"},
        {"path": "pairs.json", "type": custom},
        CHATS,
        test_datasets=[{"path": "alpaca.json", "type": "alpaca"}],
    )
    said = [[turn["content"] for turn in row["messages"]] for row in found.rows["train"]]
    assert said[:3] == [["Q?", "A."], ["S", "Q2?", "A."], ["Q?", "A."]]
    assert [turn["role"] for turn in found.rows["train"][3]["messages"]] == ["user", "assistant", "tool", "assistant"]
    assert len(found.rows["validation"]) == 1
    texts = axolotl({"path": "texts.json", "type": "completion", "field": "body"})
    assert (texts.kind.name, texts.rows["train"][0]["text"]) == ("text", "All of it.")


def test_axolotls_marks_of_single_turns_are_kept(folder, axolotl):
    turns = [
        {"role": "user", "content": "Q?"},
        {"role": "assistant", "content": "A.", "learn": False},
        {"role": "user", "content": "Q?"},
        {"role": "assistant", "content": "B.", "learn": True},
        {"role": "user", "content": "Q?"},
        {"role": "assistant", "content": "C."},
    ]
    (folder / "marked.json").write_text(json.dumps([{"messages": turns}]))
    entry = {"path": "marked.json", "type": "chat_template", "message_field_training": "learn"}
    for roles, expected in ((["assistant"], [False, None, None]), ([], [False, None, False])):
        (row,) = axolotl({**entry, "roles_to_train": roles}).rows["train"]
        assert [turn.get("train") for turn in row["messages"] if turn["role"] == "assistant"] == expected


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"path": "org/name", "type": "alpaca"}, "there is no file or folder 'org/name'. Hub datasets"),
        ({"path": "pairs.json", "type": "input_output"}, "type is 'input_output', which is not available"),
        ({**CHATS, "chat_template": "gemma"}, "chat_template is 'gemma'; the base model's own is used"),
        ({**CHATS, "train_on_eos": "all"}, "train_on_eos is 'all'"),
        ({**CHATS, "roles_to_train": ["user"]}, "only what the assistant says is trained"),
        ({**CHATS, "train_on_inputs": True}, "train_on_inputs is true"),
        ({**CHATS, "shards": 4}, "shards is not available"),
        ({"path": "pairs.json", "type": {"field_output": "a", "format": "[INST] {instruction}"}}, "type.format is not"),
        ({"type": "alpaca"}, "has no path"),
    ],
)
def test_what_an_entry_of_axolotl_asks_for_and_can_not_get_is_named(axolotl, entry, message):
    with pytest.raises(InputError, match=rf"axolotl\.yaml: datasets\[0\]:? ?.*{message}"):
        axolotl(entry)
