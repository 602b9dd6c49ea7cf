"""Model-parallel layers: fairscale's, allocated once, the process groups that they need, and replicas of the model.

fairscale's constructors allocate on the CPU and initialise at once, whatever the current device; these
subclasses keep its forward passes and allocate uninitialised on the current device ("meta" included).

Of R x M processes, each M consecutive ones share one model, a replica; the R that hold the same part of it
form the group over which gradients are summed.
"""

import contextlib
import io
import os
from collections.abc import Iterable

import torch
import torch.distributed as dist
from fairscale.nn import model_parallel
from fairscale.nn.model_parallel import layers as fairscale_layers
from torch import nn
from torch.distributed.rendezvous import rendezvous

INIT_STD = 0.02  # of a base that is trained from scratch
BUCKET_ELEMENTS = 2**24  # gradients that are summed together, at least: 64 MiB


def init_model_parallel(size: int = 1) -> None:
    """Join the process groups that torchrun describes, or set up those of a single process, once.

    Args:
        size: processes that share one model, a divisor of the number of all; the others hold replicas of it.
    """
    if model_parallel.initialize.model_parallel_is_initialized():
        return
    if not dist.is_initialized():
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            _init_from_torchrun()
        else:
            dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    with contextlib.redirect_stdout(io.StringIO()):  # fairscale announces itself
        model_parallel.initialize.initialize_model_parallel(size)


def _init_from_torchrun() -> None:
    """Join the processes that torchrun has started, or started again."""
    store, rank, size = next(rendezvous("env://"))
    if os.environ.get("GROUP_WORLD_SIZE", "1") == "1":  # one machine
        # torchrun keeps the store through restarts: what the processes before left in it must not be found.
        store = dist.PrefixStore(f"attempt_{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    # Where there are GPUs, numbers on the CPU are exchanged as well.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size)


def mp_size() -> int:
    """Number of processes that share one model."""
    return model_parallel.initialize.get_model_parallel_world_size()


def mp_rank() -> int:
    """This process's index among those that share the model."""
    return model_parallel.initialize.get_model_parallel_rank()


def dp_size() -> int:
    """Number of replicas of the model."""
    return model_parallel.initialize.get_data_parallel_world_size()


def dp_rank() -> int:
    """Index of the replica that this process belongs to."""
    return model_parallel.initialize.get_data_parallel_rank()


def all_reduce_data_parallel(tensor: torch.Tensor) -> torch.Tensor:
    """Add up a tensor of every replica, in place; a collective call."""
    if dp_size() > 1:
        dist.all_reduce(tensor, group=model_parallel.initialize.get_data_parallel_group())
    return tensor


def all_reduce_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Add up every gradient over the replicas, many in one message; a collective call.

    A parameter without a gradient must have none on any replica.
    """
    grads = [p.grad for p in parameters if p.grad is not None]
    while dp_size() > 1 and grads:
        bucket, size = [], 0
        while grads and size < BUCKET_ELEMENTS:
            bucket.append(grads.pop())
            size += bucket[-1].numel()
        summed = all_reduce_data_parallel(torch.cat([grad.flatten() for grad in bucket]))
        for grad, part in zip(bucket, summed.split([grad.numel() for grad in bucket]), strict=True):
            grad.copy_(part.view_as(grad))


def clip_grad_norm(model: nn.Module, limit: float) -> torch.Tensor:
    """Scale all gradients so that their norm, over the parts on every process, is at most `limit` (0: do not scale).

    Returns the norm before; the device is not waited for. A collective call.
    """
    dims, grads = shard_dims(model) if mp_size() > 1 else {}, {True: [], False: []}
    for name, p in model.named_parameters():
        if p.grad is not None:
            grads[dims.get(name) is not None].append(p.grad)
    split, whole = (nn.utils.get_total_norm(grads[is_split]).square() for is_split in (True, False))
    if mp_size() > 1:
        dist.all_reduce(split, group=model_parallel.initialize.get_model_parallel_group())
    norm = (split + whole).sqrt()
    if limit:
        nn.utils.clip_grads_with_norm_(model.parameters(), limit, norm)
    return norm


def shard(full: torch.Tensor, partition_dim: int | None) -> torch.Tensor:
    """This process's slice of a whole tensor (the tensor itself where it is not partitioned)."""
    if partition_dim is None or mp_size() == 1:
        return full
    return full.chunk(mp_size(), partition_dim)[mp_rank()]


def unshard(part: torch.Tensor, partition_dim: int | None) -> torch.Tensor:
    """The whole tensor of every process's slice; a collective call where it is partitioned."""
    if partition_dim is None or mp_size() == 1:
        return part
    parts = [torch.empty_like(part) for _ in range(mp_size())]
    dist.all_gather(parts, part.contiguous(), group=model_parallel.initialize.get_model_parallel_group())
    return torch.cat(parts, partition_dim)


def shard_dims(model: nn.Module) -> dict[str, int | None]:
    """For every parameter name the dimension it is split along, None where each process holds all of it."""
    dims = {}
    for prefix, module in model.named_modules():
        split = getattr(module, "partition", {})
        for name, _ in module.named_parameters(recurse=False):
            dims[f"{prefix}.{name}" if prefix else name] = split.get(name)
    return dims


@torch.no_grad()
def init_shard_(part: torch.Tensor, partition_dim: int | None, initialise) -> None:
    """Fill a slice as if the whole tensor had been drawn, so that the number of processes changes nothing."""
    shape = list(part.shape)
    if partition_dim is not None:
        shape[partition_dim] *= mp_size()
    full = torch.empty(shape, dtype=part.dtype, device=part.device)
    initialise(full)
    part.copy_(shard(full, partition_dim))


def _divide_evenly(size: int, what: str) -> int:
    if size % mp_size():
        raise ValueError(f"{what} {size} cannot be split over {mp_size()} processes; start a number that divides it")
    return size // mp_size()


class _NormalInit:
    """Base weights trained from scratch start from N(0, INIT_STD)."""

    def reset_parameters(self) -> None:
        init_shard_(self.weight, self.partition["weight"], lambda full: nn.init.normal_(full, std=INIT_STD))


class ParallelEmbedding(_NormalInit, fairscale_layers.ParallelEmbedding):
    """Token table (vocab_size, dim), split along dim; maps int64 (…) to (…, dim) on every process."""

    partition = {"weight": 1}

    def __init__(self, num_embeddings: int, embedding_dim: int) -> None:
        nn.Module.__init__(self)
        self.padding_idx = self.max_norm = None
        self.norm_type, self.scale_grad_by_freq, self.sparse = 2.0, False, False
        self.weight = nn.Parameter(torch.empty(num_embeddings, _divide_evenly(embedding_dim, "dim")))


class ColumnParallelLinear(_NormalInit, fairscale_layers.ColumnParallelLinear):
    """Linear without bias, its outputs split: (…, in_features) to (…, out_features / processes)."""

    partition = {"weight": 0}

    def __init__(self, in_features: int, out_features: int) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.gather_output = in_features, out_features, False
        self.weight = nn.Parameter(torch.empty(_divide_evenly(out_features, "width"), in_features))
        self.register_parameter("bias", None)


class RowParallelLinear(_NormalInit, fairscale_layers.RowParallelLinear):
    """Linear without bias, its inputs split: (…, in_features / processes) to (…, out_features)."""

    partition = {"weight": 1}

    def __init__(self, in_features: int, out_features: int) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.input_is_parallel = in_features, out_features, True
        self.weight = nn.Parameter(torch.empty(out_features, _divide_evenly(in_features, "width")))
        self.register_parameter("bias", None)
