"""Runs of train_HeLLM.py as their folders keep them, and their models built again to score with."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from config_HeLLM import Settings, validate_settings
from llama.HeLLM import HeLLM
from utils.cli.restored import restore_settings
from utils.data.input_files import require_same_inputs
from utils.data.interactions import Interactions
from utils.runtime.seed import seed_everything
from utils.training.adapter_file import load_adapter
from utils.training.build import build_meta_model, build_model, input_files, load_data
from utils.training.checkpoints import read_checkpoint
from utils.training.run_files import BEST_ADAPTER, STATE


@dataclass(frozen=True)
class SavedRun:
    """A run that has validated once."""

    folder: Path
    settings: Settings
    recorded: dict  # what its checkpoint says: the settings that its result depends on, and checksums of its data files

    @property
    def adapter(self) -> Path:
        """The path of the best epoch's adapter."""
        return self.folder / BEST_ADAPTER

    @property
    def checksums(self) -> dict[str, str]:
        """The checksums of the data files that the run has read, as its checkpoint names them."""
        return {name: value for name, value in self.recorded.items() if name.startswith("CRC-32 of ")}


def read_run(folder: Path, data_dir: str, model_name: str = "") -> SavedRun:
    """Read the settings of a run.

    Args:
        folder: folder of the run, with `best_adapter.pt` and `training_state.pt`.
        data_dir: folder that holds sequential/DATASET/ now.
        model_name: base weights, if they have moved since the run.

    Raises:
        FileNotFoundError: a file is missing; names it.
        ValueError: the checkpoint is damaged or of another version, or its settings are invalid; names it.
    """
    for name in (BEST_ADAPTER, STATE):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder / name}: missing; the folder of a run of train_HeLLM.py that has validated once is expected, "
                "output/DATASET/GNNMODEL/TARGET"
            )
    recorded = read_checkpoint(folder / STATE)["settings"]
    settings = restore_settings(Settings, recorded, folder / STATE, validate_settings)
    settings = replace(settings, data_dir=data_dir, model_name=model_name or settings.model_name)
    return SavedRun(folder, settings, recorded)


def load_model(run: SavedRun, device: torch.device, base_cache: dict | None = None) -> tuple[Interactions, HeLLM]:
    """Load a run's data with full histories, and its model with the best adapter, in evaluation mode.

    A base that was initialised at random and not trained is not saved: it is initialised again from the seed, which
    gives equal weights only on the same kind of device.

    Args:
        run: the run.
        device: where the model will be.
        base_cache: shares a frozen base among several runs, see `build_model`.

    Raises:
        FileNotFoundError: a file is missing; names it.
        ValueError: a file does not fit the run; names it.
    """
    data, tables = load_data(replace(run.settings, max_len=0))
    require_same_inputs(run.folder, run.recorded, input_files(run.settings))
    # An adapter that does not fit is refused on a model without memory, before a large base is read
    load_adapter(build_meta_model(run.settings, tables, device), run.adapter)
    seed_everything(run.settings.seed)
    model = build_model(run.settings, tables, device, base_cache)
    load_adapter(model, run.adapter)
    return data, model.eval()
