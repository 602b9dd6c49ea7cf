"""Settings and command line of preprocess.pretrain_graph."""

from dataclasses import dataclass
from typing import Literal

from preprocess.pretraining.settings import PretrainSettings, validate_pretrain_settings
from utils.cli.flags import SettingsParser
from utils.cli.validation import MAX_LAYERS, check_names, check_numbers, check_ranges


@dataclass(frozen=True)
class GraphSettings(PretrainSettings):
    """The settings published for Beauty; PRESETS has those of other datasets."""

    # model
    GNNModel: Literal["MMHCL", "LightGCN"] = "MMHCL"  # MMHCL, or LightGCN: without both hypergraphs
    cf_model: Literal["LightGCN", "NGCF", "MF"] = "LightGCN"  # encoder of the interaction graph
    embed_dim: int = 64  # width of the embeddings
    UI_layers: int = 2  # propagation layers of the interaction graph
    User_layers: int = 2  # propagation layers of the user hypergraph
    Item_layers: int = 1  # propagation layers of the item hypergraph
    user_loss_ratio: float = 0.9  # weight of the users' contrastive loss; 0: no user hypergraph
    item_loss_ratio: float = 0.1  # weight of the items' contrastive loss; 0: no item hypergraph
    topk: int = 10  # nearest items per hyperedge, the item itself included
    tau: float = 0.5  # temperature of the contrastive losses
    regs: float = 1e-4  # weight of the L2 penalty on the embeddings of a batch
    contrastive_anchors: int = 0  # nodes sampled per step for the contrastive losses; 0: all nodes
    features: tuple[str, ...] = ()  # modalities of the item hypergraph, such as text,image; empty: all that have a file
    tables: str = ""  # name of the tables, for --GNNModel of fine-tuning, and of the log folder; empty: GNNModel

    @property
    def name(self) -> str:
        """Return the prefix of the names of what is written."""
        return self.tables or self.GNNModel


PRESETS = {
    "Beauty": {},
    "Sports_and_Outdoors": {"Item_layers": 2, "user_loss_ratio": 0.7, "topk": 5, "regs": 1e-3},
    "Toys_and_Games": {
        "User_layers": 3,
        "Item_layers": 2,
        "user_loss_ratio": 0.03,
        "item_loss_ratio": 0.07,
        "tau": 0.3,
        "regs": 1e-3,
    },
}


def parse_args(argv: list[str] | None = None) -> GraphSettings:
    """Parse a command line: the settings published for the dataset (Beauty's for others), changed by the flags.

    An invalid one ends the program with one line and exit status 2.
    """

    def published(given: dict) -> str:
        return given["dataset"] if given.get("dataset") in PRESETS else "Beauty"

    program = "python -m preprocess.pretrain_graph"
    what = (
        "Pre-train MMHCL or LightGCN.\n\n"
        "Without --preset: the settings published for the dataset, those of Beauty for other datasets."
    )
    parser = SettingsParser(GraphSettings, program, what, validate_settings, PRESETS, published, takes_config=True)
    return parser.parse(argv)[0]


def validate_settings(settings: GraphSettings) -> list[str]:
    """Return all problems of the settings, one phrase per problem."""
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
    """Return the names of the two files, that of the users first."""
    return [f"{name}_{side}_embeddings.pt" for side in ("user", "item")]
