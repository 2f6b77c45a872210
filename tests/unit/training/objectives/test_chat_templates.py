"""Which tokens are trained, token by token, for the templates of many model families."""

import functools

import pytest
from chat_templates import FAMILIES, FIRST, MISTRAL_SYSTEM, QWEN3, SECOND, SYSTEM, Family
from hypothesis import given, settings
from hypothesis import strategies as st
from objective_steps import whole_chat

from llamafarm_ray.errors import UserError
from llamafarm_ray.models.chat import end_of_turn_ids, render_chat, tokenise_answer, tokenise_turns
from llamafarm_ray.training.objectives import DpoObjective, KtoObjective, SftObjective
from llamafarm_ray.training.rows import IGNORED

WITH_SYSTEM = [name for name, family in FAMILIES.items() if family.with_system]
REWRITING = {
    "qwen3": Family(QWEN3, ("<think>", "</think>"), "", ""),
    "mistral with system": Family(MISTRAL_SYSTEM, ("[INST]", "[/INST]"), "", ""),
}


@functools.cache
def tokenizer_of(name):
    return {**FAMILIES, **REWRITING}[name].tokenizer()


def pieces(chat):
    """The tokens in runs of trained and untrained ones."""
    runs = []
    for token, trained in zip(chat.input_ids, chat.trained, strict=True):
        if not runs or runs[-1][0] != trained:
            runs.append((trained, []))
        runs[-1][1].append(token)
    return runs


def marked(tokenizer, chat):
    """A chat's text with what is trained in double brackets."""
    texts = [(trained, tokenizer.decode(tokens)) for trained, tokens in pieces(chat)]
    return "".join(f"[[{text}]]" if trained else text for trained, text in texts)


@pytest.mark.parametrize("name", FAMILIES)
def test_exactly_what_the_assistant_writes_is_trained(name):
    tokenizer = tokenizer_of(name)
    assert marked(tokenizer, whole_chat(tokenizer, [*FIRST, *SECOND])) == FAMILIES[name].two_turns


@pytest.mark.parametrize("name", WITH_SYSTEM)
def test_a_system_prompt_is_never_trained(name):
    tokenizer = tokenizer_of(name)
    assert marked(tokenizer, whole_chat(tokenizer, [SYSTEM, *FIRST, *SECOND])) == FAMILIES[name].with_system


@pytest.mark.parametrize("name", [*FAMILIES, *REWRITING])
def test_every_trained_run_follows_what_inference_would_send_token_by_token(name):
    tokenizer = tokenizer_of(name)
    messages = [*([SYSTEM] if name in WITH_SYSTEM else []), *FIRST, *SECOND]
    chats = tokenise_turns(tokenizer, messages)
    prompts = [
        tokenizer(render_chat(tokenizer, messages[:place], for_answer=True), add_special_tokens=False)["input_ids"]
        for place, message in enumerate(messages)
        if message["role"] == "assistant"
    ]
    found = []
    for chat in chats:
        place = 0
        for trained, tokens in pieces(chat):
            if trained:
                found.append(chat.input_ids[:place])
            place += len(tokens)
    thoughts = tokenizer("<think>\n\n</think>\n\n", add_special_tokens=False)["input_ids"] if name == "qwen3" else []
    assert len(found) == len(prompts)
    assert all(ids in (prompt, prompt + thoughts) for ids, prompt in zip(found, prompts, strict=True))


@pytest.mark.parametrize("name", FAMILIES)
def test_the_last_trained_token_of_a_turn_is_where_generation_stops(name):
    tokenizer = tokenizer_of(name)
    stops = end_of_turn_ids(tokenizer)
    chat = whole_chat(tokenizer, [*FIRST, *SECOND])
    assert [tokens[-1] in stops for trained, tokens in pieces(chat) if trained] == [True, True]
    assert tokenizer.eos_token_id in stops
    assert len(stops) <= 2


@pytest.mark.parametrize("name", FAMILIES)
def test_a_preference_trains_the_compared_answer_only(name):
    tokenizer = tokenizer_of(name)
    row = {"messages": [*FIRST, SECOND[0]], "chosen": "It needs water.", "rejected": "No."}
    (found,) = DpoObjective().tokenise(tokenizer, row, 512)
    whole = marked(tokenizer, whole_chat(tokenizer, [*FIRST, *SECOND]))
    last = whole[whole.rindex("[[") + 2 : whole.rindex("]]")]
    assert tokenizer.decode([label for label in found.labels[: found.lengths[0]] if label != IGNORED]) == last
    (liked,) = KtoObjective().tokenise(tokenizer, {"messages": [*FIRST, *SECOND], "label": True}, 512)
    assert liked.input_ids == found.input_ids[: found.lengths[0]]
    assert liked.labels == found.labels[: found.lengths[0]]


@pytest.mark.parametrize("name", ["chatml", "llama-3", "zephyr", "phi-3"])
def test_both_turns_around_a_tools_answer_are_trained_and_the_tool_is_not(name):
    tokenizer = tokenizer_of(name)
    messages = [
        FIRST[0],
        {"role": "assistant", "content": "look up llama"},
        {"role": "tool", "content": "An animal."},
        {"role": "assistant", "content": "It is an animal."},
    ]
    runs = pieces(whole_chat(tokenizer, messages))
    trained = [tokenizer.decode(tokens[:-1]) for is_trained, tokens in runs if is_trained]
    assert trained == ["look up llama", "It is an animal."]


THOUGHT = [
    {"role": "user", "content": "What is a llama?"},
    {"role": "assistant", "content": "<think>\nSouth America\n</think>\n\nAn animal."},
    {"role": "user", "content": "And a farm?"},
    {"role": "assistant", "content": "<think>\nwater, land\n</think>\n\nIt needs water."},
]


def test_turns_that_lose_their_thoughts_once_others_follow_are_rows_of_their_own():
    tokenizer = tokenizer_of("qwen3")
    first, second = tokenise_turns(tokenizer, THOUGHT)
    assert marked(tokenizer, first) == (
        "<|im_start|>user\nWhat is a llama?<|im_end|>\n<|im_start|>assistant\n"
        "[[<think>\nSouth America\n</think>\n\nAn animal.<|im_end|>]]\n"
    )
    assert marked(tokenizer, second) == (
        "<|im_start|>user\nWhat is a llama?<|im_end|>\n<|im_start|>assistant\nAn animal.<|im_end|>\n"
        "<|im_start|>user\nAnd a farm?<|im_end|>\n<|im_start|>assistant\n"
        "[[<think>\nwater, land\n</think>\n\nIt needs water.<|im_end|>]]\n"
    )
    rows = SftObjective().tokenise(tokenizer, {"messages": THOUGHT}, 512)
    assert [row.dropped for row in rows] == ["", ""]


def test_an_empty_block_of_thoughts_is_trained_only_where_the_row_has_it():
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{% if m.role == 'assistant' and '<think>' not in m.content %}<think>\n\n</think>\n\n{% endif %}"
        "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokenizer = Family(template, ("<think>", "</think>"), "", "").tokenizer()
    begin = "<|im_start|>user\nWhat is a llama?<|im_end|>\n<|im_start|>assistant\n"
    (plain,) = tokenise_turns(tokenizer, FIRST)
    assert marked(tokenizer, plain) == f"{begin}<think>\n\n</think>\n\n[[An animal.<|im_end|>]]\n"
    assert plain == tokenise_answer(tokenizer, FIRST)
    (own,) = tokenise_turns(tokenizer, [FIRST[0], {"role": "assistant", "content": "<think>\n\n</think>\n\nYes."}])
    assert marked(tokenizer, own) == f"{begin}[[<think>\n\n</think>\n\nYes.<|im_end|>]]\n"
    (thought,) = tokenise_turns(tokenizer, THOUGHT[:2])
    assert marked(tokenizer, thought) == f"{begin}[[{THOUGHT[1]['content']}<|im_end|>]]\n"


def test_a_system_prompt_that_moves_to_the_last_question_gives_each_turn_a_row():
    tokenizer = tokenizer_of("mistral with system")
    second = "And a farm?[/INST][[ It needs water.</s>]]"
    assert [marked(tokenizer, chat) for chat in tokenise_turns(tokenizer, [SYSTEM, *FIRST, *SECOND])] == [
        "<s>[INST] Be brief.\n\nWhat is a llama?[/INST][[ An animal.</s>]]",
        f"<s>[INST] What is a llama?[/INST] An animal.</s>[INST] Be brief.\n\n{second}",
    ]


def test_one_question_needs_one_row_even_where_turns_are_rewritten():
    tokenizer = tokenizer_of("qwen3")
    (chat,) = tokenise_turns(tokenizer, THOUGHT[:2])
    assert chat == tokenise_answer(tokenizer, THOUGHT[:2])


def test_only_the_turns_whose_prompt_fits_are_kept_of_a_chat_in_rows():
    tokenizer = tokenizer_of("qwen3")
    rows = SftObjective().tokenise(tokenizer, {"messages": THOUGHT}, 512)
    first, second = SftObjective().tokenise(tokenizer, {"messages": THOUGHT}, len(rows[0].input_ids))
    assert first == rows[0]
    assert second.dropped == "prompt longer than max_length"


def test_a_template_whose_answers_begin_otherwise_than_it_prompts_is_refused():
    opened = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
    )
    tokenizer = Family(opened, ("<think>",), "", "").tokenizer()
    with pytest.raises(UserError, match="does not render turn 2 as its prompt for an answer and then the answer"):
        tokenise_turns(tokenizer, FIRST)


def test_an_answer_that_ends_with_a_marker_of_its_own_keeps_it():
    tokenizer = tokenizer_of("phi-3")
    chat = whole_chat(tokenizer, [FIRST[0], {"role": "assistant", "content": "call <|end|>"}])
    assert marked(tokenizer, chat).endswith("[[call <|end|><|end|>]]\n<|endoftext|>")


_WORD = st.sampled_from(
    ["llama", "farm", " water", "\n", "Paris ", "🦙", "[INST]", "<|im_end|>", "<|user|>", "</s>", "é"]
)
_TEXT = st.lists(_WORD, min_size=1, max_size=6).map("".join).filter(lambda text: text.strip())


@settings(max_examples=75)
@given(
    name=st.sampled_from([*FAMILIES, *REWRITING]),
    turns=st.lists(st.tuples(_TEXT, _TEXT), min_size=1, max_size=3),
    max_length=st.integers(1, 160),
)
def test_however_a_chat_is_cut_each_trained_token_is_an_assistants_after_its_whole_prompt(name, turns, max_length):
    tokenizer = tokenizer_of(name)
    messages = [
        {"role": role, "content": text}
        for pair in turns
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    wholes = tokenise_turns(tokenizer, messages)
    rows = SftObjective().tokenise(tokenizer, {"messages": messages}, max_length)
    assert len(rows) == len(wholes)
    for row, whole in zip(rows, wholes, strict=True):
        first = whole.trained.index(True)
        if row.dropped:
            assert first >= max_length, "dropped although a part of the answer fits"
            continue
        assert len(row.input_ids) <= max_length
        # A beginning of the whole chat: whatever is before a trained token is all there.
        assert row.input_ids == whole.input_ids[: len(row.input_ids)]
        assert len(row.input_ids) > first
        for place, label in enumerate(row.labels):
            assert label == (row.input_ids[place] if whole.trained[place] else IGNORED)
