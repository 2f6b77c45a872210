"""Invented examples and changed copies: of the training split alone, with their parents, counted with reasons."""

import json
import random

import pytest
from chat_server import chat_server

from llamafarm_ray.config import Augmentation, DatasetConfig
from llamafarm_ray.data import BuildOptions, build_dataset, engines_of
from llamafarm_ray.data.expansion.augmentation import Augmenter
from llamafarm_ray.data.expansion.diversity import REPEATED, TOO_SIMILAR, Diversity
from llamafarm_ray.data.expansion.noise import mistyped
from llamafarm_ray.data.expansion.parents import child_row
from llamafarm_ray.data.expansion.templates import invented
from llamafarm_ray.data.expansion.wordings import reworded
from llamafarm_ray.data.quality.decontamination import read_evaluation_texts
from llamafarm_ray.data.quality.new_rows import NewRowCheck
from llamafarm_ray.data.reading import read_dataset
from llamafarm_ray.data.rows import Provenance
from llamafarm_ray.data.steps import Ledger
from llamafarm_ray.errors import InputError
from llamafarm_ray.text.refusals import NOT_SAID

DIGEST = f"sha256:{'0' * 64}"
SHOPS = ("harbor", "castle", "garden", "station", "market", "bridge", "museum", "library", "theater", "stadium")


def chat(question, answer, passage=""):
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    origin = {"document": "shops.md", "document_digest": DIGEST, "passage": passage} if passage else {}
    return {"messages": turns, **origin}


def build(folder, records, name="out", **dataset):
    source = folder / "rows.jsonl"
    source.write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")
    config = DatasetConfig.model_validate(
        {"source": {"type": "conversation_logs"}, "validation": {"split_ratio": 0.3}, **dataset}
    )
    report = build_dataset(
        str(source), folder / name, config, name="rows", seed=7, options=BuildOptions(cache=str(folder / "cache"))
    )
    rows = read_dataset(folder / name).rows
    return {step.name: step for step in report.steps}, rows["train"], rows["validation"]


def question(row):
    return row["messages"][0]["content"]


def origin(row):
    return json.loads(row["provenance"])


SHOP_ROWS = [
    chat(f"When does the {shop} shop open on weekdays?", f"It opens at {at + 7}:30.") for at, shop in enumerate(SHOPS)
]


def test_each_copy_names_its_parent_and_is_in_no_other_split(tmp_path):
    augmentation = {"enabled": True, "methods": ["paraphrase", "noise"]}
    steps, train, validation = build(tmp_path, SHOP_ROWS, augmentation=augmentation)
    originals = {row["id"]: row for row in train if "parent" not in origin(row)}
    copies = [row for row in train if "parent" in origin(row)]
    assert len(originals) == len(SHOP_ROWS) - len(validation)
    assert validation
    assert {origin(row)["method"] for row in copies} == {"paraphrase", "noise"}
    assert all(origin(row)["parent"] in originals for row in copies)
    assert not any("parent" in origin(row) for row in validation)
    for row in copies:
        parent = originals[origin(row)["parent"]]
        assert row["messages"][1] == parent["messages"][1]
        assert question(row) != question(parent)
    counts = steps["augmentation"]
    assert counts.rows_in == 2 * len(originals) == counts.rows_out + sum(counts.dropped.values())
    assert counts.noted == dict.fromkeys(("noise", "paraphrase"), len(originals))
    assert counts.dropped == {}


def test_the_same_rows_give_the_same_copies(tmp_path):
    *_, first, _ = build(tmp_path, SHOP_ROWS, "one", augmentation={"enabled": True})
    *_, second, _ = build(tmp_path, SHOP_ROWS, "two", augmentation={"enabled": True})
    assert first == second


def test_a_copy_that_asks_what_is_held_out_is_dropped(tmp_path):
    """A held-out question must not be trained, even as the paraphrase of another one."""
    rows = [chat(f"Is the {shop} open?", "Yes.") for shop in SHOPS]
    with chat_server(answer=lambda _: items(text="Is the museum open?")) as server:
        model = {"qa_generation": {"endpoint": {"base_url": server.url}}}
        augmentation = {"enabled": True, "methods": ["paraphrase"], "model": "gpt"}
        steps, train, held_out = build(tmp_path, rows, augmentation=augmentation, preprocessing=model)
    assert [row for row in [*train, *held_out] if "parent" in origin(row)] == []
    assert steps["augmentation"].dropped[REPEATED] >= 1


def items(**values):
    return json.dumps({"items": [values]})


def translate(body):
    said = body["messages"][1]["content"]
    task, text = said.split("\n\n")
    if task == "Translate to French:":
        return items(text=f"[fr] {text}")
    assert task == "Translate to English:"
    plain = text.removeprefix("[fr] ")
    return items(text="At which time on weekdays does the castle shop open?" if "castle" in plain else "Open at 99?")


def test_back_translation_goes_through_the_language_and_keeps_numbers(tmp_path):
    with chat_server(answer=translate) as server:
        model = {"qa_generation": {"model": "gpt", "endpoint": {"base_url": server.url}}}
        augmentation = {"enabled": True, "methods": ["back_translation"], "languages": ["French"]}
        steps, train, validation = build(tmp_path, SHOP_ROWS, augmentation=augmentation, preprocessing=model)
    copies = [row for row in train if origin(row).get("method") == "back_translation"]
    counts = steps["augmentation"]
    assert counts.dropped["another wording changed names or numbers"] >= 6
    if not any("castle" in question(row) for row in validation):
        assert [question(row) for row in copies] == ["At which time on weekdays does the castle shop open?"]
        assert origin(copies[0])["generator"] == "endpoint"


def test_the_prompt_around_a_conversation_is_no_question_to_change():
    prompt = "Rewrite the last question.\n\nuser: about the mill\nassistant: Yes?\nuser: when does it open today"
    row = {
        **chat(prompt, "mill opening hours"),
        "id": "a",
        "document": "",
        "document_digest": "",
        "passage": "",
        "fact": "f",
        "pii": None,
        "extra": "",
        "provenance": json.dumps({"generator": "endpoint", "kind": "query_rewrites"}),
    }
    summary = {**row, "provenance": json.dumps({"generator": "endpoint", "kind": "summaries"})}
    settings, ledger = Augmentation(enabled=True, methods=("noise",)), Ledger()
    (copy,) = Augmenter(settings, None).rows([row, summary], Diversity(()), ledger, lambda _: "")
    before, _, asked = question(copy).rpartition("\nuser: ")
    assert before == prompt.rpartition("\nuser: ")[0]
    assert asked != "when does it open today"
    assert ledger.counts("augmentation").dropped == {"has no question": 1}


def test_back_translation_without_a_model_is_refused(tmp_path):
    with pytest.raises(InputError, match="there is no model to translate with"):
        build(tmp_path, SHOP_ROWS, augmentation={"enabled": True, "methods": ["back_translation"]})


def test_mistakes_leave_names_and_numbers_alone():
    text = "When does the Harbour library at Dock 14 open on ordinary weekdays?"
    changed = {mistyped(text, 0.3, random.Random(seed)) for seed in range(20)}
    assert text not in changed
    assert len(changed) > 10
    assert all("Harbour" in one and "Dock 14" in one for one in changed)
    assert mistyped("Wo ist K1?", 0.5, random.Random(0)) == "Wo ist K1?"


def test_rewordings_keep_the_words_of_a_question():
    found = {reworded("What is the price of Bell's tickets?", random.Random(seed)) for seed in range(30)}
    assert len(found) >= 5
    assert all("price of Bell's tickets" in one for one in found)


MILL = "The mill opens at 9 every day. The old miller keeps 14 brown goats."
MILL_ROWS = [
    {**chat("When does the mill open?", "The mill opens at 9 every day.", MILL), "fact": "a"},
    {**chat("What does the old miller keep?", "The old miller keeps 14 brown goats.", MILL), "fact": "b"},
]


def test_templates_confirm_complete_correct_and_join():
    made = [(turns[0]["content"], turns[1]["content"]) for _, turns in invented(MILL_ROWS)]
    assert ("Is this right: \u201cThe mill opens at 9 every day\u201d?", "Yes. The mill opens at 9 every day.") in made
    corrected = [(asked, said) for asked, said in made if asked.startswith("Somebody told me")]
    assert all("opens at 9 every" not in asked and "14" not in asked for asked, _ in corrected)
    assert [said for _, said in corrected] == [
        "No. The mill opens at 9 every day.",
        "No. The old miller keeps 14 brown goats.",
    ]
    joined = "When does the mill open? What does the old miller keep?"
    assert (joined, "The mill opens at 9 every day. The old miller keeps 14 brown goats.") in made


def build_all(folder, records, name="out", **dataset):
    source = folder / "rows.jsonl"
    source.write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")
    config = DatasetConfig.model_validate(
        {"source": {"type": "synthetic"}, "validation": {"split_ratio": 0}, **dataset}
    )
    report = build_dataset(
        str(source), folder / name, config, name="rows", seed=7, options=BuildOptions(cache=str(folder / "cache"))
    )
    return {step.name: step for step in report.steps}, read_dataset(folder / name).rows["train"]


def test_invented_examples_are_checked_compared_and_named(tmp_path):
    new = [
        {"question": "Can one visit the mill at 9 in the morning?", "answer": "The mill opens at 9 every day."},
        {"question": "when does the MILL open", "answer": "The mill opens at 9 every day."},
        {"question": "How many goats has the miller?", "answer": "The miller keeps 15 goats."},
        {"question": "At what hour does the mill open its doors?", "answer": "The mill opens at 9 every day."},
    ]
    with chat_server(answer=lambda _: json.dumps({"items": new})) as server:
        model = {"qa_generation": {"endpoint": {"base_url": server.url}}}
        synthetic = {"enabled": True, "base_model": "gpt-4", "diversity_threshold": 0.8}
        steps, train = build_all(tmp_path, MILL_ROWS, synthetic_generation=synthetic, preprocessing=model)
        asked = len(server.asked)
        build_all(tmp_path, MILL_ROWS, "again", synthetic_generation=synthetic, preprocessing=model)
        assert len(server.asked) == asked == 1
    assert server.asked[0]["model"] == "gpt-4"
    assert MILL in server.asked[0]["messages"][1]["content"]
    counts = steps["synthetic_generation"]
    assert counts.rows_in == 4 == counts.rows_out + sum(counts.dropped.values())
    assert counts.dropped[REPEATED] == 1
    assert counts.dropped["the passage does not support the answer"] == 1
    made = [row for row in train if origin(row).get("method") == "synthetic"]
    assert made
    assert {origin(row)["parent"] for row in made} <= {row["id"] for row in train}
    assert (made[0]["passage"], origin(made[0])["model"]) == (MILL, "gpt-4")


def test_a_threshold_drops_what_is_too_similar():
    known = Diversity(["When does the mill open?"], 0.8)
    asked = ["When does the mill open today?", "Who painted the ceiling of the chapel?", "when does the mill open"]
    assert known.refused(asked) == [TOO_SIMILAR, "", REPEATED]
    assert Diversity(["When does the mill open?"], None).refused(asked) == ["", "", REPEATED]
    assert known.refused(["Who painted the chapel's ceiling?"]) == [TOO_SIMILAR]


def test_templates_invent_without_a_model(tmp_path):
    steps, train = build_all(tmp_path, MILL_ROWS, synthetic_generation={"enabled": True, "base_model": "rules"})
    made = [row for row in train if origin(row).get("method") == "synthetic"]
    assert len(made) == steps["synthetic_generation"].rows_out == 3
    assert steps["synthetic_generation"].dropped["above examples_per_passage"] >= 1


def test_a_model_without_an_endpoint_is_refused(tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(InputError, match="no endpoint is configured"):
        build_all(tmp_path, MILL_ROWS, synthetic_generation={"enabled": True, "base_model": "gpt-4"})


@pytest.mark.parametrize(
    ("dataset", "asks"),
    [
        ({}, True),
        ({"preprocessing": {"qa_generation": {"model": "rules"}}}, False),
        ({"preprocessing": {"qa_generation": {"model": "base_model"}}}, True),
        ({"synthetic_generation": {"enabled": True, "base_model": "base_model"}}, True),
        (
            {
                "synthetic_generation": {"enabled": True, "base_model": "rules"},
                "preprocessing": {"qa_generation": {"model": "rules"}},
            },
            False,
        ),
        ({"source": {"type": "conversation_logs"}, "preprocessing": {"qa_generation": {"model": "base_model"}}}, False),
    ],
)
def test_the_base_model_is_loaded_only_where_it_writes(dataset, asks):
    config = DatasetConfig.model_validate(dataset)
    assert ("base_model" in engines_of(config, base_model="base", environment={})) == asks


def test_new_rows_pass_the_quality_control_of_the_rows_that_they_are_made_of(tmp_path):
    pairs = {
        "overlaps an evaluation set": ("Who owns the mill today?", "The mill opens at 9."),
        "longer than maximum_length": (f"When does it open?{' Please.' * 30}", "At 9."),
        "toxic": ("Why are the fucking doors shut?", "The mill opens at 9 every day."),
        "has personal data: card": ("Is 4111 1111 1111 1111 your card?", "The mill opens at 9."),
        "quality below min_quality_score": ("It?", "The mill opens at 9 ("),
        "": ("At what hour may one visit the mill?", "The mill opens at 9 every day."),
    }
    (tmp_path / "exam.txt").write_text("Who owns the mill today?\n")
    settings = {
        "decontaminate": [str(tmp_path / "exam.txt")],
        "filters": {"maximum_length": 200},
        "toxicity_filter": True,
        "min_quality_score": 0.7,
    }
    quality = DatasetConfig.model_validate({"quality_control": settings}).quality_control
    fault_of = NewRowCheck(quality, read_evaluation_texts(quality.decontaminate))
    parent = {
        **chat("When does the mill open?", "At 9.", MILL),
        "id": "1",
        "fact": "f",
        "pii": None,
        "provenance": None,
    }
    for reason, pair in pairs.items():
        assert fault_of(child_row(parent, chat(*pair)["messages"], Provenance("rules"), "synthetic")) == reason


def test_new_rows_are_supported_by_their_passage_or_say_that_it_does_not_say():
    settings = {"filters": {"factual_consistency": 0.8}}
    quality = DatasetConfig.model_validate({"quality_control": settings}).quality_control
    fault_of = NewRowCheck(quality, read_evaluation_texts([]))
    parent = {
        **chat("When does the mill open?", "At 9.", MILL),
        "id": "1",
        "fact": "f",
        "pii": None,
        "provenance": None,
    }
    pairs = {NOT_SAID["en"]: "", "Seven bakers live upstairs.": "the passage does not support the answer"}
    for answer, reason in pairs.items():
        turns = chat("Who lives in the mill?", answer)["messages"]
        assert fault_of(child_row(parent, turns, Provenance("rules"), "synthetic")) == reason


def test_invented_questions_of_an_evaluation_set_are_dropped(tmp_path):
    new = [{"question": "Can one visit the mill at 9 in the morning?", "answer": "The mill opens at 9 every day."}]
    (tmp_path / "exam.txt").write_text(f"{new[0]['question']}\n")
    with chat_server(answer=lambda _: json.dumps({"items": new})) as server:
        steps, train = build_all(
            tmp_path,
            MILL_ROWS,
            synthetic_generation={"enabled": True, "base_model": "gpt-4"},
            preprocessing={"qa_generation": {"endpoint": {"base_url": server.url}}},
            quality_control={"decontaminate": [str(tmp_path / "exam.txt")]},
        )
    assert steps["synthetic_generation"].dropped == {"overlaps an evaluation set": 1}
    assert not [row for row in train if origin(row).get("method") == "synthetic"]
