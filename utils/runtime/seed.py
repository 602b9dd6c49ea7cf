"""Seeding, the state of the random generators, and determinism."""

import os
import random

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch (CPU and every CUDA device)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def make_deterministic() -> None:
    """Let torch use deterministic kernels only, and raise RuntimeError where there is none. Call before CUDA starts."""
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True)


def seed_at(*coordinates: int) -> None:
    """Seed torch from the coordinates of a step (seed, epoch, step, …).

    What is random in a step then depends on nothing that came before, so a resumed run needs no replay.
    """
    torch.manual_seed(int(np.random.SeedSequence(coordinates).generate_state(1, np.uint64)[0]))


def rng_state() -> dict:
    """Return the state of all random generators as plain numbers and tensors."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()
    return {
        "python": list(random.getstate()[1]),
        "numpy": [kind, keys.tolist(), position, has_gauss, gauss],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_rng_state(state: dict) -> None:
    """Restore what `rng_state` returned."""
    random.setstate((3, tuple(state["python"]), None))
    np.random.set_state(tuple(state["numpy"]))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
