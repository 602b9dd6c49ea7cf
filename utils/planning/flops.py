"""Floating-point operations by part of the model."""

from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from llama.HeLLM import HeLLM
from llama.lora import LowRank
from llama.parallel import ColumnParallelLinear, RowParallelLinear

PARTS = {  # by what a module's name contains, the first that fits
    ".lora": "LoRA",
    ".feed_forward.": "feed-forward",
    ".attention.": "projections of attention",
    "graph_adapter.": "graph perceptrons",
    "item_projector.": "item projector",
}
REST = "attention, adapter keys and values, head"
LINEAR = (nn.Linear, ColumnParallelLinear, RowParallelLinear, LowRank)


class FlopsByPart(FlopCounterMode):
    """Counts operations while it is entered, those of the model's linear maps by part.

    A map counts once forward and, where gradients are wanted, once for its input's and once for its weight's, so a
    backward pass has to follow.
    """

    def __init__(self, model: HeLLM) -> None:
        super().__init__(display=False)
        self.of_parts, self.handles = dict.fromkeys(PARTS.values(), 0), []
        self.maps = {
            module: next(part for key, part in PARTS.items() if key in name)
            for name, module in model.named_modules()
            if isinstance(module, LINEAR) and module is not model.score  # which is not called as a module
        }

    def __enter__(self):
        self.handles = [module.register_forward_hook(partial(self._count, part)) for module, part in self.maps.items()]
        return super().__enter__()

    def __exit__(self, *error):
        for handle in self.handles:
            handle.remove()
        return super().__exit__(*error)

    def parts(self) -> dict[str, int]:
        """Operations by part, the largest first."""
        parts = self.of_parts | {REST: self.get_total_flops() - sum(self.of_parts.values())}
        return dict(sorted(parts.items(), key=lambda part: -part[1]))

    def _count(self, part: str, module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        x, grad = inputs[0], torch.is_grad_enabled()
        weights = (module.down, module.up) if isinstance(module, LowRank) else (module.weight,)
        for weight in weights:
            times = 1 + grad * (x.requires_grad + weight.requires_grad)
            self.of_parts[part] += 2 * times * (x.numel() // x.shape[-1]) * weight.numel()
