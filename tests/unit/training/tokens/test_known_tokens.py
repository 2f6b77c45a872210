"""Tokens that the base model has no embedding for are named before a worker meets them."""

import json

import pyarrow as pa
import pytest
from tiny_model import make_tiny_model

from llamafarm_ray.errors import InputError
from llamafarm_ray.training.objectives.sft import SftObjective
from llamafarm_ray.training.tokens.tokenised import _tokenise_rows

ROWS = pa.Table.from_pylist(
    [{"messages": [{"role": "user", "content": "A llama?"}, {"role": "assistant", "content": "Water boils."}]}]
)


@pytest.mark.parametrize("is_nested", [False, True])
def test_a_tokenizer_with_more_tokens_than_the_model_is_refused_where_a_row_has_one(tmp_path, is_nested):
    base = make_tiny_model(tmp_path / "base")
    _, (row,) = _tokenise_rows(ROWS, base_model=base, objective=SftObjective(), max_length=64)
    highest = max(row.input_ids)
    config = json.loads((base / "config.json").read_text())
    for known in (highest + 1, highest):
        said = {"model_type": "llama", "text_config": {"vocab_size": known}} if is_nested else {"vocab_size": known}
        (base / "config.json").write_text(json.dumps({**config, **said}))
        if known > highest:
            _tokenise_rows(ROWS, base_model=base, objective=SftObjective(), max_length=64)
            continue
        with pytest.raises(InputError, match=rf"token {highest} \(.*no embedding: it has {highest}\."):
            _tokenise_rows(ROWS, base_model=base, objective=SftObjective(), max_length=64)
