"""LLaMA-2's SentencePiece tokenizer."""

from pathlib import Path

from sentencepiece import SentencePieceProcessor


class Tokenizer:
    """Convert text to token ids.

    Args:
        path: `tokenizer.model`, which comes with the weights.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a SentencePiece model, or has no begin-of-sequence token.
    """

    def __init__(self, path: str | Path) -> None:
        if not Path(path).exists():
            raise FileNotFoundError(f"{path}: tokenizer missing; it comes with the base weights")
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
