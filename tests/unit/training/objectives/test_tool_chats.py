"""Chats with tools are trained where the chat template writes them, and refused where it leaves them out."""

import json

import pytest
from chat_templates import FAMILIES
from tiny_model import make_tiny_tokenizer

from llamafarm_ray.errors import UserError
from llamafarm_ray.models.chat import tokenise_turns
from llamafarm_ray.training.objectives import SftObjective

WITH_TOOLS = (
    "{% if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
    "{% for call in message.tool_calls or [] %}<call>{{ call.function | tojson }}</call>{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FUNCTION = {"name": "weather", "arguments": {"city": "Bonn"}}
TOOLS = json.dumps([{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}])
CHAT = [
    {"role": "user", "content": "Weather?"},
    {"role": "assistant", "content": "", "tool_calls": json.dumps([{"type": "function", "function": FUNCTION}])},
    {"role": "tool", "content": "rain", "name": "weather"},
    {"role": "assistant", "content": "It rains."},
]


@pytest.fixture(scope="module")
def tokenizer():
    tokenizer = make_tiny_tokenizer(WITH_TOOLS)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    return tokenizer


def test_calls_and_answers_are_trained_and_tools_and_results_are_context(tokenizer):
    (chat,) = tokenise_turns(tokenizer, CHAT, TOOLS)
    text = tokenizer.decode(chat.input_ids)
    trained = tokenizer.decode([token for token, on in zip(chat.input_ids, chat.trained, strict=True) if on])
    call = json.dumps(FUNCTION)
    assert '"parameters"' in text
    assert "<|im_start|>tool\nrain<|im_end|>" in text
    assert trained == f"<call>{call}</call><|im_end|>It rains.<|im_end|>"
    (row,) = SftObjective().tokenise(tokenizer, {"messages": CHAT, "tools": TOOLS}, 512)
    assert row.input_ids == chat.input_ids
    (without,) = SftObjective().tokenise(tokenizer, {"messages": CHAT, "tools": None}, 512)
    assert len(without.input_ids) < len(row.input_ids)


@pytest.mark.parametrize(
    ("messages", "tools", "message"),
    [
        (CHAT[:1] + CHAT[3:], TOOLS, "leaves out the tool 'weather'"),
        (CHAT[:2] + CHAT[3:], None, "leaves out the call of 'weather' in turn 2"),
    ],
)
def test_a_template_that_leaves_tools_out_is_refused(messages, tools, message):
    with pytest.raises(UserError, match=message):
        tokenise_turns(FAMILIES["chatml"].tokenizer(), messages, tools)
