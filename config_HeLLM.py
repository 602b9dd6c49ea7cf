"""Every setting of a fine-tuning run: edit here for sweeps, or give it on the command line as --name value."""

import argparse
import inspect
import re
import sys
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import UnionType
from typing import NoReturn, get_args, get_origin


@dataclass(frozen=True)
class Settings:
    """The published settings; PRESETS lists what other presets change. A comment a field, shown by --help."""

    # data
    dataset: str = "Beauty"  # folder under DATA_DIR/sequential
    data_dir: str = "datasets"  # holds sequential/DATASET/
    GNNModel: str = "MMHCL"  # graph-embedding files: MMHCL or LightGCN
    max_len: int = 50  # last items of a user that are used, both targets among them
    # model
    model_name: str = "Llama-2-7b"  # folder with base weights, or a built-in size: Llama-2-7b, Llama-2-13b, tiny
    prompt: str = "alpaca"  # alpaca: the published text; bos: a begin-of-sequence token before each part
    train_base: bool = False  # train LLaMA itself (a built-in size then starts from scratch)
    train_score: bool = False  # train the output head (off in the published runs: a random projection)
    w_adapter: bool = True  # adapter key/value positions in every layer
    adapter_len: int = 10  # adapter positions a layer
    prefix_adapter: bool = True  # their learned part
    graph_adapter: bool = True  # their part from the history's graph embeddings
    graph_rank: int = 0  # width of a learned bimap before the graph pooling; 0: none, as published
    graph_dropout: float = 0.3  # dropout in the graph adapter's perceptrons
    graph_input: bool = True  # graph embedding in the item vectors
    seq_input: bool = True  # sequence embedding in the item vectors
    w_lora: bool = True  # low-rank updates of LLaMA's matrices
    lora_r: int = 16  # their rank
    lora_alpha: float = 16  # their scale times the rank
    lora_dropout: float = 0.05  # dropout on their input
    lora_targets: tuple[str, ...] = ("w1", "w2", "w3")  # Meta's names, comma-separated: w1,w2,w3,wq,wk,wv,wo
    # training
    lr: float = 3e-4  # highest learning rate
    min_lr: float = 5e-6  # where the cosine ends
    wd: float = 0.1  # AdamW weight decay, on every trained tensor
    batch_size: int = 7  # samples a forward pass
    grad_steps: int = 1  # forward passes an optimiser step
    num_epochs: int = 25  # epochs at most (published: 25; Sports_and_Outdoors 20)
    warmup_epochs: int = 1  # epochs of linear warm-up
    max_grad_norm: float = 0.0  # clip gradients to this norm; 0: never
    patience: int = 5  # stop after so many epochs without a better validation NDCG@10; 0: never
    eval_batch_size: int = 64  # users a forward pass when scoring
    seed: int = 2024  # of every random generator
    dtype: str = "auto"  # fp32 or bf16 matrix products; auto: bf16 on CUDA, fp32 on the CPU
    device: str = "auto"  # cuda, cpu, …; auto: CUDA where there is one
    # output
    target: str = "HeLLM"  # name of this run's files
    output_dir: str = "output"  # best adapter and training state
    logging_dir: str = "log"  # log, metrics and curves
    save_every_minutes: float = 30.0  # minutes between training states within an epoch
    resume: bool = False  # go on from this run's last training state
    plan: bool = False  # print sizes and costs and stop; needs no weights


PRESETS = {
    "paper": {},
    # A small LLaMA trained from scratch, for real data on a CPU
    "tiny": {
        "model_name": "tiny",
        "prompt": "bos",
        "train_base": True,
        "train_score": True,
        "w_lora": False,
        "adapter_len": 4,
        "graph_rank": 16,
        "lr": 1e-3,
        "batch_size": 256,
        "eval_batch_size": 512,
        "num_epochs": 12,
        "patience": 2,
        "target": "tiny",
    },
}
PRESETS["demo"] = PRESETS["tiny"] | {
    "dataset": "Demo",
    "batch_size": 64,
    "num_epochs": 8,
    "warmup_epochs": 1,
    "target": "demo",
}

# What a resumed run may change: where things lie and when they are saved, not what is computed.
FREE_TO_CHANGE = {"data_dir", "device", "output_dir", "logging_dir", "save_every_minutes", "resume", "plan"}


class _Parser(argparse.ArgumentParser):
    """Reports a mistake in one line, exit status 2."""

    def error(self, message: str) -> NoReturn:
        sys.exit(complain(message))


def complain(problem: object) -> int:
    """Print a user's mistake as one line on standard error and return the exit status for it, 2."""
    print("error:", " ".join(str(problem).split()), file=sys.stderr)
    return 2


def _comments() -> dict[str, str]:
    """Field name to the comment behind it."""
    return dict(re.findall(r"^    (\w+): .*?  # (.*)$", inspect.getsource(Settings), re.MULTILINE))


def _add_flag(parser: argparse.ArgumentParser, field, comment: str) -> None:
    flag, comment = f"--{field.name}", comment.replace("%", "%%")
    if field.type is bool:
        parser.add_argument(flag, action=argparse.BooleanOptionalAction, help=comment)
        return
    kind = field.type
    if isinstance(kind, UnionType):
        kind = next(t for t in get_args(kind) if t is not type(None))
    if get_origin(kind) is tuple:
        kind = _names
    parser.add_argument(flag, type=kind, metavar=kind.__name__.strip("_").upper(), help=f"{comment} ({field.default})")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name)


def parse_args(argv: list[str] | None = None) -> Settings:
    """Settings of a command line: the preset's, then whatever flags say.

    A mistake ends the program with one line and exit status 2.
    """
    parser = _Parser(prog="train_HeLLM.py", description="Fine-tune HeLLM and test it.", allow_abbrev=False)
    parser.add_argument("--preset", default="paper", help=f"{', '.join(PRESETS)} (paper)")
    comments = _comments()
    for field in fields(Settings):
        _add_flag(parser, field, comments[field.name])
    known, unknown = parser.parse_known_args(argv)
    if unknown:
        flags = {field.name for field in fields(Settings) if field.type is bool}
        hint = "python train_HeLLM.py --help lists the flags"
        if not unknown[0].startswith("-"):
            hint = f"switches take no value: --NAME or --no-NAME ({', '.join(sorted(flags))})"
        parser.error(f"unknown argument {' '.join(unknown)}: {hint}")
    if known.preset not in PRESETS:
        parser.error(f"unknown preset {known.preset}: one of {', '.join(PRESETS)}")
    given = {name: value for name, value in vars(known).items() if value is not None and name != "preset"}
    settings = replace(Settings(), **(PRESETS[known.preset] | given))
    problems = check(settings)
    if problems:
        parser.error("; ".join(problems))
    return settings


def check(settings: Settings) -> list[str]:
    """Everything wrong with the settings by themselves, a phrase each."""
    s, problems = settings, []
    for name in ("max_len", "adapter_len", "lora_r", "batch_size", "grad_steps", "num_epochs", "eval_batch_size"):
        if getattr(s, name) < 1:
            problems.append(f"--{name} {getattr(s, name)}: at least 1")
    for name in ("lr", "lora_alpha"):
        if not getattr(s, name) > 0:
            problems.append(f"--{name} {getattr(s, name)}: above 0")
    for name in ("min_lr", "wd", "graph_rank", "warmup_epochs", "max_grad_norm", "patience", "save_every_minutes"):
        if not getattr(s, name) >= 0:
            problems.append(f"--{name} {getattr(s, name)}: 0 or above")
    for name in ("graph_dropout", "lora_dropout"):
        if not 0 <= getattr(s, name) < 1:
            problems.append(f"--{name} {getattr(s, name)}: from 0 to below 1")
    for name, choices in (("prompt", ("alpaca", "bos")), ("dtype", ("auto", "fp32", "bf16"))):
        if getattr(s, name) not in choices:
            problems.append(f"--{name} {getattr(s, name)}: one of {', '.join(choices)}")
    for name in ("dataset", "GNNModel", "target"):
        if not getattr(s, name) or Path(getattr(s, name)).name != getattr(s, name):
            problems.append(f"--{name} {getattr(s, name)!r}: a name without folders")
    if s.max_len < 3:
        problems.append(f"--max_len {s.max_len}: at least 3 (two targets and a history)")
    return problems


def fingerprint(settings: Settings) -> dict:
    """The settings that a training state depends on."""
    kept = {name: value for name, value in asdict(settings).items() if name not in FREE_TO_CHANGE}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in kept.items()}
