"""Tiny models exported to ONNX by torch, with the names that optimum gives inputs and outputs."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path


def export_decoder(base: Path, folder: Path, *, with_past: bool = True) -> Path:
    """Write a causal language model's ONNX file, its configuration and its tokenizer into ``folder``."""
    import torch
    from transformers import AutoModelForCausalLM, DynamicCache

    model = AutoModelForCausalLM.from_pretrained(str(base), attn_implementation="eager").eval()
    config = model.config
    num_layers, heads, width = config.num_hidden_layers, config.num_key_value_heads, config.head_dim

    class Decoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, input_ids, attention_mask, position_ids, past=()):
            cache = DynamicCache(config=config)
            for layer, pair in enumerate(past):
                cache.update(*pair, layer)
            out = self.model(input_ids, attention_mask=attention_mask, position_ids=position_ids, past_key_values=cache)
            kept = [kept for layer in cache.layers for kept in (layer.keys, layer.values)] if with_past else []
            return (out.logits, *kept)

    places = [f"{layer}.{kind}" for layer in range(num_layers) for kind in ("key", "value")] if with_past else []
    num_past, dynamic = 3 if with_past else 0, torch.export.Dim.DYNAMIC
    inputs = [torch.tensor([[5, 6]]), torch.ones(1, num_past + 2).long(), torch.tensor([[num_past, num_past + 1]])]
    sizes: list[object] = [{1: dynamic}, {1: dynamic}, {1: dynamic}]
    if with_past:
        shape = (1, heads, num_past, width)
        inputs.append([(torch.randn(shape), torch.randn(shape)) for _ in range(num_layers)])
        sizes.append([({2: dynamic}, {2: dynamic}) for _ in range(num_layers)])
    names = ["input_ids", "attention_mask", "position_ids", *(f"past_key_values.{place}" for place in places)]
    _export(Decoder(), inputs, sizes, names, ["logits", *(f"present.{place}" for place in places)], folder)
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
