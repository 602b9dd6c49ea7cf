"""Cross-entropy over many classes straight from hidden states, without ever holding all logits."""

import torch
from torch import Tensor

BLOCK_ELEMENTS = 2**20  # logits at a time: 4 MiB, so that they stay in the cache


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Mean of −log softmax(hidden · weightᵀ)[target], in nats; exact, and so is its gradient.

    The gradient is made block by block along with the loss: each logit is computed once, used and dropped.

    Args:
        hidden: float32 (N, d); weight: float32 (I, d); targets: int64 (N,).
    """
    return _LinearCrossEntropy.apply(hidden, weight, targets)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        n = len(hidden)
        of_hidden = torch.empty_like(hidden)
        of_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        loss = torch.zeros((), dtype=torch.float64, device=hidden.device)
        size = max(BLOCK_ELEMENTS // len(weight), 1)
        for first in range(0, n, size):
            h, target = hidden[first : first + size], targets[first : first + size]
            p = h @ weight.T  # (size, I)
            own, top = p.gather(1, target[:, None]), p.amax(1, keepdim=True)
            p.sub_(top).exp_()
            total = p.sum(1, keepdim=True)
            loss += (total.log() + top - own).double().sum()
            of_hidden[first : first + size] = p @ weight / total - weight[target]
            if of_weight is not None:
                of_weight.addmm_(p.T, h / total)
                of_weight.index_add_(0, target, h, alpha=-1)
        ctx.save_for_backward(of_hidden, of_weight)
        return (loss / n).to(hidden.dtype)

    @staticmethod
    def backward(ctx, upstream: Tensor):
        of_hidden, of_weight = ctx.saved_tensors
        share = upstream / len(of_hidden)
        return of_hidden * share, None if of_weight is None else of_weight * share, None
