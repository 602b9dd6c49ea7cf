"""Losses and gradient norms that stay on the device until they are read together."""

import torch
from torch import Tensor


class LossMeter:
    """Keep the loss and gradient norm of the newest steps on the device until `read`.

    From the first non-finite one on, `found_inf` is 1: the flag by which torch's GradScaler lets a fused optimizer
    skip its step on the device, without a host synchronisation.
    """

    def __init__(self) -> None:
        self._pending: list[Tensor] = []
        self._found_nonfinite: Tensor | None = None

    def __len__(self) -> int:
        return len(self._pending)

    def add(self, loss: Tensor, grad_norm: Tensor) -> Tensor:
        """Add the loss (nats) and gradient norm of a step, scalars; return `found_inf`, float32 scalar."""
        found_nonfinite = ~(loss + grad_norm).isfinite()
        if self._found_nonfinite is not None:
            found_nonfinite = found_nonfinite | self._found_nonfinite
        self._found_nonfinite = found_nonfinite
        self._pending.append(torch.stack([loss, grad_norm]))
        return found_nonfinite.float()

    def read(self) -> list[tuple[float, float]]:
        """Return loss and gradient norm of every step since the last call. Synchronises the GPU."""
        if not self._pending:
            return []
        values = torch.stack(self._pending).tolist()
        self._pending = []
        return values
