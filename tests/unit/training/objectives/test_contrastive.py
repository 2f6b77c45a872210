import json
import threading

import pytest
import torch
from objective_steps import assert_same, at_once, cut, make_strategy, moved, one_of, step, summed, text, tokenised
from tiny_model import make_tiny_tokenizer
from torch.nn import functional

from llamafarm_ray.config.sections.objectives import ContrastiveSettings
from llamafarm_ray.models.embedding import pooled
from llamafarm_ray.training.objectives import ContrastiveObjective, find_objective
from llamafarm_ray.training.objectives.contrastive import Candidates

ROWS = [
    {
        "anchor": text(index),
        "positive": text(100 + index, most=20),
        "negatives": [text(200 + 10 * index + number) for number in range(index % 3)],
    }
    for index in range(8)
]


@pytest.fixture(scope="session")
def bert(tmp_path_factory):
    """A random two-layer BERT, with dropout, with a tokenizer that frames texts."""
    from tokenizers.processors import TemplateProcessing
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("bert") / "base"
    tokenizer = make_tiny_tokenizer(None)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", tokenizer.bos_token_id), ("</s>", tokenizer.eos_token_id)]
    )
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        pad_token_id=tokenizer.pad_token_id,
        hidden_dropout_prob=0.1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(config).save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="session")
def bert_tokenizer(bert):
    from llamafarm_ray.models.tokenizer import load_tokenizer

    return load_tokenizer(bert)


def without_dropout(strategy):
    for module in strategy.module.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    for module in strategy.module.modules():
        if hasattr(module, "dropout_prob"):
            module.dropout_prob = 0.0
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.0
    return strategy


def plain_step(objective, strategy, batch):
    """InfoNCE in one pass over one batch, with everything in memory."""
    strategy.module.zero_grad()
    vectors = pooled(
        strategy.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state,
        batch.attention_mask,
        objective.settings.pooling,
    )
    starts = [sum(batch.sequences_per_row[:row]) for row in range(batch.num_rows)]
    others = [place for place in range(len(vectors)) if place not in starts]
    scores = vectors[starts] @ vectors[others].T / objective.settings.temperature
    loss = functional.cross_entropy(scores, torch.tensor([others.index(start + 1) for start in starts]))
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in strategy.module.named_parameters() if p.grad is not None}
    return float(loss.detach()), gradients


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("pooling", ["mean", "last", "cls"])
def test_two_passes_over_micro_batches_are_one_pass_over_one_batch(bert, bert_tokenizer, method, pooling):
    strategy = without_dropout(make_strategy(bert, method, task="embedding"))
    moved(strategy, 0.05)
    objective = ContrastiveObjective(ContrastiveSettings(pooling=pooling, hard_negatives=2, temperature=0.2))
    rows = tokenised(objective, bert_tokenizer, ROWS, 64)
    (whole,) = cut(rows, 8)
    loss, gradients = plain_step(objective, strategy, whole)
    for batches in ([whole], cut(rows, 1), cut(rows, 3, empty=2)):
        found = step(objective, strategy, batches)
        assert found.loss == pytest.approx(loss, abs=1e-6)
        for name, gradient in gradients.items():
            torch.testing.assert_close(found.gradients[name], gradient, atol=1e-6, rtol=0, msg=name)
    assert max(float(gradient.abs().max()) for gradient in gradients.values()) > 1e-4


def test_a_decoder_is_trained_by_its_last_token(base_model, tokenizer):
    strategy = make_strategy(base_model, "lora", task="embedding")
    moved(strategy)
    objective = ContrastiveObjective(ContrastiveSettings(pooling="last"))
    rows = tokenised(objective, tokenizer, ROWS, 64)
    assert all(row.input_ids[-1] == tokenizer.eos_token_id for row in rows)
    assert_same(step(objective, strategy, cut(rows, 8)), step(objective, strategy, cut(rows, 3)), 2e-6)


def test_two_workers_are_one(bert, bert_tokenizer):
    objective = ContrastiveObjective(ContrastiveSettings(hard_negatives=2, temperature=0.2))
    rows = tokenised(objective, bert_tokenizer, ROWS[:7], 64)
    lock = threading.Lock()

    def work(rank, exchange):
        with lock:
            strategy = without_dropout(make_strategy(bert, "full", task="embedding"))
        share = rows[rank::2]
        return step(objective, one_of(strategy, rank, 2, exchange), cut(share, 2)), len(share)

    steps, totals = zip(*at_once(work, 2), strict=True)
    strategy = without_dropout(make_strategy(bert, "full", task="embedding"))
    assert_same(step(objective, strategy, cut(rows, 7)), summed(steps, totals), 2e-6)


def test_a_worker_without_rows_takes_part(bert, bert_tokenizer):
    objective = ContrastiveObjective()
    rows = tokenised(objective, bert_tokenizer, ROWS[:2], 64)
    lock = threading.Lock()

    def work(rank, exchange):
        with lock:
            strategy = without_dropout(make_strategy(bert, "full", task="embedding"))
        strategy.model.train()
        batches = cut(rows, 2) if rank == 0 else cut([], 2, empty=1)
        contexts = objective.prepare(one_of(strategy, rank, 2, exchange), batches, 2)
        found = objective.loss(strategy.model, batches[0], contexts[0])
        found.total.backward()
        return float(found.reported), [p.grad is not None for p in strategy.module.parameters()]

    (value, with_rows), (nothing, without) = at_once(work, 2)
    assert value > 0
    assert nothing == 0.0
    assert with_rows == without


def test_both_passes_drop_the_same(bert, bert_tokenizer):
    strategy = make_strategy(bert, "full", task="embedding")
    objective = ContrastiveObjective()
    batches = cut(tokenised(objective, bert_tokenizer, ROWS, 64), 2)
    torch.manual_seed(3)
    contexts = objective.prepare(strategy, batches, 8)
    after = torch.get_rng_state()
    seen = []
    embed = objective._embed
    objective._embed = lambda model, batch: seen.append(embed(model, batch)) or seen[-1]
    for batch, context in zip(reversed(batches), reversed(contexts), strict=True):
        objective.loss(strategy.model, batch, context)
    assert torch.equal(torch.get_rng_state(), after), "the second pass leaves the generator alone"
    again = list(reversed(seen))
    seen.clear()
    torch.manual_seed(3)
    objective.prepare(strategy, batches, 8)
    for one, other in zip(again, seen, strict=True):
        torch.testing.assert_close(one, other)
    seen.clear()
    objective.prepare(strategy, batches, 8)
    assert not torch.allclose(again[0], seen[0]), "there is dropout"


def test_the_same_text_is_no_negative_of_itself():
    #        anchor positive  anchor positive negative  anchor positive
    texts = [b"q1", b"a", b"q2", b"a", b"n", b"q1", b"b"]
    candidates = Candidates.of([2, 3, 2], texts)
    assert candidates.anchors == [0, 2, 5]
    assert candidates.searched == [1, 3, 4, 6]
    assert candidates.matches.tolist() == [0, 1, 3]
    assert candidates.known.tolist() == [
        [False, True, False, True],  # the second row's positive is its own; the third's is of the same anchor
        [True, False, False, False],
        [True, True, False, False],
    ]


def test_texts_get_their_prefixes_and_special_tokens_and_negatives_are_counted(bert_tokenizer):
    settings = ContrastiveSettings(query_prefix="query: ", passage_prefix="passage: ", hard_negatives=2)
    row = {"anchor": "llama", "positive": "farm", "negatives": ["water", "land", "people"]}
    (found,) = ContrastiveObjective(settings).tokenise(bert_tokenizer, row, 64)
    texts, start = [], 0
    for length in found.lengths:
        texts.append(bert_tokenizer.decode(found.input_ids[start : start + length]))
        start += length
    expected = ["query: llama", "passage: farm", "passage: water", "passage: land"]
    assert texts == [f"<s>{each}</s>" for each in expected]


def test_a_long_text_loses_its_end_and_keeps_its_special_tokens(bert_tokenizer):
    row = {"anchor": "llama", "positive": "farm water " * 50}
    (found,) = ContrastiveObjective().tokenise(bert_tokenizer, row, 16)
    assert found.lengths[1] == 16
    assert found.input_ids[-1] == bert_tokenizer.eos_token_id


@pytest.mark.parametrize("row", [{"anchor": " ", "positive": "a"}, {"anchor": "a", "positive": None}])
def test_a_row_without_text_is_dropped(bert_tokenizer, row):
    assert ContrastiveObjective().tokenise(bert_tokenizer, row, 16)[0].dropped == "empty text"


@pytest.mark.parametrize(("pooling", "expected"), [("mean", [1.5, 2.0]), ("last", [2.0, 4.0]), ("cls", [1.0, 0.0])])
def test_pooling_sees_no_padding(pooling, expected):
    hidden = torch.tensor([[[1.0, 0.0], [2.0, 4.0], [9.0, 9.0]]])
    found = pooled(hidden, torch.tensor([[1, 1, 0]]), pooling)
    assert torch.allclose(found[0], functional.normalize(torch.tensor(expected), dim=0))


def test_a_few_steps_bring_matches_together(bert, bert_tokenizer):
    strategy = make_strategy(bert, "full", task="embedding")
    objective = find_objective("contrastive", ContrastiveSettings(temperature=0.1))
    batches = cut(tokenised(objective, bert_tokenizer, ROWS, 64), 3)
    optimizer = torch.optim.AdamW(strategy.module.parameters(), lr=3e-3)
    found = []
    for _ in range(15):
        found.append(step(objective, strategy, batches))
        optimizer.step()
    assert found[-1].loss < 0.5 * found[0].loss
    assert found[-1].figures["retrieval_accuracy"] > 0.9


def test_what_sentence_transformers_reads_is_written_beside_the_weights(tmp_path):
    settings = ContrastiveSettings(pooling="last", query_prefix="query: ")
    ContrastiveObjective(settings).write_beside(tmp_path, width=32, max_length=64)
    modules = json.loads((tmp_path / "modules.json").read_text())
    assert [module["path"] for module in modules] == ["", "1_Pooling", "2_Normalize"]
    assert all((tmp_path / module["path"]).is_dir() for module in modules)
    pooling = json.loads((tmp_path / "1_Pooling/config.json").read_text())
    assert [key for key, value in pooling.items() if key.startswith("pooling_mode") and value] == [
        "pooling_mode_lasttoken"
    ]
    assert pooling["word_embedding_dimension"] == 32
    described = json.loads((tmp_path / "config_sentence_transformers.json").read_text())
    assert described["prompts"]["query"] == "query: "
