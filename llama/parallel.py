"""Process groups, collective operations and layers for model and data parallelism, on top of fairscale.

Of R × M processes, every M consecutive ones share one model, a replica, and each of them has one shard of its split
tensors. The R processes that have the same shard form the group over which gradients are summed.

fairscale's constructors allocate on the CPU and initialise at once, whatever the current device. The layers here keep
its forward passes, but allocate uninitialised on the current device, "meta" included.
"""

import contextlib
import io
import os
from collections.abc import Callable, Iterable

import torch
import torch.distributed as dist
from fairscale.nn import model_parallel
from fairscale.nn.model_parallel import layers as fairscale_layers
from torch import nn
from torch.distributed.rendezvous import rendezvous

INIT_STD = 0.02  # standard deviation of the base weights' initialisation
BUCKET_ELEMENTS = 2**24  # fewest gradient elements per all-reduce, while there are as many: 64 MiB


def init_model_parallel(size: int = 1) -> None:
    """Set up the process groups of torchrun's processes, or of a single process; later calls do nothing.

    Args:
        size: processes that share one model, a divisor of the number of all; the others have replicas of it.
    """
    if model_parallel.initialize.model_parallel_is_initialized():
        return
    if not dist.is_initialized():
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            _init_from_torchrun()
        else:
            dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    with contextlib.redirect_stdout(io.StringIO()):  # fairscale prints its sizes
        model_parallel.initialize.initialize_model_parallel(size)


def _init_from_torchrun() -> None:
    """Join the processes that torchrun has started or restarted."""
    store, rank, size = next(rendezvous("env://"))
    if os.environ.get("GROUP_WORLD_SIZE", "1") == "1":  # one machine
        # torchrun keeps the store through restarts: keys of the processes before must not be found.
        store = dist.PrefixStore(f"attempt_{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    # With GPUs, too, some CPU tensors are exchanged.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size)


def mp_size() -> int:
    """Return the number of processes that share one model."""
    return model_parallel.initialize.get_model_parallel_world_size()


def mp_rank() -> int:
    """Return this process's index among those that share its model."""
    return model_parallel.initialize.get_model_parallel_rank()


def dp_size() -> int:
    """Return the number of replicas of the model."""
    return model_parallel.initialize.get_data_parallel_world_size()


def dp_rank() -> int:
    """Return the index of the replica that this process belongs to."""
    return model_parallel.initialize.get_data_parallel_rank()


def all_reduce_data_parallel(tensor: torch.Tensor) -> torch.Tensor:
    """Sum a tensor over the replicas, in place, and return it; a collective call."""
    if dp_size() > 1:
        dist.all_reduce(tensor, group=model_parallel.initialize.get_data_parallel_group())
    return tensor


def all_reduce_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Sum every gradient over the replicas, many per message; a collective call.

    A parameter without a gradient must have none on any replica.
    """
    if dp_size() == 1:
        return
    grads = [p.grad for p in parameters if p.grad is not None]
    while grads:
        bucket = []
        size = 0
        while grads and size < BUCKET_ELEMENTS:
            bucket.append(grads.pop())
            size += bucket[-1].numel()
        summed = all_reduce_data_parallel(torch.cat([grad.flatten() for grad in bucket]))
        for grad, part in zip(bucket, summed.split([grad.numel() for grad in bucket]), strict=True):
            grad.copy_(part.view_as(grad))


def clip_grad_norm(model: nn.Module, limit: float) -> torch.Tensor:
    """Clip the norm of all gradients, over the shards of every process; a collective call that never waits for the GPU.

    Args:
        model: whose gradients are scaled in place.
        limit: largest norm; 0: do not scale.

    Returns:
        The norm before, a scalar on the gradients' device.
    """
    dims = shard_dims(model) if mp_size() > 1 else {}
    sharded = []
    unsharded = []
    for name, p in model.named_parameters():
        if p.grad is None:
            continue
        if dims.get(name) is None:
            unsharded.append(p.grad)
        else:
            sharded.append(p.grad)
    square_of_sharded = nn.utils.get_total_norm(sharded).square()
    square_of_unsharded = nn.utils.get_total_norm(unsharded).square()  # every process has all of these
    if mp_size() > 1:
        dist.all_reduce(square_of_sharded, group=model_parallel.initialize.get_model_parallel_group())
    norm = (square_of_sharded + square_of_unsharded).sqrt()
    if limit:
        nn.utils.clip_grads_with_norm_(model.parameters(), limit, norm)
    return norm


def shard(full: torch.Tensor, partition_dim: int | None) -> torch.Tensor:
    """Return this process's shard of an unsharded tensor, or the tensor itself where `partition_dim` is None."""
    if partition_dim is None or mp_size() == 1:
        return full
    return full.chunk(mp_size(), partition_dim)[mp_rank()]


def unshard(local: torch.Tensor, partition_dim: int | None) -> torch.Tensor:
    """Return the tensor of which every process has a shard; a collective call unless `partition_dim` is None."""
    if partition_dim is None or mp_size() == 1:
        return local
    shards = [torch.empty_like(local) for _ in range(mp_size())]
    dist.all_gather(shards, local.contiguous(), group=model_parallel.initialize.get_model_parallel_group())
    return torch.cat(shards, partition_dim)


def shard_dims(model: nn.Module) -> dict[str, int | None]:
    """Return for every parameter name the dimension it is split along, None where every process has all of it."""
    dims = {}
    for prefix, module in model.named_modules():
        partition = getattr(module, "partition", {})
        for name, _ in module.named_parameters(recurse=False):
            dims[f"{prefix}.{name}" if prefix else name] = partition.get(name)
    return dims


@torch.no_grad()
def init_shard_(local: torch.Tensor, partition_dim: int | None, init_fn: Callable[[torch.Tensor], object]) -> None:
    """Initialise a shard through the unsharded tensor, so that the number of processes changes no value.

    Args:
        local: this process's shard, filled in place.
        partition_dim: the dimension it is split along; None: it is not.
        init_fn: initialises the unsharded tensor in place.
    """
    shape = list(local.shape)
    if partition_dim is not None:
        shape[partition_dim] *= mp_size()
    full = torch.empty(shape, dtype=local.dtype, device=local.device)
    init_fn(full)
    local.copy_(shard(full, partition_dim))


def _divide_evenly(size: int, name: str) -> int:
    if size % mp_size():
        raise ValueError(f"{name} {size} cannot be split over {mp_size()} processes; start a number that divides it")
    return size // mp_size()


class _NormalInit:
    """A layer whose weight starts from N(0, INIT_STD)."""

    def reset_parameters(self) -> None:
        """Initialise the weight."""
        init_shard_(self.weight, self.partition["weight"], lambda full: nn.init.normal_(full, std=INIT_STD))


class ParallelEmbedding(_NormalInit, fairscale_layers.ParallelEmbedding):
    """Token embeddings (vocab_size, dim), split along dim; maps int64 (…) to (…, dim) on every process."""

    partition = {"weight": 1}

    def __init__(self, num_embeddings: int, embedding_dim: int) -> None:
        nn.Module.__init__(self)
        # The options of F.embedding that fairscale's forward reads, at their defaults
        self.padding_idx = None
        self.max_norm = None
        self.norm_type = 2.0
        self.scale_grad_by_freq = False
        self.sparse = False
        self.weight = nn.Parameter(torch.empty(num_embeddings, _divide_evenly(embedding_dim, "dim")))


class ColumnParallelLinear(_NormalInit, fairscale_layers.ColumnParallelLinear):
    """Linear without bias, its outputs split: (…, in_features) to (…, out_features / processes)."""

    partition = {"weight": 0}

    def __init__(self, in_features: int, out_features: int) -> None:
        nn.Module.__init__(self)
        self.in_features = in_features
        self.out_features = out_features
        self.gather_output = False
        self.weight = nn.Parameter(torch.empty(_divide_evenly(out_features, "width"), in_features))
        self.register_parameter("bias", None)


class RowParallelLinear(_NormalInit, fairscale_layers.RowParallelLinear):
    """Linear without bias, its inputs split: (…, in_features / processes) to (…, out_features)."""

    partition = {"weight": 1}

    def __init__(self, in_features: int, out_features: int) -> None:
        nn.Module.__init__(self)
        self.in_features = in_features
        self.out_features = out_features
        self.input_is_parallel = True
        self.weight = nn.Parameter(torch.empty(out_features, _divide_evenly(in_features, "width")))
        self.register_parameter("bias", None)
