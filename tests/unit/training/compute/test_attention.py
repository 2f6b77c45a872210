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
