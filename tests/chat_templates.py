"""The chat templates of model families in a minimal form of our own, with the markers that they really use.

Each is a `Family`: its template, the tokens that its tokenizer adds, and what it makes of one known chat, with what an
assistant has to write in double brackets.
"""

# ruff: noqa: RUF001 - DeepSeek's markers have wide bars

from __future__ import annotations

from dataclasses import dataclass

from tiny_model import CHATML, LLAMA2, make_tiny_tokenizer

SYSTEM = {"role": "system", "content": "Be brief."}
FIRST = [{"role": "user", "content": "What is a llama?"}, {"role": "assistant", "content": "An animal."}]
SECOND = [{"role": "user", "content": "And a farm?"}, {"role": "assistant", "content": "It needs water."}]


@dataclass(frozen=True)
class Family:
    """A family of models.

    Args:
        template: in Jinja.
        added: tokens of its own.
        two_turns: `FIRST` and `SECOND` as rendered.
        with_system: `SYSTEM`, `FIRST` and `SECOND` as rendered; empty where the template has no system role.
        bos: the token that begins a text, where it isn't ``<s>``.
        eos: the token that ends a text, where it isn't ``</s>``.
    """

    template: str
    added: tuple[str, ...]
    two_turns: str
    with_system: str
    bos: str = "<s>"
    eos: str = "</s>"

    def tokenizer(self):
        tokenizer = make_tiny_tokenizer(self.template)
        tokenizer.add_special_tokens({"additional_special_tokens": [*self.added]})
        tokenizer.bos_token, tokenizer.eos_token = self.bos, self.eos
        return tokenizer


_ALTERNATING = (
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate user and assistant') }}{% endif %}"
)

QWEN3 = (
    "{% set last = namespace(user=-1) %}"
    "{% for message in messages %}{% if message.role == 'user' %}{% set last.user = loop.index0 %}{% endif %}"
    "{% endfor %}"
    "{% for message in messages %}"
    "{% if message.role == 'assistant' %}"
    "{% set answer = message.content.split('</think>')[-1].lstrip('\n') %}"
    "{% set thought = message.content.split('</think>')[0].split('<think>')[-1].strip('\n')"
    " if '</think>' in message.content else '' %}"
    "<|im_start|>assistant\n"
    "{% if loop.index0 > last.user %}<think>\n{{ thought }}\n</think>\n\n{% endif %}{{ answer }}<|im_end|>\n"
    "{% else %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Thoughts are in the answers to the last question only."""

MISTRAL_SYSTEM = (
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content + '\n\n' %}{% set rest = messages[1:] %}"
    "{% else %}{% set system = '' %}{% set rest = messages %}{% endif %}"
    "{{ bos_token }}{% for message in rest %}"
    "{% if message.role == 'user' %}"
    "{% set is_last = loop.last or (loop.index0 == rest | length - 2 and rest[-1].role == 'assistant') %}"
    "[INST] {{ (system if is_last else '') + message.content }}[/INST]"
    "{% else %} {{ message.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
"""The system prompt stands in the last question, and moves with it."""

FAMILIES = {
    "chatml": Family(
        CHATML,
        (),
        "<|im_start|>user\nWhat is a llama?<|im_end|>\n<|im_start|>assistant\n[[An animal.<|im_end|>]]\n"
        "<|im_start|>user\nAnd a farm?<|im_end|>\n<|im_start|>assistant\n[[It needs water.<|im_end|>]]\n",
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nWhat is a llama?<|im_end|>\n<|im_start|>assistant\n[[An animal.<|im_end|>]]\n"
        "<|im_start|>user\nAnd a farm?<|im_end|>\n<|im_start|>assistant\n[[It needs water.<|im_end|>]]\n",
    ),
    "llama-2": Family(
        LLAMA2,
        (),
        "<s>[INST] What is a llama? [/INST][[ An animal. </s>]]<s>[INST] And a farm? [/INST][[ It needs water. </s>]]",
        "",
    ),
    "llama-2, system in the first question": Family(
        "{% if messages[0]['role'] == 'system' %}"
        "{% set system = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}{% set rest = messages[1:] %}"
        "{% else %}{% set system = '' %}{% set rest = messages %}{% endif %}"
        "{% for message in rest %}"
        "{% if message['role'] == 'user' %}"
        "{{ bos_token + '[INST] ' + (system if loop.first else '') + message['content'].strip() + ' [/INST]' }}"
        "{% else %}{{ ' ' + message['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
        (),
        "<s>[INST] What is a llama? [/INST][[ An animal. </s>]]<s>[INST] And a farm? [/INST][[ It needs water. </s>]]",
        "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nWhat is a llama? [/INST][[ An animal. </s>]]"
        "<s>[INST] And a farm? [/INST][[ It needs water. </s>]]",
    ),
    "llama-3": Family(
        "{% for message in messages %}"
        "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
        " + message['content'] | trim + '<|eot_id|>' %}"
        "{% if loop.first %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
        ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nWhat is a llama?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n[[An animal.<|eot_id|>]]"
        "<|start_header_id|>user<|end_header_id|>\n\nAnd a farm?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n[[It needs water.<|eot_id|>]]",
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nWhat is a llama?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n[[An animal.<|eot_id|>]]"
        "<|start_header_id|>user<|end_header_id|>\n\nAnd a farm?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n[[It needs water.<|eot_id|>]]",
        bos="<|begin_of_text|>",
        eos="<|end_of_text|>",
    ),
    "mistral": Family(
        "{{ bos_token }}{% for message in messages %}" + _ALTERNATING + "{% if message['role'] == 'user' %}"
        "{{ '[INST] ' + message['content'] + ' [/INST]' }}"
        "{% else %}{{ message['content'] + eos_token }}{% endif %}{% endfor %}",
        ("[INST]", "[/INST]"),
        "<s>[INST] What is a llama? [/INST][[An animal.</s>]][INST] And a farm? [/INST][[It needs water.</s>]]",
        "",
    ),
    "gemma": Family(
        "{{ bos_token }}{% for message in messages %}"
        "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
        "{% if role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
        ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
        "<bos><start_of_turn>user\nWhat is a llama?<end_of_turn>\n<start_of_turn>model\n[[An animal.<end_of_turn>]]\n"
        "<start_of_turn>user\nAnd a farm?<end_of_turn>\n<start_of_turn>model\n[[It needs water.<end_of_turn>]]\n",
        "",
        bos="<bos>",
        eos="<eos>",
    ),
    "phi-3": Family(
        "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}",
        ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|endoftext|>"),
        "<|user|>\nWhat is a llama?<|end|>\n<|assistant|>\n[[An animal.<|end|>]]\n"
        "<|user|>\nAnd a farm?<|end|>\n<|assistant|>\n[[It needs water.<|end|>]]\n<|endoftext|>",
        "<|system|>\nBe brief.<|end|>\n<|user|>\nWhat is a llama?<|end|>\n<|assistant|>\n[[An animal.<|end|>]]\n"
        "<|user|>\nAnd a farm?<|end|>\n<|assistant|>\n[[It needs water.<|end|>]]\n<|endoftext|>",
        eos="<|endoftext|>",
    ),
    "zephyr": Family(
        "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + eos_token + '\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}",
        (),
        "<|user|>\nWhat is a llama?</s>\n<|assistant|>\n[[An animal.</s>]]\n"
        "<|user|>\nAnd a farm?</s>\n<|assistant|>\n[[It needs water.</s>]]\n",
        "<|system|>\nBe brief.</s>\n<|user|>\nWhat is a llama?</s>\n<|assistant|>\n[[An animal.</s>]]\n"
        "<|user|>\nAnd a farm?</s>\n<|assistant|>\n[[It needs water.</s>]]\n",
    ),
    "deepseek": Family(
        "{{ bos_token }}{% for message in messages %}"
        "{% if message['role'] == 'system' %}{{ message['content'] }}"
        "{% elif message['role'] == 'user' %}{{ '<｜User｜>' + message['content'] }}"
        "{% else %}{{ '<｜Assistant｜>' + message['content'] + eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<｜Assistant｜>' }}{% endif %}",
        ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"),
        "<｜begin▁of▁sentence｜><｜User｜>What is a llama?<｜Assistant｜>[[An animal.<｜end▁of▁sentence｜>]]"
        "<｜User｜>And a farm?<｜Assistant｜>[[It needs water.<｜end▁of▁sentence｜>]]",
        "<｜begin▁of▁sentence｜>Be brief.<｜User｜>What is a llama?<｜Assistant｜>[[An animal.<｜end▁of▁sentence｜>]]"
        "<｜User｜>And a farm?<｜Assistant｜>[[It needs water.<｜end▁of▁sentence｜>]]",
        bos="<｜begin▁of▁sentence｜>",
        eos="<｜end▁of▁sentence｜>",
    ),
}
"""Families whose templates only append."""
