"""Tiny models exported to ONNX by torch, with the names that optimum gives inputs and outputs."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path


def export_decoder(base: Path, folder: Path, *, with_past: bool = True) -> Path:
    """Write a causal language model's ONNX file, its configuration and its tokenizer into ``folder``."""
    import torch
    from transformers import AutoModelForCausalLM

    from llamafarm_ray.models.convert.exports.onnx_file import LAYERS_NAME, export_onnx

    model = AutoModelForCausalLM.from_pretrained(str(base), attn_implementation="eager").eval()
    if with_past:
        folder.mkdir(parents=True, exist_ok=True)
        export_onnx(model, folder)
        (folder / LAYERS_NAME).unlink()
        return _with_files(base, folder)

    class Decoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, input_ids, attention_mask, position_ids):
            return self.model(
                input_ids, attention_mask=attention_mask, position_ids=position_ids, use_cache=False
            ).logits

    dynamic = torch.export.Dim.DYNAMIC
    inputs = [torch.tensor([[5, 6]]), torch.ones(1, 2).long(), torch.tensor([[0, 1]])]
    names = ["input_ids", "attention_mask", "position_ids"]
    _export(Decoder(), inputs, [{1: dynamic}] * 3, names, ["logits"], folder)
    return _with_files(base, folder)


def export_encoder(base: Path, folder: Path) -> Path:
    """Likewise an embedding model's, with the files that say how its vectors are made."""
    import torch
    from transformers import AutoModel

    model = AutoModel.from_pretrained(str(base), attn_implementation="eager").eval()

    class Encoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, input_ids, attention_mask):
            return self.model(input_ids, attention_mask=attention_mask).last_hidden_state

    dynamic = torch.export.Dim.DYNAMIC
    inputs = [torch.tensor([[5, 6, 7]]), torch.ones(1, 3).long()]
    sizes = [{1: dynamic}, {1: dynamic}]
    _export(Encoder(), inputs, sizes, ["input_ids", "attention_mask"], ["last_hidden_state"], folder)
    return _with_files(base, folder)


def _export(model, inputs, sizes, names, outputs, folder):
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.onnx.export(
            model,
            tuple(inputs),
            dynamic_shapes=tuple(sizes),
            input_names=names,
            output_names=outputs,
            dynamo=True,
            verbose=False,
        )
    exported.save(folder / "model.onnx")


def _with_files(base: Path, folder: Path) -> Path:
    """All of the model's other files but its weights."""
    for path in base.rglob("*"):
        if path.is_file() and path.suffix != ".safetensors":
            target = folder / path.relative_to(base)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    return folder
