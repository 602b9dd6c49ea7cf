"""Every setting of a fine-tuning run: edit the defaults and presets here, or give --name value on the command line."""

from dataclasses import dataclass
from typing import Literal

from utils.cli.flags import SettingsParser
from utils.cli.restored import fingerprint
from utils.cli.validation import (
    MAX_LAYERS,
    SEED_RANGE,
    check_criterion,
    check_max_len,
    check_names,
    check_numbers,
    check_ranges,
)
from utils.runtime.byte_sizes import parse_bytes


@dataclass(frozen=True)
class Settings:
    """Settings of one fine-tuning run; the defaults are the published ones.

    The comments are the text of --help: one behind every field, one above every group.
    """

    # data
    dataset: str = "Beauty"  # folder under DATA_DIR/sequential
    data_dir: str = "datasets"  # folder that holds sequential/DATASET/
    GNNModel: str = "MMHCL"  # graph embeddings to read: MMHCL, LightGCN, or a name given to pretrain_graph --tables
    max_len: int = 50  # most recent items kept per user, the validation and the test target included
    shuffle_ties: bool = False  # train on items of one day in random order, another one each epoch; needs the days file
    standardize: bool = False  # scale every column of both embedding tables to mean 0 and variance 1
    # model
    objective: Literal["prefix", "causal"] = "prefix"  # one forward pass per history prefix (published) or per user
    model_name: str = "Llama-2-7b"  # folder or GGUF file of base weights, or a size: Llama-2-7b, Llama-2-13b, S, tiny
    model_parallel: int = 0  # processes that share one model; 0: one per consolidated.*.pth under torchrun, else 1
    n_layers: int = -1  # blocks of a built-in size; -1: all of them; 0: none (causal objective without adapter)
    prompt: Literal["alpaca", "bos", "none"] = "alpaca"  # alpaca: the published text; bos: a BOS token before each part
    train_base: bool = False  # train all weights of LLaMA; a built-in size then starts from random weights
    random_base: bool = False  # initialise LLaMA at random instead of loading weights, as an ablation
    head: Literal["frozen", "trained", "tied"] = "frozen"  # frozen: random (published); tied: projected item vectors
    warm_head: bool = False  # initialise a trained head from the inputs of the item vectors instead of at random
    dropout: float = 0.0  # dropout on the item vectors and on the output of each residual branch
    # item vectors
    graph_input: bool = True  # graph embedding as an input of the item vectors
    seq_input: bool = True  # sequence (SASRec) embedding as an input of the item vectors
    feature_input: bool = False  # item features, reduced to few columns, as an input of the item vectors
    features: tuple[str, ...] = ()  # modalities of feature_input, such as text,image; empty: all that have a file
    feature_width: int = 128  # columns per modality that feature_input keeps, at most
    item_ids: bool = False  # add a learned embedding per item to the item vectors
    # adapter
    w_adapter: bool = True  # adapter: extra key/value positions in every attention layer
    adapter_len: int = 10  # adapter positions per layer
    prefix_adapter: bool = True  # adapter positions contain a learned prefix
    graph_adapter: bool = True  # add the pooled graph embeddings of the history to the adapter positions
    graph_rank: int = 0  # project graph embeddings to this width before they are pooled; 0: no projection (published)
    graph_mean: bool = False  # divide the pooled graph embeddings by the length of the history
    graph_dropout: float = 0.3  # dropout in the MLPs of the graph adapter
    # LoRA
    w_lora: bool = True  # low-rank updates of LLaMA's weight matrices
    lora_r: int = 16  # rank of the updates
    lora_alpha: float = 16  # the updates are scaled by lora_alpha / lora_r
    lora_dropout: float = 0.05  # dropout on the input of the updates
    lora_targets: tuple[str, ...] = ("w1", "w2", "w3")  # matrices to update, by Meta's names: w1,w2,w3,wq,wk,wv,wo
    # training
    lr: float = 3e-4  # peak learning rate
    min_lr: float = 5e-6  # final learning rate of the cosine schedule
    wd: float = 0.1  # AdamW weight decay of all trained tensors
    label_smoothing: float = 0.0  # fraction of the target's probability spread evenly over all items
    n_negatives: int = 0  # items sampled per step for a sampled softmax over a large catalogue; 0: full softmax
    teacher: str = ""  # folder of a finished run or committee whose scores become part of the targets (distillation)
    teacher_share: float = 0.6  # weight of the teacher's scores in the targets
    batch_size: int = 7  # samples per forward pass; users under the causal objective
    tokens_per_batch: int = 0  # positions per forward pass, padding and prompt included; 0: use batch_size
    grad_steps: int = 1  # gradient accumulation: forward passes per optimizer step
    num_epochs: int = 25  # maximum number of epochs (published: 25, but 20 on Sports_and_Outdoors)
    warmup_epochs: int = 1  # epochs of linear learning-rate warm-up
    max_grad_norm: float = 0.0  # clip gradients to this norm; 0: no clipping
    patience: int = 5  # stop after this many epochs without a better validation; 0: never
    choose_by: str = "val.NDCG@10"  # validation metric that chooses the epoch; val_unseen.NDCG@10: history removed
    seed: int = 2024  # seed of every random generator
    # speed and memory
    device: str = "auto"  # cuda, cpu or another torch device; auto: CUDA if available
    dtype: Literal["auto", "fp32", "bf16"] = "auto"  # format of matrix products; auto: bf16 on CUDA, else fp32
    eval_batch_size: int = 64  # users per forward pass in evaluation; fewer where histories are long
    max_memory: str = ""  # memory budget, such as 24GiB: smaller forward passes, same optimizer step; empty: no limit
    recompute: bool = False  # activation checkpointing: less memory, about a third slower
    compile: bool = False  # torch.compile LLaMA's blocks; takes minutes at the start
    deterministic: bool = False  # use deterministic CUDA kernels, which may be slower
    # output
    target: str = "HeLLM"  # name of the run and of its files
    output_dir: str = "output"  # folder for the best adapter and the checkpoints
    logging_dir: str = "log"  # folder for the log, metrics and curves
    log_every: int = 10  # optimizer steps between loss read-outs, each of which synchronises the GPU
    log_every_seconds: float = 60.0  # seconds between lines of progress where there is no terminal
    tensorboard: bool = False  # write the steps for TensorBoard, too, into the folder TARGET_tensorboard beside the log
    save_every_minutes: float = 30.0  # minutes between checkpoints within an epoch
    resume: bool = False  # resume from the last checkpoint of this run
    overwrite: bool = False  # replace an earlier run of this target
    plan: bool = False  # print the run's size and cost and stop; needs no base weights

    @property
    def reads_graph_table(self) -> bool:
        """Return whether item vectors or adapter read the graph embeddings."""
        return self.graph_input or (self.w_adapter and self.graph_adapter)

    @property
    def may_overwrite(self) -> bool:
        """Return whether the run may replace an earlier one: if it is asked to, or if both are the demo."""
        demo = PRESETS["demo"]
        return self.overwrite or (self.dataset, self.target) == (demo["dataset"], demo["target"])


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
# The best ranking at this size without learned item ids (--item_ids adds a little). The same settings also work for
# larger base models.
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
    "choose_by": "val_unseen.NDCG@10",
    "target": "best",
}
PRESETS["demo"] = PRESETS["tiny"] | {
    "dataset": "Demo",
    "batch_size": 64,
    "num_epochs": 8,
    "target": "demo",
}

# `python train_HeLLM.py` trains one run per combination of these values: {"lr": [1e-4, 3e-4], "lora_r": [8, 16]}.
# The same on the command line: --sweep lr=1e-4,3e-4 lora_r=8,16
SWEEP: dict[str, list] = {}

# Settings that a resumed run may change, because they do not change what is computed
IGNORED_ON_RESUME = {
    # Folders may have moved
    *("data_dir", "output_dir", "logging_dir"),
    # Another machine, or its kernels, rounds differently but trains the same model
    *("device", "deterministic", "model_parallel"),
    # The split of a step into forward passes; the product of batch_size and grad_steps must stay
    *("batch_size", "grad_steps", "eval_batch_size", "max_memory"),
    # When the program logs, saves and starts or stops
    *("log_every", "log_every_seconds", "tensorboard", "save_every_minutes", "resume", "overwrite", "plan"),
}


def run_fingerprint(settings: Settings) -> dict:
    """Return the settings that a resumed run must share with its checkpoint, by name."""
    kept = fingerprint(settings, IGNORED_ON_RESUME)
    return kept | {"batch_size x grad_steps": settings.batch_size * settings.grad_steps}


def non_default_settings(settings: Settings) -> dict:
    """Return the settings that differ from the published ones, by name."""
    published = Settings()
    return {name: value for name, value in vars(settings).items() if value != getattr(published, name)}


def parse_args(argv: list[str] | None = None) -> Settings:
    """Parse the settings of one run from a command line (None: the program's own).

    An invalid command line ends the program with one line on standard error and exit status 2.
    """
    return settings_parser().parse(argv)[0]


def settings_parser() -> SettingsParser[Settings]:
    """Return the parser of a run's settings, to which utils.sweep.command adds --sweep."""
    description = (
        "Fine-tune HeLLM, select the best epoch on validation, and test it once.\n\n"
        "Without flags: the published run on Amazon Beauty, which needs the LLaMA-2-7B weights.\n"
        "A demo on a CPU, with nothing to download:\n"
        "  python train_HeLLM.py --preset demo"
    )
    program = "python train_HeLLM.py"
    return SettingsParser(
        Settings, program, description, validate_settings, PRESETS, _default_preset, takes_config=True
    )


def _default_preset(_given: dict) -> str:
    """Return the preset to use without --preset, whatever flags are given."""
    return "paper"


def validate_settings(settings: Settings) -> list[str]:
    """Return all problems of the settings that show without any file, one phrase each."""
    problems = check_numbers(
        settings,
        at_least_1=("adapter_len", "lora_r", "batch_size", "grad_steps", "num_epochs", "eval_batch_size", "log_every")
        + ("feature_width",),
        positive=("lr", "lora_alpha"),
        at_least_0=("min_lr", "wd", "graph_rank", "warmup_epochs", "max_grad_norm", "patience", "save_every_minutes")
        + ("log_every_seconds",)
        + ("n_negatives", "tokens_per_batch", "model_parallel"),
        fraction=("dropout", "graph_dropout", "lora_dropout", "label_smoothing", "teacher_share"),
    )
    problems += check_ranges(settings, seed=SEED_RANGE, n_layers=(-1, MAX_LAYERS))
    problems += check_names(settings, "dataset", "GNNModel", "target")
    if settings.warm_head and settings.head != "trained":
        problems.append("--warm_head needs --head trained")
    if settings.features and not settings.feature_input:
        problems.append("--features needs --feature_input")
    problems += check_max_len(settings)
    problems += check_criterion(settings)
    if settings.max_memory and settings.teacher:
        problems.append("--max_memory does not count the memory of a --teacher: leave one of them out")
    if settings.max_memory and settings.tokens_per_batch:
        problems.append("--max_memory changes --batch_size: leave --tokens_per_batch at 0")
    if settings.max_memory:
        try:
            parse_bytes(settings.max_memory)
        except ValueError as error:
            problems.append(f"--max_memory {error}")
    return problems
