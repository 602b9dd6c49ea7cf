"""The prompt: constant text around a history (docs/method.md, section 2)."""

from llama.tokenizer import Tokenizer

INSTRUCT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\nGiven the user’s purchase history, predict next possible item to be purchased.\n\n"
    "### Input:\n"
)
RESPONSE = "\n### Response:\n"
BOS = 1  # LLaMA-2's begin-of-sequence token
# Tokens before and after the items by LLaMA-2's tokenizer
PROMPT_LENGTHS = {"alpaca": (63, 8), "bos": (1, 1), "none": (0, 0)}


def prompt_positions_per_row(objective: str, prompt: str) -> int:
    """Return the prompt positions that each row of a batch adds: none if causal, where all rows share one prompt."""
    return 0 if objective == "causal" else sum(PROMPT_LENGTHS[prompt])


def prompt_ids(prompt: str, tokenizer_path) -> tuple[list[int], list[int]]:
    """Return the token ids before and after the items.

    Args:
        prompt: "alpaca" for the published text, "bos" for the begin-of-sequence token alone, "none" for no prompt.
        tokenizer_path: `tokenizer.model`, which is read for "alpaca" only.
    """
    if prompt == "none":
        return [], []
    if prompt == "bos":
        return [BOS], [BOS]
    tokenizer = Tokenizer(tokenizer_path)
    return tokenizer.encode(INSTRUCT), tokenizer.encode(RESPONSE)
