"""The paper's ablations: which of them run, and why others are left out."""

import json
import shlex

import numpy as np
import pytest

import train_HeLLM
from config_HeLLM import parse_args
from preprocess import pretrain_graph
from tests.support.small_data import N_ITEMS, short_command
from utils.io.checksums import file_crc32
from utils.sweep.ablation import ablation_runs


def command(place, *more):
    """Return the arguments of a short run of one block."""
    return short_command(place, "--n_layers", "1", *more)


def log_folder(place, name="MMHCL"):
    return place / "log" / "Small" / name


def read_final_record(place, name, target):
    return json.loads((log_folder(place, name) / f"{target}_metrics.jsonl").read_text().splitlines()[-1])


def ablation_table(place):
    return (log_folder(place) / "tiny_ablation.md").read_text()


def write_features(place, *names):
    for name in names:
        path = place / "data" / "sequential" / "Small" / f"{name}_feat.npy"
        np.save(path, np.random.default_rng(0).normal(size=(N_ITEMS, 5)).astype(np.float32))


def pretrain(place, *more):
    """Make small graph tables."""
    folders = ("--output_dir", str(place / "output"), "--logging_dir", str(place / "log"))
    small = ("--num_epochs", "1", "--validate_every", "1", "--topk", "4", "--batch_size", "64", "--embed_dim", "6")
    data = ("--dataset", "Small", "--data_dir", str(place / "data"))
    return pretrain_graph.main([*data, *folders, *small, "--overwrite", *more])


def run_command(command_line):
    """Run a command that the table gives, in this process."""
    python, _, module, *argv = shlex.split(command_line)
    assert (python, module) == ("python", "preprocess.pretrain_graph")
    return pretrain_graph.main(argv)


@pytest.mark.slow
def test_ablations_run_and_missing_tables_have_a_command_that_makes_them(place, capsys):
    write_features(place, "image", "text")
    assert pretrain(place) == 0
    argv = command(place, "--sweep", "ablation")
    assert train_HeLLM.main(argv) == 0
    lines = ablation_table(place).splitlines()
    assert [line.split("|")[1].strip() for line in lines if line.startswith("| ")] == [
        "Small, test",
        "---",
        "HeLLM",
        "w/o U2U (no such graph tables)",
        "w/o I2I (no such graph tables)",
        "w/o graph adapter",
        "w/o prefix",
        "w/o LoRA (not part of this preset)",
        "w/o sequence input",
        "w/o feature input (not part of this preset)",
        "w/o text (no such graph tables)",
        "w/o pictures (no such graph tables)",
    ]
    test = read_final_record(place, "MMHCL", "tiny-ablation-no-prefix")["test"]
    assert f"| w/o prefix | {test['Recall@10']:.4f} | {test['NDCG@10']:.4f} |" in ablation_table(place)

    commands = {line.split(":")[0]: line.split("make it: ")[1] for line in lines if "make it: " in line}
    assert list(commands) == ["* w/o U2U", "* w/o I2I", "* w/o text", "* w/o pictures"]
    made_by = [pretrain_graph.parse_args(shlex.split(line)[3:]) for line in commands.values()]
    assert [made.tables for made in made_by] == ["MMHCL-no-U2U", "MMHCL-no-I2I", "MMHCL-no-text", "MMHCL-no-pictures"]
    assert [made.user_loss_ratio for made in made_by] == [0, 0.9, 0.9, 0.9]
    assert [made.item_loss_ratio for made in made_by] == [0.1, 0, 0.1, 0.1]
    assert [made.features for made in made_by] == [("image", "text"), (), ("image",), ("text",)]
    assert {(made.embed_dim, made.topk, made.logging_dir) for made in made_by} == {(6, 4, str(place / "log"))}

    assert run_command(commands["* w/o text"]) == 0
    assert (log_folder(place, "MMHCL-no-text") / "pretrain_metrics.jsonl").is_file()
    capsys.readouterr()
    assert train_HeLLM.main(argv) == 0
    assert capsys.readouterr().out.count("finished before") == 4
    recall = read_final_record(place, "MMHCL-no-text", "tiny-ablation-no-text")["test"]["Recall@10"]
    assert f"| w/o text | {recall:.4f} |" in ablation_table(place)
    assert ablation_table(place).count("(no such graph tables)") == 3


def graph_runs(place):
    """Return the ablations that read tables of their own, by title."""
    runs = ablation_runs(parse_args(command(place)))
    return {run.title: run for run in runs if run.title.split()[-1] in ("U2U", "I2I", "text", "pictures")}


def test_tables_of_another_pretraining_than_the_full_ones_are_left_out(place):
    write_features(place, "image", "text")
    assert pretrain(place) == 0
    flags = {
        "U2U": ("--user_loss_ratio", "0"),
        "I2I": ("--item_loss_ratio", "0"),
        "text": ("--features", "image", "--lr", "0.5"),
        "pictures": (),
    }
    for part, more in flags.items():
        assert pretrain(place, "--tables", f"MMHCL-no-{part}", *more) == 0
    runs = graph_runs(place)
    assert [run.left_out for run in runs.values()] == ["", "", *["graph tables of another pre-training"] * 2]
    found = "made otherwise than the full tables: "
    remedies = [runs[f"w/o {part}"].remedy for part in ("text", "pictures")]
    assert f"MMHCL-no-text_item_embeddings.pt: {found}lr was 0.5, is now 0.0001; regenerate it: " in remedies[0]
    crc = file_crc32(place / "data" / "sequential" / "Small" / "image_feat.npy")
    changed = f"CRC-32 of image_feat.npy was {crc}, is now None; "
    assert f"MMHCL-no-pictures_item_embeddings.pt: {found}{changed}" in remedies[1]
    for remedy in remedies:
        assert run_command(remedy.split("regenerate it: ")[1]) == 0
    assert not any(run.left_out for run in graph_runs(place).values())

    (log_folder(place) / "pretrain_log.txt").unlink()  # the pre-training of the full tables is unknown
    (log_folder(place) / "pretrain_metrics.jsonl").unlink()
    assert not any(run.left_out for run in graph_runs(place).values())


def test_ablated_modalities_are_no_input_of_the_item_vectors_either(place):
    write_features(place, "image", "text", "words")
    assert pretrain(place) == 0
    assert pretrain(place, "--tables", "MMHCL-no-text", "--features", "image") == 0
    assert pretrain(place, "--tables", "MMHCL-no-pictures", "--features", "text,words") == 0
    runs = {run.title: run.settings for run in ablation_runs(parse_args(command(place, "--feature_input")))}
    assert runs["w/o text"].features == ("image",)
    assert runs["w/o pictures"].features == ("text", "words")
    assert runs["HeLLM"].features == ()
    assert not runs["w/o feature input"].feature_input
    alone = ("--feature_input", "--no-graph_input", "--no-seq_input", "--no-graph_adapter")
    left_out = {run.title: run.left_out for run in ablation_runs(parse_args(command(place, *alone)))}
    assert left_out["w/o U2U"] == "not part of this preset"
    assert left_out["w/o feature input"].startswith("nothing would be left: an item vector needs")


def test_ablations_leave_out_what_the_full_tables_were_made_from(place):
    write_features(place, "text", "words")
    assert pretrain(place) == 0
    write_features(place, "image")  # later, and no part of the tables
    runs = graph_runs(place)
    assert runs["w/o pictures"].left_out == "not part of these graph tables"
    assert runs["w/o text"].left_out.startswith("nothing would be left of the item hypergraph")
    assert "--features=text,words" in runs["w/o U2U"].remedy


def test_parts_that_the_full_run_lacks_are_left_out(place):
    write_features(place, "text")
    flags = ("--no-graph_input", "--no-prefix_adapter", "--sweep", "ablation")
    assert train_HeLLM.main(command(place, *flags, "--sweep_shard", "1/1")) == 0
    text = ablation_table(place)
    assert "w/o prefix (not part of this preset" in text
    assert "w/o graph adapter (nothing would be left: w_adapter needs" in text
    assert "w/o sequence input (nothing would be left: an item vector needs" in text
    assert "w/o text (nothing would be left of the item hypergraph" in text
    assert "w/o pictures (not part of these graph tables" in text
    assert text.count("w/o") == 9 + 1 + 2  # one row mentions w/o I2I, two notes give a remedy
