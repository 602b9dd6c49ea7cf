"""Every setting of a fine-tuning run: edit here for sweeps, or give it on the command line as --name value."""

from dataclasses import dataclass

from utils.cli.flags import parse_settings
from utils.cli.restored import fingerprint
from utils.cli.validation import (
    MAX_LAYERS,
    SEED_RANGE,
    check_choices_and_names,
    check_max_len,
    check_numbers,
    check_ranges,
)
from utils.runtime.memory import parse_bytes


@dataclass(frozen=True)
class Settings:
    """The published settings; PRESETS lists what other presets change. A comment a field, shown by --help."""

    # data
    dataset: str = "Beauty"  # folder under DATA_DIR/sequential
    data_dir: str = "datasets"  # holds sequential/DATASET/
    GNNModel: str = "MMHCL"  # graph-embedding files: MMHCL, LightGCN, or a name given to pretrain_graph --tables
    max_len: int = 50  # last items of a user that are read and trained on, both targets among them
    standardize: bool = False  # scale the columns of both tables to mean 0 and variance 1
    # model
    objective: str = "prefix"  # prefix: a pass a history, as published; causal: a pass a user, every item predicted
    model_name: str = "Llama-2-7b"  # folder or GGUF file of weights, or a size: Llama-2-7b, Llama-2-13b, S, tiny
    model_parallel: int = 0  # processes that share one model; 0: one a consolidated.*.pth if several run, else 1
    n_layers: int = -1  # blocks of a built-in size, 0 (causal, without adapter) for none; -1: all
    prompt: str = "alpaca"  # alpaca: the published text; bos: a begin-of-sequence token before each part; none
    train_base: bool = False  # train LLaMA itself (a built-in size then starts from scratch)
    random_base: bool = False  # draw LLaMA's weights instead of reading them, to see what pre-training is worth
    head: str = "frozen"  # frozen: random, as published; trained; tied: the item vectors through a learned matrix
    warm_head: bool = False  # start a trained head from both tables instead of at random
    dropout: float = 0.0  # on item vectors and on what each block adds
    w_adapter: bool = True  # adapter key/value positions in every layer
    adapter_len: int = 10  # adapter positions a layer
    prefix_adapter: bool = True  # their learned part
    graph_adapter: bool = True  # their part from the history's graph embeddings
    graph_rank: int = 0  # width of a learned bimap before the graph pooling; 0: none, as published
    graph_mean: bool = False  # divide the pooled graph by the history's length
    graph_dropout: float = 0.3  # dropout in the graph adapter's perceptrons
    graph_input: bool = True  # graph embedding in the item vectors
    seq_input: bool = True  # sequence embedding in the item vectors
    item_ids: bool = False  # add a learned vector an item to the item vectors
    w_lora: bool = True  # low-rank updates of LLaMA's matrices
    lora_r: int = 16  # their rank
    lora_alpha: float = 16  # their scale times the rank
    lora_dropout: float = 0.05  # dropout on their input
    lora_targets: tuple[str, ...] = ("w1", "w2", "w3")  # Meta's names, comma-separated: w1,w2,w3,wq,wk,wv,wo
    # training
    lr: float = 3e-4  # highest learning rate
    min_lr: float = 5e-6  # where the cosine ends
    wd: float = 0.1  # AdamW weight decay, on every trained tensor
    label_smoothing: float = 0.0  # share of the target's probability that is spread over all items
    n_negatives: int = 0  # items drawn each step for a sampled softmax, for large catalogues; 0: all items
    batch_size: int = 7  # samples a forward pass; under causal: users
    tokens_per_batch: int = 0  # positions a forward pass, padding and prompt among them; 0: count batch_size instead
    grad_steps: int = 1  # forward passes an optimiser step
    num_epochs: int = 25  # epochs at most (published: 25; Sports_and_Outdoors 20)
    warmup_epochs: int = 1  # epochs of linear warm-up
    compile: bool = False  # torch.compile LLaMA's blocks: minutes more at the start
    recompute: bool = False  # make each block's inner values again for the backward pass: less memory, a third slower
    max_grad_norm: float = 0.0  # clip gradients to this norm; 0: never
    patience: int = 5  # stop after so many epochs without a better validation NDCG@10; 0: never
    eval_batch_size: int = 64  # users a forward pass when scoring
    max_memory: str = ""  # 24GiB, 20GB or bytes: takes smaller batches a pass where needed, the same a step; empty: no
    seed: int = 2024  # of every random generator
    deterministic: bool = False  # operations that give the same bits again on CUDA, too, where others may be faster
    dtype: str = "auto"  # fp32 or bf16 matrix products; auto: bf16 on CUDA, fp32 on the CPU
    device: str = "auto"  # cuda, cpu, …; auto: CUDA where there is one
    # output
    target: str = "HeLLM"  # name of this run's files
    output_dir: str = "output"  # best adapter and training state
    logging_dir: str = "log"  # log, metrics and curves
    log_every: int = 10  # steps between two readings of the loss, for which a GPU has to be waited for
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
        "head": "trained",
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
# What ranks best at this size with items known by their tables alone (--item_ids adds a little), one pass a user; the
# same settings carry to larger bases
PRESETS["best"] = PRESETS["tiny"] | {
    "objective": "causal",
    "standardize": True,
    "prompt": "none",
    "warm_head": True,
    "dropout": 0.3,
    "graph_mean": True,
    "label_smoothing": 0.1,
    "n_negatives": 2048,
    "batch_size": 128,
    "tokens_per_batch": 800,
    "num_epochs": 8,
    "target": "best",
}
PRESETS["demo"] = PRESETS["tiny"] | {
    "dataset": "Demo",
    "batch_size": 64,
    "num_epochs": 8,
    "warmup_epochs": 1,
    "target": "demo",
}

# One `python train_HeLLM.py` runs every combination of these values: {"lr": [1e-4, 3e-4], "lora_r": [8, 16]}. On the
# command line: --sweep lr=1e-4,3e-4 lora_r=8,16
SWEEP: dict[str, list] = {}

# What a resumed run may change: where things lie and are computed, by which operations of torch, in what portions and
# when they are saved, not what is computed. Of batch_size and grad_steps their product stays (see `state_settings`).
IGNORED_ON_RESUME = {"data_dir", "device", "deterministic", "model_parallel", "output_dir", "logging_dir"}
IGNORED_ON_RESUME |= {"batch_size", "grad_steps", "eval_batch_size", "max_memory", "log_every"}
IGNORED_ON_RESUME |= {"save_every_minutes", "resume", "plan"}


def run_fingerprint(settings: Settings) -> dict:
    """What a resumed run must agree with, by name."""
    kept = fingerprint(settings, IGNORED_ON_RESUME)
    return kept | {"batch_size x grad_steps": settings.batch_size * settings.grad_steps}


def non_default_settings(settings: Settings) -> dict:
    """The settings that differ from the published ones, by name."""
    return {name: value for name, value in vars(settings).items() if value != getattr(Settings(), name)}


def parse_args(argv: list[str] | None = None) -> Settings:
    """Settings of a command line: the preset's, then whatever flags say.

    A mistake ends the program with one line and exit status 2.
    """
    what = (
        "Fine-tune HeLLM and test it. All combinations of some values: --sweep lr=1e-4,3e-4 lora_r=8,16, of which "
        "--sweep_shard 1/4 runs every fourth. The paper's ablations: --sweep ablation."
    )
    return parse_settings(Settings, argv, "train_HeLLM.py", what, validate_settings, PRESETS, lambda given: "paper")


def validate_settings(settings: Settings) -> list[str]:
    """Everything wrong with the settings by themselves, a phrase each."""
    problems = check_numbers(
        settings,
        at_least_1=("adapter_len", "lora_r", "batch_size", "grad_steps", "num_epochs", "eval_batch_size", "log_every"),
        positive=("lr", "lora_alpha"),
        at_least_0=("min_lr", "wd", "graph_rank", "warmup_epochs", "max_grad_norm", "patience", "save_every_minutes")
        + ("n_negatives", "tokens_per_batch", "model_parallel"),
        share=("dropout", "graph_dropout", "lora_dropout", "label_smoothing"),
    )
    choices = {
        "objective": ("prefix", "causal"),
        "prompt": ("alpaca", "bos", "none"),
        "head": ("frozen", "trained", "tied"),
        "dtype": ("auto", "fp32", "bf16"),
    }
    problems += check_ranges(settings, seed=SEED_RANGE, n_layers=(-1, MAX_LAYERS))
    problems += check_choices_and_names(settings, choices, ("dataset", "GNNModel", "target"))
    if settings.warm_head and settings.head != "trained":
        problems.append("--warm_head needs --head trained")
    problems += check_max_len(settings)
    if settings.max_memory and settings.tokens_per_batch:
        problems.append("--max_memory fits --batch_size: leave --tokens_per_batch at 0")
    if settings.max_memory:
        try:
            parse_bytes(settings.max_memory)
        except ValueError as mistake:
            problems.append(f"--max_memory {mistake}")
    return problems
