"""The byte-level BPE tokenizer in a GGUF file's metadata, with the package tokenizers."""

from collections.abc import Callable
from pathlib import Path

from llama.gguf_file import read_header
from llama.torch_file import error_reason

SECTION = "tokenizer.ggml."
MODEL = "gpt2"  # the metadata's name of a byte-level BPE
SPLITS = ("gpt-2", "smollm")  # supported rules that split a text into words; smollm also splits numbers into digits


def read_bpe(path: Path) -> tuple[Callable[[str], list[int]], int]:
    """Return a function from a text to its token ids, and how many begin-of-sequence tokens it puts first.

    A text that looks like a control token is split as any other.

    Raises:
        ValueError: a package is missing, the tokenizer is of another kind, or the file is damaged.
    """
    try:
        import tokenizers
    except ImportError as error:
        needed = "reading the tokenizer in a GGUF file needs the package tokenizers"
        raise ValueError(f"{path}: {needed}: pip install tokenizers") from error
    metadata, _ = read_header(path, ("tokenizer",))
    fields = {key.removeprefix(SECTION): value for key, value in metadata.items()}
    found = fields.get("model"), fields.get("pre")
    if found[0] != MODEL or found[1] not in SPLITS:
        raise ValueError(
            f"{path}: its tokenizer is {found[0]!r:.30} with the splits of {found[1]!r:.30} ({MODEL!r} with "
            f"{' or '.join(map(repr, SPLITS))} is supported); put the model's tokenizer.model beside it, or its "
            "tokenizer.json"
        )
    try:
        vocabulary = {token: number for number, token in enumerate(fields["tokens"])}
        merges = [tuple(merge.split(" ")) for merge in fields["merges"]]
        tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=merges))
        start = [int(fields["bos_token_id"])] if fields.get("add_bos_token") else []
    except Exception as error:  # the package raises Exception itself
        reason = error_reason(error)
        raise ValueError(f"{path}: its tokenizer can't be read ({reason}); download it again") from error
    split = tokenizers.pre_tokenizers
    steps = [split.ByteLevel(add_prefix_space=False)]
    if found[1] == "smollm":
        steps.insert(0, split.Digits(individual_digits=True))
    tokenizer.pre_tokenizer = split.Sequence(steps)
    return lambda text: start + tokenizer.encode(text).ids, len(start)
