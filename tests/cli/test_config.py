"""Settings and the command line."""

from dataclasses import fields

import pytest

from config_HeLLM import PRESETS, Settings, parse_args


def test_every_setting_has_a_comment_and_a_flag(capsys):
    names = {field.name for field in fields(Settings)}
    with pytest.raises(SystemExit) as stop:
        parse_args(["--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert all(f"--{name}" in shown for name in names)


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
    ],
)
def test_a_mistake_in_an_edited_preset_is_one_line(monkeypatch, capsys, edited, message):
    monkeypatch.setitem(PRESETS, "mine", edited)
    with pytest.raises(SystemExit) as stop:
        parse_args(["--preset", "mine"])
    told = capsys.readouterr().err
    assert stop.value.code == 2 and told.count("\n") == 1
    assert told.startswith("error: config_HeLLM.py: ") and message in told


def test_whole_numbers_will_do_for_others(monkeypatch):
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
        (["--max_memory", "24gigs"], "--max_memory '24gigs' is no amount of memory"),
        (["--lr", "nan"], "--lr nan: above 0"),
        (["--n_layers", "1000000000"], "--n_layers 1000000000: from -1 to 1024"),
    ],
)
def test_mistakes_are_one_line_and_status_2(argv, message, capsys):
    with pytest.raises(SystemExit) as stop:
        parse_args(argv)
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("error: ")
    assert message in captured.err
