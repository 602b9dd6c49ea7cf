"""Count floating-point operations by part of the model."""

from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from llama.HeLLM import HeLLM
from llama.lora import LowRank
from llama.parallel import ColumnParallelLinear, RowParallelLinear

PARTS = {  # text in a module's name -> part; the first match counts
    ".lora": "LoRA",
    ".feed_forward.": "feed-forward",
    ".attention.": "projections of attention",
    "graph_adapter.": "graph perceptrons",
    "item_projector.": "item projector",
}
REST = "attention, adapter keys and values, head"
LINEAR = (nn.Linear, ColumnParallelLinear, RowParallelLinear, LowRank)


class FlopsByPart(FlopCounterMode):
    """Context manager that counts all operations, and those of the model's linear maps by part.

    A linear map counts once for the forward pass, once if its input needs a gradient and once per weight that does.
    The backward operations are counted with the forward pass, so every forward pass with gradients needs a backward.
    """

    def __init__(self, model: HeLLM) -> None:
        super().__init__(display=False)
        self.linear_flops = dict.fromkeys(PARTS.values(), 0)
        self.handles = []
        self.part_of = {
            module: next(part for key, part in PARTS.items() if key in name)
            for name, module in model.named_modules()
            if isinstance(module, LINEAR) and module is not model.score  # the head is not called as a module
        }

    def __enter__(self):
        self.handles = [m.register_forward_hook(partial(self._count, part)) for m, part in self.part_of.items()]
        return super().__enter__()

    def __exit__(self, *error):
        for handle in self.handles:
            handle.remove()
        return super().__exit__(*error)

    def parts(self) -> dict[str, int]:
        """Return the operations by part, largest first."""
        rest = self.get_total_flops() - sum(self.linear_flops.values())
        parts = self.linear_flops | {REST: rest}
        return dict(sorted(parts.items(), key=lambda part: -part[1]))

    def _count(self, part: str, module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        x = inputs[0]
        n_rows = x.numel() // x.shape[-1]
        weights = (module.down, module.up) if isinstance(module, LowRank) else (module.weight,)
        for weight in weights:
            n_products = 1
            if torch.is_grad_enabled():
                n_products += x.requires_grad + weight.requires_grad
            self.linear_flops[part] += 2 * n_products * n_rows * weight.numel()
