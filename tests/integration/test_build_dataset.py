"""Datasets are built on Ray: the same for any number of tasks, whole or not at all, whatever files are broken."""

import json
import zipfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from chat_server import chat_server
from fpdf import FPDF
from tiny_model import make_tiny_model

from llamafarm_ray.cli.main import run
from llamafarm_ray.config import DatasetConfig, load_config
from llamafarm_ray.data import DocumentRecord, build_dataset, built_documents, open_dataset, stages
from llamafarm_ray.data.reading import read_dataset
from llamafarm_ray.data.text import sentences_of
from llamafarm_ray.errors import AccessDeniedError, ClusterError, ConflictError, InputError
from llamafarm_ray.types import Digest

EVERY_QUESTION = {"questions_per_doc": None, "phrasings": 4}
CONFIG = DatasetConfig.model_validate(
    {"preprocessing": {"qa_generation": EVERY_QUESTION}, "validation": {"split_ratio": 0.2}}
)


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number in range(10):
        text = f"The house {number} opens at {number}:30. A day in house {number} costs {number + 5} euros."
        (folder / f"house-{number}.md").write_text(f"# House {number}\n\n{text}\n")
    (folder / "copy.txt").write_text("The house 3 opens at 3:30.")
    document = FPDF()
    document.add_page()
    document.set_font("helvetica", size=11)
    document.cell(0, 8, "The pool opens at 9:15.")
    document.output(str(folder / "pool.pdf"))
    (folder / "broken.pdf").write_bytes(b"%PDF-1.7 no more")
    (folder / "notes.xyz").write_text("ignored")
    return folder


def build(source, output, config=CONFIG, **options):
    return build_dataset(source, output, config, name="houses", seed=7, **options)


def rows_of(splits):
    return [row for split in (splits.train, splits.validation) if split is not None for row in split.take_all()]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def assert_same_files(one, other):
    """All but report.json, which tells the time."""
    files = [path.relative_to(one) for path in one.rglob("*") if path.is_file()]
    assert len(files) == 5
    for path in files:
        if path.name != "report.json":
            assert (one / path).read_bytes() == (other / path).read_bytes()


def test_the_result_is_the_same_for_any_number_of_partitions(ray_cluster, corpus, tmp_path, monkeypatch):
    with zipfile.ZipFile(corpus / "more.zip", "w") as archive:  # several documents in a file
        for number in range(20, 23):
            archive.writestr(f"house-{number}.md", f"The house {number} opens at {number}:30.")
    one = build(corpus, tmp_path / "one", num_partitions=1)
    assert one.documents.read == 15
    monkeypatch.setattr("llamafarm_ray.data.harvest._ROWS_PER_BLOCK", 1)  # a block for each batch that comes back
    four = build(corpus, tmp_path / "four", num_partitions=4)
    assert one.digest == four.digest
    assert one.steps == four.steps
    assert_same_files(tmp_path / "one", tmp_path / "four")


def test_documents_become_rows_and_the_report_accounts_for_all_of_them(ray_cluster, corpus, tmp_path):
    told, uses = [], []
    report = build(corpus, tmp_path / "out", progress=told.append, on_use=uses.append)
    assert report.created
    assert sum(use.seconds for use in uses) > 0
    assert not any(use.on_gpu for use in uses)
    assert (report.documents.found, report.documents.read) == (13, 12)
    assert [skipped.path for skipped in report.documents.skipped] == ["broken.pdf"]
    assert "not a valid PDF" in report.documents.skipped[0].reason
    assert report.documents.ignored == {".xyz": 1}
    steps = {step.name: step for step in report.steps}
    checks = ["check_substance", "check_length", "limit", "deduplicate", "near_duplicates"]
    assert list(steps) == ["clean", "boilerplate", "language", "passages", "pii", "generate", *checks]
    assert steps["clean"].rows_in == 12
    assert steps["deduplicate"].dropped == {"duplicate": 4}  # the four phrasings in copy.txt
    assert steps["deduplicate"].rows_out == report.num_train + report.num_validation
    assert report.num_validation == round(0.2 * report.num_examples)
    assert report.held_out == "phrasings"
    assert json.loads((tmp_path / "out" / "report.json").read_text())["digest"] == report.digest
    ends = {stage.name: (stage.done, stage.total, stage.unit) for stage in told}
    assert list(ends) == ["documents", "examples", "write"]
    assert ends["documents"] == (13, 13, "documents")
    assert ends["examples"] == (report.num_examples, None, "examples")
    assert ends["write"] == (report.num_examples, report.num_examples, "rows")
    page = (tmp_path / "out" / "report.html").read_text()
    for said in ("broken.pdf", "not a valid PDF", "deduplicate: duplicate", "Languages of documents", ".pdf"):
        assert said in page

    splits = open_dataset(tmp_path / "out")
    rows = rows_of(splits)
    assert splits.digest == report.digest
    assert len({row["id"] for row in rows}) == len(rows) == report.num_examples
    row = next(row for row in rows if row["messages"][0]["content"] == "When does the pool open?")
    assert row["messages"][1] == {"role": "assistant", "content": "The pool opens at 9:15."}
    assert row["document"] == "pool.pdf"
    assert row["document_digest"] == Digest.of((corpus / "pool.pdf").read_bytes())
    assert row["passage"].endswith("\nThe pool opens at 9:15.")
    assert json.loads(row["provenance"])["page"] == 1
    assert sum(document.num_examples for document in splits.documents) == len(rows)
    # Where two documents say the same, the first one in the order of the paths is named.
    assert DocumentRecord("copy.txt", Digest.of((corpus / "copy.txt").read_bytes()), 4) in splits.documents


def test_logs_of_conversations_become_a_dataset_without_a_model(ray_cluster, tmp_path):
    chats = [
        [{"role": "user", "content": f"What does room {n} cost?"}, {"role": "assistant", "content": f"{n + 40} euros."}]
        for n in range(10)
    ]
    log = tmp_path / "log.jsonl"
    log.write_text("".join(f"{json.dumps({'messages': chat})}\n" for chat in [*chats, chats[0]]))
    config = {"source": {"type": "conversation_logs"}, "validation": {"split_ratio": 0.2}}
    report = build(log, tmp_path / "out", DatasetConfig.model_validate(config))
    assert (report.num_train, report.num_validation) == (8, 2)
    assert (report.generator, report.coverage) == (None, None)
    assert [document.path for document in open_dataset(tmp_path / "out").documents] == ["log.jsonl"]
    assert (tmp_path / "out" / "report.html").is_file()
    assert names(tmp_path) == ["log.jsonl", "out"]


LENDING = (
    "The harbor library lends books, films and maps to everybody who lives in the old town near the river. "
    "The newspapers are kept in the quiet hall on the ground floor behind the old reading room, beside the maps of the "
    "river and the letters of the last mayor of the town."
)
QUALITY = {
    "filters": {
        "minimum_length": 20,
        "maximum_length": 2048,
        "language_detection": "en",
        "toxicity_threshold": 0.1,
        "factual_consistency": 0.8,
    },
    "validation": {"duplicate_detection": True, "coherence_scoring": True, "domain_relevance": True},
    "metrics": {"diversity_score": ">0.05", "quality_score": ">0.8", "coverage_analysis": True},
}


def test_quality_control_filters_redacts_and_reports(ray_cluster, tmp_path, monkeypatch):
    folder = tmp_path / "documents"
    folder.mkdir()
    told = "The password of the library's catalog is hunter2."
    (folder / "a.md").write_text(f"# Library\n\nPage 3 of 12\n\n{LENDING} {told}\n")
    (folder / "b.md").write_text(f"# Lending\n\n{LENDING.replace('quiet', 'warm')} {told}\n")
    (folder / "c.md").write_text("Die Bibliothek \u00f6ffnet um acht Uhr und schlie\u00dft am Abend.")
    config = CONFIG.model_dump(exclude_unset=True) | {"quality_control": QUALITY}
    report = build(folder, tmp_path / "out", DatasetConfig.model_validate(config))
    steps = {step.name: step for step in report.steps}
    assert steps["boilerplate"].noted == {"page number left out": 1}
    assert steps["pii"].noted == {"secret redacted": 2}
    assert steps["check_language"].dropped == {"in 'de', not in 'en'": 1}
    assert steps["near_duplicates"].dropped["near duplicate"] > 0
    assert report.metrics.quality > 0.8
    rows = rows_of(open_dataset(tmp_path / "out"))
    assert {row["document"] for row in rows} == {"a.md"}
    for file in (tmp_path / "out").rglob("*.json"):
        assert "hunter2" not in file.read_text()
    assert "hunter2" not in str(rows)

    monkeypatch.setattr("llamafarm_ray.data.harvest._ROWS_PER_BLOCK", 1)  # then Ray holds the rows
    assert build(folder, tmp_path / "blocks", DatasetConfig.model_validate(config)).digest == report.digest
    config["quality_control"] = {"metrics": {"diversity_score": ">0.99"}}
    with pytest.raises(InputError, match=r"diversity_score is 0\.\d+, and not >0\.99"):
        build(folder, tmp_path / "missed", DatasetConfig.model_validate(config))
    assert not (tmp_path / "missed").exists()


def test_validation_asks_in_other_words_for_what_is_trained_on(ray_cluster, corpus, tmp_path):
    build(corpus, tmp_path / "out")
    splits = open_dataset(tmp_path / "out")
    trained = {row["messages"][1]["content"] for row in splits.train.take_all()}
    assert {row["messages"][1]["content"] for row in splits.validation.take_all()} <= trained


def test_a_dataset_that_is_there_already_stays_and_another_is_refused(ray_cluster, corpus, tmp_path):
    first = build(corpus, tmp_path / "out")
    again = build(corpus, tmp_path / "out")
    assert (again.digest, again.created) == (first.digest, False)
    (corpus / "house-1.md").unlink()
    with pytest.raises(ConflictError, match="another dataset"):
        build(corpus, tmp_path / "out")
    assert open_dataset(tmp_path / "out").digest == first.digest
    replaced = build(corpus, tmp_path / "out", overwrite=True)
    assert open_dataset(tmp_path / "out").digest == replaced.digest != first.digest


def test_json_output_opens_like_the_folder(ray_cluster, corpus, tmp_path):
    config = CONFIG.model_copy(update={"preprocessing": CONFIG.preprocessing.model_copy(update={"format": "alpaca"})})
    report = build(corpus, tmp_path / "qa.json", config)
    record = json.loads((tmp_path / "qa.json").read_text())[0]
    assert list(record) == ["instruction", "input", "output"]
    splits = open_dataset(tmp_path / "qa.json")
    assert (splits.train.count(), splits.validation.count()) == (report.num_train, report.num_validation)
    assert DocumentRecord("pool.pdf", Digest.of((corpus / "pool.pdf").read_bytes()), 8) in splits.documents
    assert built_documents(tmp_path / "qa.json") == splits.documents
    folder = build(corpus, tmp_path / "qa", config)
    opened = open_dataset(tmp_path / "qa")
    assert {"instruction", "output"} <= set(pq.read_schema(tmp_path / "qa" / "train" / "part-00000.parquet").names)
    assert {row["id"] for row in rows_of(opened)} == {row["id"] for row in rows_of(splits)}
    assert opened.digest == folder.digest == report.digest
    # Once it is edited, the file itself is where the examples come from.
    (tmp_path / "qa.json").write_text(json.dumps([record]))
    edited = open_dataset(tmp_path / "qa.json")
    assert edited.documents[0] == DocumentRecord("qa.json", Digest.of((tmp_path / "qa.json").read_bytes()), 1)


def test_when_every_document_is_broken_the_reasons_are_told_and_nothing_is_written(ray_cluster, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("a.pdf", "b.docx", "c.txt"):
        (source / name).write_bytes(b"\xff\xff")
    with pytest.raises(InputError, match=r"None of the 3 documents.*a.pdf: it is not a valid PDF.*b.docx.*c.txt"):
        build(source, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_documents_without_a_question_are_an_error_that_says_so(ray_cluster, tmp_path):
    (tmp_path / "a.md").write_text("lorem ipsum")
    with pytest.raises(InputError, match=r"gave no example .*passage without a question"):
        build(tmp_path, tmp_path / "out")


@pytest.mark.parametrize("stage", ["documents", pytest.param("examples", marks=pytest.mark.long), "write"])
def test_a_build_that_is_interrupted_leaves_what_it_goes_on_from_and_then_nothing(
    ray_cluster, corpus, tmp_path, stage, monkeypatch
):
    def interrupt(now):
        if now.name == stage and now.done > 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(corpus, tmp_path / "out", progress=interrupt, num_partitions=4)
    assert names(tmp_path) == [".out.unfinished", "corpus"]
    tasks = []
    processed = stages._processed
    monkeypatch.setattr(
        stages, "_processed", lambda some, *args, **options: tasks.extend(some) or processed(some, *args, **options)
    )
    resumed = build(corpus, tmp_path / "out", num_partitions=4)
    assert len(tasks) == (3 if stage == "documents" else 0)
    assert names(tmp_path) == ["corpus", "out"]
    build(corpus, tmp_path / "whole")
    assert resumed.digest == open_dataset(tmp_path / "whole").digest
    assert_same_files(tmp_path / "out", tmp_path / "whole")


def test_a_document_that_changed_since_is_read_again(ray_cluster, corpus, tmp_path):
    def interrupt(stage):
        if stage.name == "write":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(corpus, tmp_path / "out", progress=interrupt)
    (corpus / "house-3.md").write_text("# House 3\n\nThe house 3 opens at 4:45.\n")
    build(corpus, tmp_path / "out")
    answers = {row["messages"][1]["content"] for row in rows_of(open_dataset(tmp_path / "out"))}
    assert "The house 3 opens at 4:45." in answers
    assert "A day in house 3 costs 8 euros." not in answers


# A model writes the pairs


def by_model(url, *, with_passages=False, **endpoint):
    generation = {"model": "gpt", "questions_per_doc": None, "endpoint": {"base_url": url, **endpoint}}
    return DatasetConfig.model_validate(
        {
            "preprocessing": {"qa_generation": generation, "with_passages": with_passages},
            "validation": {"split_ratio": 0.2},
        }
    )


def test_the_training_split_is_asked_with_passages_too_and_nothing_held_out_is(ray_cluster, corpus, tmp_path):
    with chat_server() as server:
        config = by_model(server.url, with_passages="auto")
        build(corpus, tmp_path / "out", config, cache=str(tmp_path / "cache"))
    splits = open_dataset(tmp_path / "out")
    train, held_out = splits.train.take_all(), splits.validation.take_all()
    with_passages = [row for row in train if "Question: " in row["messages"][0]["content"]]
    by_heart = {row["messages"][0]["content"] for row in train if row not in with_passages}
    asked = {turn["content"].rpartition("Question: ")[2] for row in with_passages for turn in row["messages"][::2]}
    assert asked == by_heart
    for row in with_passages:
        shown = row["messages"][0]["content"].splitlines()
        assert any(sentence in shown for sentence in sentences_of(row["passage"].partition("\n")[2]))
    assert {row["messages"][0]["content"] for row in held_out}.isdisjoint(asked)


def test_pairs_of_a_model_are_checked_and_say_where_they_are_from(ray_cluster, corpus, tmp_path):
    with chat_server() as server:
        report = build(corpus, tmp_path / "out", by_model(server.url), cache=str(tmp_path / "cache"))
    assert (report.generator.name, report.generator.model) == ("endpoint", "gpt")
    assert "endpoint.base_url is set" in report.generator.reason
    steps = {step.name: step for step in report.steps}
    checks = ["check_substance", "check_length", "check_support", "limit", "deduplicate", "near_duplicates"]
    assert list(steps) == ["clean", "boilerplate", "language", "passages", "pii", "generate", *checks]
    assert steps["generate"].rows_in == len(server.asked) == 12
    assert report.coverage.documents["house-1.md"] == [2, 2]
    assert (report.coverage.num_facts, report.coverage.share) == (22, 1.0)
    rows = rows_of(open_dataset(tmp_path / "out"))
    assert len(rows) == report.num_examples == 22
    provenance = json.loads(rows[0]["provenance"])
    assert (provenance["generator"], provenance["model"]) == ("endpoint", "gpt")


@pytest.mark.parametrize("answers_are_kept", [True, pytest.param(False, marks=pytest.mark.long)])
def test_a_generation_that_is_stopped_half_way_goes_on_and_ends_the_same(
    ray_cluster, corpus, tmp_path, answers_are_kept
):
    faults = ["429", "500", "cut", "garbage", "", "not json"]

    def fault(attempt, body):
        number = sum(map(ord, body["messages"][1]["content"]))
        return faults[number % len(faults)] if attempt == 0 and len(body["messages"]) == 2 else ""

    def interrupt(stage):
        if stage.name == "pairs" and stage.fraction > 0.5:
            raise KeyboardInterrupt

    with chat_server(fault=fault) as server:
        config = by_model(server.url, concurrency=1)  # batches of 4 of 12 passages
        with pytest.raises(KeyboardInterrupt):
            build(corpus, tmp_path / "out", config, cache=str(tmp_path / "cache"), progress=interrupt)
        cache = str(tmp_path / ("cache" if answers_are_kept else "empty"))
        resumed = build(corpus, tmp_path / "out", config, cache=cache, num_partitions=3)
        twice = sum(count > 1 for count in server.answered.values())
        build(corpus, tmp_path / "whole", config, cache=str(tmp_path / "another"))
    assert twice <= (1 if answers_are_kept else 4)  # the one in flight; or those of the batches that were not finished
    assert_same_files(tmp_path / "out", tmp_path / "whole")
    assert resumed.coverage.num_covered == 22


def test_an_error_of_the_endpoint_reaches_the_caller_as_it_is(ray_cluster, corpus, tmp_path):
    with (
        chat_server(fault=lambda *_: "401") as server,
        pytest.raises(AccessDeniedError, match="does not accept the key"),
    ):
        build(corpus, tmp_path / "out", by_model(server.url), cache=str(tmp_path / "cache"))


def test_a_dataset_of_an_earlier_release_opens_without_provenance(ray_cluster, corpus, tmp_path):
    build(corpus, tmp_path / "out")
    for shard in (tmp_path / "out").rglob("*.parquet"):
        pq.write_table(pq.read_table(shard).drop_columns(["provenance"]), shard)
    assert "provenance" not in rows_of(open_dataset(tmp_path / "out"))[0]


def test_without_origin_rows_do_not_say_where_they_come_from(ray_cluster, corpus, tmp_path):
    config = CONFIG.model_copy(update={"source": CONFIG.source.model_copy(update={"include_metadata": False})})
    build(corpus, tmp_path / "out", config)
    rows = rows_of(open_dataset(tmp_path / "out"))
    assert {(row["document"], row["document_digest"], row["passage"]) for row in rows} == {("", "", "")}


def test_a_model_without_an_endpoint_is_refused_before_any_work(ray_cluster, tmp_path, monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    config = DatasetConfig.model_validate({"preprocessing": {"qa_generation": {"model": "gpt-4o"}}})
    with pytest.raises(InputError, match=r"gpt-4o.*no endpoint") as caught:
        build(tmp_path, tmp_path / "out", config)
    assert "OPENAI_API_KEY" in caught.value.hint


def test_a_folder_that_is_no_dataset_is_not_opened(ray_cluster, tmp_path):
    with pytest.raises(InputError, match=r"has no dataset\.json"):
        open_dataset(tmp_path)
    with pytest.raises(InputError, match="no dataset at"):
        open_dataset(tmp_path / "none")


def test_without_ray_the_error_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with pytest.raises(ClusterError, match=r"Call ray.init\(\) first"):
        build(tmp_path, tmp_path / "out")


def test_the_base_model_writes_pairs_in_an_actor_and_what_it_can_not_is_counted(ray_cluster, tmp_path):
    # A random model learns the lessons and writes noise: every step runs, and nothing of it becomes an example.
    source = tmp_path / "mill.md"
    source.write_text("# The Mill\n\nA tour of the mill costs 4.50 euros and takes forty minutes.\n")
    config = DatasetConfig.model_validate({"preprocessing": {"qa_generation": {"model": "base_model"}}})
    base = str(make_tiny_model(tmp_path / "tiny"))
    with pytest.raises(InputError, match="gave no example"):
        build(source, tmp_path / "out", config, base_model=base)
    assert not (tmp_path / "out").exists()


# Other rows than questions, and the recipes

RECIPES = Path(__file__).parents[2] / "jobs" / "configs" / "recipes"


def test_without_questions_documents_are_texts_and_no_document_is_on_both_sides(ray_cluster, corpus, tmp_path):
    off = {"qa_generation": {"enabled": False}}
    config = DatasetConfig.model_validate({"preprocessing": off, "validation": {"split_ratio": 0.2}})
    report = build(corpus, tmp_path / "out", config)
    splits = open_dataset(tmp_path / "out")
    train, held_out = splits.train.take_all(), splits.validation.take_all()
    assert any("The house 4 opens at 4:30." in row["text"] for row in [*train, *held_out])
    assert report.held_out == "documents"
    assert {row["document"] for row in train}.isdisjoint({row["document"] for row in held_out})
    assert report.generator is None


def test_new_rows_of_documents_come_from_the_training_split_alone(ray_cluster, corpus, tmp_path):
    more = {"augmentation": {"enabled": True}, "synthetic_generation": {"enabled": True, "base_model": "rules"}}
    validation = {"split_ratio": 0.3, "hold_out": "documents"}
    config = DatasetConfig.model_validate({"validation": validation, **more})
    report = build(corpus, tmp_path / "out", config)
    splits = open_dataset(tmp_path / "out")
    train, held_out = splits.train.take_all(), splits.validation.take_all()
    origins = [json.loads(row["provenance"]) for row in train]
    assert {origin.get("method", "") for origin in origins} == {"", "paraphrase", "noise", "synthetic"}
    assert {origin["parent"] for origin in origins if "parent" in origin} <= {row["id"] for row in train}
    assert not any("parent" in row["provenance"] for row in held_out)
    assert {row["document"] for row in train}.isdisjoint({row["document"] for row in held_out})
    assert build(corpus, tmp_path / "again", config).digest == report.digest


@pytest.mark.parametrize("name", sorted(path.stem for path in RECIPES.glob("*.yaml")))
def test_a_recipe_runs_and_makes_the_rows_that_its_objective_trains(ray_cluster, corpus, tmp_path, monkeypatch, name):
    for number, thumb in enumerate(["up", "down", "up"]):
        record = {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": f"Q{number}?"}]}
        (tmp_path / "feedback").mkdir(exist_ok=True)
        (tmp_path / "feedback" / f"{number}.jsonl").write_text(json.dumps({**record, "answer": "A.", "thumb": thumb}))
    monkeypatch.setenv("LLAMAFARM_HOME", str(tmp_path))
    source = [] if name == "strategy_effectiveness" else ["--source", str(corpus)]
    output = tmp_path / ("out.jsonl" if name == "strategy_effectiveness" else "out")
    with chat_server(answer=_items) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        options = ["--config", str(RECIPES / f"{name}.yaml"), *source, "--output", str(output)]
        assert run(["models", "create-dataset", *options]) == 0
    config = load_config(RECIPES / f"{name}.yaml")
    rows = read_dataset(output).rows["train"]
    keys = {"sft": "messages", "contrastive": "negatives", "kto": "label"}
    assert all(keys[config.fine_tuning.objective] in row for row in rows)
    whole = json.dumps(rows)
    assert EXPECTED_IN_RECIPE[name] in whole


EXPECTED_IN_RECIPE = {
    "response_generation": "Question: ",
    "tool_calls": "opening_hours",
    "query_understanding": "Rewrite the last question of this conversation",
    "retrieval": "The house ",
    "prompt_template": "### Context\\n",
    "strategy_effectiveness": "Be brief.",
}


def _items(request):
    """Answer as a model that rewrites a conversation's last question about a house, or looks up its hours."""
    passage = request["messages"][1]["content"].split("\n\nPassage:\n")[1]
    name = " ".join(passage.split()[1:3])
    if "Tools:" in request["messages"][0]["content"]:
        call = {"name": "opening_hours", "arguments": json.dumps({"place": name})}
        return json.dumps({"items": [{"request": f"When does {name} open?", "calls": [call]}]})
    turns = [f"user: I am at {name}", "assistant: Yes?", "user: when does it open"]
    return json.dumps({"items": [{"turns": turns, "query": f"{name} opens when"}]})
