"""What each method trains, where, and what it refuses."""

import re
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from method_models import ARCHITECTURES, IDS, make_model, output, trained, wrapped

from llamafarm_ray.config import MethodParameters
from llamafarm_ray.errors import UnsupportedError, UserError
from llamafarm_ray.models.loading import inspect_architecture, load_model
from llamafarm_ray.models.placement import find_block_outputs
from llamafarm_ray.training.methods import METHODS, Precision, find_method

ADAPTERS = ["lora", "adapter", "prefix_tuning", "hybrid_lora_adapter"]


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("llama"))


def loss(model):
    return model(input_ids=IDS, attention_mask=torch.ones_like(IDS), labels=IDS, use_cache=False).loss


def gradients(model):
    loss(model.train()).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("name", ["lora", "adapter", "hybrid_lora_adapter"])
def test_training_starts_from_the_base_model_exactly(llama, name):
    _, model = wrapped(llama, name)
    assert torch.equal(output(model.eval()), output(load_model(llama, dtype=torch.float32).eval()))


@pytest.mark.parametrize("name", ADAPTERS)
def test_training_lowers_the_loss_and_leaves_the_base_alone(llama, name):
    _, model = wrapped(llama, name, MethodParameters())
    frozen = {n: p.detach().clone() for n, p in model.named_parameters() if not p.requires_grad}
    before = loss(model.train()).item()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.02)
    for _ in range(20):
        optimizer.zero_grad()
        loss(model).backward()
        optimizer.step()
    assert loss(model).item() < before - 0.02
    assert all(torch.equal(p, frozen[n]) for n, p in model.named_parameters() if not p.requires_grad)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("name", ["lora", "adapter", "hybrid_lora_adapter"])
def test_gradient_checkpointing_changes_no_gradient(llama, name, reentrant):
    expected = gradients(wrapped(llama, name)[1])
    model = wrapped(llama, name)[1]
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    model.enable_input_require_grads()
    found = gradients(model)
    assert found.keys() == expected.keys()
    assert all(torch.allclose(found[key], expected[key], atol=1e-6) for key in expected)


@pytest.mark.parametrize("name", METHODS)
def test_an_evaluation_in_between_changes_no_gradient(base_model, name):
    _, model = wrapped(base_model, name)
    expected = gradients(model)
    output(model.eval())
    model.zero_grad()
    found = gradients(model)
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_a_prefix_refuses_gradient_checkpointing_which_would_drop_it(llama):
    method, model = wrapped(llama, "prefix_tuning")
    assert not method.checkpointable
    with pytest.raises(UnsupportedError, match="drops the prefix"):
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def test_a_prefix_trains_with_and_without_a_mask_alike(llama):
    _, model = wrapped(llama, "prefix_tuning", MethodParameters(num_virtual_tokens=3))
    with_mask = gradients(model)
    model.zero_grad()
    model(input_ids=IDS, labels=IDS).loss.backward()
    for name, p in model.named_parameters():
        if p.requires_grad:
            assert torch.allclose(p.grad, with_mask[name], atol=1e-6)


@pytest.mark.parametrize("name", [*ADAPTERS, "full"])
def test_in_bf16_what_is_trained_is_kept_in_fp32(llama, name):
    method = find_method(name)(MethodParameters())
    model = method.load(llama, precision=Precision("bf16"), device=torch.device("cpu"))
    model = method.wrap(model, base_model=llama)
    assert {tensor.dtype for tensor in trained(model).values()} == {torch.float32}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.isfinite(loss(model))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_adapters_follow_attention_and_feed_forward_network_of_every_block(tmp_path, architecture):
    task = "embedding" if architecture == "bert" else "causal-lm"
    base = make_model(tmp_path, architecture, task=task)
    ends = {
        "gpt2": ("attn.c_proj", "mlp.c_proj"),
        "gpt_neox": ("attention.dense", "mlp.dense_4h_to_h"),
        "opt": ("self_attn.out_proj", "fc2"),
        "phi": ("self_attn.dense", "mlp.fc2"),
        "bert": ("attention.output.dense", "output.dense"),
    }.get(architecture, ("self_attn.o_proj", "mlp.down_proj"))
    for adapter_type, expected in (("houlsby", ends), ("pfeiffer", ends[1:])):
        _, model = wrapped(base, "adapter", MethodParameters(adapter_type=adapter_type), task=task)
        names = {n.partition(".bottleneck_down")[0] for n in trained(model) if "bottleneck_down" in n}
        assert len(names) == 2 * len(expected)
        inside = {name.rpartition(".0.")[2] if ".0." in name else name.rpartition(".1.")[2] for name in names}
        assert inside == set(expected)


def test_a_mixture_of_experts_is_refused_with_what_can_be_done(tmp_path):
    base = make_model(tmp_path, "mixtral")
    for name in ("adapter", "hybrid_lora_adapter"):
        with pytest.raises(UserError, match=r"Block model\.layers\.0 .*feed-forward network.*Use method lora"):
            find_method(name)(MethodParameters()).check(inspect_architecture(base))


@given(
    prefix=st.sampled_from(["model.layers", "transformer.h", "layer"]),
    count=st.integers(1, 5),
    hidden=st.integers(2, 64),
    attention=st.sampled_from(["self_attn.o", "attention.output.dense", "Attn.x"]),
    feed_forward=st.sampled_from(["mlp.down", "output.dense", "fc2"]),
)
def test_the_pattern_matches_the_ends_of_blocks_and_nothing_else(prefix, count, hidden, attention, feed_forward):
    layers = {}
    for block in range(count):
        start = f"{prefix}.{block}"
        first = attention.partition(".")[0]
        layers |= {f"{start}.{first}.q": (hidden, hidden), f"{start}.{attention}": (hidden, hidden)}
        layers |= {f"{start}.in": (hidden, hidden + 1), f"{start}.{feed_forward}": (hidden + 1, hidden)}
    layers |= {"pooler.dense": (hidden, hidden), "tower.blocks.0.output.dense": (hidden, hidden)}
    found = find_block_outputs(layers, hidden)
    assert (found.num_blocks, found.attention, found.feed_forward) == (count, (attention,), (feed_forward,))
    for after_attention, ends in ((True, (attention, feed_forward)), (False, (feed_forward,))):
        pattern = found.pattern(after_attention=after_attention)
        matched = {name for name in layers if re.fullmatch(pattern, name)}
        assert matched == {f"{prefix}.{block}.{end}" for block in range(count) for end in ends}


def test_the_width_of_an_adapter_is_a_share_of_the_models_or_given(llama):
    for parameters, width in (
        (MethodParameters(reduction_factor=4), 8),
        (MethodParameters(reduction_factor=1000), 1),
        (MethodParameters(bottleneck_dim=5), 5),
    ):
        _, model = wrapped(llama, "adapter", parameters)
        down = {tuple(t.shape) for n, t in trained(model).items() if "bottleneck_down" in n and n.endswith("weight")}
        assert down == {(width, 32)}


def test_ranks_and_scales_follow_their_patterns(llama):
    parameters = MethodParameters(
        r=4, lora_alpha=8, rank_pattern={"down_proj": 2, r"layers\.1\.self_attn\..*": 6}, alpha_pattern={"q_proj": 16}
    )
    _, model = wrapped(llama, "lora", parameters)
    ranks, scales = {}, {}
    for name, module in model.named_modules():
        if hasattr(module, "lora_A"):
            short = name.partition("layers.")[2]
            ranks[short], scales[short] = module.r["default"], module.scaling["default"]
    assert ranks["0.mlp.down_proj"] == ranks["1.mlp.down_proj"] == 2
    assert ranks["1.self_attn.o_proj"] == ranks["1.self_attn.q_proj"] == 6
    assert ranks["0.self_attn.o_proj"] == 4
    assert scales["0.self_attn.q_proj"] == 16 / 4
    assert scales["0.self_attn.o_proj"] == 8 / 4


@pytest.mark.parametrize("key", ["rank_pattern", "alpha_pattern"])
def test_a_pattern_that_means_nothing_is_refused(llama, key):
    architecture = inspect_architecture(llama)
    with pytest.raises(UserError, match=rf"{key} has 'q_porj', which matches no adapted layer.*Did you mean q_proj"):
        find_method("lora")(MethodParameters(**{key: {"q_porj": 8}})).check(architecture)
    with pytest.raises(UserError, match=rf"{key} has 'q\[', which is no regular expression"):
        find_method("lora")(MethodParameters(**{key: {"q[": 8}})).check(architecture)
    with pytest.raises(UserError, match="matches no adapted layer"):
        find_method("lora")(MethodParameters(target_modules=("q_proj",), **{key: {"v_proj": 8}})).check(architecture)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_all_linear_is_every_linear_layer_but_the_head_without_a_warning(tmp_path, architecture):
    base = make_model(tmp_path, architecture)
    adapted = []
    for targets in ("auto", "all-linear"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            _, model = wrapped(base, "lora", MethodParameters(target_modules=targets))
        adapted.append({name for name, module in model.named_modules() if hasattr(module, "lora_A")})
    assert adapted[0] == adapted[1]
    assert len(adapted[0]) == len(inspect_architecture(base).linear_layers)


def test_a_prefix_needs_a_cache_and_room(llama, tmp_path):
    encoder = inspect_architecture(make_model(tmp_path, "bert", task="embedding"), task="embedding")
    assert not encoder.is_causal
    with pytest.raises(UserError, match="is an encoder"):
        find_method("prefix_tuning")(MethodParameters()).check(encoder)
    method = find_method("prefix_tuning")(MethodParameters(num_virtual_tokens=4096))
    assert method.num_reserved_positions == 4096
    with pytest.raises(UserError, match=r"num_virtual_tokens is 4096, but .* made for 2048 tokens"):
        method.check(inspect_architecture(llama))


def test_every_method_says_how_it_may_be_trained_and_served():
    plain = {name: method(MethodParameters()) for name, method in METHODS.items()}
    assert {name for name, method in plain.items() if method.served_by == "vllm"} == {"lora", "qlora", "full"}
    assert find_method("lora")(MethodParameters(use_dora=True)).served_by == "peft"
    assert {name for name, method in plain.items() if not method.packable} == {"prefix_tuning"}
    assert {name for name, method in plain.items() if not method.checkpointable} == {"prefix_tuning"}
    assert {name for name, method in plain.items() if method.not_shardable} == {"qlora"}
    assert find_method("lora")(MethodParameters(use_dora=True)).not_shardable
