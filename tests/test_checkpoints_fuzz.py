"""A few hundred inputs of every boundary; `python tests/fuzz_sources.py` tries as many as wanted."""

import pytest
from fuzz_sources import boundaries, run

NAMES = (
    *("config", "tokenizer", "tokenizer_config", "generation_config", "special_tokens_map", "added_tokens"),
    *("index", "safetensors", "gguf"),
)


@pytest.mark.parametrize("name", NAMES)
def test_damaged_sources_are_sentences(name):
    with boundaries() as known:
        assert tuple(known) == NAMES
        read, refused = run(known[name], 0, 400)
    assert refused > 40
    assert read + refused == 400
