import pytest

from llamafarm_ray.errors import InputError
from llamafarm_ray.models.folder import check_base_model
from llamafarm_ray.models.loading import inspect_architecture


def folder_with(tmp_path, *names):
    for name in names:
        (tmp_path / name).write_text("{}")
    return tmp_path


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "no config.json"),
        (["config.json"], r"no \*.safetensors"),
        (["config.json", "pytorch_model.bin"], r"\.bin \(pickle\) files only.*Convert"),
        (["config.json", "model.safetensors"], "no tokenizer"),
    ],
)
def test_a_folder_that_lacks_a_part_is_refused_by_name(tmp_path, names, message):
    with pytest.raises(InputError, match=message):
        check_base_model(folder_with(tmp_path, *names))


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="nowhere' is not a folder"):
        check_base_model(tmp_path / "nowhere")


def test_a_config_of_no_known_model_is_refused(tmp_path):
    with pytest.raises(InputError, match="no causal language model"):
        inspect_architecture(folder_with(tmp_path, "config.json"))


def test_the_architecture_is_known_without_the_weights(base_model, tmp_path):
    import json

    found = inspect_architecture(base_model)
    weights = sum((base_model / "model.safetensors").stat().st_size for _ in [0])
    assert found.num_parameters * 4 == pytest.approx(weights, rel=0.05)
    assert found.linear_modules == ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj")
    assert found.max_positions == json.loads((base_model / "config.json").read_text())["max_position_embeddings"]


def test_positions_before_the_padding_token_s_id_are_not_for_text(tmp_path):
    from transformers import RobertaConfig

    sizes = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = RobertaConfig(intermediate_size=16, max_position_embeddings=18, pad_token_id=1, **sizes)
    config.save_pretrained(tmp_path)
    assert inspect_architecture(tmp_path, task="embedding").max_positions == 16
