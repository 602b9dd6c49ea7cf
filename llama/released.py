"""Weights of the program that the paper's authors released, into this model."""

from torch import Tensor

from llama.checkpoint import check_keys_and_shapes, copy_or_assign
from llama.HeLLM import HeLLM, base_parameters
from llama.parallel import shard, shard_dims

RELEASED_NAMES = {  # our name, or how it begins -> the released one, where they differ
    "graph_item_embedding": "item_embedding.weight",
    "seq_item_embedding": "item_embedding_sequential.weight",
    "graph_adapter.prefix_key": "prefix_adapter.prefix_keys",
    "graph_adapter.prefix_value": "prefix_adapter.prefix_values",
    "graph_adapter.norm.key.": "gnn_global_key_norm.",
    "graph_adapter.norm.value.": "gnn_global_value_norm.",
    "graph_adapter.norm_pre.key.": "gnn_global_key_norm_pre.",
    "graph_adapter.norm_pre.value.": "gnn_global_value_norm_pre.",
    "graph_adapter.bridge.key.": "gnn_global_key.",
    "graph_adapter.bridge.value.": "gnn_global_value.",
    "item_projector.": "gnn_input_item_proj.",
    "llama.": "",
}
RELEASED_UNUSED = {"user_embedding.weight"}  # created by the released program, never read


def released_name(name: str) -> str:
    """Translate the name of a parameter or embedding table to the released program's."""
    if ".lora." in name:  # llama.layers.0.feed_forward.w1.lora.down
        owner, matrix, _, direction = name.removeprefix("llama.").rsplit(".", 3)
        return f"{owner}.lora_{matrix}.lora_{direction}.weight"
    for ours, released in RELEASED_NAMES.items():
        if name.startswith(ours):
            return released + name.removeprefix(ours)
    return name


def load_released(model: HeLLM, state: dict[str, Tensor], adapter_only: bool = False) -> None:
    """Load weights of the released program into the model.

    Args:
        model: a model of the same sizes, with every part that the released model has.
        state: the released program's parameter names and unsharded tensors: base, head, tables, adapters, LoRA.
        adapter_only: the state is a saved adapter, which has neither base nor head nor tables (docs/method.md,
            section 3, departure 2): these stay as they are in the model.

    Raises:
        ValueError: names are missing or unknown, or shapes differ; the message lists them.
    """
    tables = {name: getattr(model, name) for name in ("graph_item_embedding", "seq_item_embedding")}
    targets = dict(model.named_parameters()) | tables
    if adapter_only:
        absent = {f"llama.{name}" for name in base_parameters(model)} | {"score.weight", *tables}
        targets = {name: tensor for name, tensor in targets.items() if name not in absent}
    dims = shard_dims(model)
    tensors = {}
    shapes = {}
    for name, target in targets.items():
        released = released_name(name)
        if released in state:
            tensor = state[released]
            if name.startswith("graph_adapter.prefix_"):
                tensor = tensor.squeeze(0)  # the released program stores (1, …)
            tensors[name] = shard(tensor, dims.get(name))
            shapes[released] = (tensors[name].shape, target.shape)
    expected = {released_name(name) for name in targets}
    check_keys_and_shapes("released state", set(state) - RELEASED_UNUSED, expected, shapes)
    copy_or_assign(model, tensors, targets)
