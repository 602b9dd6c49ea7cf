"""A tiny instance of the released model, measured array by array: hellm_tiny.npz (docs/method.md, section 3)."""

from pathlib import Path

import numpy as np
import pytest
import torch

from llama.HeLLM import HeLLM, HeLLMArgs
from llama.released import load_released, released_name
from utils.training.schedule import learning_rate

CASES = range(5)


@pytest.fixture(scope="module")
def golden():
    with np.load(Path(__file__).with_name("hellm_tiny.npz")) as file:
        return dict(file)


def released_state(golden):
    return {k.removeprefix("param/"): torch.from_numpy(v) for k, v in golden.items() if k.startswith("param/")}


@pytest.fixture
def model(golden):
    state = released_state(golden)
    args = HeLLMArgs(
        dim=64, n_layers=3, n_heads=4, vocab_size=128, multiple_of=32, adapter_len=5, lora_r=4, lora_alpha=16,
        lora_dropout=0.0, graph_dropout=0.0, max_seq_len=256,
    )  # fmt: skip
    tables = torch.zeros_like(state["item_embedding.weight"]), torch.zeros(51, 8)
    model = HeLLM(args, *tables, golden["prompt/instruct_ids"], golden["prompt/response_ids"])
    load_released(model, state)
    return model.eval()


def case(golden, number):
    history, label = (torch.from_numpy(golden[f"case{number}/{name}"])[None] for name in ("history", "label"))
    return history, label


def close(ours, theirs, relative=1e-4):
    """Assert that the largest difference is small relative to the largest value."""
    theirs = torch.as_tensor(theirs)
    assert (ours.detach() - theirs).abs().max() <= relative * theirs.abs().max()


@pytest.mark.parametrize("number", CASES)
def test_logits_hidden_states_losses_and_gradients_are_the_released_ones(golden, model, number):
    items, target = case(golden, number)
    close(model(items)[0], golden[f"case{number}/logits"])
    close(model.encode(items), golden[f"case{number}/last_hidden"])
    loss = model.loss(items, None, target)
    close(loss, golden[f"case{number}/loss"])
    loss.backward()
    prefix = f"case{number}/grad_norm/"
    measured = {k.removeprefix(prefix): v for k, v in golden.items() if k.startswith(prefix)}
    ours = {released_name(name): p.grad.norm() for name, p in model.named_parameters() if p.requires_grad}
    assert set(ours) == set(measured)
    for name, norm in ours.items():
        close(norm, measured[name])


@pytest.mark.parametrize("rows", [(0, 4), (1, 2, 3), (3, 0, 2, 1, 4)])
def test_padded_batch_equals_single_rows(golden, model, rows):
    histories = [case(golden, number)[0][0] for number in rows]
    longest = max(map(len, histories))
    items = torch.full((len(rows), longest), 7)  # padding must not matter
    mask = torch.zeros(len(rows), longest, dtype=torch.bool)
    for row, history in enumerate(histories):
        items[row, longest - len(history) :] = history
        mask[row, longest - len(history) :] = True
    logits = model(items, mask)
    for row, number in enumerate(rows):
        close(logits[row], golden[f"case{number}/logits"])
    one = torch.stack([model(h[None])[0] for h in histories])
    torch.testing.assert_close(logits, one, rtol=1e-4, atol=1e-4)


def test_six_training_steps_are_the_released_ones(golden, model):
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, betas=(0.9, 0.95), weight_decay=0.1)
    for step in range(6):
        lr = learning_rate(step / 2, lr=3e-4, min_lr=5e-6, warmup_epochs=1, num_epochs=3)
        assert lr == pytest.approx(golden["train/lr"][step], rel=1e-6)
        for group in optimizer.param_groups:
            group["lr"] = lr
        items, targets = torch.from_numpy(golden["train/inputs"][step]), torch.from_numpy(golden["train/labels"][step])
        loss = model.loss(items, None, targets[:, 0])
        close(loss, golden["train/loss"][step])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    close(model(case(golden, 2)[0])[0], golden["train/final_logits_case2"])


def test_load_released_names_missing_unknown_and_misshapen_tensors(golden, model):
    state = released_state(golden)
    removed = dict(state)
    del removed["gnn_global_key.3.bias"]
    with pytest.raises(ValueError, match="missing gnn_global_key.3.bias"):
        load_released(model, removed)
    with pytest.raises(ValueError, match="unknown surprise"):
        load_released(model, {**state, "surprise": torch.zeros(1)})
    with pytest.raises(ValueError, match="score.weight has shape"):
        load_released(model, {**state, "score.weight": torch.zeros(49, 64)})


def test_a_released_adapter_loads_without_base_and_head(golden, model):
    state = released_state(golden)
    base = ("tok_embeddings", "norm.", "score", "item_embedding", "user_embedding")
    adapter = {
        k: v for k, v in state.items() if not k.startswith(base) and not (k.startswith("layers") and "lora" not in k)
    }
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.zero_()
    load_released(model, adapter, adapter_only=True)
    close(model(case(golden, 3)[0])[0], golden["case3/logits"])
