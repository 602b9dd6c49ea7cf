"""Find NaN and infinity before they are saved, and describe the step that made them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from utils.runtime.processes import all_reduce_max

MAX_USERS_SHOWN = 20
MAX_PARAMETERS_SHOWN = 3


@dataclass(frozen=True)
class FailedStep:
    """An optimizer step whose loss or gradient is not finite."""

    loss: float  # nats
    grad_norm: float  # of all gradients together
    lr: float
    users: list[int]  # whose samples were in the batch

    def describe(self, tensors: dict[str, Tensor]) -> str:
        """Return all that helps to see why the step failed.

        Args:
            tensors: the trained tensors by name, as they were before the step; of a sharded one this rank's shard.
        """
        norms = {name: float(tensor.detach().norm()) for name, tensor in tensors.items()}
        largest = sorted(norms, key=norms.get, reverse=True)[:MAX_PARAMETERS_SHOWN]
        parameters = ", ".join(f"{name} {norms[name]:.4g}" for name in largest)
        users = ", ".join(map(str, self.users[:MAX_USERS_SHOWN]))
        if len(self.users) > MAX_USERS_SHOWN:
            users += f" and {len(self.users) - MAX_USERS_SHOWN} more"
        return (
            f"loss {self.loss:.6g}, gradient norm {self.grad_norm:.6g}, learning rate {self.lr:.2e}, users {users}; "
            f"parameters of largest norm: {parameters}"
        )


def find_nonfinite(tensors: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> str:
    """Return the name of a tensor that, or whose optimizer state, holds NaN or infinity; "" if none does.

    A collective call: all ranks get the same name. Synchronises the GPU, once.
    """
    is_finite = []
    for tensor in tensors.values():
        parts = [tensor, *optimizer.state.get(tensor, {}).values()]
        is_finite.append(torch.stack([part.isfinite().all().to(tensor.device) for part in parts]).all())
    finite = torch.stack(is_finite).tolist()
    # Ranks agree on the first tensor that is not finite on any of them: counted from the end, it is the largest number
    from_end = 0 if all(finite) else len(finite) - finite.index(False)
    (from_end,) = all_reduce_max(from_end)
    return list(tensors)[-int(from_end)] if from_end else ""
