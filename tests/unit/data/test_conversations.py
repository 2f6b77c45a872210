"""Logs of conversations become rows: who asks is the user, who answers the assistant, and all else is counted."""

import json
import zipfile

import pytest

from llamafarm_ray.config import DatasetConfig
from llamafarm_ray.data.conversations import conversations_at, harvest_conversations
from llamafarm_ray.data.sources import Sources
from llamafarm_ray.errors import InputError

USERS = [
    {"id": "U1", "name": "ann", "profile": {"display_name": "Ann", "real_name": "Ann Lee"}},
    {"id": "U2", "name": "bob", "profile": {"display_name": "", "real_name": "Bob Ray"}},
]
DAY_1 = [
    {"type": "message", "subtype": "channel_join", "user": "U1", "text": "<@U1> has joined", "ts": "1.0"},
    {"type": "message", "user": "U1", "text": "How do I reset the &lt;gate&gt;?", "ts": "2.0", "thread_ts": "2.0"},
    {"type": "message", "user": "U1", "text": "It blinks.", "ts": "3.0", "thread_ts": "2.0"},
    {"type": "message", "user": "U2", "text": "Hold the knob, <@U1>.", "ts": "4.0", "thread_ts": "2.0"},
    {"type": "message", "user": "U2", "text": "Lunch?", "ts": "5.0"},
    {"type": "message", "user": "U2", "text": "Is anyone here?", "ts": "6.0", "thread_ts": "6.0"},
]
DAY_2 = [
    {
        "type": "message", "subtype": "bot_message", "bot_id": "B1", "ts": "7.0", "thread_ts": "2.0",
        "text": "See <https://example.org/gate|the manual> in <#C1|help>.",
    },
    {"type": "message", "user": "U1", "text": "Thanks!", "ts": "8.0", "thread_ts": "2.0"},
]  # fmt: skip
SLACK = {
    "users.json": USERS,
    "channels.json": [{"id": "C1", "name": "help"}],
    "help/2026-01-01.json": DAY_1,
    "help/2026-01-02.json": DAY_2,
}


def read(path):
    sources = Sources()
    found = list(conversations_at(str(path), sources))
    turns = [[(m.role, m.content) for m in one.messages] for one in found if not one.dropped]
    return turns, sorted(one.dropped for one in found if one.dropped), sources


def write_lines(path, *records):
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return path


@pytest.fixture(params=["folder", "zip"])
def slack(request, tmp_path):
    if request.param == "folder":
        for name, content in SLACK.items():
            (tmp_path / "team" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "team" / name).write_text(json.dumps(content))
        return tmp_path / "team"
    with zipfile.ZipFile(tmp_path / "team.zip", "w") as archive:
        for name, content in SLACK.items():
            archive.writestr(name, json.dumps(content))
    return tmp_path / "team.zip"


def test_a_thread_of_slack_is_a_conversation_over_the_days(slack):
    turns, dropped, _ = read(slack)
    answer = "Hold the knob, @Ann.\nSee the manual in #help."
    assert turns == [[("user", "How do I reset the <gate>?\nIt blinks."), ("assistant", answer)]]
    assert dropped == ["message without a thread", "thread without an answer"]
    assert {one.document for one in conversations_at(str(slack), Sources())} == {f"{slack.name}/help"}


TICKET = {
    "id": 1, "subject": "Gate is stuck", "description": "It does not open.", "requester_id": 7,
    "comments": [
        {"author_id": 9, "plain_body": "Hold the knob.", "public": True, "created_at": "2026-01-02"},
        {"author_id": 7, "body": "It does not open.", "public": True, "created_at": "2026-01-01"},
        {"author_id": 9, "body": "He is rude.", "public": False, "created_at": "2026-01-03"},
        {"author_id": 7, "body": "Thanks.", "public": True, "created_at": "2026-01-04"},
    ],
}  # fmt: skip
TICKET_TURNS = [("user", "Gate is stuck\n\nIt does not open."), ("assistant", "Hold the knob.")]


@pytest.mark.parametrize("name", ["tickets.json", "tickets.jsonl"])
def test_tickets_of_zendesk_keep_public_comments_in_their_order(tmp_path, name):
    path = tmp_path / name
    if name.endswith("l"):
        write_lines(path, TICKET, {**TICKET, "comments": TICKET["comments"][1:]})
    else:
        path.write_text(json.dumps({"tickets": [TICKET, {**TICKET, "comments": []}], "count": 2}))
    turns, dropped, _ = read(path)
    assert turns == [TICKET_TURNS]
    assert dropped == ["ticket without a public answer"]


def test_a_ticket_may_lie_beside_its_comments(tmp_path):
    ticket = {name: value for name, value in TICKET.items() if name != "comments"}
    assert read(write_lines(tmp_path / "a.jsonl", {"ticket": ticket, "comments": TICKET["comments"]}))[0] == [
        TICKET_TURNS
    ]


ASK = [{"role": "user", "content": "When does it open?"}]
SAY = {"role": "assistant", "content": "At eight."}
AS_ROW = [("user", "When does it open?"), ("assistant", "At eight.")]


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [*ASK, SAY]},
        {"conversations": [{"from": "human", "value": "When does it open?"}, {"from": "gpt", "value": "At eight."}]},
        {"request": {"messages": ASK}, "response": {"choices": [{"message": SAY, "finish_reason": "stop"}]}},
        {"request": {"body": {"messages": ASK}}, "response": {"body": {"choices": [{"message": SAY}]}}},
        {"messages": ASK, "answer": "At eight.", "thumb": "up", "model": "bot:1.0.0"},
        {"messages": ASK, "answer": "At nine.", "thumb": "down", "correction": "At eight."},
        {"messages": ASK, "answer": "At eight."},
    ],
)
def test_chats_requests_and_feedback_are_conversations(tmp_path, record):
    assert read(write_lines(tmp_path / "log.jsonl", record))[:2] == ([AS_ROW], [])


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"messages": ASK, "answer": "At nine.", "thumb": "down"}, "answer that was rated as bad"),
        ({"messages": ASK, "answer": "At nine.", "thumb": "sideways"}, "feedback that is not sound"),
        ({"request": {"messages": ASK}, "response": {"error": "busy"}}, "request without an answer"),
        (
            {"request": {"messages": ASK}, "response": {"choices": [{"message": SAY, "finish_reason": "length"}]}},
            "answer that was cut",
        ),
        ({"text": "Some text."}, "record that is no conversation"),
        ({"level": "info", "event": "started"}, "record that is no conversation"),
        ([1, 2], "record that is no object"),
    ],
)
def test_what_gives_no_conversation_is_dropped_with_its_reason(tmp_path, record, reason):
    assert read(write_lines(tmp_path / "log.jsonl", record, {"messages": [*ASK, SAY]}))[:2] == ([AS_ROW], [reason])


def test_files_that_are_no_logs_are_named_and_the_others_read(tmp_path):
    write_lines(tmp_path / "good.jsonl", {"messages": [*ASK, SAY]})
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "photo.png").write_bytes(b"\x89PNG")
    turns, _, sources = read(tmp_path)
    assert turns == [AS_ROW]
    assert [(one.path, "not valid JSON" in one.reason) for one in sources.skipped] == [("broken.json", True)]
    assert sources.ignored == {".png": 1}


def harvest(path, **config):
    told = []
    found = harvest_conversations(str(path), DatasetConfig.model_validate(config), Sources(), told.append)
    rows = [row for table in found.rows for row in table.to_pylist()]
    return found, [[turn["content"] for turn in row["messages"]] for row in rows], told


def test_conversations_are_checked_like_examples_and_secrets_are_redacted(tmp_path):
    write_lines(
        tmp_path / "log.jsonl",
        {"messages": [{"role": "user", "content": "My card is 4111 1111 1111 1111."}, SAY]},
        {"messages": [*ASK, {"role": "assistant", "content": "When does it open?"}]},
    )
    found, texts, told = harvest(tmp_path / "log.jsonl")
    assert texts == [["My card is [CARD].", "At eight."]]
    counts = found.ledger.to_dict()
    assert list(counts) == ["conversations", "pii", "check_substance", "check_length"]
    assert counts["check_substance"]["dropped"] == {"the answer repeats the question": 1}
    assert list(found.digests) == ["log.jsonl"]
    assert [(stage.name, stage.done) for stage in told] == [("conversations", 1)]


def test_logs_of_one_name_are_told_apart(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_lines(tmp_path / folder / "log.jsonl", {"messages": [*ASK, {**SAY, "content": folder}]})
    logs = [str(tmp_path / folder / "log.jsonl") for folder in ("a", "b")]
    folders = [str(tmp_path / folder) for folder in ("a", "b")]
    assert [one.document for one in conversations_at(logs, Sources())] == ["log.jsonl", "log.jsonl-2"]
    assert [one.document for one in conversations_at(folders, Sources())] == ["a/log.jsonl", "b/log.jsonl"]


def test_a_broken_log_stops_a_strict_build(tmp_path):
    (tmp_path / "broken.json").write_text("{")
    write_lines(tmp_path / "good.jsonl", {"messages": [*ASK, SAY]})
    assert len(harvest(tmp_path)[1]) == 1
    with pytest.raises(InputError, match=r"broken\.json can't be used"):
        harvest(tmp_path, source={"strict": True})
    with pytest.raises(InputError, match="does not exist"):
        harvest(tmp_path / "none")
