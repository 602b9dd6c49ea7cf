"""LLaMA-2's SentencePiece tokenizer."""

from pathlib import Path

from sentencepiece import SentencePieceProcessor


class Tokenizer:
    """Token ids of a text.

    Args:
        path: `tokenizer.model` as it comes with the weights.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a SentencePiece model, or one without a begin-of-sequence token.
    """

    def __init__(self, path: str | Path) -> None:
        if not Path(path).exists():
            raise FileNotFoundError(f"{path}: tokenizer missing; it comes with the base weights")
        content = Path(path).read_bytes()
        try:
            self.model = SentencePieceProcessor(model_proto=content)
        except RuntimeError as error:
            raise ValueError(f"{path}: not a SentencePiece model; fetch it again") from error
        if self.model.bos_id() < 0:
            raise ValueError(f"{path}: has no begin-of-sequence token; LLaMA-2's tokenizer.model is needed")

    def encode(self, text: str) -> list[int]:
        """Ids of the text behind a begin-of-sequence token."""
        return [self.model.bos_id(), *self.model.encode(text)]
