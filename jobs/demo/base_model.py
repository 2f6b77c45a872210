"""Builds the demo's base model: a tiny Llama that has read the handbook, made in about a minute on two CPU cores.

The demo must run where no weights can be downloaded, so it makes its own. The base learns the handbook as plain
text, sentence by sentence, some to be restored from a few of their own words. It never sees a question, an answer or
a chat: answering is what fine-tuning adds. With another ``base_model`` in the config the same demo runs on a real one.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from llamafarm_ray.data.readers import reader_for
from llamafarm_ray.data.text import sentences_of
from llamafarm_ray.errors import InputError

__all__ = ["CHAT_TEMPLATE", "Settings", "build_base_model", "build_tokenizer"]

BEGIN, END, PAD = "<|begin|>", "<|end|>", "<|pad|>"
SYSTEM, USER, ASSISTANT = "<|system|>", "<|user|>", "<|assistant|>"
SPECIAL_TOKENS = [PAD, BEGIN, END, SYSTEM, USER, ASSISTANT]

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
"""A turn is its role's token, its text and ``<|end|>``, so a reply ends where every sentence of the base ends."""

STEPS_PER_S = 11
"""Training steps that two CPU cores do in a second, rounded down; fixes the number of steps for a number of seconds."""

_IGNORED = -100

OnProgress = Callable[[float, float], None]


@dataclass(frozen=True, slots=True)
class Settings:
    """The base's shape and how it is trained; the defaults have 2.0 million parameters.

    ``head_dim`` is 64 because vLLM's CPU attention has a kernel for it.
    """

    vocab_size: int = 2048
    hidden_size: int = 256
    intermediate_size: int = 640
    num_layers: int = 2
    head_dim: int = 64
    max_positions: int = 512
    batch_sentences: int = 32
    learning_rate: float = 2e-3
    cue_share: float = 0.7


def build_base_model(
    corpus: Path,
    output: Path,
    *,
    seconds: float = 20,
    seed: int = 0,
    on_progress: OnProgress | None = None,
    settings: Settings | None = None,
) -> Path:
    """Train a tokenizer and a small Llama on the documents of ``corpus``, or take what an earlier call made.

    Args:
        corpus: folder of documents of any format that has a reader.
        output: folder for model and tokenizer; it appears whole, by rename, with ``base.json`` in it. One made
            from the same documents and settings is left as it is, another one is replaced.
        seconds: training time to aim at on two CPU cores. It sets the number of steps, so the same call gives the
            same model, and a slower machine takes longer.
        seed: of the weights and of the order of the text.
        on_progress: called with the fraction done, 0 to 1, and the current loss in nats a token.
        settings: shape and training settings, `Settings` by default.

    Returns:
        ``output``.

    Raises:
        InputError: ``corpus`` holds no documents.
    """
    settings = settings or Settings()
    identity = {
        "format_version": 1,
        "corpus": _digest(corpus),
        "seconds": seconds,
        "seed": seed,
        "settings": asdict(settings),
    }
    if _is_made_from(output, identity):
        return output
    sentences = read_sentences(corpus)
    tokenizer = build_tokenizer(sentences, settings)
    report = on_progress or (lambda _done, _loss: None)
    model, outcome = _train(sentences, tokenizer, settings, seconds=seconds, seed=seed, on_progress=report)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as temporary:
        folder = Path(temporary) / output.name
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        (folder / "base.json").write_text(json.dumps({**identity, **outcome}, indent=2) + "\n", encoding="utf-8")
        if output.exists():
            shutil.rmtree(output)
        folder.rename(output)
    return output


def read_sentences(corpus: Path) -> list[str]:
    """Every sentence and ``term: value`` line of the documents, in their order.

    Raises:
        InputError: there are no documents, or one can't be read.
    """
    sentences: list[str] = []
    for path in sorted(corpus.rglob("*")):
        reader = reader_for(path)
        if path.is_file() and reader is not None:
            document = reader.read(path.read_bytes(), path.relative_to(corpus).as_posix())
            sentences += [s for section in document.sections for block in section.blocks for s in sentences_of(block)]
    if not sentences:
        raise InputError(f"There are no documents in {corpus}.", hint="Give the folder of the handbook.")
    return sentences


def build_tokenizer(sentences: list[str], settings: Settings) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of at most ``settings.vocab_size`` tokens, with the chat template in it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocab_size,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        model_max_length=settings.max_positions,
        clean_up_tokenization_spaces=False,
    )


def _train(
    sentences: list[str],
    tokenizer: PreTrainedTokenizerFast,
    settings: Settings,
    *,
    seconds: float,
    seed: int,
    on_progress: OnProgress,
) -> tuple[LlamaForCausalLM, dict[str, float]]:
    """Train a fresh model on the sentences; returns it with the numbers that ``base.json`` records."""
    num_steps = max(1, round(seconds * STEPS_PER_S))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _new_model(tokenizer, settings)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.01)
    step, done, mean_loss = 0, 0.0, math.nan
    for rows, labels in _batches(sentences, tokenizer, settings, seed):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * _schedule(step, done)
        loss = model(input_ids=rows, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        mean_loss = loss.item() if step == 1 else 0.95 * mean_loss + 0.05 * loss.item()
        done = step / num_steps
        on_progress(done, mean_loss)
        if done >= 1:
            break
    outcome = {"num_steps": step, "loss": round(mean_loss, 4), "num_parameters": model.num_parameters()}
    return model.eval(), outcome


def _new_model(tokenizer: PreTrainedTokenizerFast, settings: Settings) -> LlamaForCausalLM:
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    ends["pad_token_id"] = tokenizer.pad_token_id
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden_size,
        intermediate_size=settings.intermediate_size,
        num_hidden_layers=settings.num_layers,
        num_attention_heads=settings.hidden_size // settings.head_dim,
        num_key_value_heads=settings.hidden_size // settings.head_dim,
        head_dim=settings.head_dim,
        max_position_embeddings=settings.max_positions,
        tie_word_embeddings=True,
        # 1/sqrt(hidden_size): with the usual 0.02 a narrow model hardly learns to attend to the cue in this time.
        initializer_range=settings.hidden_size**-0.5,
        dtype=torch.float32,
        **ends,
    )
    model = LlamaForCausalLM(config).train()
    model.generation_config = GenerationConfig(do_sample=False, **ends)
    return model


def _schedule(step: int, done: float) -> float:
    """Share of the full learning rate: 30 steps of warm-up, then a cosine down to a twentieth."""
    warmup = min(1.0, (step + 1) / 30)
    return warmup * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done)))


def _batches(
    sentences: list[str], tokenizer: PreTrainedTokenizerFast, settings: Settings, seed: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless batches of sentences in an order that changes with every epoch, sentences of like length together.

    Some sentences stand alone. The others follow a cue, a line with some of their own words, from which the model
    learns to restore them (denoising, as BART does: https://arxiv.org/abs/1910.13461), and so to look back at what
    was mentioned. The cue itself is not predicted.

    Yields:
        tokens and labels, both ``[num_sentences, num_tokens]``; a label is -100 where nothing is to be predicted.
    """
    rng = random.Random(seed)
    begin, end, pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    encoded = tokenizer(sentences)["input_ids"]
    order = list(range(len(sentences)))
    size = settings.batch_sentences
    while True:
        rng.shuffle(order)
        order.sort(key=lambda index: len(encoded[index]) // 2)
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        rng.shuffle(batches)
        for batch in batches:
            cues = [_cue(sentences[index], rng) if rng.random() < settings.cue_share else "" for index in batch]
            heads = [[begin, *tokenizer.encode(cue)] if cue else [begin] for cue in cues]
            tails = [[*encoded[index], end] for index in batch]
            width = max(len(head) + len(tail) for head, tail in zip(heads, tails, strict=True))
            tokens, labels = [], []
            for head, tail in zip(heads, tails, strict=True):
                num_padding = width - len(head) - len(tail)
                tokens.append([*head, *tail, *[pad] * num_padding])
                labels.append([*[_IGNORED] * len(head), *tail, *[_IGNORED] * num_padding])
            yield torch.tensor(tokens), torch.tensor(labels)


def _cue(sentence: str, rng: random.Random) -> str:
    """A line with some of the words of ``sentence`` in their order; an article at its start is written small."""
    share = rng.uniform(0.3, 1.0)
    words = [word for word in sentence.rstrip(".").split() if rng.random() < share]
    if words and words[0] in ("The", "A", "An", "Each", "Every"):
        words[0] = words[0].lower()
    return " ".join(words) + "\n"


def _digest(corpus: Path) -> str:
    """A digest over names and bytes of all files of ``corpus``."""
    state = hashlib.sha256()
    for path in sorted(path for path in corpus.rglob("*") if path.is_file()):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        state.update(f"{path.relative_to(corpus).as_posix()}\0{content}\n".encode())
    return f"sha256:{state.hexdigest()}"


def _is_made_from(output: Path, identity: dict[str, object]) -> bool:
    """Return True if ``output`` is a finished base with this ``identity``."""
    record = output / "base.json"
    if not record.is_file():
        return False
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return all(found.get(key) == value for key, value in identity.items())
