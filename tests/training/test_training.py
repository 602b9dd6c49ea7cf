"""The fine-tuning program, end to end on a small dataset, and its optimizer step."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import train_HeLLM
from config_HeLLM import parse_args
from tests.support.small_data import RUN_SPECIFIC_KEYS, command, write_days
from tests.support.small_model import SHAPE, small_hellm, write_meta
from utils.cli.layout import SCREEN_WIDTH
from utils.data.batches import collate, training_batches
from utils.data.interactions import Interactions
from utils.evaluation.metrics import ranking_metrics
from utils.runtime.signals import StopTraining
from utils.training.adapter_file import load_adapter
from utils.training.loop import TrainingLoop

ROOT = Path(__file__).parents[2]


def records(place, target="tiny"):
    path = place / "log" / "Small" / "MMHCL" / f"{target}_metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def adapter(place, target="tiny"):
    path = place / "output" / "Small" / "MMHCL" / target / "best_adapter.pt"
    return torch.load(path, weights_only=True)["tensors"]


def assert_same_run(place, one, other):
    """Assert that adapters are bit-identical and records equal, except for costs."""
    for (name, a), b in zip(adapter(place, one).items(), adapter(place, other).values(), strict=True):
        assert torch.equal(a, b), name
    for a, b in zip(records(place, one), records(place, other), strict=True):
        for key in a.keys() - RUN_SPECIFIC_KEYS:
            assert a[key] == b[key], key


@pytest.mark.slow
@pytest.mark.usefixtures("real_curves")
def test_run_learns_and_writes_its_files(place, capsys):
    assert train_HeLLM.main(command(place, "--num_epochs", "8", "--lr", "3e-3", "--patience", "0")) == 0
    *epochs, last = records(place)
    assert [record["epoch"] for record in epochs] == list(range(8))
    assert epochs[-1]["train_loss"] < epochs[0]["train_loss"] - 0.5
    best = max(epochs, key=lambda record: record["val"]["NDCG@10"])
    assert last["best_epoch"] == best["epoch"]
    assert last["test"]["Recall@5"] > 2 * last["popularity"]["Recall@5"]
    assert last["users"] == 120
    assert last["settings"]["num_epochs"] == 8
    assert "seed" not in last["settings"]
    assert last["seconds"] == pytest.approx(sum(record["seconds"] for record in epochs))
    assert 2**20 < last["peak_memory_bytes"] < 2**40
    folder = place / "log" / "Small" / "MMHCL"
    with np.load(folder / "tiny_ranks.npz") as found:
        assert {rank.dtype for rank in found.values()} == {np.dtype(np.int32)}
        assert ranking_metrics(found["seen_kept"]) == last["test"]
        assert ranking_metrics(found["seen_removed"]) == last["test_unseen"]
    assert (folder / "tiny_curves.png").read_bytes().startswith(b"\x89PNG")
    assert "test Recall@10" in (folder / "tiny_log.txt").read_text()
    assert "trainable params:" in capsys.readouterr().out


@pytest.mark.slow
def test_sigterm_saves_a_checkpoint_that_resumes_bit_for_bit(place):
    assert train_HeLLM.main(command(place, "--target", "uninterrupted")) == 0
    argv = command(place, "--target", "interrupted")
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "train_HeLLM.py", *argv], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    )
    for line in process.stdout:
        if line.startswith("trainable params"):
            process.send_signal(signal.SIGTERM)
            break
    rest = process.stdout.read()
    assert process.wait() == 128 + signal.SIGTERM
    assert "SIGTERM: checkpoint saved in" in rest
    assert train_HeLLM.main(command(place, "--target", "interrupted", "--resume")) == 0
    assert_same_run(place, "uninterrupted", "interrupted")


@pytest.mark.parametrize("objective", [(), ("--objective", "causal", "--n_negatives", "20", "--warm_head")])
def test_deterministic_runs_are_bit_identical(place, objective, monkeypatch, request):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    request.addfinalizer(lambda: torch.use_deterministic_algorithms(False))
    for target in ("one", "other"):
        assert train_HeLLM.main(command(place, "--target", target, "--deterministic", *objective)) == 0
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.backends.cudnn.benchmark
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert_same_run(place, "one", "other")
    assert train_HeLLM.main(command(place, "--target", "one", "--resume", "--no-deterministic", *objective)) == 0


def test_resume_with_other_settings_is_refused_by_name(place, capsys):
    assert train_HeLLM.main(command(place)) == 0
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert train_HeLLM.main(command(place, "--resume", "--lr", "0.5")) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "lr was 0.001, is now 0.5" in message
    assert before == {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}


def setup(place, *more):
    return train_HeLLM.setup_run(parse_args(command(place, "--graph_dropout", "0", *more)))


@pytest.mark.parametrize("objective", ["prefix", "causal"])
def test_gradient_accumulation_equals_one_large_batch(place, objective):
    rows = np.arange(8) * 7
    states = []
    for batch_size, grad_steps in ((8, 1), (4, 2), (1, 8), (3, 3)):
        sizes = ("--batch_size", str(batch_size), "--grad_steps", str(grad_steps))
        run = setup(place, *sizes, "--objective", objective)
        # Adam blows rounding up where gradients vanish
        run.optimizer = torch.optim.SGD(run.model.parameters(), fused=True)
        loop = train_HeLLM.training_loop(run)
        losses = [loop.step(rows + shift, 0.1).item() for shift in range(3)]
        states.append((losses, {name: p.detach().clone() for name, p in run.model.named_parameters()}))
    for losses, parameters in states[1:]:
        assert losses == pytest.approx(states[0][0], rel=1e-5)
        for name, p in parameters.items():
            torch.testing.assert_close(p, states[0][1][name], rtol=1e-4, atol=1e-6)


def test_clipping_bounds_the_gradient_norm(place):
    run = setup(place, "--max_grad_norm", "1e-3")
    seen = []
    step = run.optimizer.step
    run.optimizer.step = lambda: (
        seen.append([p.grad.norm() for p in run.model.parameters() if p.grad is not None]),
        step(),
    )
    train_HeLLM.training_loop(run).step(np.arange(8), 1e-3)
    assert torch.stack(seen[0]).norm() == pytest.approx(1e-3, rel=1e-3)


def test_non_finite_loss_is_reported_with_step_and_users_and_not_saved(place):
    run = setup(place, "--log_every", "4", "--save_every_minutes", "0")
    loop = train_HeLLM.training_loop(run)
    steps = training_batches(run.batches.samples.length, 8, 2024, 0)
    original = loop.step

    def step(batch, lr):
        if loop.progress.step == 6:
            with torch.no_grad():
                run.model.score.weight[3, 0] = torch.inf
        return original(batch, lr)

    loop.step = step
    users = ", ".join(str(user) for user in run.batches.samples.user[steps[6]])
    words = f"not finite at epoch 1, step 6: loss (nan|inf), .* users {users}; .*; score.weight was not finite before"
    with pytest.raises(StopTraining, match=words):
        loop.train_epoch()
    state = torch.load(run.checkpoints.folder / "training_state.pt", weights_only=True)
    assert state["progress"]["step"] == 6
    assert all(tensor.isfinite().all() for tensor in state["tensors"].values())


def test_step_at_learning_rate_zero_changes_nothing(place):
    run = setup(place)
    before = {name: p.detach().clone() for name, p in run.model.named_parameters()}
    train_HeLLM.training_loop(run).step(np.arange(4), 0.0)
    assert all(torch.equal(p, before[name]) for name, p in run.model.named_parameters())


def test_batched_scores_equal_single_scores(place):
    run = setup(place)
    samples = run.data.test()
    run.model.eval()
    with torch.no_grad():
        for rows in (np.arange(30), np.arange(60, 100)):
            batch = collate(run.data, samples, rows)
            single = [run.model(collate(run.data, samples, rows[i : i + 1]).items) for i in range(len(rows))]
            torch.testing.assert_close(run.model(batch.items, batch.mask), torch.cat(single), rtol=1e-4, atol=1e-5)


def weights(folder):
    """Write two folders of Meta weights: complete, and without one tensor."""
    state = {name.removeprefix("llama."): p.detach() for name, p in small_hellm(w_lora=False).named_parameters()}
    state = {name: p for name, p in state.items() if name.split(".")[0] in ("tok_embeddings", "layers", "norm")}
    write_meta(folder / "complete", state, SHAPE)
    write_meta(
        folder / "incomplete", {name: p for name, p in state.items() if name != "layers.1.ffn_norm.weight"}, SHAPE
    )


def test_frozen_base_is_read_from_a_weight_folder(place):
    weights(place)
    flags = ("--model_name", str(place / "complete"), "--no-train_base", "--w_lora", "--num_epochs", "1")
    assert train_HeLLM.main(command(place, *flags)) == 0
    assert not any("attention.w" in name for name in adapter(place))


def test_random_base_has_the_shapes_of_the_weights_but_not_their_values(place):
    weights(place)
    flags = ("--model_name", str(place / "complete"), "--no-train_base")
    read = setup(place, *flags).model
    random = setup(place, *flags, "--random_base").model
    for (name, a), b in zip(read.named_parameters(), random.parameters(), strict=True):
        assert a.shape == b.shape
        assert a.requires_grad == b.requires_grad
        if name.startswith("llama.layers") and a.ndim == 2:
            assert not torch.equal(a, b), name
            assert b.std() == pytest.approx(0.02, rel=0.2), name


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--model_name", "incomplete", "--no-train_base"), "missing layers.1.ffn_norm.weight"),
        (("--dataset", "Absent"), "no such folder; expected"),
        (("--prompt", "alpaca"), "tokenizer missing"),
        (("--device", "cuda:77"), "--device cuda:77: not available"),
        (("--shuffle_ties",), "Small_days.txt: missing, and --shuffle_ties needs it"),
        (("--no-graph_input", "--no-seq_input"), "needs graph_input, seq_input or feature_input"),
        (("--w_lora", "--lora_targets", "w9"), "lora_targets w9"),
    ],
)
def test_user_error_is_one_line_and_writes_nothing(place, monkeypatch, flags, message, capsys):
    weights(place)
    monkeypatch.chdir(place)
    assert train_HeLLM.main(command(place, *flags)) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not (place / "output").exists()
    assert not (place / "log").exists()


@pytest.mark.parametrize("flags", [("--model_name", "weights/none"), ("--no-train_base",)])
def test_absent_base_weights_are_explained_in_five_lines(place, flags, capsys):
    assert train_HeLLM.main(command(place, *flags)) == 2
    first, *advice = capsys.readouterr().err.splitlines()
    assert "no such folder of base weights" in first
    assert len(advice) == 5
    assert all(line.startswith("  ") and len(line) <= 100 for line in advice)
    for word in ("licence", "consolidated.*.pth", "model*.safetensors", ".gguf", "TinyLlama", "--preset demo"):
        assert word in "".join(advice)
    assert not (place / "output").exists()


@pytest.mark.slow
def test_plan_needs_neither_weights_nor_embeddings(place, capsys):
    folder = place / "data" / "sequential" / "Small"
    for table in folder.glob("*.pt"):
        table.unlink()
    assert train_HeLLM.main(["--plan", "--dataset", "Small", "--data_dir", str(place / "data")]) == 0
    shown = capsys.readouterr().out
    assert "trainable params: 110,272,512 || all params: 6,717,779,968" in shown
    assert "6,607,343,616 params, 0 trained" in shown
    assert not (place / "output").exists()


CAUSAL = ("--objective", "causal", "--prompt", "none", "--dropout", "0.1", "--standardize", "--graph_mean")


@pytest.mark.slow
@pytest.mark.parametrize("head", ["trained", "tied"])
def test_causal_run_learns_and_tests_the_adapter_of_the_best_epoch(place, head):
    more = ("--head", head, "--num_epochs", "12", "--lr", "3e-3", "--patience", "0", "--prompt", "bos")
    assert train_HeLLM.main(command(place, *CAUSAL, *more)) == 0
    *epochs, last = records(place)
    assert epochs[-1]["train_loss"] < epochs[0]["train_loss"] - 0.5
    assert last["test"]["Recall@5"] > 2 * last["popularity"]["Recall@5"]
    best = epochs[last["best_epoch"]]["val"]
    run = setup(place, *CAUSAL, *more)
    load_adapter(run.model, run.checkpoints.best)
    validated = run.validate(lambda: None)["val"]
    assert validated == pytest.approx(best, abs=1e-12)  # the tested adapter is that of the best epoch


@pytest.fixture
def interrupted(place, monkeypatch):
    """Return a function that trains twice, the second time with an interruption, and asserts that both are the same."""

    def assert_resumes(*more):
        argv = command(place, *more)
        assert train_HeLLM.main([*argv, "--target", "uninterrupted"]) == 0
        original = TrainingLoop.step

        def stop_at_third(self, batch, lr):
            loss = original(self, batch, lr)
            if (self.progress.epoch, self.progress.step) == (1, 3):
                self.signals.number = signal.SIGTERM
            return loss

        monkeypatch.setattr(TrainingLoop, "step", stop_at_third)
        assert train_HeLLM.main([*argv, "--target", "interrupted"]) == 128 + signal.SIGTERM
        monkeypatch.undo()
        assert train_HeLLM.main([*argv, "--target", "interrupted", "--resume"]) == 0
        assert_same_run(place, "uninterrupted", "interrupted")

    return assert_resumes


def test_causal_run_resumes_in_the_middle_of_an_epoch(interrupted):
    interrupted(*CAUSAL, "--batch_size", "16")


@pytest.mark.parametrize("objective", [(), CAUSAL])
def test_a_run_with_shuffled_ties_resumes_in_the_middle_of_an_epoch(place, interrupted, objective):
    write_days(place / "data" / "sequential" / "Small")
    interrupted("--shuffle_ties", *objective, "--batch_size", "32", "--n_layers", "1")
    orders = [setup(place, "--shuffle_ties", *objective).batches.interactions(epoch).items for epoch in (0, 1, 0)]
    np.testing.assert_array_equal(orders[0], orders[2])
    assert (orders[0] != orders[1]).any()
    assert train_HeLLM.main(command(place, *objective, "--batch_size", "32", "--n_layers", "1")) == 0
    assert records(place)[0]["train_loss"] != records(place, "interrupted")[0]["train_loss"]
    assert "CRC-32 of Small_days.txt" in records(place, "interrupted")[-1]["files"]
    assert "CRC-32 of Small_days.txt" not in records(place)[-1]["files"]


def test_a_test_is_also_of_targets_of_a_later_and_of_the_same_day(place):
    """Days divide the users of a test; a run that does not shuffle ties trains and tests the same without them."""
    folder = place / "log" / "Small" / "MMHCL"
    argv = command(place, "--batch_size", "60", "--n_layers", "1")
    assert train_HeLLM.main([*argv, "--target", "without"]) == 0
    write_days(place / "data" / "sequential" / "Small")
    assert train_HeLLM.main(argv) == 0
    without, last = records(place, "without")[-1], records(place)[-1]
    assert without["test_unseen"] == last["test_unseen"]
    assert {key for key in last if key.startswith("test") and key not in without} == {
        *("test_later_day", "test_later_day_unseen", "test_same_day", "test_same_day_unseen")
    }
    with np.load(folder / "tiny_ranks.npz") as ranks:
        later = ranks["later_day"]
        assert 20 < later.sum() < 100
        assert last["test_later_day_unseen"] == ranking_metrics(ranks["seen_removed"][later])
        assert last["test_same_day"] == ranking_metrics(ranks["seen_kept"][~later])
    text = (folder / "tiny_log.txt").read_text()
    recall = f"{last['test_later_day_unseen']['Recall@10']:.4f}"
    assert re.search(rf"  later day \(history removed\) +{recall}  ", text)
    assert "later day" not in (folder / "without_log.txt").read_text()


@pytest.mark.parametrize("criterion", ["val.Recall@20", "val_unseen.MRR@5"])
def test_the_epoch_is_chosen_by_the_given_metric(place, criterion):
    sizes = ("--num_epochs", "6", "--patience", "0", "--batch_size", "60", "--n_layers", "1", "--lr", "1e-2")
    assert train_HeLLM.main(command(place, "--choose_by", criterion, *sizes)) == 0
    *epochs, last = records(place)
    split, metric = criterion.split(".")
    scores = [record[split][metric] for record in epochs]
    assert last["best_epoch"] == scores.index(max(scores))
    assert last["chosen_by"] == criterion
    text = (place / "log" / "Small" / "MMHCL" / "tiny_log.txt").read_text()
    assert f"best epoch {last['best_epoch'] + 1} by {criterion}, tested on" in text
    heading = next(line for line in text.splitlines() if line.split()[2:3] == ["epoch"])
    assert ("unseen MRR@5" in heading) == (split == "val_unseen")
    row = next(line for line in text.splitlines() if line.split()[2:3] == ["1/6"])
    assert f" {scores[0]:.4f} " in row
    assert row.endswith(" *")


def test_both_objectives_train_on_the_same_samples(place):
    data = Interactions(place / "data" / "sequential" / "Small" / "Small.txt", 50)
    prefix, causal = data.prefix_samples(), data.user_samples()
    items, mask, targets = collate(data, prefix, np.arange(len(prefix)))
    expected = {
        (tuple(row[real].tolist()), target) for row, real, target in zip(items, mask, targets.tolist(), strict=True)
    }
    items, mask, targets = collate(data, causal, np.arange(len(causal)), padding="right")
    found = [
        (tuple(row[real][: t + 1].tolist()), target)
        for row, real, following in zip(items, mask, targets, strict=True)
        for t, target in enumerate(following[real].tolist())
    ]
    assert len(found) == len(prefix)
    assert set(found) == expected


@pytest.mark.parametrize("width", [6, 100])  # of each table: fewer columns together than the model, or more
def test_head_initialised_from_embeddings_keeps_their_cosines(place, width):
    folder = place / "data" / "sequential" / "Small"
    for name, rows in (("MMHCL_item_embeddings.pt", 40), ("SASRec_item_embedding.pt", 41)):
        torch.save(torch.randn(rows, width, generator=torch.Generator().manual_seed(rows)) * 3 + 1, folder / name)
    run = setup(place, "--warm_head")
    head = run.model.score.weight.detach()
    graph, sequence = run.model.graph_item_embedding, run.model.seq_item_embedding[1:]
    rows = torch.cat([(t - t.mean(0)) / t.std(0) for t in (graph, sequence)], 1)
    found = F.normalize(head) @ F.normalize(head).T
    wanted = F.normalize(rows) @ F.normalize(rows).T
    off_diagonal = ~torch.eye(40, dtype=torch.bool)
    assert head.std() == pytest.approx(0.1, rel=1e-4)
    if width == 6:
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5)
    assert torch.corrcoef(torch.stack([found[off_diagonal], wanted[off_diagonal]]))[0, 1] > 0.5


@pytest.mark.slow
def test_plan_counts_flops_and_hours_of_both_objectives(place, capsys):
    """The expected FLOPs at the published size follow from the number of matrix parameters."""
    shown = {}
    for objective in ("prefix", "causal"):
        argv = ["--plan", "--dataset", "Small", "--data_dir", str(place / "data"), "--objective", objective]
        assert train_HeLLM.main([*argv, "--n_layers", "2", "--num_epochs", "3", "--batch_size", "16"]) == 0
        printed = capsys.readouterr().out.splitlines()
        assert max(map(len, printed)) <= SCREEN_WIDTH
        line = " ".join(printed[-3:])
        pattern = r"([\d,]+) samples x 3 epochs x ([\d,.]+) GFLOP = .*: +([\d.]+) hours of training at .* 72 TFLOP.*"
        shown[objective] = re.fullmatch(pattern, line).groups()
    block = 4 * 4096**2 + 3 * 4096 * 11008  # matrix parameters; forward and backward to the inputs: 4 operations each
    n_samples, prefix, _ = (float(value.replace(",", "")) for value in shown["prefix"])
    length = 3  # mean history of the small data
    assert 4 * block * (71 + length) / 1e9 < prefix < 1.5 * 4 * 2 * block * (71 + length) / 1e9
    same, causal, hours = (float(value.replace(",", "")) for value in shown["causal"])
    assert same == n_samples
    assert 4 * 2 * block / 1e9 < causal < prefix / 10
    assert hours == pytest.approx(n_samples * 3 * causal * 1e9 / 71.5e12 / 3600, abs=0.01)
