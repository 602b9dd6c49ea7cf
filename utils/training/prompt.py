"""The prompt: constant text around a history (docs/method.md, section 2)."""

from pathlib import Path

from llama.checkpoint import open_checkpoint
from llama.tokenizer import open_tokenizer
from llama.weight_files import BEGIN_TOKEN

INSTRUCT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\nGiven the user’s purchase history, predict next possible item to be purchased.\n\n"
    "### Input:\n"
)
RESPONSE = "\n### Response:\n"
# Tokens before and after the items by LLaMA-2's tokenizer; others need about as many
PROMPT_LENGTHS = {"alpaca": (63, 8), "bos": (1, 1), "none": (0, 0)}


def prompt_positions_per_row(objective: str, prompt: str) -> int:
    """Return the prompt positions that each row of a batch adds: none if causal, where all rows share one prompt."""
    return 0 if objective == "causal" else sum(PROMPT_LENGTHS[prompt])


def prompt_ids(prompt: str, weights: str) -> tuple[list[int], list[int]]:
    """Return the token ids before and after the items.

    Args:
        prompt: "alpaca" for the published text, "bos" for the begin-of-sequence token alone, "none" for no prompt.
        weights: folder or GGUF file of base weights, whose tokenizer "alpaca" and whose begin-of-sequence token "bos"
            takes; or the name of a built-in size, which has LLaMA-2's.

    Raises:
        FileNotFoundError, ValueError: the weights have no such tokenizer or token, or none that can be read.
    """
    if prompt == "none":
        return [], []
    try:
        if prompt == "bos":
            token = open_checkpoint(weights).begin_token() if Path(weights).exists() else BEGIN_TOKEN
            return [token], [token]
        encode, _ = open_tokenizer(weights)
        return encode(INSTRUCT), encode(RESPONSE)
    except (FileNotFoundError, ValueError) as error:
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        raise kind(f"{error}; or take --prompt none") from error
