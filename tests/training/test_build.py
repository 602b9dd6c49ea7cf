"""From settings to the model's arguments."""

from dataclasses import fields, replace

import pytest

from config_HeLLM import Settings
from llama.HeLLM import HeLLMArgs
from utils.training.build import model_args

TINY = Settings(model_name="tiny", plan=True)
SHARED = sorted({field.name for field in fields(HeLLMArgs)} & {field.name for field in fields(Settings)})
OTHER_VALUES = {"n_layers": 5, "objective": "causal", "lora_targets": ("wq",)}


def another_value(name):
    value = getattr(TINY, name)
    if name in OTHER_VALUES:
        return OTHER_VALUES[name]
    return not value if isinstance(value, bool) else value + 1


@pytest.mark.parametrize("name", SHARED)
def test_every_setting_of_the_model_reaches_it(name):
    value = another_value(name)
    assert getattr(model_args(replace(TINY, **{name: value})), name) == value


def test_size_and_head_become_arguments():
    assert len(SHARED) > 20
    assert (model_args(TINY).dim, model_args(TINY).n_layers) == (128, 2)
    found = [model_args(replace(TINY, head=head)) for head in ("frozen", "trained", "tied")]
    assert [(args.train_score, args.tie_score) for args in found] == [(False, False), (True, False), (False, True)]
