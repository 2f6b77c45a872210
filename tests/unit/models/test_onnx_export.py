"""A model exported to ONNX computes the same logits in its engine, on a whole text and on what it kept of the text."""

import subprocess

import pytest
import torch
from family_models import EXPERTS, FAMILIES, family_model
from tiny_model import make_tiny_tokenizer

from llamafarm_ray.errors import UnsupportedError
from llamafarm_ray.models.convert.exports import onnx_file
from llamafarm_ray.models.convert.exports.onnx_file import LAYERS_NAME, export_onnx, write_onnx_model
from llamafarm_ray.serving.engines.onnx import layer_outputs, onnx_decoder

IDS = list(range(3, 203))
"""Longer than the sliding windows of the families that have one."""


@pytest.mark.long  # a Llama's are the short tier's: each conversion to ONNX compares both
@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in EXPERTS])
def test_logits_and_the_outputs_of_layers_are_those_of_transformers(tmp_path, family):
    tokenizer = make_tiny_tokenizer()
    model = family_model(family, vocab_size=len(tokenizer))
    model.config.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = model(input_ids=torch.tensor([IDS]), output_hidden_states=True)
    export_onnx(model, tmp_path)
    decoder = onnx_decoder(tmp_path)
    cache = decoder.new_cache()
    parts = [decoder.logits(part, cache, all_of_them=True) for part in (IDS[:120], IDS[120:-1], IDS[-1:])]
    assert torch.allclose(torch.cat(parts), expected.logits[0], atol=2e-4)
    layers = layer_outputs(tmp_path / LAYERS_NAME, IDS)
    assert len(layers) == model.config.num_hidden_layers
    for found, hidden in zip(layers, expected.hidden_states[1:], strict=True):
        assert torch.allclose(found, hidden[0], atol=2e-4)


def test_a_model_that_cannot_be_exported_is_told_with_the_reason(tmp_path, monkeypatch, capsys):
    def run_here(command, **_):
        """Run the exporter's command line in this process, which has imported what that takes seconds to import."""
        status = onnx_file.main(command[3:])
        return subprocess.CompletedProcess(command, status, stderr=capsys.readouterr().err)

    monkeypatch.setattr(onnx_file.subprocess, "run", run_here)
    with pytest.raises(UnsupportedError, match=r"can't be exported to ONNX: .*nothing-there"):
        write_onnx_model(tmp_path / "nothing-there", tmp_path, "fp32")
