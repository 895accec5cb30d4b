import pytest

from mobileloop.errors import MobileloopError
from mobileloop.families.registry import preset, preset_names
from mobileloop.spec.capabilities import check_built

# MobileLLM (arXiv 2402.14905): millions of parameters with a tied embedding, and of one block.
COUNTS = {
    "mobilellm-125m": (124.6, 3.540),
    "mobilellm-350m": (345.4, 9.832),
    "mobilellm-600m": (603.2, 14.16),
    "mobilellm-1b": (1005.5, 17.86),
    "mobilellm-1.5b": (1511.2, 27.04),
    "mobilellm-125m-ls": (124.6, 3.540),
    "mobilellm-350m-ls": (345.4, 9.832),
    "smollm2-135m": (134.5, 3.540),
}


def test_every_preset_is_counted():
    assert set(preset_names()) == set(COUNTS)


@pytest.mark.parametrize("name", sorted(COUNTS))
def test_parameter_counts(name):
    config, schedule = preset(name)
    total, block = COUNTS[name]
    assert config.num_parameters() / 1e6 == pytest.approx(total, abs=0.06)
    per_block = sum(a * (b[0] if b else 1) for a, *b in config.block_tensors().values())
    assert per_block / 1e6 == pytest.approx(block, abs=0.006)
    assert config.name == name
    assert config.random_weights
    check_built(schedule)
    schedule.check_blocks(config.num_blocks)


@pytest.mark.parametrize(("name", "blocks", "executed"), [("mobilellm-125m-ls", 30, 60), ("mobilellm-350m-ls", 32, 64)])
def test_layer_share_applies_every_block_twice(name, blocks, executed):
    config, schedule = preset(name)
    assert config.num_blocks == blocks
    applications = list(schedule.applications())
    assert len(applications) == executed == schedule.num_slots
    assert [a.block for a in applications[:4]] == [0, 0, 1, 1]


def test_unknown_preset_lists_the_known():
    with pytest.raises(MobileloopError, match="smollm2-135m, mobilellm-125m"):
        preset("gpt-5")
