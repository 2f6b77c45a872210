"""Packed sequences see themselves only, in every architecture that says it can be packed."""

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from llamafarm_ray.errors import UnsupportedError
from llamafarm_ray.models.loading import can_pack
from llamafarm_ray.training.batches import Layout, collate
from llamafarm_ray.training.compute.attention import packed_attention, use_packed_attention
from llamafarm_ray.training.compute.forward import inputs_of, trained_logits
from llamafarm_ray.training.objectives.sequences import batch_of, sequences_of
from llamafarm_ray.training.rows import Row

SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
}
FAMILIES = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "mistral": {"sliding_window": 5},
    "gemma3_text": {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]},
    "phi3": {},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
    "gpt_neox": {"num_key_value_heads": None},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "olmo2": {},
}


def make(family, **more):
    config = AutoConfig.for_model(family, **{**SMALL, **FAMILIES.get(family, {}), **more})
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


def rows():
    rng = np.random.default_rng(0)
    made = []
    for length in (3, 17, 9, 1, 12):
        ids = rng.integers(1, 64, length)
        labels = np.where(np.arange(length) < length // 2, -100, ids)
        labels[0] = -100
        made.append(Row(ids, labels, np.array([length])))
    return made


@pytest.mark.parametrize("family", FAMILIES)
def test_each_token_gets_the_logits_that_its_sequence_has_alone(family):
    model = make(family)
    assert can_pack(model)
    alone = [model(input_ids=torch.tensor(row.input_ids)[None]).logits[0] for row in rows()]
    use_packed_attention(model)
    packed = model(**inputs_of(collate(rows(), Layout(packed=True, pad_id=0)))).logits[0]
    assert torch.allclose(packed, torch.cat(alone), atol=1e-5)
    padded = model(**inputs_of(collate(rows(), Layout(packed=False, pad_id=0)))).logits
    for index, logits in enumerate(alone):
        assert torch.allclose(padded[index, : len(logits)], logits, atol=1e-5)


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_logits_of_trained_tokens_are_those_of_all_logits_at_their_places(family, packed):
    model = make(family)
    use_packed_attention(model)
    batch = collate(rows(), Layout(packed=packed, pad_id=0))
    found = trained_logits(model, batch)
    expected, targets, owners = [], [], []
    for index, row in enumerate(rows()):
        logits = model(input_ids=torch.tensor(row.input_ids)[None]).logits[0]
        for place in np.flatnonzero(row.labels != -100):
            expected.append(logits[place - 1])
            targets.append(int(row.labels[place]))
            owners.append(index)
    assert found.targets.tolist() == targets
    assert found.sequence.tolist() == owners
    assert torch.allclose(found.logits, torch.stack(expected), atol=1e-5)


def rows_of_one_prompt():
    rng = np.random.default_rng(1)
    prefix = rng.integers(1, 64, 11)
    made = []
    for length in (3, 1, 9, 6):
        ids = np.concatenate([prefix, rng.integers(1, 64, length)])
        labels = np.where(np.arange(len(ids)) < len(prefix), -100, ids)
        made.append(Row(ids, labels, np.array([len(ids)])))
    return made


@pytest.mark.parametrize("family", FAMILIES)
def test_a_shared_prefix_changes_no_logits_and_no_gradients(family):
    model = make(family)
    use_packed_attention(model)
    apart = collate(rows_of_one_prompt(), Layout(packed=True, pad_id=0))
    shared = collate(rows_of_one_prompt(), Layout(packed=True, pad_id=0, shares_prefix=True))
    # The last token of the prefix stays with each sequence: the logits there are about its first trained one.
    assert shared.num_shared == 10
    assert shared.input_ids.shape[1] == apart.input_ids.shape[1] - 3 * 10
    found, gradients = [], []
    for batch in (apart, shared):
        model.zero_grad()
        result = trained_logits(model, batch)
        torch.nn.functional.cross_entropy(result.logits, result.targets, reduction="sum").backward()
        found.append(result)
        gradients.append([parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None])
    assert found[0].targets.tolist() == found[1].targets.tolist()
    assert found[0].sequence.tolist() == found[1].sequence.tolist()
    assert torch.allclose(found[0].logits, found[1].logits, atol=1e-5)
    assert all(torch.allclose(one, other, atol=1e-4) for one, other in zip(*gradients, strict=True))


def test_sequences_of_a_batch_are_whole_though_their_prefix_is_shared():
    rows = rows_of_one_prompt()
    batch = collate(rows, Layout(packed=True, pad_id=0, shares_prefix=True))
    for (ids, labels), row in zip(sequences_of(batch), rows, strict=True):
        assert (ids.tolist(), labels.tolist()) == (row.input_ids.tolist(), row.labels.tolist())
    again = batch_of(sequences_of(batch), batch)
    assert torch.equal(again.input_ids, batch.input_ids)
    assert again.num_shared == batch.num_shared


@pytest.mark.parametrize(
    ("rows", "num_shared"),
    [
        ([([1] * 9, [-100] * 9), ([1] * 9, [-100] * 9)], 8),  # a token of its own is left to each
        ([([1] * 9, [-100] * 5 + [1] * 4), ([1] * 20, [-100] * 20), ([1] * 20, [-100] * 20)], 4),
        ([([1, 2, *range(9)], [-100] * 11), ([1, 3, *range(9)], [-100] * 11)], 0),
        ([(list(range(9)), [-100] * 9)], 0),
        ([([3] * 30, [3] * 30), ([3] * 30, [3] * 30)], 0),
    ],
    ids=["alike", "trained early", "little shared", "alone", "all trained"],
)
def test_what_is_shared_is_not_trained_and_worth_it(rows, num_shared):
    made = [Row(np.array(ids), np.array(labels), np.array([len(ids)])) for ids, labels in rows]
    assert collate(made, Layout(packed=True, pad_id=0, shares_prefix=True)).num_shared == num_shared
    assert collate(made, Layout(packed=False, pad_id=0, shares_prefix=True)).num_shared == 0


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
def test_a_batch_of_nothing_still_runs_the_model(packed):
    model = make("llama")
    use_packed_attention(model)
    found = trained_logits(model, collate([], Layout(packed=packed, pad_id=0)))
    assert found.targets.tolist() == [-100]
    assert found.logits.requires_grad


@pytest.mark.parametrize("family", ["mamba", "gpt_oss"])
def test_models_whose_tokens_meet_elsewhere_are_not_packed(family):
    sizes = {"num_local_experts": 2, "num_experts_per_tok": 1} if family == "gpt_oss" else {}
    with torch.device("meta"):
        assert not can_pack(AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **{**SMALL, **sizes})))


def test_a_term_that_is_not_computed_is_refused():
    states = torch.zeros(1, 2, 4, 8)
    with pytest.raises(UnsupportedError, match="adds 's_aux'"):
        packed_attention(
            torch.nn.Identity(), states, states, states, None, cu_seq_lens_q=torch.tensor([0, 4]), s_aux=states
        )
