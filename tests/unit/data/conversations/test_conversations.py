"""Logs of conversations become rows: who asks is the user, who answers the assistant, and all else is counted."""

import json
import zipfile

import pytest

from llamafarm_ray.data.conversations import read_conversations
from llamafarm_ray.data.sources import FileLimits

LIMITS = FileLimits(seconds=300, memory_bytes=4 << 30)  # the defaults, so that tests share a process

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
    results = [found[1] for found in read_conversations([str(path)], LIMITS) if isinstance(found, tuple)]
    turns = [[(turn["role"], turn["content"]) for turn in row["messages"]] for one in results for row in one.rows]
    return turns, sorted(one.reason for one in results if one.reason)


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
    turns, dropped = read(slack)
    answer = "Hold the knob, @Ann.\nSee the manual in #help."
    assert turns == [[("user", "How do I reset the <gate>?\nIt blinks."), ("assistant", answer)]]
    assert dropped == ["is a message without a thread.", "is a thread without an answer."]
    found = [found for found in read_conversations([str(slack)], LIMITS) if isinstance(found, tuple)]
    documents = {row["document"] for _, one in found for row in one.rows}
    assert documents == {f"{slack.name}/help"}


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


def test_a_description_with_other_line_ends_is_the_first_comment(tmp_path):
    text = "It does not open.\r\nSince Monday."
    comments = [{"author_id": 7, "body": text}, {"author_id": 9, "body": "Hold the knob."}]
    ticket = {"id": 1, "subject": "Gate", "description": text, "requester_id": 7, "comments": comments}
    turns, _ = read(write_lines(tmp_path / "a.jsonl", ticket))
    assert turns == [[("user", "Gate\n\nIt does not open.\nSince Monday."), ("assistant", "Hold the knob.")]]


@pytest.mark.parametrize("name", ["tickets.json", "tickets.jsonl"])
def test_tickets_of_zendesk_keep_public_comments_in_their_order(tmp_path, name):
    path = tmp_path / name
    if name.endswith("l"):
        write_lines(path, TICKET, {**TICKET, "comments": TICKET["comments"][1:]})
    else:
        path.write_text(json.dumps({"tickets": [TICKET, {**TICKET, "comments": []}], "count": 2}))
    turns, dropped = read(path)
    assert turns == [TICKET_TURNS]
    assert dropped == ["is a ticket without a public answer."]


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
    assert read(write_lines(tmp_path / "log.jsonl", record)) == ([AS_ROW], [])


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"messages": ASK, "answer": "At nine.", "thumb": "down"}, "has an answer that was rated as bad."),
        ({"messages": ASK, "answer": "At nine.", "thumb": "sideways"}, "is feedback that is not sound."),
        ({"request": {"messages": ASK}, "response": {"error": "busy"}}, "is a request without an answer."),
        (
            {"request": {"messages": ASK}, "response": {"choices": [{"message": SAY, "finish_reason": "length"}]}},
            "has an answer that was cut.",
        ),
        ({"text": "Some text."}, "is a text row"),
        ({"level": "info", "event": "started"}, ""),
        ([1, 2], ""),
    ],
)
def test_what_gives_no_conversation_is_left_out_with_its_reason(tmp_path, record, reason):
    turns, reasons = read(write_lines(tmp_path / "log.jsonl", {"messages": [*ASK, SAY]}, record))
    assert turns == [AS_ROW]
    assert len(reasons) == 1
    assert reasons[0].startswith(reason)


def outcomes(path):
    """The files that gave no row with their reasons, and the notes of those that can't be read to their end."""
    ends = [found for found in read_conversations([str(path)], LIMITS) if not isinstance(found, tuple)]
    skipped = {end.skipped.path: end.skipped.reason for end in ends if end.skipped}
    return skipped, {end.path: end.note for end in ends if end.note}


@pytest.mark.parametrize("content", ["{", "{}", "[" * 5000], ids=["cut", "object", "deep"])
def test_a_broken_day_of_slack_is_named_and_the_other_days_are_read(tmp_path, content):
    export = tmp_path / "team"
    for name, records in SLACK.items():
        (export / name).parent.mkdir(parents=True, exist_ok=True)
        (export / name).write_text(json.dumps(records))
    (export / "help" / "2026-01-03.json").write_text(content)
    assert [turns[0] for turns in read(export)[0]] == [("user", "How do I reset the <gate>?\nIt blinks.")]
    (named,) = outcomes(export)[0]
    assert named == "team/help/2026-01-03.json"


def test_a_message_of_slack_that_is_not_sound_is_counted(tmp_path):
    bad = [7, {"type": "message", "text": "?"}, {"type": "message", "ts": "1.0", "thread_ts": ["1"], "text": "?"}]
    with zipfile.ZipFile(tmp_path / "team.zip", "w") as archive:
        for name, content in {**SLACK, "help/2026-01-03.json": bad, "users.json": [None, 7, *USERS]}.items():
            archive.writestr(name, json.dumps(content))
    turns, dropped = read(tmp_path / "team.zip")
    assert len(turns) == 1
    assert dropped.count("is a message that is not sound.") == 3
