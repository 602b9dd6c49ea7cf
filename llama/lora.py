"""Low-rank updates (arXiv 2106.09685) as subclasses of the parallel layers: `weight` keeps its name."""

import math

import torch
import torch.nn.functional as F
from fairscale.nn.model_parallel.mappings import copy_to_model_parallel_region, reduce_from_model_parallel_region
from torch import Tensor, nn

from llama.model import ModelArgs, Transformer
from llama.parallel import ColumnParallelLinear, RowParallelLinear, init_shard_


class LowRank(nn.Module):
    """The trained pair of a LoRA layer: down (r, in) Kaiming-uniform with a = √5, up (out, r) zero.

    Args:
        in_features, out_features: sizes on this process.
        partition: which of the two is split over processes, and along which dimension.
    """

    def __init__(self, in_features: int, out_features: int, args: ModelArgs, partition: dict[str, int]) -> None:
        super().__init__()
        self.partition = partition
        self.scale, self.dropout = args.lora_alpha / args.lora_r, args.lora_dropout
        self.down = nn.Parameter(torch.empty(args.lora_r, in_features))
        self.up = nn.Parameter(torch.empty(out_features, args.lora_r))

    def reset_parameters(self) -> None:
        init_shard_(self.down, self.partition.get("down"), lambda w: nn.init.kaiming_uniform_(w, a=math.sqrt(5)))
        nn.init.zeros_(self.up)

    def pays_merged(self, x: Tensor, weight: Tensor) -> bool:
        """Whether in scoring one product with the updated weight is cheaper; in bfloat16 it would lose the update."""
        scoring = not (self.training or torch.is_grad_enabled())
        exact = weight.dtype == torch.float32 and not torch.is_autocast_enabled(x.device.type)
        return scoring and exact and x.numel() > weight.numel()

    def merged(self, weight: Tensor) -> Tensor:
        """A weight with the update in it: (out, in)."""
        return torch.addmm(weight, self.up, self.down, alpha=self.scale)

    def forward(self, x: Tensor, across) -> Tensor:
        """(…, in) to (…, out); `across` is what the r values undergo between the processes."""
        reduced = F.linear(F.dropout(x, self.dropout, self.training), self.down)
        return F.linear(across(reduced), self.up) * self.scale


class LoRAColumnParallelLinear(ColumnParallelLinear):
    """ColumnParallelLinear plus a low-rank update; `down` is whole on every process."""

    def __init__(self, in_features: int, out_features: int, args: ModelArgs) -> None:
        super().__init__(in_features, out_features)
        self.lora = LowRank(in_features, self.weight.shape[0], args, {"up": 0})

    def forward(self, x: Tensor) -> Tensor:
        if self.lora.pays_merged(x, self.weight):
            return F.linear(x, self.lora.merged(self.weight))
        # Every process reads all r values, so their gradients add up over the processes.
        return super().forward(x) + self.lora(x, copy_to_model_parallel_region)


class LoRARowParallelLinear(RowParallelLinear):
    """RowParallelLinear plus a low-rank update; `up` is whole on every process."""

    def __init__(self, in_features: int, out_features: int, args: ModelArgs) -> None:
        super().__init__(in_features, out_features)
        self.lora = LowRank(self.weight.shape[1], out_features, args, {"down": 1})

    def forward(self, x: Tensor) -> Tensor:
        if self.lora.pays_merged(x, self.weight):
            return reduce_from_model_parallel_region(F.linear(x, self.lora.merged(self.weight)))
        # Each process has seen part of the inputs: the r values are sums over the processes.
        return super().forward(x) + self.lora(x, reduce_from_model_parallel_region)


def add_lora(transformer: Transformer, args: ModelArgs) -> None:
    """Replace the layers named in args.lora_targets (wq wk wv wo w1 w2 w3) by LoRA layers, on the current device.

    Raises:
        ValueError: no target, one that is given twice, or one that no block has.
    """
    if not args.lora_targets or len(set(args.lora_targets)) < len(args.lora_targets):
        given = ",".join(args.lora_targets)
        what = "each name once, and at least one, is expected; --no-w_lora trains without"
        raise ValueError(f"lora_targets {given!r}: {what}")
    kinds = {ColumnParallelLinear: LoRAColumnParallelLinear, RowParallelLinear: LoRARowParallelLinear}
    for block in transformer.layers:
        targets = {n: (m, c) for m in (block.attention, block.feed_forward) for n, c in m.named_children()}
        unknown = [name for name in args.lora_targets if name not in targets]
        if unknown:
            raise ValueError(f"lora_targets {', '.join(unknown)}: not among {', '.join(sorted(targets))}")
        for name in args.lora_targets:
            module, plain = targets[name]
            setattr(module, name, kinds[type(plain)](plain.in_features, plain.out_features, args))
