"""One model over two processes against one process."""

import pytest
import torch

from tests.support.forks import run_distributed
from tests.support.parallel_worker import build, read_base, train, train_and_write, unsharded_parameters
from tests.support.small_model import wake, write_meta
from utils.training.adapter_file import load_adapter


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with a base in one and in two files, and with what two processes have written."""
    folder = tmp_path_factory.mktemp("two")
    base = {name.removeprefix("llama."): p for name, p in wake(build()).state_dict().items() if ".lora." not in name}
    base = {name: p for name, p in base.items() if name.startswith(("tok_embeddings", "layers", "norm"))}
    params = {"dim": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "multiple_of": 16, "norm_eps": 1e-5}
    for n_shards in (1, 2):
        write_meta(folder / f"base{n_shards}", base, params, n_shards)
    for outcome in run_distributed(2, folder, train_and_write, folder):
        assert outcome.status == 0, outcome.err
    return folder


@pytest.fixture(scope="module")
def two(folder):
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


def test_the_same_seed_gives_the_same_model(two):
    assert two[0]["processes"] == 2
    start = unsharded_parameters(build())
    for rank in (0, 1):
        assert start.keys() == two[rank]["start"].keys()
        for name, p in start.items():
            assert torch.equal(p, two[rank]["start"][name]), name


def test_ten_steps_agree_with_one_process(two):
    model = build()
    losses = train(model)
    assert losses[-1] < losses[0] - 0.02
    for rank in (0, 1):
        assert two[rank]["losses"] == pytest.approx(losses, rel=1e-4)
    for name, p in unsharded_parameters(model).items():
        assert torch.equal(two[0]["end"][name], two[1]["end"][name]), name
        torch.testing.assert_close(
            p, two[0]["end"][name], rtol=1e-2, atol=2e-4, msg=lambda m, name=name: f"{name}: {m}"
        )


def test_an_adapter_of_two_processes_loads_in_one(folder, two):
    model = build()
    items = torch.tensor([[1, 2, 3]])
    before = model(items)
    load_adapter(model, folder / "adapter.pt")
    for name, p in unsharded_parameters(model).items():
        assert torch.equal(p, two[0]["end"][name]), name
    assert not torch.allclose(model(items), before)


@pytest.mark.parametrize("name", ["base1", "base2"])
def test_each_process_reads_its_part_of_the_base_and_allocates_no_more(folder, two, name):
    one = read_base(folder / "base1")
    for rank in (0, 1):
        part = two[rank]["base"][name]
        torch.testing.assert_close(part["hidden"], one["hidden"], rtol=1e-4, atol=1e-4)
        assert part["allocated"] == part["needed"] < 0.6 * one["needed"]
