"""Build what a run needs from its settings: data, model, log and checkpoints."""

from pathlib import Path

import torch
from torch import Tensor

from config_HeLLM import Settings, run_fingerprint
from llama.checkpoint import assign_parameter, load_base_weights, open_checkpoint
from llama.HeLLM import HeLLM, HeLLMArgs, ItemTables, base_parameters, materialize
from llama.model import MODEL_SIZES
from llama.parallel import shard_dims
from utils.cli.progress import announce
from utils.data.embeddings import load_graph_embeddings, load_sequence_embeddings
from utils.data.features import choose_features, load_informative_features, load_reduced_features
from utils.data.input_files import input_checksums
from utils.data.interactions import Interactions, require_trainable
from utils.data.layout import dataset_folder, days_file, require_files, required_files
from utils.logs.run_log import RunLog, log_folder, log_path
from utils.logs.steps import require_tensorboard
from utils.runtime.processes import is_main
from utils.training.adapter_file import adapter_parameters
from utils.training.checkpoints import CheckpointManager
from utils.training.prompt import prompt_ids
from utils.training.run_files import BEST_ADAPTER, RunFiles, run_folder

WEIGHTS_ADVICE = (
    "licence: Meta's; ask at llama.com/llama-downloads, or for meta-llama/Llama-2-7b-hf on the hub",
    "layouts: params.json, consolidated.*.pth | config.json, model*.safetensors | one .gguf file",
    "folder:  weights/Llama-2-7b/{params.json,consolidated.00.pth,tokenizer.model}",
    "open:    TinyLlama/TinyLlama-1.1B-Chat-v1.0 is read in the same way and needs no licence",
    f"without: --preset demo; {', '.join(MODEL_SIZES)} by --train_base or --random_base",
)
HEAD_STD = 0.1  # of the weights of a head that is initialised from the tables


def load_interactions(settings: Settings) -> Interactions:
    """Load the interaction file and the days, without the embedding tables.

    Raises:
        FileNotFoundError, ValueError: a file is missing or invalid, or has nothing to train on; names file and line.
    """
    name = required_files(settings.dataset, settings.GNNModel)[0]
    data = Interactions(require_files(settings.data_dir, settings.dataset, [name]) / name, settings.max_len)
    require_trainable(data)
    if settings.shuffle_ties and data.days is None:
        raise FileNotFoundError(
            f"{data.days_path}: missing, and --shuffle_ties needs it; preprocess.amazon and preprocess.own write it"
        )
    return data


def load_data(settings: Settings) -> tuple[Interactions, ItemTables]:
    """Load the interactions and the tables of the items that the model reads.

    Raises:
        FileNotFoundError, ValueError: a file is missing or invalid, or does not fit the others; names file and line.
    """
    input_files(settings)
    with announce(f"reading {settings.dataset} and its tables"):
        return _read_data(settings)


def _read_data(settings: Settings) -> tuple[Interactions, ItemTables]:
    data = load_interactions(settings)
    graph = torch.zeros(data.n_items, 0)
    if settings.reads_graph_table:
        graph = load_graph_embeddings(settings.GNNModel, data)
    sequence = torch.zeros(data.n_items + 1, 0)
    if settings.seq_input:
        sequence = load_sequence_embeddings(data)
    paths = feature_files(settings).values()
    features = load_reduced_features(paths, data.n_items, settings.feature_width, bool(settings.features))
    tables = ItemTables(graph, sequence, features)
    if settings.standardize:
        tables = ItemTables(*(standardize_columns(table) if table.shape[1] else table for table in tables))
    return data, tables


def feature_files(settings: Settings) -> dict[str, Path]:
    """Return the files of the features that the model reads, by modality.

    Raises:
        FileNotFoundError: one of them is missing, or there is none at all.
    """
    if not settings.feature_input:
        return {}
    folder = dataset_folder(settings.data_dir, settings.dataset)
    return choose_features(folder, settings.features, "train without --feature_input")


def feature_notes(settings: Settings, n_items: int) -> list[str]:
    """Return a line per file of features for the log: how many items have some, or why it is left out."""
    return load_informative_features(feature_files(settings).values(), n_items)[1]


def input_files(settings: Settings) -> list[Path]:
    """Return the files that a run reads: interactions, embedding tables and features.

    Raises:
        FileNotFoundError: lists what is missing, the expected files and where they come from.
    """
    names = required_files(settings.dataset, settings.GNNModel, settings.reads_graph_table, settings.seq_input)
    folder = require_files(settings.data_dir, settings.dataset, names)
    return [*map(folder.joinpath, names), *feature_files(settings).values()]


def standardize_columns(table: Tensor) -> Tensor:
    """Return a table with its columns scaled to mean 0 and variance 1; a constant column becomes 0."""
    return (table - table.mean(0)) / table.std(0).clamp(min=1e-8)


def model_args(settings: Settings) -> HeLLMArgs:
    """Return sizes from the base weights or the built-in size, and all else from the settings.

    Raises:
        FileNotFoundError: `model_name` is neither a folder or file nor a built-in size that can start at random.
    """
    name = settings.model_name
    if Path(name).exists():
        shape = open_checkpoint(name).shape
    elif name in MODEL_SIZES and (settings.train_base or settings.random_base or settings.plan):
        shape = MODEL_SIZES[name]
    else:
        error = FileNotFoundError(f"{name}: no such folder of base weights; give --model_name the path of one")
        for line in WEIGHTS_ADVICE:
            error.add_note(line)
        raise error
    if settings.n_layers != -1:
        shape = shape | {"n_layers": settings.n_layers}
    return HeLLMArgs(
        **shape,
        dropout=settings.dropout,
        compile=settings.compile,
        recompute=settings.recompute,
        w_adapter=settings.w_adapter,
        adapter_len=settings.adapter_len,
        prefix_adapter=settings.prefix_adapter,
        graph_adapter=settings.graph_adapter,
        graph_rank=settings.graph_rank,
        graph_mean=settings.graph_mean,
        graph_dropout=settings.graph_dropout,
        graph_input=settings.graph_input,
        seq_input=settings.seq_input,
        feature_input=settings.feature_input,
        item_ids=settings.item_ids,
        w_lora=settings.w_lora,
        lora_r=settings.lora_r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        lora_targets=settings.lora_targets,
        train_score=settings.head == "trained",
        tie_score=settings.head == "tied",
        train_base=settings.train_base,
        objective=settings.objective,
        label_smoothing=settings.label_smoothing,
        n_negatives=settings.n_negatives,
    )


@torch.no_grad()
def init_head_from_tables(model: HeLLM) -> None:
    """Initialise each row of a trained head from the inputs of the item's vector, by one random orthonormal map.

    Items of similar inputs then have similar scores from the start, rarely bought items too.
    """
    all_items = torch.arange(model.n_items, device=model.graph_item_embedding.device)
    table = standardize_columns(model.item_inputs(all_items))
    dim = model.score.weight.shape[1]
    width = table.shape[1]
    # A random orthonormal basis keeps the cosines of the table's rows, exactly where the head is at least as wide
    basis, _ = torch.linalg.qr(torch.randn(max(dim, width), min(dim, width)))
    basis = basis.to(table.device)
    rows = table @ (basis.T if dim >= width else basis)
    model.score.weight.copy_(rows * (HEAD_STD / rows.std()))


def matmul_dtype(settings: Settings, device: torch.device) -> torch.dtype:
    """Return the dtype of matrix products, and of the matrices of a frozen base."""
    if settings.dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return {"fp32": torch.float32, "bf16": torch.bfloat16}[settings.dtype]


def build_empty(args: HeLLMArgs, tables: ItemTables, prompt: tuple, dtype: torch.dtype) -> HeLLM:
    """Build the model without memory for its parameters, each of its final dtype.

    Args:
        args: sizes and switches.
        tables: tables of the items.
        prompt: token ids before and after the items.
        dtype: dtype of matrix products, and of the matrices of a frozen base.
    """
    with torch.device("meta"):
        model = HeLLM(args, tables.graph, tables.sequence, *prompt, dtype=dtype, feature_embedding=tables.features)
    if not args.train_base:
        for p in base_parameters(model).values():
            p.data = p.data.to(dtype if p.ndim > 1 else p.dtype)
    return model


def build_meta_model(settings: Settings, tables: ItemTables, device: torch.device) -> HeLLM:
    """Build the model of some settings without memory for its parameters.

    Args:
        settings: settings of the run.
        tables: tables of the items; they stay where they are.
        device: where the model will be, which decides its dtype.

    Raises:
        FileNotFoundError, ValueError: sizes, switches or prompt do not fit each other or the files.
    """
    args = model_args(settings)
    prompt = prompt_ids(settings.prompt, settings.model_name)
    return build_empty(args, tables, prompt, matmul_dtype(settings, device))


def load_base(model: HeLLM, settings: Settings, device: torch.device, base_cache: dict) -> None:
    """Load the base weights into the model; a frozen base comes from the cache, once a run has read it."""
    if settings.train_base:
        with announce(f"loading {settings.model_name}"):
            load_base_weights(model.llama, settings.model_name, torch.float32, device)
        return
    dtype = matmul_dtype(settings, device)
    key = (settings.model_name, dtype, device)
    if key not in base_cache:
        base_cache.clear()  # there is memory for one base at a time
        with announce(f"loading {settings.model_name}"):
            load_base_weights(model.llama, settings.model_name, dtype, device)
        base_cache[key] = base_parameters(model)
    for name, parameter in base_cache[key].items():
        assign_parameter(model.llama, name, parameter.data)


def build_model(settings: Settings, tables: ItemTables, device: torch.device, base_cache: dict | None = None) -> HeLLM:
    """Build the model on its device: base weights from their files if there are any, all else initialised.

    Args:
        settings: settings of the run.
        tables: tables of the items.
        device: where the model will be.
        base_cache: a dict for several runs, which share a frozen base: the first run leaves it there.
    """
    model = build_meta_model(settings, ItemTables(*(table.to(device) for table in tables)), device)
    if Path(settings.model_name).exists() and not settings.random_base:
        load_base(model, settings, device, {} if base_cache is None else base_cache)
    materialize(model, device)
    if settings.warm_head:
        init_head_from_tables(model)
    return model.to(device)


def data_checksums(settings: Settings) -> dict[str, str]:
    """Return the checksums of the files that decide what a run trains; days do if their ties are shuffled."""
    paths = input_files(settings)
    if settings.shuffle_ties:
        paths.append(dataset_folder(settings.data_dir, settings.dataset) / days_file(settings.dataset))
    return input_checksums(paths)


def open_log(settings: Settings) -> RunLog:
    """Return the log of a run, to which rank 0 writes; nothing is written yet."""
    folder = log_folder(settings.logging_dir, settings.dataset, settings.GNNModel)
    if settings.tensorboard:
        require_tensorboard()
    return RunLog(
        folder,
        settings.target,
        f"HeLLM/{settings.dataset}",
        quiet=not is_main(),
        seed=settings.seed,
        # The published loss is the cross-entropy over all items, once per prefix
        is_published_loss=settings.objective == "prefix" and not (settings.label_smoothing or settings.n_negatives),
        tensorboard=settings.tensorboard,
    )


def refuse_replacing(settings: Settings) -> None:
    """Keep a run from replacing an earlier one of its name, before anything is read or built.

    Raises:
        ValueError: there is one, and the settings do not ask for it to be resumed or replaced.
    """
    folder = run_folder(settings.output_dir, settings.dataset, settings.GNNModel, settings.target)
    files = RunFiles(folder, folder / BEST_ADAPTER, log_path(settings, "metrics.jsonl"))
    files.refuse_committee()
    if not (settings.resume or settings.may_overwrite):
        files.refuse_replacing()


def open_checkpoints(
    settings: Settings, model: HeLLM, optimizer: torch.optim.Optimizer, log: RunLog, checksums: dict[str, str]
) -> CheckpointManager:
    """Return the manager of a run's checkpoints, which hold the adapter and all else that is trained.

    Args:
        settings: settings of the run.
        model: model of the run.
        optimizer: optimizer of the model's trained parameters.
        log: log of the run.
        checksums: checksums of the files that the run reads.
    """
    folder = run_folder(settings.output_dir, settings.dataset, settings.GNNModel, settings.target)
    return CheckpointManager(
        folder=folder,
        best=folder / BEST_ADAPTER,
        log=log,
        fingerprint=run_fingerprint(settings) | checksums,
        tensors=adapter_parameters(model),
        optimizer=optimizer,
        shard_dims=shard_dims(model),
    )


def recommend_command(settings: Settings) -> list[str]:
    """Return the words of the command line that shows what a run recommends to its first user."""
    folder = run_folder(settings.output_dir, settings.dataset, settings.GNNModel, settings.target)
    words = ["python", "-m", "utils.recommend", "--run", str(folder), "--user", "#0"]
    return words if settings.data_dir == Settings.data_dir else [*words, "--data_dir", settings.data_dir]
