"""The paper's ablations: which of them run, and what is said of the others."""

import json
import shlex

import numpy as np

import train_HeLLM
from config_HeLLM import parse_args
from preprocess import pretrain_graph
from tests.support.small_data import N_ITEMS
from tests.support.small_data import short_command as command
from utils.io.checksums import file_crc32
from utils.sweep.ablation import ablation_runs


def logs(place, name="MMHCL"):
    return place / "log" / "Small" / name


def last_record(place, name, target):
    return json.loads((logs(place, name) / f"{target}_metrics.jsonl").read_text().splitlines()[-1])


def ablation_table(place):
    return (logs(place) / "tiny_ablation.md").read_text()


def write_features(place, *names):
    for name in names:
        path = place / "data" / "sequential" / "Small" / f"{name}_feat.npy"
        np.save(path, np.random.default_rng(0).normal(size=(N_ITEMS, 5)).astype(np.float32))


def pretrain(place, *more):
    """Make graph tables as small as possible."""
    places = ("--output_dir", str(place / "output"), "--logging_dir", str(place / "log"))
    small = ("--num_epochs", "1", "--validate_every", "1", "--topk", "4", "--batch_size", "64", "--embed_dim", "6")
    data = ("--dataset", "Small", "--data_dir", str(place / "data"))
    return pretrain_graph.main([*data, *places, *small, "--overwrite", *more])


def test_the_ablations_run_and_say_what_makes_missing_tables(place, capsys):
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
        "w/o text (no such graph tables)",
        "w/o pictures (no such graph tables)",
    ]
    test = last_record(place, "MMHCL", "tiny-ablation-no-prefix")["test"]
    assert f"| w/o prefix | {test['Recall@10']:.4f} | {test['NDCG@10']:.4f} |" in ablation_table(place)
    commands = {line.split(":")[0]: line.split("make it: ")[1] for line in lines if "make it: " in line}
    assert list(commands) == ["* w/o U2U", "* w/o I2I", "* w/o text", "* w/o pictures"]
    made_by = [pretrain_graph.parse_args(shlex.split(made)[3:]) for made in commands.values()]
    assert [made.tables for made in made_by] == ["MMHCL-no-U2U", "MMHCL-no-I2I", "MMHCL-no-text", "MMHCL-no-pictures"]
    assert [made.user_loss_ratio for made in made_by] == [0, 0.9, 0.9, 0.9]
    assert [made.item_loss_ratio for made in made_by] == [0.1, 0, 0.1, 0.1]
    assert [made.features for made in made_by] == [("image", "text"), (), ("image",), ("text",)]
    assert {(made.embed_dim, made.topk, made.logging_dir) for made in made_by} == {(6, 4, str(place / "log"))}
    assert pretrain_graph.main(shlex.split(commands["* w/o text"])[3:]) == 0
    assert (logs(place, "MMHCL-no-text") / "pretrain_metrics.jsonl").is_file()
    capsys.readouterr()
    assert train_HeLLM.main(argv) == 0
    assert capsys.readouterr().out.count("finished before") == 4
    found = last_record(place, "MMHCL-no-text", "tiny-ablation-no-text")["test"]["Recall@10"]
    assert f"| w/o text | {found:.4f} |" in ablation_table(place)
    assert ablation_table(place).count("(no such graph tables)") == 3


def graph_rows(place):
    """The rows of the ablations that have tables of their own, by title."""
    rows = ablation_runs(parse_args(command(place)))
    return {row.title: row for row in rows if row.title.split()[-1] in ("U2U", "I2I", "text", "pictures")}


def test_ablations_take_tables_of_the_same_pretraining_alone(place):
    write_features(place, "image", "text")
    assert pretrain(place) == 0
    made = {
        "U2U": ("--user_loss_ratio", "0"),
        "I2I": ("--item_loss_ratio", "0"),
        "text": ("--features", "image", "--lr", "0.5"),
        "pictures": (),
    }
    for part, flags in made.items():
        assert pretrain(place, "--tables", f"MMHCL-no-{part}", *flags) == 0
    rows = graph_rows(place)
    assert [row.left_out for row in rows.values()] == ["", "", *["graph tables of another pre-training"] * 2]
    otherwise = "made otherwise than the full tables: "
    remedies = [rows[f"w/o {part}"].remedy for part in ("text", "pictures")]
    assert f"MMHCL-no-text_item_embeddings.pt: {otherwise}lr was 0.5, is now 0.0001; make it anew: " in remedies[0]
    crc = file_crc32(place / "data" / "sequential" / "Small" / "image_feat.npy")
    assert (
        f"MMHCL-no-pictures_item_embeddings.pt: {otherwise}CRC-32 of image_feat.npy was {crc}, is now None; "
        in remedies[1]
    )
    for remedy in remedies:
        assert pretrain_graph.main(shlex.split(remedy.split("make it anew: ")[1])[3:]) == 0
    assert not any(row.left_out for row in graph_rows(place).values())
    (logs(place) / "pretrain_log.txt").unlink()  # nothing is known of the full tables
    (logs(place) / "pretrain_metrics.jsonl").unlink()
    assert not any(row.left_out for row in graph_rows(place).values())


def test_ablations_leave_out_what_the_full_tables_were_made_from(place):
    write_features(place, "text", "words")
    assert pretrain(place) == 0
    write_features(place, "image")  # later, and no part of the tables
    rows = graph_rows(place)
    assert rows["w/o pictures"].left_out == "not part of these graph tables"
    assert rows["w/o text"].left_out.startswith("nothing would be left of the item hypergraph")
    assert "--features=text,words" in rows["w/o U2U"].remedy


def test_ablations_of_what_is_not_there(place):
    folder = place / "data" / "sequential" / "Small"
    np.save(folder / "text_feat.npy", np.ones((N_ITEMS, 2), np.float32))
    flags = ("--no-graph_input", "--no-prefix_adapter", "--sweep", "ablation")
    assert train_HeLLM.main(command(place, *flags, "--sweep_shard", "1/1")) == 0
    text = ablation_table(place)
    assert "w/o prefix (not part of this preset" in text
    assert "w/o graph adapter (nothing would be left: w_adapter needs" in text
    assert "w/o sequence input (nothing would be left: an item vector needs" in text
    assert "w/o text (nothing would be left of the item hypergraph" in text
    assert "w/o pictures (not part of these graph tables" in text
    assert text.count("w/o") == 8 + 1 + 2  # one row says w/o I2I, two say what to do
