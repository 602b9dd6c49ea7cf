"""The tokenizer that comes with base weights: SentencePiece's, Hugging Face's tokenizer.json, or a GGUF file's."""

import re
from collections.abc import Callable
from pathlib import Path

from sentencepiece import SentencePieceProcessor

from llama.gguf_tokenizer import read_bpe
from llama.torch_file import error_reason
from llama.weight_listing import find_weights, gguf_files

TOKENIZER_FILES = ("tokenizer.model", "tokenizer.json")
TIKTOKEN_LINE = re.compile(rb"[A-Za-z0-9+/]+=* \d+\r?\n")


class Tokenizer:
    """Convert text to token ids with SentencePiece.

    Args:
        path: `tokenizer.model`, which comes with the weights.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is Meta's of Llama-3 or no SentencePiece model, or has no begin-of-sequence token.
    """

    def __init__(self, path: str | Path) -> None:
        if not Path(path).exists():
            raise FileNotFoundError(f"{path}: tokenizer missing (or tokenizer.json); it comes with the base weights")
        if is_tiktoken(Path(path)):
            raise ValueError(
                f"{path}: Llama-3's tokenizer in Meta's own form, which is not read; put tokenizer.json of the same "
                "model from Hugging Face beside it"
            )
        content = Path(path).read_bytes()
        try:
            self.model = SentencePieceProcessor(model_proto=content)
        except RuntimeError as error:
            raise ValueError(f"{path}: not a SentencePiece model; download it again") from error
        if self.model.bos_id() < 0:
            raise ValueError(f"{path}: has no begin-of-sequence token; LLaMA-2's tokenizer.model is needed")

    def encode(self, text: str) -> list[int]:
        """Return the ids of the text, after the begin-of-sequence token."""
        return [self.model.bos_id(), *self.model.encode(text)]


def open_tokenizer(weights: str | Path) -> tuple[Callable[[str], list[int]], int]:
    """Return a function from a text to its token ids, and how many begin-of-sequence tokens it puts first.

    Args:
        weights: folder or GGUF file of base weights. Read is the first of tokenizer.model and tokenizer.json beside
            the weights, the tokenizer in the GGUF file, and the same two files one folder up.

    Raises:
        FileNotFoundError, ValueError: there is no tokenizer, or none that can be read.
    """
    path = find_weights(Path(weights))
    is_file = path.is_file()
    folder = path.parent if is_file else path
    if (is_file or any(folder.glob("*.gguf"))) and not any((folder / name).exists() for name in TOKENIZER_FILES):
        return read_bpe(gguf_files(path)[0])
    found = [*tokenizer_files(folder), folder / "tokenizer.model"][0]
    if found.name == "tokenizer.json":
        return read_tokenizer_json(found)
    return Tokenizer(found).encode, 1


def tokenizer_files(folder: Path) -> list[Path]:
    """List the tokenizers in a folder and one folder up, the one that counts first, without Meta's of Llama-3."""
    # Not Path.resolve: a link to a folder elsewhere stays here
    paths = [place / name for place in (folder, folder.absolute().parent) for name in TOKENIZER_FILES]
    return [path for path in paths if path.exists() and not is_tiktoken(path)]


def is_tiktoken(path: Path) -> bool:
    """Return whether a tokenizer is Meta's of Llama-3: lines of a token in base64 and its number."""
    if path.suffix == ".json":
        return False
    with path.open("rb") as file:
        return TIKTOKEN_LINE.fullmatch(file.readline(1000)) is not None


def read_tokenizer_json(path: Path) -> tuple[Callable[[str], list[int]], int]:
    """Return a function from a text to its token ids, and how many begin-of-sequence tokens it puts first.

    As in transformers, the file alone decides which tokens are added to a text; a tokenizer_config.json is not read.

    Raises:
        OSError: the file may not be read.
        ValueError: it is damaged, or the package tokenizers is missing.
    """
    try:
        import tokenizers
    except ImportError as error:
        raise ValueError(f"{path}: reading it needs the package tokenizers: pip install tokenizers") from error
    content = path.read_bytes()
    try:
        tokenizer = tokenizers.Tokenizer.from_buffer(content)
    except Exception as error:  # the package raises Exception itself
        raise ValueError(
            f"{path}: not a tokenizer of the package tokenizers ({error_reason(error)}); download it again"
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    n_start = [*tokenizer.encode("a").special_tokens_mask, 0].index(0)
    return lambda text: tokenizer.encode(text).ids, n_start
