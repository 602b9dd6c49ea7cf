"""What the log of a run says about its data files, and about the kept runs of its settings."""

import json
from dataclasses import replace

import numpy as np
import pytest

import train_HeLLM
from config_HeLLM import non_default_settings, parse_args
from preprocess import pretrain_graph, pretrain_sasrec
from tests.support.small_data import N_ITEMS, short_command, write_interactions
from tests.training.test_states import pretrain_argv
from utils.io.checksums import file_crc32
from utils.logs.records import read_metrics
from utils.training import provenance
from utils.training.provenance import kept_results

SMALL = ("--n_layers", "1")


def metrics_of(place, name):
    return place / "log" / "Small" / f"{name}_metrics.jsonl"


def test_the_log_names_the_tables_and_the_runs_that_made_them(tmp_path):
    folder = write_interactions(tmp_path / "data")
    np.save(folder / "image_feat.npy", np.random.default_rng(0).normal(size=(N_ITEMS, 5)).astype(np.float32))
    for program in (pretrain_graph, pretrain_sasrec):
        assert program.main(pretrain_argv(tmp_path, "--num_epochs", "1")) == 0
    assert train_HeLLM.main(short_command(tmp_path, *SMALL)) == 0
    log = metrics_of(tmp_path, "MMHCL/tiny").with_name("tiny_log.txt").read_text()
    for table, program, run in (
        ("MMHCL_item_embeddings.pt", "pretrain_graph", "MMHCL/pretrain"),
        ("SASRec_item_embedding.pt", "pretrain_sasrec", "SASRec/pretrain"),
    ):
        made_by = f"by {program}: {run}\n"
        assert f"         {table} {file_crc32(folder / table)}, {made_by}" in log
    assert f"  Read:    Small.txt {file_crc32(folder / 'Small.txt')}\n" in log
    final = read_metrics(metrics_of(tmp_path, "MMHCL/pretrain"))[1]
    assert final.files.keys() == {"CRC-32 of Small.txt", "CRC-32 of image_feat.npy"}
    assert final.tables["CRC-32 of MMHCL_user_embeddings.pt"] == file_crc32(folder / "MMHCL_user_embeddings.pt")
    assert "Kept:" not in log


def test_tables_that_no_run_has_made_are_said_to_be_unknown(place):
    assert train_HeLLM.main(short_command(place, *SMALL)) == 0
    log = metrics_of(place, "MMHCL/tiny").with_name("tiny_log.txt").read_text()
    assert log.count(", of unknown origin\n") == 2
    metrics_of(place, "MMHCL/tiny").with_name("odd_metrics.jsonl").write_text("no record\n")
    settings = parse_args(short_command(place, *SMALL))
    assert provenance.provenance(settings, {"CRC-32 of x_feat.pt": "01234567", "CRC-32 of y_embeddings.pt": "89"}) == [
        "Read:    x_feat.pt 01234567\n         y_embeddings.pt 89, of unknown origin"
    ]


@pytest.fixture
def kept(place, monkeypatch):
    """Make a folder of kept runs from one run; return a function that writes one more."""
    assert train_HeLLM.main(short_command(place, *SMALL)) == 0
    lines = metrics_of(place, "MMHCL/tiny").read_text().splitlines()
    monkeypatch.setattr(provenance, "KEPT", place / "kept")

    def write(target, recall, files=None, **changed):
        final = json.loads(lines[-1])
        settings = replace(parse_args(short_command(place, *SMALL)), target=target, **changed)
        final["settings"] = non_default_settings(settings)
        final["test"] |= {"Recall@10": recall, "NDCG@10": recall / 2}
        final["files"] |= files or {}
        path = place / "kept" / "Small" / "MMHCL" / f"{target}_metrics.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(final) + "\n")

    return write


def test_kept_runs_of_the_same_settings_are_summed_up_by_their_files(place, kept):
    settings = parse_args(short_command(place, *SMALL))
    checksums = train_HeLLM.setup_run(settings).checksums
    for target, recall, seed in (("a", 0.1, 1), ("b", 0.2, 2), ("c", 0.3, 3)):
        kept(target, recall, seed=seed)
    kept("other-tables", 0.4, files={"CRC-32 of MMHCL_item_embeddings.pt": "01234567"})
    kept("other-settings", 0.9, lr=0.5)
    means = "Recall@10 0.2000 ± 0.1000  NDCG@10 0.1000 ± 0.0500"
    assert kept_results(settings, checksums) == [
        f"3 of these settings, on the same files: {means}",
        "1 of these settings, on other files: Recall@10 0.4000  NDCG@10 0.2000",
        "  MMHCL_item_embeddings.pt 01234567",
    ]
    assert not kept_results(replace(settings, lr=0.25), checksums)
