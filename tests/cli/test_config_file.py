"""Settings as TOML: written by a run, read by --config, under the flags and over the preset."""

import tomllib
from dataclasses import fields, replace

import pytest

import train_HeLLM
from config_HeLLM import PRESETS, Settings, parse_args
from preprocess import pretrain_graph, pretrain_sasrec
from tests.support.small_data import short_command, write_interactions
from tests.training.test_states import pretrain_argv
from utils.cli.config_file import START_FLAGS, read_config, settings_to_toml
from utils.runtime.signals import restore_default_signals
from utils.sweep.command import parse_command
from utils.sweep.grid import grid_runs

ODD_NAMES = ("plain", 'a "quoted" \\ name', "tab\tand\nline", "Größe 数", "\x00\x1f\x7f", "caf\udce9", "#=[x]")


@pytest.fixture(autouse=True)
def _signals():
    yield
    restore_default_signals()


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_survives_the_file(tmp_path, preset):
    flags = ("--lr", "1.0000000000000002e-05", "--features", "", "--seed", str(2**62))
    settings = parse_args(["--preset", preset, *flags])
    path = tmp_path / "mine.toml"
    path.write_text(settings_to_toml(settings, "a comment"))
    assert parse_args(["--config", str(path)]) == settings
    written = tomllib.loads(path.read_text())
    assert written.keys() == {field.name for field in fields(Settings)} - START_FLAGS
    assert type(written["lora_alpha"]) is type(settings.lora_alpha)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_every_text_survives_the_file(tmp_path, name):
    settings = replace(Settings(), data_dir=name, features=(name, "text"), feature_input=True, lr=float("inf"))
    path = tmp_path / "mine.toml"
    path.write_text(settings_to_toml(settings, "a comment"), encoding="utf-8", errors="surrogateescape")
    assert Settings(**read_config(Settings, path)) == settings


def test_flags_win_over_the_file_and_the_file_over_the_preset(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('lr = 0.5\nw_adapter = false\nlora_targets = ["w1", "wq"]\nwd = 1\n')
    settings = parse_args(["--preset", "best", "--config", str(path), "--lr", "0.25"])
    assert settings == replace(
        parse_args(["--preset", "best"]), lr=0.25, wd=1, w_adapter=False, lora_targets=("w1", "wq")
    )
    assert parse_args(["--config", str(path), "--w_adapter"]).w_adapter


def test_the_preset_of_a_pretraining_is_that_of_the_dataset_in_the_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('dataset = "Toys_and_Games"\ntau = 0.25\n')
    made = pretrain_graph.parse_args(["--config", str(path)])
    assert (made.dataset, made.tau, made.User_layers) == ("Toys_and_Games", 0.25, 3)


def test_a_sweep_takes_a_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('target = "mine"\nseed = 3\nlr = 1.0\n')
    runs = grid_runs(parse_command(["--config", str(path), "--sweep", "lr=0.1,0.2"]))
    assert [(run.title, run.settings.seed, run.settings.lr) for run in runs] == [
        ("mine-lr0.1", 3, 0.1),
        ("mine-lr0.2", 3, 0.2),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"lr = 0.5\nwd = \n", "not TOML: Invalid value (at line 2, column 6); correct it"),
        (b"lr = 0.5\nlr = 0.6\n", "not TOML: Cannot overwrite a value (at line 2, "),
        (b"w_lora = True\n", "not TOML: Invalid value (at line 1, "),
        (b"\xff\xfe\x00", "not TOML: "),
        (b"lr = " + b"[" * 10**5, "not TOML: "),
        (b"learning_rate = 0.5\n", "unknown setting 'learning_rate'; --help lists them"),
        (b"[training]\nlr = 0.5\n", "unknown setting 'training'"),
        (b'lr = "3e-4"\n', "lr is '3e-4', expected a number"),
        (b"lora_targets = [1, 2]\n", "lora_targets is (1, 2), expected a "),
        (b"w_lora = 1\n", "w_lora is 1, expected "),
        (b"seed = 2026-11-27\n", "seed is datetime.date(2026, 11, 27), expected an integer"),
        (b'head = "tide"\n', "head is 'tide', expected one of frozen, trained, tied"),
        (b"lr = -1\n", "--lr -1: above 0"),
        (None, "No such file or directory; give the path of an existing file"),
    ],
)
def test_a_file_that_can_not_be_used_is_one_line(tmp_path, text, message, capsys):
    path = tmp_path / "mine.toml"
    if text is not None:
        path.write_bytes(text)
    with pytest.raises(SystemExit) as stop:
        parse_args(["--config", str(path)])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {path}: ")
    assert message in error
    assert error.count("\n") == 1
    assert len(error) < 500


def test_a_run_is_repeated_by_its_settings_file(place):
    assert train_HeLLM.main(short_command(place, "--n_layers", "1", "--seed", "7", "--lora_targets", "w1,wq")) == 0
    folder = place / "log" / "Small" / "MMHCL"
    path = folder / "tiny_settings.toml"
    assert train_HeLLM.main(["--config", str(path), "--target", "again"]) == 0
    first, second = (tomllib.loads((folder / f"{name}_settings.toml").read_text()) for name in ("tiny", "again"))
    assert first | {"target": "again"} == second
    assert first["seed"] == 7
    adapters = [place / "output" / "Small" / "MMHCL" / name / "best_adapter.pt" for name in ("tiny", "again")]
    assert adapters[0].read_bytes() == adapters[1].read_bytes()


@pytest.mark.parametrize("program", [pretrain_graph, pretrain_sasrec])
def test_a_pretraining_writes_its_settings_too(tmp_path, program):
    write_interactions(tmp_path / "data")
    flags = ["--item_loss_ratio", "0"] if program is pretrain_graph else []
    argv = pretrain_argv(tmp_path, *flags, "--num_epochs", "1")
    assert program.main(argv) == 0
    (path,) = tmp_path.glob("log/Small/*/pretrain_settings.toml")
    expected = replace(program.parse_args(argv), overwrite=False)
    assert program.parse_args(["--config", str(path)]) == expected
