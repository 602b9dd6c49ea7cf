"""Losses and gradient norms that stay on the device until they are read together."""

from typing import Any, NamedTuple

import torch
from torch import Tensor


class StepLoss(NamedTuple):
    """An optimizer step whose loss has been read."""

    loss: float  # nats
    grad_norm: float
    batch: Any
    lr: float


class LossMeter:
    """Keep loss and gradient norm of the newest steps on the device until `read`.

    From the first non-finite one on, `found_inf` is 1: the flag by which torch's GradScaler lets a fused optimizer
    skip its step on the device, without a host synchronisation.
    """

    def __init__(self) -> None:
        self._values: list[Tensor] = []  # (loss, gradient norm) of each pending step
        self._steps: list[tuple[Any, float]] = []  # (batch, learning rate) of each pending step
        self._found_nonfinite: Tensor | None = None

    def __len__(self) -> int:
        return len(self._values)

    def add(self, loss: Tensor, grad_norm: Tensor, batch: Any, lr: float) -> Tensor:
        """Add a step whose loss (nats) and gradient norm are scalars on the device; return `found_inf`, float32."""
        found_nonfinite = ~(loss + grad_norm).isfinite()
        if self._found_nonfinite is not None:
            found_nonfinite = found_nonfinite | self._found_nonfinite
        self._found_nonfinite = found_nonfinite
        self._values.append(torch.stack([loss, grad_norm]))
        self._steps.append((batch, lr))
        return found_nonfinite.float()

    def read(self) -> list[StepLoss]:
        """Return the steps since the last call. Synchronises the GPU."""
        if not self._values:
            return []
        values = torch.stack(self._values).tolist()
        steps = [StepLoss(*value, *step) for value, step in zip(values, self._steps, strict=True)]
        self._values.clear()
        self._steps.clear()
        return steps
