"""Benchmarks on the small dataset: what they print and count."""

import re

import pytest
import torch

from tests.support.small_data import command
from tests.support.small_model import histories, small_hellm
from utils.benchmark import command as benchmark
from utils.planning.flops import REST, FlopsByPart


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch):
    monkeypatch.setattr("utils.benchmark.train.COUNTED_STEPS", 4)
    monkeypatch.setattr("utils.benchmark.train.TIMED_STEPS", 2)


@pytest.mark.slow
def test_train_compares_two_settings(place, capsys):
    prefix, causal = command(place), command(place, "--objective", "causal", "--prompt", "none")
    assert benchmark.main(["train", *prefix, "--vs", *causal]) == 0
    shown = capsys.readouterr().out
    flops = [float(value) for value in re.findall(r"([\d.]+) GFLOP per training sample", shown)]
    speeds = [float(value.replace(",", "")) for value in re.findall(r"([\d,.]+) samples/s,", shown)]
    epochs = [int(value) for value in re.findall(r"s per epoch of (\d+) samples", shown)]
    ratio = float(re.search(r"second to first: ([\d.]+)", shown)[1])
    assert flops[0] > 2 * flops[1] > 0  # a history has five items
    assert len(speeds) == 2
    assert epochs[0] == epochs[1] > 0
    assert ratio > 0


@pytest.mark.slow
def test_gpu_fits_the_batch_and_compares_compilation_here_on_the_cpu(place, capsys, monkeypatch):
    monkeypatch.setattr(torch._dynamo.config, "disable", True)  # compiling takes longer than all the rest
    assert benchmark.main(["gpu", *command(place), "--max_memory", "15MB", "--batch_size", "64", "--compile"]) == 0
    shown = capsys.readouterr().out
    assert "--max_memory 15MB: --batch_size" in shown
    assert "--batch_size 64" not in shown
    steps = re.findall(r"(--no-compile|--compile): ([\d.]+) s per step, ([\d,.]+) samples/s, ([\d,.]+) users/s", shown)
    assert [name for name, *_ in steps] == ["--no-compile", "--compile"]
    assert all(float(value.replace(",", "")) > 0 for _, *values in steps for value in values)


def test_flops_by_part_match_a_count_by_hand():
    """By hand: every linear map at every position, except that the last layer needs only keys and values of all."""
    model = small_hellm()
    (dim, layers, rank), items = (32, 2, 2), histories(3, 5)
    with FlopsByPart(model) as scoring, torch.no_grad():
        model(items)
    with FlopsByPart(model) as training:
        model.loss(items, None, items[:, 0]).backward()
    ffn, every, last = model.args.ffn_width, 3 * (3 + 5 + 2), 3  # positions: prompt, items, response
    through = every * (layers - 1) + last  # layers and positions whose feed-forward is computed
    lora = 2 * through * 3 * rank * (dim + ffn)
    forward = {
        "feed-forward": 2 * through * 3 * dim * ffn,
        "projections of attention": 2 * dim**2 * (2 * through + 2 * every * layers),
        "LoRA": lora,
    }
    assert {part: scoring.parts()[part] for part in forward} == forward
    # the base is frozen, so its weights have no gradients; low-rank updates have
    backward = {part: 2 * flops for part, flops in forward.items()} | {"LoRA": 3 * lora}
    assert {part: training.parts()[part] for part in backward} == backward
    assert sum(training.parts().values()) == training.get_total_flops()
    assert 0 < training.parts()[REST] < training.get_total_flops() / 2


@pytest.mark.slow
def test_scoring_computes_only_the_last_position_of_the_last_layer(place, capsys):
    assert benchmark.main(["train", *command(place), "--n_layers", "1"]) == 0
    share = re.search(r"GFLOP per scored user, ([\d.]+) of all positions through all layers", capsys.readouterr().out)
    assert float(share[1]) < 0.9


def test_raw_converts_files_of_every_release(tmp_path, capsys):
    assert benchmark.main(["raw", "--lines", "2000", "--folder", str(tmp_path)]) == 0
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| 20")]
    assert [cells[:3] for cells in rows] == [[f"| {release}", "2,000", "167"] for release in (2014, 2018, 2023)]
    assert not list(tmp_path.iterdir())
