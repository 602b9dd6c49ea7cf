"""The settings of fine-tuning and their command line."""

from dataclasses import fields

import pytest

from config_HeLLM import PRESETS, Settings, parse_args
from preprocess import amazon, check, features, own, pretrain_graph, pretrain_sasrec, tables
from utils.sweep.command import parse_command


def shown_help(capsys, program, argv=()) -> str:
    """Return what --help prints, after checking that it fits 100 columns."""
    with pytest.raises(SystemExit) as stop:
        program([*argv, "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 100
    return shown


def test_help_lists_every_setting_and_the_sweep(capsys):
    shown = shown_help(capsys, parse_command)
    flags = [line.split()[0] for line in shown.splitlines() if line.startswith("  --")]
    others = {"--preset", "--config", "--sweep", "--sweep_shard", "--seeds", "--committee"}
    assert set(flags) == {f"--{field.name}" for field in fields(Settings)} | others
    assert len(flags) == len(set(flags))


def test_help_has_the_groups_of_the_config_in_its_order(capsys):
    lines = shown_help(capsys, parse_command).splitlines()
    groups = [line.removesuffix(":") for line in lines if line.endswith(":") and not line.startswith(" ")]
    expected = "data, model, item vectors, adapter, LoRA, training, speed and memory, output, several runs, presets"
    assert groups[groups.index("data") :] == expected.split(", ")


def test_help_shows_choices_and_defaults_of_switches_too(capsys):
    shown = " ".join(shown_help(capsys, parse_command).split())
    assert "--objective {prefix,causal} " in shown
    assert "--w_lora low-rank updates of LLaMA's weight matrices (default: on)" in shown
    assert "from the inputs of the item vectors instead of at random (default: off)" in shown
    assert "w1,w2,w3,wq,wk,wv,wo (default: w1,w2,w3)" in shown


def test_help_shows_the_presets_in_a_table(capsys):
    table = shown_help(capsys, parse_command).split("presets:\n")[1]
    rows = [line.split() for line in table.splitlines()]
    assert rows[0] == list(PRESETS)
    assert ["objective", "prefix", "prefix", "causal", "prefix"] in rows
    assert ["w_lora", "on", "off", "off", "off"] in rows
    changed = {name for changes in PRESETS.values() for name in changes}
    assert {row[0] for row in rows[1:]} == changed


@pytest.mark.parametrize(
    ("program", "argv", "flag"),
    [
        (amazon.main, (), "--k_core INT"),
        (check.main, (), "--GNNModel {MMHCL,LightGCN}"),
        (features.main, ("text",), "--encoder {tfidf,minilm,bert,llama}"),
        (features.main, ("image",), "--encoder {clip,histogram}"),
        (own.main, (), "FILE"),
        (pretrain_graph.main, (), "--cf_model {LightGCN,NGCF,MF}"),
        (pretrain_sasrec.main, (), "--n_heads INT"),
        (tables.main, (), "--GNNModel {MMHCL,LightGCN}"),
    ],
)
def test_help_of_other_programs(capsys, program, argv, flag):
    assert flag in shown_help(capsys, program, argv)


def test_presets_name_existing_settings():
    names = {field.name for field in fields(Settings)}
    assert all(set(changes) <= names for changes in PRESETS.values())
    assert parse_args([]) == Settings()


def test_flags_override_the_preset():
    settings = parse_args(["--preset", "tiny", "--lr", "0.5", "--no-w_adapter", "--lora_targets", "w1,wq"])
    assert settings.lr == 0.5
    assert settings.w_adapter is False
    assert settings.lora_targets == ("w1", "wq")
    assert settings.model_name == "tiny"


def test_the_last_of_opposite_switches_wins():
    assert parse_args(["--w_lora", "--no-w_lora"]).w_lora is False
    assert parse_args(["--no-w_lora", "--w_lora"]).w_lora is True


@pytest.mark.parametrize(
    ("edited", "message"),
    [
        ({"lr": "3e-4"}, "lr is '3e-4', expected a number"),
        ({"lrr": 3e-4}, "unknown setting 'lrr'; --help lists them"),
        ({"max_len": "50", "target": 5}, "max_len is '50', expected an integer; target is 5, expected a string"),
        ({"max_memory": 24}, "max_memory is 24, expected a string"),
        ({"batch_size": 64.0}, "batch_size is 64.0, expected an integer"),
        ({"num_epochs": 1.5, "seed": True}, "seed is True, expected an integer"),
        ({"w_lora": "no"}, "w_lora is 'no', expected True or False"),
        ({"w_lora": 0}, "w_lora is 0, expected True or False"),
        ({"lora_targets": "w1"}, "lora_targets is 'w1', expected a tuple of strings"),
        ({"head": "tide"}, "head is 'tide', expected one of frozen, trained, tied"),
        ({"dtype": 16}, "dtype is 16, expected one of auto, fp32, bf16"),
        ({"prompt": ["bos"]}, "prompt is ['bos'], expected one of alpaca, bos, none"),
    ],
)
def test_an_invalid_edited_preset_is_one_line(monkeypatch, capsys, edited, message):
    monkeypatch.setitem(PRESETS, "mine", edited)
    with pytest.raises(SystemExit) as stop:
        parse_args(["--preset", "mine"])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("error: config_HeLLM.py: ")
    assert message in error


def test_integers_are_valid_floats(monkeypatch):
    monkeypatch.setitem(PRESETS, "mine", {"lr": 1, "lora_targets": ("w1",)})
    assert parse_args(["--preset", "mine"]) == Settings(lr=1, lora_targets=("w1",))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--foo", "3"], "unknown argument --foo 3"),
        (["--max_memory", "3GB", "--tokens_per_batch", "9"], "--max_memory changes --batch_size"),
        (["--head", "tide"], "--head: invalid choice: 'tide' (choose from 'frozen', 'trained', 'tied')"),
        (["--objective", "both"], "--objective: invalid choice: 'both' (choose from 'prefix', 'causal')"),
        (["--preset", "tiny", "--head", "tied", "--warm_head"], "--warm_head needs --head trained"),
        (["--label_smoothing", "1"], "--label_smoothing 1.0: from 0 to below 1"),
        (["--w_lora", "False"], "switches take no value"),
        (["--batch", "3"], "unknown argument --batch"),
        (["--batch_size", "0"], "--batch_size 0: at least 1"),
        (["--batch_size", "many"], "--batch_size: invalid int value: 'many'"),
        (["--preset", "huge"], "--preset: invalid choice: 'huge' (choose from 'paper', 'tiny', 'best', 'demo')"),
        (["--lr", "-1", "--wd", "-2"], "--lr -1.0: above 0; --wd -2.0: 0 or above"),
        (["--graph_dropout", "1"], "--graph_dropout 1.0: from 0 to below 1"),
        (["--dtype", "fp8"], "--dtype: invalid choice: 'fp8' (choose from 'auto', 'fp32', 'bf16')"),
        (["--target", "../x"], "a name without folders"),
        (["--max_len", "2"], "--max_len 2: from 3"),
        (["--choose_by", "NDCG@10"], "--choose_by NDCG@10: val or val_unseen, and one of its metrics, such as val_"),
        (["--choose_by", "val_unseen.NDCG@15"], "--choose_by val_unseen.NDCG@15: val or val_unseen, and one of its"),
        (["--max_memory", "24gigs"], "--max_memory '24gigs' is no amount of memory"),
        (["--lr", "nan"], "--lr nan: above 0"),
        (["--n_layers", "1000000000"], "--n_layers 1000000000: from -1 to 1024"),
        (["--sweep", "lr=1,2"], "unknown argument --sweep lr=1,2"),
    ],
)
def test_an_invalid_flag_is_one_line_and_status_2(argv, message, capsys):
    with pytest.raises(SystemExit) as stop:
        parse_args(argv)
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("error: ")
    assert message.replace("'", "") in captured.err.replace("'", "")  # Python 3.12 quotes no choices
