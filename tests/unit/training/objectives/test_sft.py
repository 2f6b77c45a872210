import pytest
from objective_steps import whole_chat
from tiny_model import CHATML, LLAMA2, make_tiny_tokenizer

from llamafarm_ray.errors import UserError
from llamafarm_ray.models.chat import end_of_turn_ids
from llamafarm_ray.training.objectives import SftObjective

USER = {"role": "user", "content": "What is a llama?"}
ANSWER = {"role": "assistant", "content": "A llama is a domesticated animal."}
MORE = [{"role": "user", "content": "And a farm?"}, {"role": "assistant", "content": "A farm needs water."}]


def trained_text(tokenizer, messages):
    """The trained tokens, with a bar wherever untrained ones lie between."""
    chat = whole_chat(tokenizer, messages)
    parts, before = [], False
    for token, trained in zip(chat.input_ids, chat.trained, strict=True):
        if trained:
            parts.append(("" if before or not parts else "|") + tokenizer.decode([token]))
        before = trained
    return "".join(parts)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (CHATML, "A llama is a domesticated animal.<|im_end|>|A farm needs water.<|im_end|>"),
        (LLAMA2, " A llama is a domesticated animal. </s>| A farm needs water. </s>"),
    ],
)
def test_every_assistant_turn_is_trained_with_its_end_and_nothing_else(template, expected):
    assert trained_text(make_tiny_tokenizer(template), [USER, ANSWER, *MORE]) == expected


@pytest.mark.parametrize("template", [CHATML, LLAMA2])
def test_the_prompt_is_token_by_token_what_inference_sends(template):
    tokenizer = make_tiny_tokenizer(template)
    chat = whole_chat(tokenizer, [USER, ANSWER])
    prompt = tokenizer.apply_chat_template([USER], tokenize=False, add_generation_prompt=True)
    prompt_ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    assert chat.input_ids[: len(prompt_ids)] == prompt_ids
    assert chat.trained[: len(prompt_ids)] == [False] * len(prompt_ids)
    assert chat.trained[len(prompt_ids)]


def test_an_answer_that_repeats_the_prompt_and_its_markers_is_told_from_them():
    messages = [{"role": "user", "content": "Say: assistant"}, {"role": "assistant", "content": "Say: assistant"}]
    assert trained_text(make_tiny_tokenizer(CHATML), messages) == "Say: assistant<|im_end|>"


def test_an_answer_that_shares_its_first_token_with_the_prompts_last_space_is_trained_whole():
    template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    text = trained_text(make_tiny_tokenizer(template), [USER, ANSWER])
    assert text.strip() == ANSWER["content"]
    assert text.endswith("\n"), "the line's end is what ends a turn here"


def test_characters_of_several_tokens_are_masked_and_trained_whole():
    messages = [{"role": "user", "content": "日本 🦙"}, {"role": "assistant", "content": "ラマ 🦙!"}]
    tokenizer = make_tiny_tokenizer(CHATML)
    chat = whole_chat(tokenizer, messages)
    answer = [token for token, trained in zip(chat.input_ids, chat.trained, strict=True) if trained]
    assert tokenizer.decode(answer) == "ラマ 🦙!<|im_end|>"


def row_of(tokenizer, messages, max_length):
    (row,) = SftObjective().tokenise(tokenizer, {"messages": messages}, max_length)
    return row


def test_labels_are_the_tokens_themselves_or_ignored(tokenizer):
    chat = whole_chat(tokenizer, [USER, ANSWER])
    row = row_of(tokenizer, [USER, ANSWER], 256)
    assert row.input_ids == chat.input_ids
    assert row.labels == [
        token if trained else -100 for token, trained in zip(chat.input_ids, chat.trained, strict=True)
    ]


def test_a_long_answer_loses_its_end(tokenizer):
    whole = row_of(tokenizer, [USER, ANSWER], 256)
    length = len(whole.input_ids) - 5
    cut = row_of(tokenizer, [USER, ANSWER], length)
    assert (cut.input_ids, cut.labels, cut.dropped) == (whole.input_ids[:length], whole.labels[:length], "")


def test_a_row_whose_prompt_alone_is_too_long_is_dropped_rather_than_cut(tokenizer):
    first_trained = next(
        index for index, label in enumerate(row_of(tokenizer, [USER, ANSWER], 256).labels) if label >= 0
    )
    assert row_of(tokenizer, [USER, ANSWER], first_trained).dropped == "prompt longer than max_length"
    assert row_of(tokenizer, [USER, ANSWER], first_trained + 1).dropped == ""


def test_a_row_without_an_answer_is_dropped(tokenizer):
    assert row_of(tokenizer, [USER], 256).dropped == "no assistant turn to train"


def test_no_chat_template_says_how_to_set_one():
    with pytest.raises(UserError, match=r"no chat template.*chat_template\.jinja"):
        whole_chat(make_tiny_tokenizer(None), [USER, ANSWER])


def test_a_template_that_refuses_the_roles_is_the_users_error_with_its_reason():
    with pytest.raises(UserError, match=r"roles user, user.*must alternate"):
        whole_chat(make_tiny_tokenizer(LLAMA2), [USER, USER, ANSWER])


def test_a_template_that_rewrites_earlier_turns_trains_each_in_a_sequence_of_its_own():
    forgetful = (
        "{% for m in messages %}{% if loop.last or m.role == 'user' %}"
        "{{ m.role + ':' + m.content + ';' }}{% endif %}{% endfor %}"
    )
    tokenizer = make_tiny_tokenizer(forgetful)
    rows = SftObjective().tokenise(tokenizer, {"messages": [USER, ANSWER, *MORE]}, 256)
    assert [tokenizer.decode([label for label in row.labels if label >= 0]) for row in rows] == [
        f"assistant:{ANSWER['content']};",
        f"assistant:{MORE[1]['content']};",
    ]


def test_generation_stops_at_the_templates_end_of_turn_and_at_the_end_of_text(tokenizer):
    assert {tokenizer.decode([token]) for token in end_of_turn_ids(tokenizer)} == {"<|im_end|>", "</s>"}
