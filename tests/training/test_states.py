"""Checkpoints and adapters that are damaged, of another run, or in use; non-finite numbers are never saved."""

import contextlib
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

import train_HeLLM
from config_HeLLM import parse_args
from preprocess import pretrain_graph, pretrain_sasrec
from preprocess.pretrain_sasrec import SequenceTraining
from tests.support.forks import FORKS, LONGEST_RUN, hold_lock
from tests.support.small_data import N_ITEMS, RUN_SPECIFIC_KEYS, command, write_dataset
from tests.training.test_training import records
from utils.io.checksums import TRAILER_SIZE, CorruptFileError, verify_checksum
from utils.io.torch_files import load_versioned, save_with_checksum
from utils.runtime.signals import StopTraining
from utils.training.checkpoints import Progress
from utils.training.run_files import PREVIOUS_STATE, STATE

SIZES = ("--batch_size", "60", "--n_layers", "1")
PRETRAINING = {"MMHCL": pretrain_graph, "SASRec": pretrain_sasrec}


def pretrain_argv(place, *more):
    places = ["--output_dir", str(place / "output"), "--logging_dir", str(place / "log"), "--overwrite"]
    sizes = ["--batch_size", "64", "--num_epochs", "4", "--validate_every", "2"]
    return ["--dataset", "Small", "--data_dir", str(place / "data"), *places, *sizes, *more]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Make a folder with finished runs of all three trainings."""
    place = tmp_path_factory.mktemp("done")
    folder = write_dataset(place / "data")
    np.save(folder / "image_feat.npy", np.random.default_rng(0).normal(size=(N_ITEMS, 5)).astype(np.float32))
    for program in PRETRAINING.values():
        assert program.main(pretrain_argv(place, "--output_dir", str(place / "output" / "pre"))) == 0
    assert train_HeLLM.main(command(place, *SIZES)) == 0  # on the tables that these made
    return place


@pytest.fixture
def place(done, tmp_path):
    """Copy that folder, so that it can be damaged."""
    return shutil.copytree(done, tmp_path / "place")


def folder_of(place):
    return place / "output" / "Small" / "MMHCL" / "tiny"


def contents(place):
    return {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1000])


def without(lost):
    """Return a function that removes a part of a file (`progress.epoch`: a key of a part), with a valid checksum."""

    def damage(path):
        content = torch.load(path, weights_only=True)
        part, _, key = lost.partition(".")
        del (content[part] if key else content)[key or part]
        save_with_checksum(content, path)

    return damage


def refused(place, capsys, *more, argv=None):
    """Return the one line with which a resumed run is refused; assert that no file changes."""
    before = contents(place)
    capsys.readouterr()
    assert train_HeLLM.main(argv or command(place, *SIZES, "--resume", *more)) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert contents(place) == before
    return message


def test_every_flipped_byte_and_truncation_is_detected(tmp_path):
    path = tmp_path / "state.pt"
    save_with_checksum({"format": "x", "version": 1, "tensors": {"a": torch.randn(3)}, "more": [1, 2.5, "word"]}, path)
    content = path.read_bytes()
    assert load_versioned(path, "x", 1)["more"] == [1, 2.5, "word"]
    damaged = [content[:at] + bytes([content[at] ^ 2 ** (at % 8)]) + content[at + 1 :] for at in range(len(content))]
    damaged += [content[:size] for size in range(len(content))]
    for wrong in (*damaged, content + b"\n", content[TRAILER_SIZE:]):
        path.write_bytes(wrong)
        with pytest.raises(CorruptFileError, match=r"state\.pt: cut short or damaged"):
            verify_checksum(path)


@pytest.mark.parametrize(
    "damage", [truncate, lambda path: flip(path, 700), lambda path: flip(path, -5000), Path.unlink]
)
def test_resume_uses_the_newest_undamaged_checkpoint(done, place, damage, capsys):
    path = folder_of(place) / STATE
    state = load_versioned(path, "HeLLM training state", 2)["progress"]
    before = load_versioned(path.with_name(PREVIOUS_STATE), "HeLLM training state", 2)["progress"]
    assert (state["epoch"], state["step"], before["epoch"]) == (2, 0, 1)
    assert before["step"] > 0
    damage(path)
    assert train_HeLLM.main(command(place, *SIZES, "--resume")) == 0
    shown = capsys.readouterr().out
    assert shown.count(f"{path}: cut short or damaged") == (damage is not Path.unlink)
    assert f"resumed at epoch 2, step {before['step']}" in shown
    assert (folder_of(place) / "best_adapter.pt").read_bytes() == (folder_of(done) / "best_adapter.pt").read_bytes()
    for a, b in zip(records(done), records(place), strict=True):
        assert all(a[key] == b[key] for key in a.keys() - RUN_SPECIFIC_KEYS)


def test_damaged_best_adapter_and_two_damaged_checkpoints_are_refused_by_name(place, capsys):
    folder = folder_of(place)
    flip(folder / "best_adapter.pt", 3000)
    assert f"{folder / 'best_adapter.pt'}: cut short or damaged" in refused(place, capsys)
    (folder / "best_adapter.pt").unlink()
    assert f"{folder / 'best_adapter.pt'}" in refused(place, capsys)
    for name in (STATE, PREVIOUS_STATE):
        truncate(folder / name)
    message = refused(place, capsys)
    assert all(str(folder / name) in message for name in (STATE, PREVIOUS_STATE))


def other_item(folder):
    path = folder / "Small.txt"
    path.write_text(path.read_text().replace("3 3 4", "3 3 5", 1))


def other_number(folder):
    table = torch.load(folder / "SASRec_item_embedding.pt", weights_only=True)
    table[5, 2] += 1
    torch.save(table, folder / "SASRec_item_embedding.pt")


@pytest.mark.parametrize(("change", "name"), [(other_item, "Small.txt"), (other_number, "SASRec_item_embedding.pt")])
def test_checkpoint_of_other_data_files_is_refused_by_name(place, change, name, capsys):
    change(place / "data" / "sequential" / "Small")
    message = refused(place, capsys)
    assert f"CRC-32 of {name} was " in message
    assert message.count(" was ") == 1


def test_checkpoint_of_another_version_is_refused(place, capsys):
    path = folder_of(place) / STATE
    save_with_checksum(load_versioned(path, "HeLLM training state", 2) | {"version": 9}, path)
    assert "not a HeLLM training state of version 2, found ('HeLLM training state', 9)" in refused(place, capsys)


@pytest.mark.parametrize(
    "lost", ["settings", "progress", "tensors", "optimizer", "rng", "progress.epoch", "optimizer.state", "rng.numpy"]
)
def test_checkpoint_without_a_part_is_refused_by_name(place, lost, capsys):
    path = folder_of(place) / STATE
    without(lost)(path)
    assert f"error: {path}: without {lost}; " in refused(place, capsys)


def test_new_run_removes_the_checkpoints_of_an_earlier_one(place):
    assert train_HeLLM.main(command(place, *SIZES, "--seed", "7", "--overwrite")) == 0
    for name in (STATE, PREVIOUS_STATE):
        assert load_versioned(folder_of(place) / name, "HeLLM training state", 2)["settings"]["seed"] == 7
    run = train_HeLLM.setup_run(parse_args(command(place, *SIZES)))
    with run.checkpoints.lock():
        run.checkpoints.save(run.checkpoints.reset())
    assert not (folder_of(place) / PREVIOUS_STATE).exists()


@pytest.mark.parametrize("name", PRETRAINING)
def test_pretraining_resumes_from_an_undamaged_checkpoint_and_refuses_other_data(place, name, capsys):
    folder, data = place / "output" / "pre" / "Small" / name / "pretrain", place / "data" / "sequential" / "Small"
    argv = pretrain_argv(place, "--output_dir", str(place / "output" / "pre"), "--resume")
    tables = {path: path.read_bytes() for path in data.glob(f"{name}*")}
    flip(folder / STATE, -3000)
    for path in tables:
        path.unlink()
    assert PRETRAINING[name].main(argv) == 0
    shown = capsys.readouterr().out
    assert f"{folder / STATE}: cut short or damaged" in shown
    assert "resumed at epoch 3, step 0" in shown
    assert {path: path.read_bytes() for path in data.glob(f"{name}*")} == tables
    (data / "audio_feat.npy").write_bytes((data / "image_feat.npy").read_bytes())
    other_item(data)
    before = contents(place)
    assert PRETRAINING[name].main(argv) == 2
    message = capsys.readouterr().err
    assert "CRC-32 of Small.txt was" in message
    assert message.count("\n") == 1
    assert ("CRC-32 of audio_feat.npy was None" in message) == (name == "MMHCL")
    assert contents(place) == before


@contextlib.contextmanager
def holding(path, is_prefix=False):
    """Start another process that holds a lock; it is killed at the end."""
    acquired = FORKS.Event()
    holder = FORKS.Process(target=hold_lock, args=(path, is_prefix, acquired))
    holder.start()
    try:
        assert acquired.wait(LONGEST_RUN)
        yield holder
    finally:
        holder.kill()
        holder.join()


def refused_as_held(main, argv, held, holder, place, capsys, flag="--target"):
    """Assert that a run is refused by one line with the lock's owner and a flag that helps, and changes no file."""
    before = contents(place)
    capsys.readouterr()
    assert main(argv) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error: {held}: in use by process {holder.pid} on {os.uname().nodename} since 2")
    assert message.endswith(f"or use another {flag}\n")
    assert message.count("\n") == 1
    with pytest.raises(SystemExit):
        main(["--help"])
    assert f"  {flag} " in capsys.readouterr().out
    assert contents(place) == before


@pytest.mark.parametrize("which", ["fine-tuning", *PRETRAINING])
def test_second_run_in_a_folder_is_refused_with_the_owner(place, which, capsys):
    name = "pretrain" if which in PRETRAINING else "tiny"
    folder = place / "output" / "Small" / (which if which in PRETRAINING else "MMHCL") / name
    main = PRETRAINING[which].main if which in PRETRAINING else train_HeLLM.main
    argv = pretrain_argv(place) if which in PRETRAINING else command(place, *SIZES, "--overwrite")
    with holding(folder) as holder:
        for more in ((), ("--resume",)):
            refused_as_held(main, [*argv, *more], folder, holder, place, capsys)
    assert main(argv) == 0
    assert f"process {holder.pid} on {os.uname().nodename} since 2" in capsys.readouterr().out
    assert (folder / "held_by.txt").read_text() == ""


@pytest.mark.parametrize("which", ["fine-tuning", *PRETRAINING])
def test_second_run_of_a_log_is_refused_with_the_owner(place, which, capsys):
    """The log has a lock of its own, wherever the checkpoints are."""
    name = f"{which}/pretrain" if which in PRETRAINING else "MMHCL/tiny"
    main = PRETRAINING[which].main if which in PRETRAINING else train_HeLLM.main
    argv = pretrain_argv(place) if which in PRETRAINING else command(place, *SIZES, "--overwrite")
    argv += ["--output_dir", str(place / "elsewhere")]
    log = place / "log" / "Small" / name
    with holding(log, is_prefix=True) as holder:
        refused_as_held(main, argv, log, holder, place, capsys)
    assert main(argv) == 0
    assert f"process {holder.pid} on {os.uname().nodename} since 2" in capsys.readouterr().out
    (left,) = log.parent.glob(f"{log.name}*held_by.txt")
    assert left.read_text() == ""


def register_gradient_change(loop, step, parameter, change):
    """Change the gradient of a parameter in one step."""

    def hook(grad):
        return change(grad) if loop.progress.step == step else None

    parameter.register_hook(hook)


@pytest.mark.parametrize(("step", "value"), [(0, torch.nan), (4, torch.inf)])
def test_non_finite_gradient_saves_a_checkpoint_from_before_it(place, step, value):
    argv = command(place, "--batch_size", "20", "--n_layers", "1", "--log_every", "30")
    spared = train_HeLLM.setup_run(parse_args([*argv, "--target", "spared"]))
    spared_loop = train_HeLLM.training_loop(spared)
    original = spared_loop.step

    def stopped(batch, lr):
        if spared_loop.progress.step == step - 1:
            spared_loop.signals.number = signal.SIGTERM
        return original(batch, lr)

    if step:
        spared_loop.step = stopped
        with pytest.raises(StopTraining, match="SIGTERM"):
            spared_loop.train_epoch()
    run = train_HeLLM.setup_run(parse_args([*argv, "--target", "broken"]))
    loop = train_HeLLM.training_loop(run)
    name, parameter = "item_projector.0.weight", dict(run.model.named_parameters())
    name = name if name in parameter else next(n for n, p in parameter.items() if p.requires_grad)
    register_gradient_change(loop, step, parameter[name], lambda grad: torch.full_like(grad, value))
    words = rf"not finite at epoch 1, step {step}: loss \d\S+, gradient norm (nan|inf), learning rate \d\S+, users "
    with pytest.raises(StopTraining, match=words) as stop:
        loop.train_epoch()
    users = run.batches.samples.user
    shown = str(stop.value).split("users ")[1].split(";")[0]
    assert all(int(word) in users for word in shown.split(" and ")[0].split(", "))
    assert "parameters of largest norm: " in str(stop.value)
    assert stop.value.status == 1
    state = load_versioned(run.checkpoints.folder / STATE, "HeLLM training state", 2)
    assert (state["progress"]["epoch"], state["progress"]["step"]) == (0, step)
    if not step:
        assert all(torch.equal(p, state["tensors"][n]) for n, p in spared.model.named_parameters() if p.requires_grad)
        return
    expected = load_versioned(spared.checkpoints.folder / STATE, "HeLLM training state", 2)
    assert state["progress"] | {"seconds": 0} == expected["progress"] | {"seconds": 0}
    found, wanted = ((s["tensors"], s["optimizer"]["state"]) for s in (state, expected))
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def test_non_finite_tensor_is_never_saved(place, capsys):
    run = train_HeLLM.setup_run(parse_args(command(place, *SIZES)))
    run.checkpoints.save(Progress())
    before = contents(run.checkpoints.folder)
    with torch.no_grad():
        run.model.score.weight[1, 1] = torch.nan
    with pytest.raises(StopTraining, match=r"score\.weight holds NaN or infinity before epoch 1, step 0: not saved"):
        run.checkpoints.save(Progress())
    assert contents(run.checkpoints.folder) == before


def test_pretraining_saves_a_checkpoint_from_before_a_non_finite_gradient(place, monkeypatch, capsys):
    backward = SequenceTraining.backward

    def breaking(self, batch, epoch, step):
        if (epoch, step) == (1, 0):
            self.model.position_embedding.register_hook(lambda grad: grad * torch.nan)
        return backward(self, batch, epoch, step)

    monkeypatch.setattr(SequenceTraining, "backward", breaking)
    assert pretrain_sasrec.main(pretrain_argv(place)) == 1
    shown = capsys.readouterr().out.splitlines()[-1]
    assert shown.startswith("not finite at epoch 2, step 0: loss ")
    assert "gradient norm nan, learning rate 2" in shown
    assert "parameters of largest norm: blocks.layers.0.self_attn.in_proj_weight 9." in shown
    state = load_versioned(place / "output/Small/SASRec/pretrain" / STATE, "HeLLM training state", 2)
    assert (state["progress"]["epoch"], state["progress"]["step"]) == (1, 0)
    assert all(tensor.isfinite().all() for tensor in state["tensors"].values())
