"""Low-rank updates: which weights they change, and when they are merged into them."""

import pytest
import torch

from llama.lora import LowRank
from tests.support.small_model import histories, small_hellm, wake

ALL_TARGETS = ("wq", "wk", "wv", "wo", "w1", "w2", "w3")


def copied(source, **settings):
    """Make a model with other settings and the source's values for all parameters that it has."""
    model = small_hellm(seed=8, **settings)
    model.load_state_dict({k: p for k, p in source.state_dict().items() if k in model.state_dict()})
    return model


def test_fresh_low_rank_updates_change_nothing():
    model = small_hellm(lora_targets=ALL_TARGETS)
    torch.testing.assert_close(model(histories()), copied(model, w_lora=False)(histories()))
    wake(model)
    assert not torch.allclose(model(histories()), copied(model, w_lora=False)(histories()), atol=1e-2)


@torch.no_grad()
def merged(model, settings, alpha_over_r):
    """Return the scores of the same model with the low-rank updates added to the weights."""
    plain = copied(model, w_lora=False, **settings)
    parts = dict(model.named_parameters())
    for name in [name for name in parts if name.endswith(".lora.up")]:
        stem = name.removesuffix(".lora.up")
        plain.get_parameter(f"{stem}.weight").add_(parts[name] @ parts[f"{stem}.lora.down"], alpha=alpha_over_r)
    return plain(histories(40))


@pytest.mark.parametrize("scoring", [False, True])
@pytest.mark.parametrize("targets", [("wq", "wv"), ("w1", "w2", "w3"), ALL_TARGETS])
def test_low_rank_update_equals_an_addition_to_the_weight(targets, scoring):
    settings, applied = {"w_adapter": False, "lora_alpha": 6}, []
    model = wake(small_hellm(lora_targets=targets, **settings)).train(not scoring)
    for layer in (m for m in model.llama.layers[0].modules() if isinstance(m, LowRank)):
        layer.register_forward_hook(lambda *_: applied.append(1))
    with torch.set_grad_enabled(not scoring):
        torch.testing.assert_close(model(histories(40)), merged(model, settings, 3.0), rtol=1e-4, atol=1e-5)
    assert len(applied) == (0 if scoring else len(targets))  # many rows are scored through the merged weight


@pytest.mark.parametrize(("targets", "same"), [(("wq", "wo", "w2"), True), (("wk",), False), (("wv",), False)])
def test_adapter_inputs_pass_through_wk_and_wv_without_their_updates(targets, same):
    model = wake(small_hellm(lora_targets=targets, lora_alpha=6))
    equal = torch.allclose(model(histories(40)), merged(model, {}, 3.0), rtol=1e-4, atol=1e-4)
    assert equal == same


@pytest.mark.parametrize("targets", [(), ("w1", "w2", "w1")])
def test_no_or_repeated_lora_targets_are_refused(targets):
    with pytest.raises(ValueError, match="each name once, and at least one, is expected; --no-w_lora"):
        small_hellm(lora_targets=targets)
    assert small_hellm(lora_targets=targets, w_lora=False).n_items


def test_unknown_lora_target_is_refused():
    with pytest.raises(ValueError, match=r"lora_targets w4, q_proj: not among w1, w2, w3, wk"):
        small_hellm(lora_targets=("w1", "w4", "q_proj"))
