"""What is not finite: found before it is saved, told with all that helps to see why."""

import torch
from torch import Tensor

from utils.runtime.distributed import all_reduce_max

MAX_USERS_SHOWN, MAX_PARAMETERS_SHOWN = 20, 3


def find_nonfinite(tensors: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> str:
    """Name of a tensor that, or whose optimiser state, holds NaN or infinity; "" where none does.

    All processes must call, and get the same.
    """
    parts = [(t, *optimizer.state.get(t, {}).values()) for t in tensors.values()]
    finite = [torch.stack([part.isfinite().all().to(t.device) for part in (t, *more)]).all() for t, *more in parts]
    whole = torch.stack(finite).tolist()
    (place,) = all_reduce_max(len(whole) - whole.index(False) if False in whole else 0)  # counted from the end
    return list(tensors)[-int(place)] if place else ""


def describe_failed_step(loss: float, norm: float, rate: float, users: list[int], tensors: dict[str, Tensor]) -> str:
    """What there is to know of a step that failed.

    Args:
        loss: nats; norm: of all its gradients; rate: learning rate; users: whose samples they were.
        tensors: what is trained, by name, as it was before; of a split one this process's part counts.
    """
    norms = {name: float(t.detach().norm()) for name, t in tensors.items()}
    top = sorted(norms, key=norms.get, reverse=True)[:MAX_PARAMETERS_SHOWN]
    shown = ", ".join(map(str, users[:MAX_USERS_SHOWN]))
    more = f" and {len(users) - MAX_USERS_SHOWN} more" if len(users) > MAX_USERS_SHOWN else ""
    return (
        f"loss {loss:.6g}, gradient norm {norm:.6g}, learning rate {rate:.2e}, users {shown}{more}; "
        f"parameters of largest norm: {', '.join(f'{name} {norms[name]:.4g}' for name in top)}"
    )
