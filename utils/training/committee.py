"""Committees: finished runs that score together, and the file that names them.

A committee's folder, output/DATASET/GNNMODEL/NAME, has one file, `committee.json`. It refers to the folders of the
members, whose adapters and checkpoints stay where they are.
"""

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from llama.HeLLM import HeLLM
from utils.cli.restored import diff_settings
from utils.data.interactions import Interactions
from utils.io.atomic import atomic_write
from utils.io.checksums import file_crc32
from utils.training.run_files import BEST_ADAPTER, COMMITTEE_FILE, STATE
from utils.training.saved_run import SavedRun, load_model, read_run

FORMAT = "HeLLM committee"
VERSION = 1
ADAPTER_CHECKSUM = f"CRC-32 of {BEST_ADAPTER}"
REMEDY = "make the committee again with python -m utils.ensemble"


class Committee(nn.Module):
    """Score items by the weighted sum of the log-softmax that several models give them.

    Args:
        models: the members, in evaluation mode and on one device.
        max_lens: `max_len` of each member's run: it reads the last max_len - 1 items of a history, as in its test.
        weights: of each member, 0 or above.
    """

    def __init__(self, models: list[HeLLM], max_lens: list[int], weights: list[float]) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)
        self.max_lens = max_lens
        self.weights = weights

    @property
    def max_len(self) -> int:
        """The `max_len` of data from which every member can take what it reads."""
        return max(self.max_lens)

    def logits(self, items: Tensor, mask: Tensor | None = None) -> Iterator[Tensor]:
        """Yield each member's logits (B, I) float32 of a batch that is padded on the left."""
        for model, max_len in zip(self.models, self.max_lens, strict=True):
            newest = slice(1 - max_len, None)
            yield model(items[:, newest], None if mask is None else mask[:, newest])

    def forward(self, items: Tensor, mask: Tensor | None = None) -> Tensor:
        """Score every item as the next one.

        The sum is taken in float64: in float32 a member's neighbouring logits would become equal log-softmax values.

        Args:
            items: int64 (B, T) item ids, oldest first, padded on the left with any valid id.
            mask: bool (B, T), False at padding; None where no row is padded.

        Returns:
            float64 (B, I).
        """
        total = 0
        for weight, logits in zip(self.weights, self.logits(items, mask), strict=True):
            total += logits.log_softmax(1, dtype=torch.float64).mul_(weight)
        return total


def require_same_interactions(runs: list[SavedRun]) -> None:
    """Check that all members were trained on one interaction file.

    Raises:
        ValueError: names the first that was not, and both files.
    """
    files = []
    for run in runs:
        name = f"{run.settings.dataset}.txt"
        files.append(f"{name} (CRC-32 {run.recorded.get(f'CRC-32 of {name}')})")
    for run, file in zip(runs, files, strict=True):
        if file != files[0]:
            raise ValueError(
                f"{run.folder}: trained on {file}, but {runs[0].folder} on {files[0]}; "
                "the members of a committee need the same interaction file"
            )


def load_committee(runs: list[SavedRun], weights: list[float], device: torch.device) -> tuple[Interactions, Committee]:
    """Load the members' data with full histories, and their models as one; a frozen base is shared.

    Raises:
        FileNotFoundError: a file is missing; names it.
        ValueError: a file does not fit its run, or the members do not fit each other; names it.
    """
    require_same_interactions(runs)
    base_cache = {}
    models = []
    for run in runs:
        data, model = load_model(run, device, base_cache)
        models.append(model)
    return data, Committee(models, [run.settings.max_len for run in runs], weights)


def write_committee(folder: Path, runs: list[SavedRun], weights: list[float]) -> None:
    """Write the file that names the members, by paths relative to the committee's folder, and their weights."""
    members = [
        {
            "run": os.path.relpath(run.folder, folder),
            "weight": weight,
            ADAPTER_CHECKSUM: file_crc32(run.adapter),
            "settings": run.recorded,
        }
        for run, weight in zip(runs, weights, strict=True)
    ]
    content = {"format": FORMAT, "version": VERSION, "members": members}
    with atomic_write(folder / COMMITTEE_FILE) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def is_committee(folder: Path) -> bool:
    """Return whether a folder is that of a committee; a training into it since then leaves the committee's file."""
    return (folder / COMMITTEE_FILE).is_file() and not (folder / STATE).is_file()


def read_committee(folder: Path, data_dir: str) -> tuple[list[SavedRun], list[float]]:
    """Read the members of a committee and their weights.

    Args:
        folder: folder of the committee.
        data_dir: folder that holds sequential/DATASET/ now.

    Raises:
        FileNotFoundError: a file is missing; names it.
        ValueError: the file is damaged or of another version, or a member has changed since it was written; names it.
    """
    path = folder / COMMITTEE_FILE
    try:
        content = json.loads(path.read_bytes())
        found = (content["format"], content["version"])
        members = [
            (Path(m["run"]), float(m["weight"]), m[ADAPTER_CHECKSUM], dict(m["settings"])) for m in content["members"]
        ]
        is_valid = (
            found == (FORMAT, VERSION)
            and members
            and 0 < sum(m[1] for m in members) < math.inf
            and min(m[1] for m in members) >= 0
        )
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        is_valid = False
    if not is_valid:
        raise ValueError(f"{path}: not a {FORMAT} of version {VERSION}, or damaged; {REMEDY}")
    runs = []
    for member, _, checksum, settings in members:
        run = read_run(Path(os.path.normpath(folder / member)), data_dir)
        changes = diff_settings(settings, run.recorded)
        if file_crc32(run.adapter) != checksum:
            changes.append(f"{ADAPTER_CHECKSUM} differs")
        if changes:
            raise ValueError(f"{run.folder}: trained again since {path} was made: {'; '.join(changes)}; {REMEDY}")
        runs.append(run)
    return runs, [weight for _, weight, _, _ in members]
