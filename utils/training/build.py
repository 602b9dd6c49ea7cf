"""From settings to data and model."""

from pathlib import Path

import torch
from torch import Tensor

from config_HeLLM import Settings, run_fingerprint
from llama.checkpoint import assign_parameter, load_base_weights, open_checkpoint
from llama.HeLLM import HeLLM, HeLLMArgs, base_parameters, materialize
from llama.model import MODEL_SIZES
from llama.parallel import shard_dims
from llama.weight_files import DOWNLOAD_HINT
from utils.data.embeddings import load_item_embeddings
from utils.data.input_files import input_checksums
from utils.data.interactions import Interactions, require_trainable
from utils.data.layout import require_files, required_files
from utils.logs.run_log import RunLog, log_folder
from utils.runtime.distributed import is_main
from utils.training.adapter_file import adapter_parameters
from utils.training.checkpoints import BEST_ADAPTER, CheckpointManager, run_folder
from utils.training.prompt import prompt_ids

HEAD_STD = 0.1  # of a head that starts from the tables


def load_interactions(settings: Settings) -> Interactions:
    """The interaction file alone, in which there is something to train on.

    Raises:
        FileNotFoundError, ValueError: naming file, place and remedy.
    """
    name = required_files(settings.dataset, settings.GNNModel)[0]
    data = Interactions(require_files(settings.data_dir, settings.dataset, [name]) / name, settings.max_len)
    require_trainable(data)
    return data


def load_data(settings: Settings) -> tuple[Interactions, tuple[Tensor, Tensor]]:
    """Interactions, and the graph and sequence tables, checked against each other.

    Raises:
        FileNotFoundError, ValueError: naming file, place and remedy.
    """
    names = required_files(settings.dataset, settings.GNNModel)
    folder = require_files(settings.data_dir, settings.dataset, names)
    data = load_interactions(settings)
    tables = load_item_embeddings(folder, settings.GNNModel, data)
    return data, tuple(map(standardize_columns, tables)) if settings.standardize else tables


def standardize_columns(table: Tensor) -> Tensor:
    """Columns scaled to mean 0 and variance 1; a constant column becomes 0."""
    return (table - table.mean(0)) / table.std(0).clamp(min=1e-8)


def model_args(settings: Settings) -> HeLLMArgs:
    """Return sizes from the base weights or the built-in size, and all else from the settings.

    Raises:
        FileNotFoundError: neither a folder or file nor a size that can start without weights.
    """
    name = settings.model_name
    if Path(name).exists():
        shape = open_checkpoint(name).shape
    elif name in MODEL_SIZES and (settings.train_base or settings.random_base or settings.plan):
        shape = MODEL_SIZES[name]
    else:
        sizes = f"a built-in size ({', '.join(MODEL_SIZES)}) starts at random with --train_base or --random_base"
        raise FileNotFoundError(
            f"{name}: no such folder of base weights; --model_name takes a folder with params.json and "
            f"consolidated.*.pth, or config.json and *.safetensors, and tokenizer.model, or a GGUF file; {DOWNLOAD_HINT}; "
            f"{sizes}"
        )
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
    """Start each row of a trained head from the item's two embeddings, through one random orthonormal map.

    Items that the tables hold to be alike then start with like scores, the rarely bought ones too.
    """
    table = torch.cat(
        [standardize_columns(model.graph_item_embedding), standardize_columns(model.seq_item_embedding[1:])], 1
    )
    dim, width = model.score.weight.shape[1], table.shape[1]
    basis = torch.linalg.qr(torch.randn(max(dim, width), min(dim, width)))[0].to(table.device)
    rows = table @ (basis.T if dim >= width else basis)
    model.score.weight.copy_(rows * (HEAD_STD / rows.std()))


def matmul_dtype(settings: Settings, device: torch.device) -> torch.dtype:
    """Of matrix products, and of a base that is not trained."""
    if settings.dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return {"fp32": torch.float32, "bf16": torch.bfloat16}[settings.dtype]


def build_empty(args: HeLLMArgs, tables: tuple[Tensor, Tensor], prompt: tuple, dtype: torch.dtype) -> HeLLM:
    """The model without memory for its parameters, each of them in the number format that it is to have.

    Args:
        prompt: token ids before and after the items.
        dtype: of matrix products, and of the matrices of a base that is not trained.
    """
    with torch.device("meta"):
        model = HeLLM(args, *tables, *prompt, dtype=dtype)
    if not args.train_base:
        for p in base_parameters(model).values():
            p.data = p.data.to(dtype if p.ndim > 1 else p.dtype)
    return model


def build_meta_model(settings: Settings, tables: tuple[Tensor, Tensor], device: torch.device) -> HeLLM:
    """The model of some settings without memory for its parameters, for a device; tables as they are given.

    Raises:
        FileNotFoundError, ValueError: sizes, switches or prompt that do not go with each other or with the files.
    """
    args, weights = model_args(settings), Path(settings.model_name)
    prompt = prompt_ids(settings.prompt, (weights.parent if weights.is_file() else weights) / "tokenizer.model")
    return build_empty(args, tables, prompt, matmul_dtype(settings, device))


def load_base(model: HeLLM, settings: Settings, device: torch.device, shared: dict) -> None:
    """Give the model its base weights; a frozen base is that of `shared`, once a run has read it."""
    name, dtype = settings.model_name, matmul_dtype(settings, device)
    if settings.train_base:
        load_base_weights(model.llama, name, torch.float32, device)
        return
    if (name, dtype, device) not in shared:
        shared.clear()  # memory for one base at a time
        load_base_weights(model.llama, name, dtype, device)
        shared[name, dtype, device] = base_parameters(model)
    for parameter, p in shared[name, dtype, device].items():
        assign_parameter(model.llama, parameter, p.data)


def build_model(
    settings: Settings, tables: tuple[Tensor, Tensor], device: torch.device, shared: dict | None = None
) -> HeLLM:
    """The model on its device, base weights read from their files where there are any, the rest initialised.

    Args:
        shared: one dict for several runs: the first leaves a frozen base there, which is the others' too.
    """
    model = build_meta_model(settings, [table.to(device) for table in tables], device)
    if Path(settings.model_name).exists() and not settings.random_base:
        load_base(model, settings, device, {} if shared is None else shared)
    materialize(model, device)
    if settings.warm_head:
        init_head_from_tables(model)
    return model.to(device)


def data_checksums(settings: Settings) -> dict[str, str]:
    """Return the checksums of the files that a run reads."""
    names = required_files(settings.dataset, settings.GNNModel)
    folder = require_files(settings.data_dir, settings.dataset, names)
    return input_checksums(folder / name for name in names)


def open_log(settings: Settings) -> RunLog:
    """Return the log of a run, to which rank 0 writes; nothing is written yet."""
    folder = log_folder(settings.logging_dir, settings.dataset, settings.GNNModel)
    return RunLog(folder, settings.target, f"HeLLM/{settings.dataset}", quiet=not is_main())


def open_checkpoints(
    settings: Settings, model: HeLLM, optimizer: torch.optim.Optimizer, log: RunLog, checksums: dict[str, str]
) -> CheckpointManager:
    """Return the manager of a run's checkpoints, which hold the adapter and all else that is trained.

    Args:
        settings: of the run.
        model: of the run.
        optimizer: of the model's trained parameters.
        log: of the run.
        checksums: of the files that the run reads.
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
