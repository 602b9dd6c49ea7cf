"""Pre-train MMHCL: interactions and item features to graph embeddings of users and items.

    python -m preprocess.pretrain_graph --dataset Beauty
    python -m preprocess.pretrain_graph --dataset Beauty --GNNModel LightGCN

Reads `{dataset}.txt` and every `*_feat.npy` or `*_feat.pt` beside it; writes `{GNNModel}_user_embeddings.pt` and
`{GNNModel}_item_embeddings.pt` there, or the same under the name of --tables.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F

from preprocess.pretraining.hypergraph import find_features, interaction_matrix, item_incidence, load_features
from preprocess.pretraining.mmhcl import (
    MMHCL,
    BatchSampler,
    CollaborativeEncoder,
    bpr_loss,
    contrastive_loss,
)
from preprocess.pretraining.trainer import (
    PretrainSettings,
    PretrainTrainer,
    open_training_data,
    run_pretraining,
    validate_pretrain_settings,
)
from utils.cli.flags import SettingsParser
from utils.cli.validation import MAX_LAYERS, check_names, check_numbers, check_ranges
from utils.data.interactions import Interactions, Samples
from utils.evaluation.metrics import ranking_metrics
from utils.evaluation.ranking import rank_by_product

CHOOSE_BY = "Recall@20"  # of validation


@dataclass(frozen=True)
class GraphSettings(PretrainSettings):
    """The published settings on Beauty; PRESETS lists what is published for other datasets."""

    GNNModel: Literal["MMHCL", "LightGCN"] = "MMHCL"  # LightGCN: without both hypergraphs
    cf_model: Literal["LightGCN", "NGCF", "MF"] = "LightGCN"  # collaborative part
    embed_dim: int = 64  # width of the tables
    UI_layers: int = 2  # of the interaction graph
    User_layers: int = 2  # of the user hypergraph
    Item_layers: int = 1  # of the item hypergraph
    user_loss_ratio: float = 0.9  # weight of the users' contrastive loss; 0: no user hypergraph
    item_loss_ratio: float = 0.1  # weight of the items' contrastive loss; 0: no item hypergraph
    topk: int = 10  # nearest items a hyperedge, itself among them
    tau: float = 0.5  # temperature of the contrastive losses
    regs: float = 1e-4  # weight of the batch's squared norms
    contrastive_anchors: int = 0  # nodes sampled a step for the contrastive losses; 0: all
    features: tuple[str, ...] = ()  # modalities, comma-separated: text,image; all that are found when empty
    tables: str = ""  # first part of the names of tables and log folder, a --GNNModel of fine-tuning; empty: GNNModel

    @property
    def name(self) -> str:
        """First part of the names of what is written."""
        return self.tables or self.GNNModel


PRESETS = {
    "Beauty": {},
    "Sports_and_Outdoors": {"Item_layers": 2, "user_loss_ratio": 0.7, "topk": 5, "regs": 1e-3},
    "Toys_and_Games": {
        **{"User_layers": 3, "Item_layers": 2, "user_loss_ratio": 0.03, "item_loss_ratio": 0.07},
        **{"tau": 0.3, "regs": 1e-3},
    },
}


def parse_args(argv: list[str] | None = None) -> GraphSettings:
    """Settings of a command line: those published for the dataset (Beauty's for others), then the flags.

    A mistake ends the program with one line and exit status 2.
    """

    def published(given: dict) -> str:
        return given["dataset"] if given.get("dataset") in PRESETS else "Beauty"

    program = "python -m preprocess.pretrain_graph"
    what = (
        "Pre-train MMHCL or LightGCN.\n\n"
        "Without --preset: the settings published for the dataset, those of Beauty for other datasets."
    )
    return SettingsParser(GraphSettings, program, what, validate_settings, PRESETS, published).parse(argv)[0]


def validate_settings(settings: GraphSettings) -> list[str]:
    """Everything wrong with the settings by themselves, a phrase each."""
    return (
        validate_pretrain_settings(settings)
        + check_numbers(
            settings,
            at_least_1=("embed_dim", "topk"),
            positive=("tau",),
            at_least_0=("user_loss_ratio", "item_loss_ratio", "regs", "contrastive_anchors"),
        )
        + check_ranges(settings, UI_layers=(0, MAX_LAYERS), User_layers=(1, MAX_LAYERS), Item_layers=(1, MAX_LAYERS))
        + (check_names(settings, "tables") if settings.tables else [])
    )


def table_names(name: str) -> list[str]:
    """The two files, users' first."""
    return [f"{name}_{side}_embeddings.pt" for side in ("user", "item")]


def chosen_features(settings: GraphSettings, data: Interactions) -> dict[str, Path]:
    """Files of the modalities that the settings ask for."""
    paths = {path.stem.removesuffix("_feat"): path for path in find_features(data.path.parent)}
    absent = [name for name in settings.features if name not in paths]
    if absent or not paths:
        raise FileNotFoundError(
            f"{data.path.parent}: no {' or '.join(f'{name}_feat' for name in absent or ['text', 'image'])}.npy or .pt; "
            f"python -m preprocess.features makes one, --item_loss_ratio 0 goes without"
        )
    return {name: path for name, path in paths.items() if not settings.features or name in settings.features}


class GraphTraining:
    """A training of MMHCL or LightGCN, everything read and checked.

    Args:
        settings: of the run; device: where it is computed.

    Raises:
        FileNotFoundError, ValueError: naming file, place and remedy.
    """

    def __init__(self, settings: GraphSettings, device: torch.device) -> None:
        s, both = settings, settings.GNNModel == "MMHCL"
        self.settings, self.device = s, device
        self.user_ratio, self.item_ratio = both * s.user_loss_ratio, both * s.item_loss_ratio
        self.data = open_training_data(s, 0, table_names(s.name))
        self.R = interaction_matrix(*self.data.training_pairs(), (self.data.n_users, self.data.n_items))
        self.sampler = BatchSampler(self.R)
        if not len(self.sampler.users):
            raise ValueError(f"{self.data.path}: no user has a training item; take data with longer histories")
        features = chosen_features(s, self.data) if self.item_ratio else {}
        read = {name: load_features(path, self.data.n_items) for name, path in features.items()}
        H = item_incidence(read, s.topk) if read else None
        cf = CollaborativeEncoder(s.cf_model, self.R, s.embed_dim, s.UI_layers)
        self.model = MMHCL(cf, self.R, H, s.User_layers if self.user_ratio else 0, s.Item_layers).to(device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), s.lr, fused=True)
        files = [self.data.path, *features.values()]
        self.fit = PretrainTrainer(s, s.name, self.model, self.optimizer, CHOOSE_BY, files)
        self.steps = self.R.nnz // s.batch_size + 1  # an epoch

    def step(self, epoch: int, number: int) -> float:
        """One optimiser step; returns its loss in nats."""
        s, rng = self.settings, np.random.default_rng([self.settings.seed, epoch, number])
        batch = self.sampler.sample(rng, s.batch_size)
        users, positive, negative = (torch.from_numpy(x).to(self.device) for x in batch)
        out = self.model()
        sides = (users, out.users), (positive, out.items), (negative, out.items)
        loss = bpr_loss(*(F.embedding(rows, table) for rows, table in sides), s.regs)
        views = (self.user_ratio, out.users, out.user_view), (self.item_ratio, out.items, out.item_view)
        for ratio, fused, view in views:
            if ratio:
                loss = loss + ratio * contrastive_loss(fused, view, s.tau, self._anchors(rng, len(fused)))
        return self.fit.descend(loss, batch[0])

    def _anchors(self, rng: np.random.Generator, n: int) -> torch.Tensor | None:
        count = self.settings.contrastive_anchors
        return torch.from_numpy(rng.choice(n, count, replace=False)).to(self.device) if 0 < count < n else None

    @torch.no_grad()
    def rank(self, samples: Samples) -> dict[str, float]:
        """Metrics of a split, training items taken out of the ranking."""
        out, targets = self.model(), self.data.targets(samples)
        return ranking_metrics(rank_by_product(out.users, out.items, self.R, samples.user, targets))

    def train(self) -> None:
        """Train, choose by validation, test, write both tables."""
        lr, validation, test = self.settings.lr, self.data.validation(), self.data.test()
        self.fit.run(self.steps, self.step, lambda epoch: lr * 0.96 ** (int(epoch) / 50), lambda: self.rank(validation))
        with torch.no_grad():
            out = self.model()
        tables = dict(zip(table_names(self.settings.name), (out.users, out.items), strict=True))
        self.fit.finish(tables, {"test": self.rank(test)}, len(test))


def main(argv: list[str] | None = None) -> int:
    """Run the program; returns its exit status."""
    return run_pretraining(parse_args(argv), GraphTraining)


if __name__ == "__main__":
    sys.exit(main())
