"""The plain data of a model under one short name, for scripts: `from mobileloop.model import TokenizerSpec`."""

from mobileloop.spec.config import ModelConfig
from mobileloop.spec.schedule import Schedule, Stage
from mobileloop.spec.tokenizer import TokenizerSpec

__all__ = ["ModelConfig", "Schedule", "Stage", "TokenizerSpec"]
