"""Settings and command line of preprocess.features."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from utils.cli.errors import report_user_error
from utils.cli.flags import SettingsParser
from utils.cli.validation import check_names, check_numbers

PRETRAINED = ("bert", "clip", "llama")  # read from --model_name
SPARSE_ENCODERS = ("tfidf",)  # write .npz


@dataclass(frozen=True)
class FetchSettings:
    """Settings of downloading."""

    fetch: bool = False  # download pictures that are not in the folder yet, from the URLs in item_image.tsv
    timeout: float = 20.0  # seconds without a response or a further byte; a complete picture may take ten times as long
    retries: int = 3  # further attempts after a time-out, a failed connection, or a response 429 or 5xx
    connections: int = 4  # pictures downloaded in parallel
    max_bytes: int = 20_000_000  # largest picture to download


@dataclass(frozen=True)
class FeatureSettings:
    """Settings of all encoders."""

    dataset: str = "Beauty"  # folder under DATA_DIR/sequential
    data_dir: str = "datasets"  # folder with sequential/DATASET/
    model_name: str = ""  # local folder with a Hugging Face model (bert, clip), or LLaMA's folder or GGUF file (llama)
    device: str = "auto"  # of bert, clip and llama: cuda, cpu, …; auto: CUDA if available
    batch_size: int = 64  # items per forward pass of a model
    shard_size: int = 1024  # items between two saves, rounded up to complete batches
    whiten: bool = False  # centre and decorrelate the features to equal variance
    overwrite: bool = False  # replace existing features


@dataclass(frozen=True)
class TextSettings(FeatureSettings):
    """Settings of the text encoders."""

    encoder: Literal["tfidf", "minilm", "bert", "llama"] = "tfidf"  # tfidf: sparse word counts; minilm: extra package
    columns: tuple[str, ...] = ()  # columns of item_text.tsv to encode, such as title; empty: all
    name: str = "text"  # modality: NAME_feat.npy is written, NAME_feat.npz by tfidf


@dataclass(frozen=True)
class ImageSettings(FetchSettings, FeatureSettings):
    """Settings of the image encoders."""

    encoder: Literal["clip", "histogram"] = "clip"  # histogram: of colours, without a model
    name: str = "image"  # modality: NAME_feat.npy is written
    pictures: str = ""  # folder with the pictures, ASIN.jpg; empty: DATA_DIR/sequential/DATASET/pictures
    max_pixels: int = 50_000_000  # per picture; larger ones count as broken and are not decoded


@dataclass(frozen=True)
class ImportSettings:
    """Settings of importing."""

    dataset: str = "Beauty"  # folder under DATA_DIR/sequential
    data_dir: str = "datasets"  # folder with sequential/DATASET/
    name: str = "image"  # modality: NAME_feat.npy is written, NAME_feat.npz of a sparse matrix
    ids: str = ""  # file with the id of each row; 0 or 1: ids are the rows' numbers; empty: in FILE or its NAME_ids.txt
    id_column: str = ""  # column of the ids in a table, FILE or that of --ids; empty: it is recognised
    overwrite: bool = False  # replace existing features


def validate_settings(settings: TextSettings | ImageSettings | ImportSettings) -> list[str]:
    """Return one message per invalid setting."""
    if isinstance(settings, ImportSettings):
        return check_names(settings, "dataset", "name")
    at_least_1 = ("batch_size", "shard_size")
    if isinstance(settings, TextSettings):
        problems = check_numbers(settings, at_least_1=at_least_1)
    else:
        at_least_1 += ("connections", "max_bytes", "max_pixels")
        problems = check_numbers(settings, at_least_1=at_least_1, positive=("timeout",), at_least_0=("retries",))
    problems += check_names(settings, "dataset", "name")
    if settings.encoder in PRETRAINED and not settings.model_name:
        problems.append(f"--encoder {settings.encoder}: --model_name must give the local folder or file of the model")
    if settings.encoder in SPARSE_ENCODERS and settings.whiten:
        problems.append(f"--whiten: features of --encoder {settings.encoder} stay sparse; take another encoder")
    return problems


PROGRAMS = {
    "text": (TextSettings, "Encode item texts."),
    "image": (ImageSettings, "Encode item pictures."),
    "import": (ImportSettings, "Put features of another program in the order of the items."),
}


def parse_args(argv: list[str] | None = None) -> tuple[TextSettings | ImageSettings | ImportSettings, Path | None]:
    """Parse a command line, whose first word is text, image or import; return the settings, and the file to import.

    An invalid one ends the program with exit status 2.
    """
    argv = sys.argv[1:] if argv is None else argv
    program = "python -m preprocess.features"
    if not argv or argv[0] not in PROGRAMS:
        sys.exit(report_user_error(f"{program} text [flags], or {program} image [flags], or import FILE [flags]"))
    kind, description = PROGRAMS[argv[0]]
    parser = SettingsParser(kind, f"{program} {argv[0]}", description, validate_settings)
    if kind is ImportSettings:
        parser.add_argument("file", type=Path, metavar="FILE", help="features: .npy, .npz, .pt, or a table with ids")
    settings, options = parser.parse(argv[1:])
    return settings, vars(options).get("file")
