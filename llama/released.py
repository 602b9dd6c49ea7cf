"""Base weights into the model, adapters to and from disk, and files of the released program."""

from torch import Tensor

from llama.checkpoint import check_keys_and_shapes, copy_or_assign
from llama.HeLLM import HeLLM, base_parameters
from llama.parallel import shard, shard_dims

RELEASED_NAMES = {  # our name or its beginning -> the released one, where they differ
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
    """The released program's name of our parameter or table."""
    if ".lora." in name:  # llama.layers.0.feed_forward.w1.lora.down
        owner, target, _, which = name.removeprefix("llama.").rsplit(".", 3)
        return f"{owner}.lora_{target}.lora_{which}.weight"
    for ours, theirs in RELEASED_NAMES.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name


def load_released(model: HeLLM, state: dict[str, Tensor], adapter_only: bool = False) -> None:
    """Take over weights of the released program.

    Args:
        model: of the same sizes, with every part that the released model has.
        state: released parameter name to whole tensor: base, head, tables, adapters, LoRA.
        adapter_only: state is a saved adapter, which holds neither base nor head nor tables (SPEC.md section 3,
            departure 2): those stay as they are in the model.

    Raises:
        ValueError: missing or unknown names, or shapes that differ, listed.
    """
    tables = {name: getattr(model, name) for name in ("graph_item_embedding", "seq_item_embedding")}
    ours = {**dict(model.named_parameters()), **tables}
    if adapter_only:
        kept = {f"llama.{name}" for name in base_parameters(model)} | {"score.weight", *tables}
        ours = {name: tensor for name, tensor in ours.items() if name not in kept}
    theirs = {released_name(name): name for name in ours}
    dims, parts, shapes = shard_dims(model), {}, {}
    for released, name in theirs.items():
        if released in state:
            tensor = state[released].squeeze(0) if name.startswith("graph_adapter.prefix_") else state[released]
            parts[name] = shard(tensor, dims.get(name))
            shapes[released] = (parts[name].shape, ours[name].shape)
    check_keys_and_shapes("released state", set(state) - RELEASED_UNUSED, set(theirs), shapes)
    copy_or_assign(model, parts, ours)
