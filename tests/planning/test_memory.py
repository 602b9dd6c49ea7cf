"""Memory: prediction against measurement, batch sizes that fit, and a run that runs out of memory."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import train_HeLLM
from config_HeLLM import parse_args
from tests.support.small_data import command
from tests.training.test_training import assert_same_run
from utils.benchmark.memory import predicted_and_measured
from utils.data.interactions import Interactions
from utils.planning.batch_size import fit_batch_sizes, largest_within
from utils.planning.simulation import MemorySimulator, memory_profile
from utils.runtime.byte_sizes import parse_bytes
from utils.runtime.memory import LiveBytes

ROOT = Path(__file__).parents[2]
ONE = ("--n_layers", "1")


def simulation(place, *more):
    settings = parse_args(command(place, *more))
    data = Interactions(place / "data" / "sequential" / "Small" / "Small.txt", settings.max_len)
    return settings, MemorySimulator(memory_profile(settings, data, (6, 6, 0), torch.device("cpu")))


@pytest.mark.parametrize(
    ("text", "value"), [("24GiB", 24 * 2**30), ("20GB", 20 * 10**9), ("1.5 MiB", 3 * 2**19), ("4096", 4096), ("7B", 7)]
)
def test_parse_bytes_reads_units(text, value):
    assert parse_bytes(text) == value


@pytest.mark.parametrize("text", ["24gigs", "GiB", "-3GB", "0", "0.1", "1e9", "24 GiB or so"])
def test_parse_bytes_rejects_other_text(text):
    with pytest.raises(ValueError, match="is no amount of memory"):
        parse_bytes(text)


def test_live_bytes_follow_views_releases_and_saved_tensors():
    with LiveBytes() as memory:
        a = torch.ones(256, requires_grad=True)  # 1 KiB
        b = a.view(2, 128)[0]
        assert memory.live == 1024
        c = (a * 2).exp()  # exp saves its result; the product is freed
        assert (memory.live, memory.peak) == (2048, 3072)
        c.sum().backward()
        del b, c
        assert memory.live == 2048  # a and its gradient
        a.grad.mul_(2)
        a.grad = None
        assert memory.live == 1024


def test_largest_within_finds_the_largest_size_that_fits():
    sizes = range(20, 0, -1)
    assert [largest_within(sizes, lambda size: size * 10, limit) for limit in (9, 10, 55, 199, 200)] == [
        0,
        1,
        5,
        19,
        20,
    ]
    assert largest_within([], lambda size: size, 5) == 0


@pytest.mark.slow
def test_predicted_memory_is_within_a_tenth_of_measured(place):
    """170 MB of weights, so that the process's other allocations do not matter."""
    flags = ("--graph_rank", "48", "--batch_size", "120", "--eval_batch_size", "120", "--max_grad_norm", "1")
    found, training, scoring = predicted_and_measured(parse_args(command(place, *flags)))
    assert found.training == pytest.approx(training, rel=0.1)
    assert found.scoring == pytest.approx(scoring, rel=0.1)


@pytest.mark.parametrize("more", [(), ("--objective", "causal", "--prompt", "none")])
def test_a_simulated_step_allocates_as_a_real_one(place, more):
    """The same operations on real tensors, counted the same way, need the same peak."""
    settings, simulated = simulation(place, *more, "--max_grad_norm", "1")
    expected = simulated.training_peak(8, 2), simulated.scoring_peak(5)
    real = MemorySimulator.__new__(MemorySimulator)
    real.__dict__ = {**simulated.__dict__, "fake": torch.autograd.set_detect_anomaly(False)}
    with LiveBytes() as real.memory:
        run = train_HeLLM.setup_run(settings)
        real.model, real.optimizer = run.model, run.optimizer
    real.training_peak(1, 1)
    assert (real.training_peak(8, 2), real.scoring_peak(5)) == expected


@pytest.mark.slow
def test_max_memory_chooses_the_largest_batches_that_fit_and_keeps_the_step(place):
    settings, simulated = simulation(place, "--batch_size", "60", "--grad_steps", "2", "--eval_batch_size", "300", *ONE)
    limit = simulated.training_peak(40, 3)
    assert simulated.training_peak(60, 2) > limit > simulated.training_peak(30, 4)
    chosen = fit_batch_sizes(replace(settings, max_memory=str(limit)), simulated)
    assert (chosen.batch_size, chosen.grad_steps) == (40, 3)
    users = chosen.eval_batch_size
    assert users < 300
    assert simulated.scoring_peak(users) <= limit < simulated.scoring_peak(users + 1)
    chosen = fit_batch_sizes(replace(settings, max_memory="1GB"), simulated)
    assert (chosen.batch_size, chosen.grad_steps, chosen.eval_batch_size) == (120, 1, 300)
    with pytest.raises(ValueError, match=r"--max_memory 99999: training one sample at a time needs 0\.\d+ GiB"):
        fit_batch_sizes(replace(settings, max_memory="99999", eval_batch_size=1), simulated)


@pytest.mark.slow
def test_max_memory_is_logged_and_applies_to_a_plan(place, capsys):
    sizes = ("--batch_size", "60", "--eval_batch_size", "100", "--num_epochs", "1", *ONE)
    _, simulated = simulation(place, *sizes)
    limit = str(simulated.training_peak(20, 3))
    assert train_HeLLM.main(command(place, *sizes, "--plan", "--max_memory", limit)) == 0
    line = f"--max_memory {limit}: --batch_size 20 --grad_steps 3 --eval_batch_size "
    assert capsys.readouterr().out.startswith(line)
    assert train_HeLLM.main(command(place, *sizes, "--max_memory", limit)) == 0
    assert line in (place / "log" / "Small" / "MMHCL" / "tiny_log.txt").read_text()
    assert train_HeLLM.main(command(place, "--max_memory", "1000", "--target", "none")) == 2
    assert re.fullmatch(r"error: --max_memory 1000: training one sample at a time needs .*\n", capsys.readouterr().err)


@pytest.mark.slow
def test_a_run_resumes_with_other_micro_batches_of_the_same_step(place, capsys):
    argv = command(place, "--num_epochs", "1")
    assert train_HeLLM.main(argv) == 0
    assert (
        train_HeLLM.main([*argv, "--batch_size", "2", "--grad_steps", "4", "--eval_batch_size", "9", "--resume"]) == 0
    )
    capsys.readouterr()
    assert train_HeLLM.main([*argv, "--batch_size", "4", "--resume"]) == 2
    assert "batch_size x grad_steps was 8, is now 4" in capsys.readouterr().err


RUN_WITH_A_LIMIT = """
import resource, sys
import train_HeLLM
from utils.training.loop import TrainingLoop
from utils.runtime.memory import rss_bytes

phase, room, method = sys.argv[1], int(sys.argv[2]), {"training": "step", "scoring": "validate"}[sys.argv[1]]
original = getattr(TrainingLoop, method)

def limited(self, *args, **more):
    if (self.progress.epoch, self.progress.step) >= (1, 2):
        limit = rss_bytes("VmSize") + room
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    return original(self, *args, **more)

setattr(TrainingLoop, method, limited)
sys.exit(train_HeLLM.main(sys.argv[3:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["training", "scoring"])
def test_a_run_out_of_memory_saves_its_state_and_suggests_a_batch_size(place, phase):
    """From the second epoch on, the process may grow by 2 MiB only, so that the allocator fails."""
    sizes = ("--batch_size", "120", "--eval_batch_size", "120", "--graph_dropout", "0.2")
    assert train_HeLLM.main(command(place, *sizes, "--target", "whole")) == 0
    environment = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
    argv = [sys.executable, "-c", RUN_WITH_A_LIMIT, phase, str(2**21), *command(place, *sizes, "--target", "short")]
    done = subprocess.run(argv, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    folder = place / "output" / "Small" / "MMHCL" / "short"
    advice = {"training": r"--batch_size 60 --grad_steps 2", "scoring": "--eval_batch_size 60"}[phase]
    resume = f"checkpoint saved in {folder}, resume with --resume"
    line = f"out of memory in {phase}: {resume}; {advice} is predicted to fit, in "
    assert line in done.stdout.splitlines()[-1]
    assert line in (place / "log" / "Small" / "MMHCL" / "short_log.txt").read_text()
    progress = torch.load(folder / "training_state.pt", weights_only=True)["progress"]
    assert progress["epoch"] == 1
    assert (progress["step"] == 2) == (phase == "training")
    assert train_HeLLM.main(command(place, *sizes, "--target", "short", "--resume")) == 0
    assert_same_run(place, "whole", "short")
