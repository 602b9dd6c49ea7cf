"""What utils.benchmark prints, on the small data."""

import json
import os
import re

import pytest
import torch

from tests.robustness import soak
from tests.robustness.soak import Sample, assess, take_sample
from tests.support.records import epoch
from tests.support.small_data import command
from tests.support.small_model import histories, small_hellm
from utils.benchmark import command as benchmark
from utils.planning.flops import REST, FlopsByPart
from utils.runtime.memory import rss_bytes


def test_training_cost_of_two_settings(place, capsys):
    prefix, causal = command(place), command(place, "--objective", "causal", "--prompt", "none")
    assert benchmark.main(["train", *prefix, "--vs", *causal]) == 0
    shown = capsys.readouterr().out
    flops = [float(value) for value in re.findall(r"([\d.]+) GFLOP per training sample", shown)]
    speeds = [float(value.replace(",", "")) for value in re.findall(r"([\d,.]+) samples/s,", shown)]
    epochs = [int(value) for value in re.findall(r"s per epoch of (\d+) samples", shown)]
    ratio = float(re.search(r"second to first: ([\d.]+)", shown)[1])
    assert flops[0] > 2 * flops[1] > 0  # a history has five items
    assert len(speeds) == 2 and epochs[0] == epochs[1] > 0
    assert ratio > 0


def test_one_command_for_a_gpu_here_on_the_cpu(place, capsys, monkeypatch):
    monkeypatch.setattr(torch._dynamo.config, "disable", True)  # compiling takes longer than all the rest
    assert benchmark.main(["gpu", *command(place), "--max_memory", "15MB", "--batch_size", "64", "--compile"]) == 0
    shown = capsys.readouterr().out
    assert "--max_memory 15MB: --batch_size" in shown and "--batch_size 64" not in shown
    steps = re.findall(r"(--no-compile|--compile): ([\d.]+) s per step, ([\d,.]+) samples/s, ([\d,.]+) users/s", shown)
    assert [name for name, *_ in steps] == ["--no-compile", "--compile"]
    assert all(float(value.replace(",", "")) > 0 for _, *values in steps for value in values)


def samples(resident, files):
    return [Sample(10.0 * n, *both, 3, 100 + 7 * n, n) for n, both in enumerate(zip(resident, files, strict=True))]


@pytest.mark.parametrize(
    ("resident", "files", "problem"),
    [
        ([1000] * 21, [9] * 21, ""),
        ([500, 1000, *[900] * 10, 1019, *[900] * 8], [4, *[9, 11] * 10], ""),  # what is opened for a moment only
        ([1000] * 12 + [1021] + [1000] * 8, [9] * 21, "resident memory grew by 2.10 %, more than 2 %"),
        ([1000] * 21, [9] * 11 + [10, 12] * 5, "open files grew from 9 to 10"),
    ],
)
def test_what_a_long_run_may_hold(resident, files, problem):
    lines, problems = assess(samples(resident, files))
    assert problems == [problem] * bool(problem)
    assert "log and metrics 7 bytes an epoch, 20 epochs in 3.3 minutes" in lines
    assert f"10 % of the time 0.0 MB, after that 0.0 MB, growth {max(resident) / 10 - 100:.2f} %" in lines[0]


def test_nothing_is_said_of_memory_after_too_few_epochs():
    _, (problem,) = assess(samples([1000, 1500, 1500], [9] * 3))
    assert problem.startswith("no 2 epochs, validation among them, in the first 10 % of the time: too short to say")


def test_a_process_from_outside(tmp_path):
    files = [tmp_path / name for name in ("log.txt", "metrics.jsonl")]
    files[0].write_text("five\n")
    files[1].write_text(records := f"{json.dumps(epoch(0))}\n{json.dumps(epoch(1))}\n")
    before = take_sample(os.getpid(), 1.0, files)
    bytearray(2**27).count(1)  # and gone again
    with files[0].open():
        peak, after = (take_sample(os.getpid(), 1.0, files) for _ in range(2))
    assert peak.resident > after.resident + 2**26
    assert after.files == before.files + 1 and (after.log, after.epochs) == (5 + len(records), 2)
    assert 0.9 < after.resident / rss_bytes() < 1.1 and after.threads >= 1


def test_a_soak(place, capsys):
    """An epoch of so small batches takes longer than the time within which there should be two."""
    assert soak.main(["--minutes", "0.1", *command(place, "--batch_size", "2", "--n_layers", "1")]) == 1
    shown = capsys.readouterr().out
    what = "no 2 epochs, validation among them, in the first 10 % of the time"
    assert shown.splitlines()[-1] == f"{what}: too short to say whether memory grew, give more --minutes"
    assert int(re.search(r"([\d,]+) epochs in", shown)[1].replace(",", "")) >= 1
    assert re.search(r"first 10 % of the time [\d.]+ MB, after that [\d.]+ MB, growth -?[\d.]+ %\nopen files", shown)
    assert [path.name for path in place.iterdir()] == ["data"]
    (place / "data" / "sequential" / "Small" / "Small.txt").unlink()
    assert soak.main([*command(place)]) == 2
    complaint = capsys.readouterr().err
    assert "Small.txt" in complaint and complaint.count("\n") == complaint.count("error: ") == 1


def test_operations_by_part():
    """By hand: all linear maps of all positions, but in the last layer only keys and values of all."""
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


def test_scoring_computes_the_last_layer_where_it_is_read(place, capsys):
    assert benchmark.main(["train", *command(place), "--n_layers", "1"]) == 0
    share = re.search(r"GFLOP per scored user, ([\d.]+) of all positions through all layers", capsys.readouterr().out)
    assert float(share[1]) < 0.9
