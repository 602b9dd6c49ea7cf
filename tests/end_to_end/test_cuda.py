"""A GPU against the CPU, and against itself. No other test uses one.

CUDA_VISIBLE_DEVICES=0 python -m pytest -q tests/end_to_end/test_cuda.py
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import train_HeLLM
from preprocess import features, pretrain_graph, pretrain_sasrec
from tests.preprocess.test_features import write_mapping
from tests.support.small_data import N_ITEMS, command, write_interactions, write_texts
from tests.support.small_encoders import write_bert, write_clip, write_pictures
from tests.support.small_model import histories, small_hellm, wake
from tests.training.test_training import assert_same_run

DEVICE = "cuda"
ROOT = Path(__file__).parents[2]

COMMAND = __doc__.splitlines()[2].strip()

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason=f"no CUDA device visible: {COMMAND}")


@pytest.fixture(autouse=True)
def nondeterministic_afterwards():
    """Undo --deterministic for the next test."""
    yield
    torch.use_deterministic_algorithms(False)


def loss_gradients_and_scores(model, items, targets):
    """Compute loss, gradients and scores; return them on the CPU."""
    loss = model.loss(items, None, targets)
    loss.backward()
    gradients = {name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None}
    with torch.no_grad():
        return loss.detach().cpu(), gradients, model(items).cpu()


@pytest.mark.parametrize("objective", ["prefix", "causal"])
@pytest.mark.parametrize("settings", [{}, {"train_base": True, "w_lora": False, "graph_rank": 3, "train_score": True}])
def test_loss_gradients_and_scores_equal_those_of_the_cpu(objective, settings):
    items = histories(4, 6)
    targets = histories(4, 6, seed=4) if objective == "causal" else histories(4, 1, seed=4)[:, 0]
    on_gpu = wake(small_hellm(objective=objective, **settings)).to(DEVICE)
    on_cpu = wake(small_hellm(objective=objective, **settings))
    found = loss_gradients_and_scores(on_gpu, items.to(DEVICE), targets.to(DEVICE))
    expected = loss_gradients_and_scores(on_cpu, items, targets)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_scores_in_half_precision_are_close():
    items = histories(4, 6)
    model = wake(small_hellm())
    exact = model(items).detach()
    model.dtype = torch.bfloat16
    close = model.to(DEVICE)(items.to(DEVICE)).detach().cpu()
    assert 0 < (close - exact).norm() / exact.norm() < 0.05


def run(place, target, *more):
    return [*command(place, "--target", target, "--objective", "causal", "--prompt", "none"), "--device", DEVICE, *more]


def test_deterministic_runs_are_equal_and_a_resumed_one_too(place):
    assert train_HeLLM.main(run(place, "one", "--deterministic")) == 0
    assert train_HeLLM.main(run(place, "two", "--deterministic")) == 0
    killed = [*run(place, "killed", "--deterministic"), "--save_every_minutes", "0"]
    process = subprocess.Popen([sys.executable, "train_HeLLM.py", *killed], cwd=ROOT, env=os.environ)
    state = place / "output/Small/MMHCL/killed/training_state_before.pt"
    while process.poll() is None and not state.is_file():
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert train_HeLLM.main([*killed, "--resume"]) == 0
    for target in ("two", "killed"):
        assert_same_run(place, "one", target)


@pytest.mark.parametrize(("program", "no_dropout"), [(pretrain_graph, ()), (pretrain_sasrec, ("--dropout", "0"))])
def test_pretraining_losses_equal_those_of_the_cpu(program, no_dropout, tmp_path):
    folder = write_interactions(tmp_path / "data")
    np.save(folder / "text_feat.npy", np.random.default_rng(0).normal(size=(N_ITEMS, 5)).astype(np.float32))
    losses = {}
    for device in ("cpu", DEVICE):
        log = tmp_path / f"log-{device}"
        places = ["--output_dir", str(tmp_path / f"output-{device}"), "--logging_dir", str(log), "--overwrite"]
        flags = ["--dataset", "Small", "--data_dir", str(tmp_path / "data"), "--device", device, *no_dropout]
        assert program.main([*flags, *places, "--num_epochs", "4", "--validate_every", "1", "--lr", "1e-3"]) == 0
        lines = next(log.rglob("*_metrics.jsonl")).read_text().splitlines()[:-1]
        losses[device] = [json.loads(line)["train_loss"] for line in lines]
    assert losses[DEVICE] == pytest.approx(losses["cpu"], rel=1e-3)
    assert losses[DEVICE][-1] < losses[DEVICE][0]


@pytest.mark.parametrize(("kind", "encoder", "write"), [("text", "bert", write_bert), ("image", "clip", write_clip)])
def test_features_in_half_precision_are_close(kind, encoder, write, tmp_path):
    folder = write_interactions(tmp_path / "data")
    write_texts(folder)
    write_pictures(folder / "pictures", N_ITEMS)
    write_mapping(folder, N_ITEMS)
    flags = [kind, "--encoder", encoder, "--model_name", str(write(tmp_path / "model")), "--overwrite"]
    flags += ["--dataset", "Small", "--data_dir", str(tmp_path / "data")]
    found = []
    for device in ("cpu", DEVICE):
        assert features.main([*flags, "--device", device]) == 0
        found.append(np.load(folder / f"{kind}_feat.npy"))
    assert 0 < np.abs(found[1] - found[0]).max() < 0.01 * np.abs(found[0]).max()
