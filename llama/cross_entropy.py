"""Cross-entropy over many classes straight from hidden states, without ever holding all logits."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

BLOCK_ELEMENTS = 2**20  # logits per block: 4 MiB, so that they stay in the cache


class SoftTargets(NamedTuple):
    """The scores of a teacher, whose softmax is part of the targets (distillation, arXiv 1503.02531).

    The teacher's logits are hidden · weightᵀ, computed like the student's for the classes that it is compared on.
    """

    hidden: Tensor  # float32 (N, d'), no gradient
    weight: Tensor  # float32 (I, d'), no gradient
    share: float  # of the teacher's probabilities in the targets; the rest is the hard target, smoothed


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return the mean of −log softmax(hidden · weightᵀ)[target] in nats; exact, and so is its gradient.

    The gradient is computed block by block along with the loss: each logit is computed once, used and dropped.

    Args:
        hidden: float32 (N, d).
        weight: float32 (I, d), one row per class.
        targets: int64 (N,).
        smoothing: fraction of the target's probability that is spread evenly over all classes.
    """
    return _LinearCrossEntropy.apply(hidden, weight, targets, smoothing)


def sampled_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    negatives: Tensor,
    smoothing: float = 0.0,
    teacher: SoftTargets | None = None,
) -> Tensor:
    """Return the mean cross-entropy in nats against negatives that stand for all other classes.

    The batch shares its negatives, sampled uniformly. Each row reweights them by I − 1 classes per negative that is
    not its target, so that Σ exp(logit) has the expectation of the full softmax. The gradient is computed along with
    the loss, as in `linear_cross_entropy`.

    Args:
        hidden: float32 (N, d).
        weight: float32 (I, d), one row per class.
        targets: int64 (N,).
        negatives: int64 (K,), distinct.
        smoothing: fraction of the target's probability that is spread evenly over all classes, exactly.
        teacher: scores of the same rows, of which the softmax over target and negatives is part of the targets.
    """
    return _SampledCrossEntropy.apply(hidden, weight, targets, negatives, smoothing, teacher)


class _GradientAlongWithLoss(torch.autograd.Function):
    """A mean loss whose `forward` also computes the gradients of the sum, with respect to its first two inputs."""

    @staticmethod
    def backward(ctx, grad_output: Tensor):
        grad_hidden, grad_weight = ctx.saved_tensors
        scale = grad_output / len(grad_hidden)
        scaled_weight = None if grad_weight is None else grad_weight * scale
        n_other_inputs = len(ctx.needs_input_grad) - 2
        return grad_hidden * scale, scaled_weight, *[None] * n_other_inputs


class _LinearCrossEntropy(_GradientAlongWithLoss):
    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        n_rows = len(hidden)
        mean_weight = weight.mean(0)
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        loss = torch.zeros((), dtype=torch.float64, device=hidden.device)
        block = max(BLOCK_ELEMENTS // len(weight), 1)
        for first in range(0, n_rows, block):
            h = hidden[first : first + block]
            target = targets[first : first + block]
            # −log softmax of the block, the largest logit subtracted before exp
            p = h @ weight.T  # (block, I): logits, then their exponentials
            target_logit = p.gather(1, target[:, None])
            max_logit = p.amax(1, keepdim=True)
            target_score = target_logit * (1 - smoothing) + (h @ mean_weight)[:, None] * smoothing
            p.sub_(max_logit).exp_()
            total = p.sum(1, keepdim=True)
            loss += (total.log() + max_logit - target_score).double().sum()
            # Gradients of the sum, which `backward` divides by the number of rows
            grad_hidden[first : first + block] = (
                p @ weight / total - weight[target] * (1 - smoothing) - mean_weight * smoothing
            )
            if grad_weight is not None:
                grad_weight.addmm_(p.T, h / total)
                grad_weight.index_add_(0, target, h, alpha=smoothing - 1)
        if grad_weight is not None and smoothing:
            grad_weight -= hidden.sum(0) * (smoothing / len(weight))
        ctx.save_for_backward(grad_hidden, grad_weight)
        return (loss / n_rows).to(hidden.dtype)


class _SampledCrossEntropy(_GradientAlongWithLoss):
    @staticmethod
    def forward(
        ctx,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        negatives: Tensor,
        smoothing: float,
        teacher: SoftTargets | None,
    ) -> Tensor:
        n_classes = len(weight)
        hard_share = 1.0 if teacher is None else 1 - teacher.share
        mean_weight = weight.mean(0)
        negative_weight = weight[negatives]
        target_column, log_weight = _reweighting(negatives, targets, n_classes)

        grad_hidden = torch.empty_like(hidden)
        grad_target = torch.empty_like(hidden)  # of each row's target vector
        grad_negative = torch.zeros_like(negative_weight)
        loss = torch.zeros((), dtype=torch.float64, device=hidden.device)
        block = max(BLOCK_ELEMENTS // len(negatives), 1)
        for first in range(0, len(hidden), block):
            rows = slice(first, first + block)
            h = hidden[rows]
            target_weight = weight[targets[rows]]
            column = target_column[rows, None]
            log_weights = log_weight[rows, None]
            p = _negative_logits(h, negative_weight, log_weights, column)  # (block, K), later their exponentials
            # −log softmax of the target, the largest logit subtracted before exp
            target_logit = (h * target_weight).sum(1, keepdim=True)
            max_logit = torch.maximum(p.amax(1, keepdim=True), target_logit)
            target_score = target_logit * (1 - smoothing) + (h @ mean_weight)[:, None] * smoothing
            if teacher is not None:
                block_teacher = teacher._replace(hidden=teacher.hidden[rows])
                q, target_q = _soft_targets(block_teacher, targets[rows], negatives, log_weights, column)
                # 0 · -∞ where a negative is the target counts as 0
                teacher_score = (q * p).nansum(1, keepdim=True) + target_q * target_logit
                target_score = target_score * hard_share + teacher_score
            p.sub_(max_logit).exp_()
            target_p = (target_logit - max_logit).exp()
            total = p.sum(1, keepdim=True) + target_p
            loss += (total.log() + max_logit - target_score).double().sum()
            # Gradients of the sum, which `backward` divides by the number of rows
            target_error = target_p / total - (1 - smoothing) * hard_share
            if teacher is not None:
                target_error -= target_q
                p.addcmul_(q, total, value=-1)
            grad_hidden[rows] = (
                p @ negative_weight / total + target_error * target_weight - mean_weight * (smoothing * hard_share)
            )
            grad_target[rows] = target_error * h
            grad_negative.addmm_(p.T, h / total)
        grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = torch.zeros_like(weight)
            grad_weight[negatives] = grad_negative
            grad_weight.index_add_(0, targets, grad_target)
            if smoothing:
                grad_weight -= hidden.sum(0) * (smoothing * hard_share / n_classes)
        ctx.save_for_backward(grad_hidden, grad_weight)
        return (loss / len(hidden)).to(hidden.dtype)


def _reweighting(negatives: Tensor, targets: Tensor, n_classes: int) -> tuple[Tensor, Tensor]:
    """Return where each row's target is among the negatives, and the log of the classes that a negative stands for.

    Returns:
        int64 (N,), -1 where the target is not among them; float32 (N,).
    """
    column_of = negatives.new_full((n_classes,), -1)
    column_of[negatives] = torch.arange(len(negatives), device=negatives.device)
    target_column = column_of[targets]
    n_others = len(negatives) - (target_column >= 0).int()
    return target_column, math.log(n_classes - 1) - n_others.log()  # +∞ where no other class was sampled


def _soft_targets(
    teacher: SoftTargets, targets: Tensor, negatives: Tensor, log_weight: Tensor, target_column: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the teacher's share of a block's targets: its probabilities of the negatives and of each row's target.

    Args:
        teacher: scores of the block's rows.
        targets: int64 (N,).
        negatives: int64 (K,).
        log_weight: (N, 1), of the negatives.
        target_column: int64 (N, 1), -1 where the target is not among the negatives.

    Returns:
        (N, K) and (N, 1), of sum `teacher.share` per row.
    """
    logits = _negative_logits(teacher.hidden, teacher.weight[negatives], log_weight, target_column)
    target_logit = (teacher.hidden * teacher.weight[targets]).sum(1, keepdim=True)
    p = torch.cat([logits, target_logit], 1).softmax(1).mul_(teacher.share)
    return p[:, :-1], p[:, -1:]


def _negative_logits(hidden: Tensor, weight: Tensor, log_weight: Tensor, target_column: Tensor) -> Tensor:
    """Return the logits of sampled classes, each for all that it stands for; -∞ where one is the row's target.

    Args:
        hidden: (N, d).
        weight: (K, d), one row per sampled class.
        log_weight: (N, 1).
        target_column: int64 (N, 1), -1 where the target is not among the classes.
    """
    logits = hidden @ weight.T
    logits += log_weight
    at = target_column.clamp(min=0)
    return logits.scatter_(1, at, logits.gather(1, at).masked_fill(target_column >= 0, -torch.inf))
