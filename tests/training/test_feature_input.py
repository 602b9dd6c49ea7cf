"""Runs whose item vectors read features, beside the tables or alone."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import train_HeLLM
from config_HeLLM import parse_args
from tests.support.small_data import N_ITEMS, short_command, write_dataset, write_interactions
from utils.io.torch_files import load_with_checksum, save_with_checksum
from utils.recommend import load
from utils.recommend.recommend import RecommendSettings
from utils.training.adapter_file import load_adapter, save_adapter
from utils.training.build import load_data
from utils.training.run_files import BEST_ADAPTER, run_folder

NARROW = ("--feature_input", "--feature_width", "4", "--n_layers", "1")
ALONE = (*NARROW, "--no-graph_input", "--no-seq_input", "--no-graph_adapter")
CAUSAL = ("--objective", "causal", "--prompt", "none", "--standardize")


def write_features(folder, n_items=N_ITEMS, seed=0):
    """Write features in which each two neighbouring items are equal."""
    rows = np.random.default_rng(seed).normal(size=(n_items // 2, 7)).astype(np.float32)
    np.save(folder / "text_feat.npy", rows.repeat(2, 0))


@pytest.fixture
def place(tmp_path):
    write_features(write_dataset(tmp_path / "data"))
    return tmp_path


@pytest.fixture
def bare(tmp_path):
    """Write interactions and features without embedding tables; two more items than are ever bought."""
    folder = write_interactions(tmp_path / "data")
    bought = (folder / "Small.txt").read_text().replace(" 39", " 41")  # items 39 and 40 are never bought
    (folder / "Small.txt").write_text(bought)
    write_features(folder, N_ITEMS + 2)
    return tmp_path


def test_features_reach_the_model_and_a_changed_file_is_refused(place, capsys):
    run = train_HeLLM.setup_run(parse_args(short_command(place, *NARROW, "--standardize")))
    table = run.model.feature_embedding
    assert table.shape == (N_ITEMS, 4)
    torch.testing.assert_close(table.std(0), torch.ones(4))
    assert run.model.item_projector[0].weight.shape[1] == 6 + 6 + 4
    assert "CRC-32 of text_feat.npy" in run.checksums
    assert train_HeLLM.main(short_command(place, *NARROW)) == 0
    assert train_HeLLM.main(short_command(place, *NARROW, "--resume")) == 0
    write_features(place / "data" / "sequential" / "Small", seed=1)
    capsys.readouterr()
    assert train_HeLLM.main(short_command(place, *NARROW, "--resume")) == 2
    assert "CRC-32 of text_feat.npy was " in capsys.readouterr().err


def test_the_reduced_features_are_kept_with_the_adapter(place):
    assert train_HeLLM.main(short_command(place, *NARROW)) == 0
    s = parse_args(short_command(place, *NARROW))
    folder = run_folder(s.output_dir, s.dataset, s.GNNModel, s.target)
    kept = torch.load(folder / BEST_ADAPTER, weights_only=True)["tensors"]["feature_embedding"]
    assert kept.equal(load_data(s)[1].features)
    asked = RecommendSettings(str(folder), str(place / "data"), device="cpu")
    assert load(asked.run, asked.data_dir, device="cpu").model.feature_embedding.equal(kept)


def test_an_adapter_of_a_version_without_features_loads(place):
    args = parse_args(short_command(place))
    model = train_HeLLM.setup_run(args).model
    path = place / "adapter.pt"
    save_adapter(model, path)
    content = load_with_checksum(path)
    del content["settings"]["feature_input"]
    save_with_checksum(content, path)
    load_adapter(model, path)


@pytest.mark.parametrize(
    "flags", [("--head", "tied"), ("--head", "tied", *CAUSAL), ("--warm_head", *CAUSAL), ("--no-w_adapter",)], ids=str
)
def test_features_alone_need_no_embedding_tables(bare, flags):
    assert train_HeLLM.main(short_command(bare, *ALONE, *flags)) == 0


def test_a_tied_head_scores_an_item_that_was_never_bought_by_its_features(bare):
    """Items 38 and 39 have the same features, and so have 40 and 41; 39 and 40 are never bought."""
    run = train_HeLLM.setup_run(parse_args(short_command(bare, *ALONE, *CAUSAL, "--head", "tied")))
    assert run.data.n_items == N_ITEMS + 2
    assert not {39, 40} & set(run.data.items.tolist())
    train_HeLLM.training_loop(run).run(run.checkpoints.reset())
    with torch.no_grad():
        scores = run.model.eval()(torch.tensor([[3, 4, 5]]))[0]
    torch.testing.assert_close(scores[[39, 40]], scores[[38, 41]])
    assert (scores[38] - scores[41]).abs() > 1e-3


@pytest.mark.parametrize("switches", [(), ("--no-graph_input",), ("--no-graph_input", "--no-seq_input")], ids=str)
def test_a_warm_head_starts_from_what_the_item_vectors_read(place, switches):
    run = train_HeLLM.setup_run(parse_args(short_command(place, *NARROW, *switches, "--warm_head")))
    inputs = run.model.item_inputs(torch.arange(run.model.n_items))
    assert inputs.shape[1] == 4 + 6 * (2 - len(switches))
    wanted, found = (F.normalize(x) for x in ((inputs - inputs.mean(0)) / inputs.std(0), run.model.score.weight))
    torch.testing.assert_close(found @ found.T, wanted @ wanted.T, rtol=1e-3, atol=1e-5)


def test_the_plan_counts_features(bare, capsys):
    for features, width in ((True, 4), (False, 4)):
        if not features:
            (bare / "data" / "sequential" / "Small" / "text_feat.npy").unlink()
        assert train_HeLLM.main(short_command(bare, *ALONE, "--plan")) == 0
        n_parameters = (width + 1) * 128 + 129 * 128
        assert f"item_projector     {n_parameters:>15,} params" in capsys.readouterr().out


def test_missing_features_are_one_line(bare, capsys):
    (bare / "data" / "sequential" / "Small" / "text_feat.npy").unlink()
    assert train_HeLLM.main(short_command(bare, *ALONE)) == 2
    error = capsys.readouterr().err
    assert "no text_feat or image_feat.npy, .npz or .pt; make one by" in error
    assert error.count("\n") == 1
