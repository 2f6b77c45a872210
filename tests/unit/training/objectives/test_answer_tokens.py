"""A prompt is tokenized without its answer, as at inference, whatever the answer begins with."""

import functools

import pytest
from chat_templates import FAMILIES, FIRST, SECOND
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_model import CHATML, LLAMA2

from llamafarm_ray.models.chat import render_chat, tokenise_answer, tokenise_turns
from llamafarm_ray.training.objectives import DpoObjective, KtoObjective, SftObjective
from llamafarm_ray.training.rows import IGNORED

CODE = ["def add(a, b):\n    return a + b\n\n\ndef sub(a, b):\n    return a - b\n", "\n\n  - one\n\n    two\n"]
BRACKETS = (
    "{% for m in messages %}"
    "{{ '[INST] ' + m['content'] + ' [/INST]\n' if m['role'] == 'user' else m['content'] + '</s>' }}{% endfor %}"
)
TURNS = "{% for m in messages %}{{ m.role }}: {{ m.content }}</s>{% endfor %}"
SPACED = TURNS + "{% if add_generation_prompt %}assistant: {% endif %}"
TEMPLATES = {"chatml": CHATML, "llama-2": LLAMA2, "brackets": BRACKETS, "spaced": SPACED}
SPLITS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""The pattern of Llama 3 and Qwen: line ends and the spaces before them are one piece."""
STARTS = ("", " ", "    ", "\n", "\n\n", "\n    ", "\t", "\r\n", "\u00a0")


@functools.cache
def tokenizer_of(kind, template):
    """A tokenizer with merges over white space, of a kind that models have."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    inner = Tokenizer(models.BPE(byte_fallback=kind == "sentencepiece", unk_token=special["unk_token"]))
    level = pre_tokenizers.ByteLevel(add_prefix_space=kind == "with a space first", use_regex=kind != "llama-3")
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if kind == "sentencepiece":
        inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        inner.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
        alphabet = [*"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ:.+-()[]/?,▁\n\t\r\u00a0<|>_0123456789"]
    elif kind == "llama-3":
        split = pre_tokenizers.Split(Regex(SPLITS), "isolated")
        inner.pre_tokenizer, inner.decoder = pre_tokenizers.Sequence([split, level]), decoders.ByteLevel()
    elif kind == "without pieces":
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        inner.decoder = decoders.ByteLevel()
    else:
        inner.pre_tokenizer, inner.decoder = level, decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=[*special.values()],
        initial_alphabet=alphabet,
        show_progress=False,
        max_token_length=12,
    )
    inner.train_from_iterator([*CODE * 9, *(f"assistant\n{text}" for text in CODE * 9)], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, **special)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    tokenizer.add_tokens([AddedToken("<|im_end|>", rstrip=kind == "with a space first", special=True)])
    tokenizer.chat_template = TEMPLATES[template]
    return tokenizer


KINDS = ("gpt-2", "llama-3", "without pieces", "with a space first", "sentencepiece")


def ids_of(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def answers_of(chat):
    """The trained runs, each with the tokens before it."""
    found, place = [], 0
    while place < len(chat.trained):
        if chat.trained[place]:
            end = place
            while end < len(chat.trained) and chat.trained[end]:
                end += 1
            found.append((chat.input_ids[:place], chat.input_ids[place:end]))
            place = end
        place += 1
    return found


def expected_answer(tokenizer, messages):
    prompt = render_chat(tokenizer, messages[:-1], for_answer=True)
    text = render_chat(tokenizer, messages)
    return prompt, text[len(prompt) :]


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_that_begins_with_white_space_follows_the_prompt_as_inference_tokenizes_it(kind, template):
    tokenizer = tokenizer_of(kind, template)
    for start in STARTS:
        messages = [FIRST[0], {"role": "assistant", "content": f"{start}return a + b"}]
        prompt, answer = expected_answer(tokenizer, messages)
        ((before, trained),) = answers_of(tokenise_answer(tokenizer, messages))
        assert before == ids_of(tokenizer, prompt), repr(start)
        # After the prompt, since SentencePiece's decoder takes a space away at the beginning of a text.
        assert tokenizer.decode(before + trained).rstrip("\n") == tokenizer.decode(before) + answer.rstrip("\n")


def test_some_of_these_tokenizers_would_merge_the_prompt_with_the_answer():
    tokenizer = tokenizer_of("llama-3", "chatml")
    prompt, answer = expected_answer(tokenizer, [FIRST[0], {"role": "assistant", "content": "\nreturn"}])
    whole = ids_of(tokenizer, prompt + answer)
    assert whole[: len(ids_of(tokenizer, prompt))] != ids_of(tokenizer, prompt)


_WORD = st.sampled_from(["return", " a", "\n", "    ", "\n\n", "(b)", "é", "🦙", "\t", "</s>", "two"])
_TEXT = st.lists(_WORD, min_size=1, max_size=5).map("".join).filter(lambda text: text.strip())


@settings(max_examples=60)
@given(
    kind=st.sampled_from(KINDS[:3]),
    template=st.sampled_from(list(TEMPLATES)),
    turns=st.lists(st.tuples(_TEXT, _TEXT, st.booleans()), min_size=1, max_size=3),
)
def test_every_trained_answer_of_any_chat_follows_the_prompt_of_inference(kind, template, turns):
    tokenizer = tokenizer_of(kind, template)
    messages = []
    for question, answer, train in turns:
        messages += [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer, **({} if train else {"train": False})},
        ]
    expected = [
        (ids_of(tokenizer, render_chat(tokenizer, messages[:place], for_answer=True)), message["content"])
        for place, message in enumerate(messages)
        if message["role"] == "assistant" and "train" not in message
    ]
    found = [one for chat in tokenise_turns(tokenizer, messages) for one in answers_of(chat)]
    assert [before for before, _ in found] == [prompt for prompt, _ in expected]
    for (_, trained), (_, answer) in zip(found, expected, strict=True):
        assert answer.strip() in tokenizer.decode(trained)


def test_a_turn_that_is_not_to_be_trained_is_context_only():
    tokenizer = FAMILIES["chatml"].tokenizer()
    masked = [FIRST[0], {**FIRST[1], "train": False}, *SECOND]
    (row,) = SftObjective().tokenise(tokenizer, {"messages": masked}, 512)
    assert tokenizer.decode([label for label in row.labels if label != IGNORED]) == "It needs water.<|im_end|>"
    (whole,) = SftObjective().tokenise(tokenizer, {"messages": [*FIRST, *SECOND]}, 512)
    assert row.input_ids == whole.input_ids
    nothing = SftObjective().tokenise(tokenizer, {"messages": masked[:2]}, 512)
    assert [one.dropped for one in nothing] == ["no assistant turn to train"]


def test_preferences_and_judgements_tokenize_prompt_and_answer_apart_too():
    tokenizer = tokenizer_of("llama-3", "chatml")
    prompt = ids_of(tokenizer, render_chat(tokenizer, FIRST[:1], for_answer=True))
    (pair,) = DpoObjective().tokenise(tokenizer, {"messages": FIRST[:1], "chosen": "\nyes", "rejected": "\n\nno"}, 512)
    liked = [FIRST[0], {"role": "assistant", "content": "\n\nno"}]
    (judged,) = KtoObjective().tokenise(tokenizer, {"messages": liked, "label": True}, 512)
    assert pair.input_ids[: len(prompt)] == prompt == judged.input_ids[: len(prompt)]
    assert pair.input_ids[pair.lengths[0] :] == judged.input_ids
