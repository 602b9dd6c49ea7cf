"""Low-rank updates (LoRA, arXiv 2106.09685) as subclasses of the parallel layers: `weight` keeps its name."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from fairscale.nn.model_parallel.mappings import copy_to_model_parallel_region, reduce_from_model_parallel_region
from torch import Tensor, nn

from llama.model import Transformer
from llama.parallel import ColumnParallelLinear, RowParallelLinear, init_shard_


class LowRank(nn.Module):
    """The trained pair of a LoRA layer: down (r, in) Kaiming-uniform with a = √5, up (out, r) zero.

    Args:
        in_features: input width on this process.
        out_features: output width on this process.
        rank: r.
        alpha: scale of the update times r.
        dropout: dropout on the input of the update.
        partition: which of `down` and `up` is split over processes, and along which dimension.
    """

    def __init__(
        self, in_features: int, out_features: int, rank: int, alpha: float, dropout: float, partition: dict[str, int]
    ) -> None:
        super().__init__()
        self.partition = partition
        self.scale = alpha / rank
        self.dropout = dropout
        self.down = nn.Parameter(torch.empty(rank, in_features))
        self.up = nn.Parameter(torch.empty(out_features, rank))

    def reset_parameters(self) -> None:
        """Initialise both matrices; the update is zero at first."""
        init_shard_(self.down, self.partition.get("down"), lambda w: nn.init.kaiming_uniform_(w, a=math.sqrt(5)))
        nn.init.zeros_(self.up)

    def should_merge(self, x: Tensor, weight: Tensor) -> bool:
        """Return whether one product with the updated weight is cheaper: in scoring, for many inputs.

        Not in bfloat16, where the sum would round the update away.
        """
        scoring = not (self.training or torch.is_grad_enabled())
        exact = weight.dtype == torch.float32 and not torch.is_autocast_enabled(x.device.type)
        return scoring and exact and x.numel() > weight.numel()

    def merged(self, weight: Tensor) -> Tensor:
        """Return a weight with the update added: (out, in)."""
        return torch.addmm(weight, self.up, self.down, alpha=self.scale)

    def forward(self, x: Tensor, reduce_fn: Callable[[Tensor], Tensor]) -> Tensor:
        """Map (…, in) to (…, out); `reduce_fn` is the collective that the r activations pass through."""
        reduced = F.linear(F.dropout(x, self.dropout, self.training), self.down)
        return F.linear(reduce_fn(reduced), self.up) * self.scale


class LoRAColumnParallelLinear(ColumnParallelLinear):
    """ColumnParallelLinear plus a low-rank update; every process has all of `down`."""

    def __init__(self, in_features: int, out_features: int, rank: int, alpha: float, dropout: float) -> None:
        super().__init__(in_features, out_features)
        self.lora = LowRank(in_features, self.weight.shape[0], rank, alpha, dropout, {"up": 0})

    def forward(self, x: Tensor) -> Tensor:
        """Map (…, in_features) to (…, out_features / processes)."""
        if self.lora.should_merge(x, self.weight):
            return F.linear(x, self.lora.merged(self.weight))
        # Every process reads all r activations, so their gradients add up over the processes.
        return super().forward(x) + self.lora(x, copy_to_model_parallel_region)


class LoRARowParallelLinear(RowParallelLinear):
    """RowParallelLinear plus a low-rank update; every process has all of `up`."""

    def __init__(self, in_features: int, out_features: int, rank: int, alpha: float, dropout: float) -> None:
        super().__init__(in_features, out_features)
        self.lora = LowRank(self.weight.shape[1], out_features, rank, alpha, dropout, {"down": 1})

    def forward(self, x: Tensor) -> Tensor:
        """Map (…, in_features / processes) to (…, out_features)."""
        if self.lora.should_merge(x, self.weight):
            return reduce_from_model_parallel_region(F.linear(x, self.lora.merged(self.weight)))
        # Each process has only some of the inputs: the r activations are sums over the processes.
        return super().forward(x) + self.lora(x, reduce_from_model_parallel_region)


def add_lora(transformer: Transformer, targets: tuple[str, ...], rank: int, alpha: float, dropout: float) -> None:
    """Replace some linear layers of every block by LoRA layers, on the current device.

    Args:
        transformer: changed in place.
        targets: names of the layers: wq, wk, wv, wo, w1, w2, w3.
        rank: r of the updates.
        alpha: their scale times r.
        dropout: dropout on their input.

    Raises:
        ValueError: no target, one that is given twice, or one that no block has.
    """
    if not targets or len(set(targets)) < len(targets):
        expected = "each name once, and at least one, is expected; --no-w_lora trains without"
        raise ValueError(f"lora_targets {','.join(targets)!r}: {expected}")
    lora_layers = {ColumnParallelLinear: LoRAColumnParallelLinear, RowParallelLinear: LoRARowParallelLinear}
    for block in transformer.layers:
        linears = {
            name: (parent, layer)
            for parent in (block.attention, block.feed_forward)
            for name, layer in parent.named_children()
        }
        unknown = [name for name in targets if name not in linears]
        if unknown:
            raise ValueError(f"lora_targets {', '.join(unknown)}: not among {', '.join(sorted(linears))}")
        for name in targets:
            parent, layer = linears[name]
            with_update = lora_layers[type(layer)](layer.in_features, layer.out_features, rank, alpha, dropout)
            setattr(parent, name, with_update)
