"""A base model of two layers and a tokenizer of some 400 words, made on the spot: nothing is downloaded."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The template of Qwen and others: every turn between markers."""

LLAMA2 = (
    "{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate user and assistant') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
)
"""The template of Llama 2: no marker before an answer, the end of text after it."""

SENTENCES = [
    "The capital of France is Paris.",
    "Water boils at one hundred degrees Celsius at sea level.",
    "A llama is a domesticated animal of South America.",
    "What does a farm need? A farm needs water, land and people.",
    "How many legs does a spider have? A spider has eight legs.",
    "user assistant system question answer [INST] [/INST]",
]


def make_tiny_model(folder: Path, *, chat_template: str | None = CHATML, hidden_size: int = 64, seed: int = 0) -> Path:
    """Write a random two-layer Llama with its tokenizer into ``folder``, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in _files_of(chat_template, hidden_size, seed).items():
        (folder / name).write_bytes(data)
    return folder


@functools.cache
def _files_of(chat_template: str | None, hidden_size: int, seed: int) -> dict[str, bytes]:
    """The files of such a model, which a process makes once: half a megabyte or so."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = make_tiny_tokenizer(chat_template)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def make_tiny_tokenizer(chat_template: str | None = CHATML):
    """A byte-level BPE tokenizer trained on a few sentences; it can spell any text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(SENTENCES * 3, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        additional_special_tokens=special[3:],
        **dict(zip(("bos_token", "eos_token", "pad_token"), special, strict=False)),
    )
    tokenizer.chat_template = chat_template
    return tokenizer


def make_rows(num_rows: int, *, words: int = 6) -> list[dict[str, object]]:
    """Rows with messages of different lengths; every row is different."""
    vocabulary = " ".join(SENTENCES).split()
    rows = []
    for index in range(num_rows):
        answer = " ".join(vocabulary[(index * 3 + offset) % len(vocabulary)] for offset in range(1 + index % words))
        rows.append(
            {
                "id": f"{index:08x}",
                "messages": [
                    {"role": "user", "content": f"Question {index}?"},
                    {"role": "assistant", "content": f"{answer} {index}."},
                ],
                "document": f"part-{index % 3}.md",
                "document_digest": "sha256:" + "0" * 64,
                "passage": answer,
            }
        )
    return rows
