"""Rows that exist become datasets: filtered, split by prompt, in any kind, without Ray."""

import bz2
import gzip
import json
import zipfile

import fsspec
import pyarrow as pa
import pytest
import zstandard

from llamafarm_ray.config import DatasetConfig
from llamafarm_ray.data import build_dataset
from llamafarm_ray.data.build.existing_rows import holds_rows, read_source_rows
from llamafarm_ray.data.conversations import reading
from llamafarm_ray.data.reading import read_dataset
from llamafarm_ray.errors import InputError
from llamafarm_ray.types import Digest

CARD = "4111 1111 1111 1111"


def write(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")
    return path


def build(path, output, /, **dataset):
    config = DatasetConfig.model_validate(dataset)
    report = build_dataset(str(path), output, config, name="rows", seed=7)
    return report, read_dataset(output)


def chat(question, answer, **more):
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}], **more}


LOGS = {"source": {"type": "conversation_logs"}, "validation": {"split_ratio": 0.3}}


def test_conversation_logs_are_cleaned_and_split_by_their_prompts(tmp_path):
    records = [chat(f"How do I reset device {number}?", f"Hold button {number}.") for number in range(10)]
    records += [chat("How do I reset device 3?", "Hold button 3."), chat("My card?", f"It is {CARD}."), {"junk": 1}]
    report, dataset = build(write(tmp_path / "logs.jsonl", records), tmp_path / "out", **LOGS)
    steps = {step.name: step for step in report.steps}
    assert (steps["rows"].rows_in, steps["rows"].rows_out) == (13, 12)
    assert steps["rows"].dropped == {"record that can't be used": 1}
    assert "line 13" in steps["rows"].samples["record that can't be used"][0]
    assert steps["deduplicate"].dropped == {"duplicate": 1}
    rows = [row for split in dataset.rows.values() for row in split]
    assert len(rows) == 11 == report.num_examples
    assert any(row["messages"][1]["content"] == "It is [CARD]." for row in rows)
    assert 0 < report.num_validation < 6
    asked = {split: {row["messages"][0]["content"] for row in of} for split, of in dataset.rows.items()}
    assert asked["train"].isdisjoint(asked["validation"])
    assert report.coverage is None
    assert report.generator is None


def test_the_same_logs_give_the_same_digest(tmp_path):
    source = write(tmp_path / "logs.jsonl", [chat(f"Question {n}?", f"Answer {n}.") for n in range(9)])
    first, _ = build(source, tmp_path / "one", **LOGS)
    second, _ = build(source, tmp_path / "two", **LOGS)
    assert first.digest == second.digest


def test_tools_and_marks_of_turns_stay(tmp_path):
    tool = {"type": "function", "function": {"name": "lookup", "parameters": {"type": "object", "properties": {}}}}
    call = {"id": "1", "type": "function", "function": {"name": "lookup", "arguments": "{}"}}
    turns = [
        {"role": "user", "content": "Where is my order?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "shipped", "tool_call_id": "1"},
        {"role": "assistant", "content": "It was shipped."},
    ]
    unmarked = chat("Hello, are you open?", "Yes, until six.")
    source = write(tmp_path / "logs.jsonl", [{"messages": turns, "tools": [tool]}, unmarked])
    _, dataset = build(source, tmp_path / "out", **{**LOGS, "validation": {"split_ratio": 0}})
    by_question = {row["messages"][0]["content"]: row for row in dataset.rows["train"]}
    kept = by_question["Where is my order?"]
    assert "lookup" in kept["messages"][1]["tool_calls"]
    assert "lookup" in kept["tools"]
    assert by_question["Hello, are you open?"]["messages"] == unmarked["messages"]


@pytest.mark.parametrize(
    ("record", "kind"),
    [
        ({"prompt": "What is {}?", "chosen": "Right {}.", "rejected": "Wrong {}."}, "preference"),
        ({"prompt": "What is {}?", "completion": "Said {}.", "label": True}, "judgement"),
        ({"anchor": "query {}", "positive": "passage {}", "negatives": ["other {}"]}, "match"),
        ({"text": "A long text about number {}."}, "text"),
        ({"question": "What is {}?", "answer": "It is {}."}, "chat"),
    ],
)
def test_ready_made_rows_of_any_kind_pass_through(tmp_path, record, kind):
    records = [json.loads(json.dumps(record).replace("{}", str(number))) for number in range(6)]
    source = write(tmp_path / "rows.jsonl", records)
    off = {"preprocessing": {"qa_generation": {"enabled": False}}, "validation": {"split_ratio": 0.2}}
    report, dataset = build(source, tmp_path / "out", **off)
    original = read_dataset(source)
    assert dataset.kind.name == kind == original.kind.name
    assert (report.num_train + report.num_validation, min(report.num_train, report.num_validation) > 0) == (6, True)
    ids = {row["id"] for split in dataset.rows.values() for row in split}
    assert ids == {row["id"] for row in original.rows["train"]}


def test_a_validation_file_beside_stays_for_validation(tmp_path):
    source = write(tmp_path / "qa.jsonl", [chat(f"Question {n}?", f"Answer {n}.") for n in range(4)])
    write(tmp_path / "qa.validation.jsonl", [chat("Held question?", "Held answer.")])
    _, dataset = build(source, tmp_path / "out", source={"type": "conversation_logs"})
    assert [row["messages"][0]["content"] for row in dataset.rows["validation"]] == ["Held question?"]


def test_rows_without_a_passage_are_compared_by_what_they_say(tmp_path):
    source = write(tmp_path / "a.jsonl", [chat("Where is the exit?", "Left."), chat("When is lunch?", "At noon.")])
    report, _ = build(source, tmp_path / "out", **LOGS)
    assert report.num_examples == 2
    logs = [chat(f"How do I oil the pump in hall {n}?", f"Oil the pump of hall {n} at noon.") for n in range(4)]
    domain = {"quality_control": {"validation": {"domain_relevance": True, "domain": "oiling a pump in a hall"}}}
    report, _ = build(write(tmp_path / "b.jsonl", logs), tmp_path / "domain", **LOGS, **domain)
    assert report.num_examples == 4


def test_strict_stops_at_a_bad_record_with_its_place(tmp_path):
    source = write(tmp_path / "a.jsonl", [chat("Hi?", "Hello."), {"messages": []}])
    with pytest.raises(InputError, match=r"line 2 of a.jsonl"):
        build(source, tmp_path / "out", source={"type": "conversation_logs", "strict": True})


def test_settings_that_need_passages_are_refused_together(tmp_path):
    source = write(tmp_path / "a.jsonl", [chat("Hi?", "Hello.")])
    asked = {"quality_control": {"min_quality_score": 0.5, "metrics": {"coverage_score": ">0.5"}}}
    with pytest.raises(InputError, match=r"min_quality_score.*coverage_score"):
        build(source, tmp_path / "out", source={"type": "conversation_logs"}, **asked)


def test_slack_threads_are_conversations_of_who_asks_and_who_answers(tmp_path):
    export = tmp_path / "export"
    (export / "help").mkdir(parents=True)
    (export / "users.json").write_text(json.dumps([{"id": "U1", "name": "ann"}, {"id": "U2", "name": "bo"}]))
    messages = [
        {"type": "message", "user": "U1", "ts": "1.0", "thread_ts": "1.0", "text": "Where is the <http://x.org|form>?"},
        {"type": "message", "user": "U2", "ts": "2.0", "thread_ts": "1.0", "text": "On the shelf &amp; online."},
        {"type": "message", "user": "U2", "ts": "2.5", "thread_ts": "1.0", "text": "Ask <@U1> for the key."},
        {"type": "message", "user": "U1", "ts": "3.0", "thread_ts": "1.0", "text": "Thanks"},
        {"type": "message", "subtype": "channel_join", "user": "U2", "ts": "4.0", "text": "joined"},
        {"type": "message", "user": "U1", "ts": "5.0", "text": "Nobody answers this."},
    ]
    (export / "help" / "2026-01-01.json").write_text(json.dumps(messages))
    report, dataset = build(export, tmp_path / "out", **LOGS)
    (row,) = dataset.rows["train"]
    assert [turn["content"] for turn in row["messages"]] == [
        "Where is the form?",
        "On the shelf & online.\nAsk @ann for the key.",
    ]
    assert row["document"] == "export/help"
    assert report.steps[0].dropped == {"record that can't be used": 1}


def test_zendesk_tickets_leave_out_private_comments(tmp_path):
    comments = [
        {"author_id": 1, "plain_body": "The pump is loud."},
        {"author_id": 2, "plain_body": "Known customer.", "public": False},
        {"author_id": 2, "body": "Please tighten the screw."},
    ]
    ticket = {"id": 9, "requester_id": 1, "subject": "Pump", "comments": comments}
    _, dataset = build(write(tmp_path / "tickets.jsonl", [ticket]), tmp_path / "out", **LOGS)
    (row,) = dataset.rows["train"]
    assert [turn["content"] for turn in row["messages"]] == ["The pump is loud.", "Please tighten the screw."]


def test_settings_for_chats_are_refused_for_other_rows(tmp_path):
    source = write(tmp_path / "a.jsonl", [{"text": f"Text number {n}."} for n in range(3)])
    off = {"qa_generation": {"enabled": False}, "system_prompt": "Be brief."}
    with pytest.raises(InputError, match=r"system_prompt is for chats.*augmentation is for chats"):
        build(source, tmp_path / "out", preprocessing=off, augmentation={"enabled": True})


def test_files_of_one_name_stay_apart(tmp_path):
    sources = [write(tmp_path / year / "chats.jsonl", [chat(f"Open in {year}?", "Yes.")]) for year in ("2024", "2025")]
    none = {"source": {"type": "conversation_logs"}, "validation": {"split_ratio": 0}}
    config = DatasetConfig.model_validate(none)
    build_dataset([str(path) for path in sources], tmp_path / "out", config, name="rows", seed=7)
    rows = read_dataset(tmp_path / "out").rows["train"]
    assert sorted(row["document"] for row in rows) == ["2024/chats.jsonl", "2025/chats.jsonl"]
    assert len({row["document_digest"] for row in rows}) == 2


def test_preferences_with_other_rejected_answers_are_no_duplicates(tmp_path):
    records = [{"prompt": "Open?", "chosen": "Yes.", "rejected": rejected} for rejected in ("No.", "Never.", "No.")]
    off = {"preprocessing": {"qa_generation": {"enabled": False}}}
    report, _ = build(write(tmp_path / "rows.jsonl", records), tmp_path / "out", **off)
    assert report.num_examples == 2


# Files in buckets, patterns and archives


NO_PAIRS = DatasetConfig.model_validate({"preprocessing": {"qa_generation": {"enabled": False}}})


def line(name):
    return f"{json.dumps(chat(f'Is {name} open?', 'Yes.'))}\n".encode()


def rows_of(*sources):
    """The questions of the training rows of sources by document, and what is held out."""
    assert holds_rows(NO_PAIRS, sources)
    found = read_source_rows(sources, NO_PAIRS)
    by_id = {row["id"]: row for row in pa.concat_tables(found.harvest.rows).to_pylist()}
    held_out = {row_id for row_id in by_id if row_id in found.validation}
    assert not found.harvest.skipped
    train = {row["document"]: row["messages"][0]["content"] for key, row in by_id.items() if key not in held_out}
    return train, {by_id[row_id]["document"] for row_id in held_out}


@pytest.fixture
def memory():
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/rows/a.jsonl", line("a"))
    fs.pipe_file("/rows/b.jsonl.gz", gzip.compress(line("b")))
    fs.pipe_file("/rows/more/c.jsonl.zst", zstandard.compress(line("c")))
    fs.pipe_file("/rows/a.validation.jsonl", line("v"))
    fs.pipe_file("/rows/_tokens/d.jsonl", line("d"))
    yield "memory://rows"
    fs.rm("/rows", recursive=True)


def test_rows_in_a_bucket_are_read_where_they_are(memory):
    asked = {"a.jsonl": "Is a open?", "b.jsonl.gz": "Is b open?", "more/c.jsonl.zst": "Is c open?"}
    assert rows_of(memory) == (asked, {"a.validation.jsonl"})
    assert rows_of(f"{memory}/a.jsonl") == ({"a.jsonl": "Is a open?"}, {"a.validation.jsonl"})
    assert rows_of(f"{memory}/b*.gz") == ({"b.jsonl.gz": "Is b open?"}, set())
    assert rows_of(f"{memory}/**/*.zst") == ({"more/c.jsonl.zst": "Is c open?"}, set())
    both = rows_of(f"{memory}/b.jsonl.gz", f"{memory}/more/c.jsonl.zst")[0]
    assert list(both) == ["memory:///rows/b.jsonl.gz", "memory:///rows/more/c.jsonl.zst"]


def test_the_rows_of_a_bucket_become_the_dataset_that_their_copy_becomes(memory, tmp_path):
    fsspec.filesystem("memory").get("/rows/", str(tmp_path / "rows"), recursive=True)
    off = {"preprocessing": {"qa_generation": {"enabled": False}}}
    digests = {
        build(source, tmp_path / f"out-{n}", **off)[0].digest for n, source in enumerate((memory, tmp_path / "rows"))
    }
    assert len(digests) == 1


def test_rows_in_patterns_and_archives_are_read(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_bytes(line(name))
    (tmp_path / "c.jsonl.bz2").write_bytes(bz2.compress(line("c")))
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        archive.writestr("x/d.jsonl", line("d"))
        archive.writestr("validation/e.jsonl", line("e"))
        archive.writestr("__MACOSX/x.jsonl", b"?")
    assert rows_of(f"{tmp_path}/[ab].jsonl")[0] == {"a.jsonl": "Is a open?", "b.jsonl": "Is b open?"}
    assert rows_of(f"{tmp_path}/c*")[0] == {"c.jsonl.bz2!/c.jsonl": "Is c open?"}
    assert rows_of(f"{tmp_path}/d.zip") == ({"d.zip!/x/d.jsonl": "Is d open?"}, {"d.zip!/validation/e.jsonl"})
    assert len(rows_of(tmp_path.as_uri())[0]) == 4


def test_an_archive_with_documents_in_it_holds_documents(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.jsonl", line("a"))
        archive.writestr("b.md", "The mill is old.")
    assert not holds_rows(NO_PAIRS, str(tmp_path / "a.zip"))
    assert not holds_rows(NO_PAIRS, str(tmp_path))


def test_a_row_file_that_can_not_be_reached_is_skipped(memory, monkeypatch):
    def fail(uri):
        raise ConnectionError("the bucket is gone")

    monkeypatch.setattr(reading, "open_remote", fail)
    with pytest.raises(InputError, match=r"a\.jsonl: it can't be read \(ConnectionError: the bucket is gone\)"):
        read_source_rows(f"{memory}/*.jsonl", NO_PAIRS)


def test_rows_that_name_documents_are_split_by_them_and_added_ones_move_none(tmp_path):
    def rows(numbers):
        return [
            {
                **chat(f"What is fact {fact} of {number}?", f"{fact} {number}."),
                "document": f"{number}.md",
                "document_digest": Digest.of(str(number).encode()),
                "passage": f"Passage of {number}.",
            }
            for number in numbers
            for fact in range(3)
        ]

    def held_out(name, numbers):
        source = write(tmp_path / f"{name}.jsonl", rows(numbers))
        report, dataset = build(source, tmp_path / name, **LOGS)
        sides = {split: {row["document"] for row in of} for split, of in dataset.rows.items()}
        assert report.held_out == "documents"
        assert sides["train"].isdisjoint(sides["validation"])
        return sides["validation"]

    before = held_out("few", range(24))
    assert held_out("more", range(48)) & {f"{number}.md" for number in range(24)} == before
