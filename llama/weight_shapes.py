"""Sizes of a LLaMA as files state them: params.json, config.json, GGUF's metadata; each into fields of ModelArgs."""

import json
import math
from pathlib import Path

from llama.model import ModelArgs

DOWNLOAD_HINT = (
    "LLaMA-2 is licensed by Meta: ask at llama.com/llama-downloads (params.json, consolidated.*.pth, tokenizer.model) "
    "or take meta-llama/Llama-2-7b-hf from Hugging Face (config.json, *.safetensors, tokenizer.model)"
)

# Largest sizes that a file may state. A model is built before its tensors are read, so a wrong size would cost memory.
INT_LIMITS = {"dim": 2**16, "n_layers": 2**10}
DEFAULT_INT_LIMIT = 2**24
FLOAT_LIMITS = {"norm_eps": 1.0} | dict.fromkeys(  # exclusive
    ("rope_theta", "ffn_dim_multiplier", "rope_factor", "rope_low_freq_factor", "rope_high_freq_factor"), math.inf
)
OPTIONAL_SIZES = ("n_kv_heads", "ffn_dim_multiplier")


def shape_problems(shape: dict, file_keys: dict[str, str] | None = None) -> list[str]:
    """List what is wrong with the model sizes that a file states, one phrase per problem.

    Args:
        shape: ModelArgs fields with the values from the file, of any type.
        file_keys: the file's key for each field, where that is another than the field's name.
    """
    problems = []
    for field, value in shape.items():
        if value is None and field in OPTIONAL_SIZES:
            continue
        if field in FLOAT_LIMITS:
            valid = type(value) in (int, float) and 0 < value < FLOAT_LIMITS[field]
            expected = f"a number between 0 and {FLOAT_LIMITS[field]}"
        else:
            largest = INT_LIMITS.get(field, DEFAULT_INT_LIMIT)
            valid = type(value) is int and 1 <= value <= largest
            expected = f"an integer from 1 to {largest}"
        if not valid:
            key = (file_keys or {}).get(field, field)
            problems.append(f"{key} is {value!r:.60} ({expected} is expected)")
    if not problems and {"dim", "n_heads"} <= shape.keys():
        dim = shape["dim"]
        n_heads = shape["n_heads"]
        n_kv_heads = shape.get("n_kv_heads") or n_heads
        if dim % (2 * n_heads):  # rotary position embedding rotates pairs of columns
            problems.append(f"{dim} columns do not divide into {n_heads} heads of an even number of columns")
        elif n_heads % n_kv_heads:
            problems.append(f"{n_heads} heads cannot share {n_kv_heads} key-value heads evenly")
    if not problems and not shape.get("rope_low_freq_factor", 1) < shape.get("rope_high_freq_factor", 4):
        problems.append("the rotations' low_freq_factor is not below their high_freq_factor")
    return problems


def read_json(path: Path) -> dict:
    """Read an object from a small JSON file.

    Raises:
        OSError: the file is missing, a folder, or may not be read.
        ValueError: it is not JSON, with the line, or its content is no object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({error}); download it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: a JSON object is expected, found {type(content).__name__}; download it again")
    return content


META_SIZES = (
    "dim",
    "n_layers",
    "n_heads",
    "n_kv_heads",
    "multiple_of",
    "ffn_dim_multiplier",
    "norm_eps",
    "rope_theta",
)
# Llama-3.1 (8) and 3.2 (32) have a scaling that Meta's params.json does not state: dim -> factor
META_ROPE_FACTORS = {2048: 32.0, 3072: 32.0, 4096: 8.0, 8192: 8.0, 16384: 8.0}
CONFIG_SIZES = {  # ModelArgs field -> key of config.json
    "dim": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "vocab_size": "vocab_size",
    "ffn_dim": "intermediate_size",
    "norm_eps": "rms_norm_eps",
}
ROPE_SCALING = {  # ModelArgs field -> key beside rope_type llama3
    "rope_factor": "factor",
    "rope_low_freq_factor": "low_freq_factor",
    "rope_high_freq_factor": "high_freq_factor",
    "rope_original_context": "original_max_position_embeddings",
}


def window_problems(key: str, window: object) -> list[str]:
    """Return one phrase if positions attend to so few others that a history could be longer, else none."""
    longest = ModelArgs.max_seq_len
    if window in (None, 0) or (type(window) is int and window >= longest):
        return []
    return [f"{key} is {window!r:.60} (none, or {longest} and more, is supported)"]


def read_params_json(path: Path) -> dict:
    """Read the ModelArgs fields that Meta's `params.json` states; `vocab_size` only where it is above 0.

    Raises:
        OSError: the file is missing, a folder, or may not be read.
        ValueError: it is damaged, or asks for something that the model lacks.
    """
    params = read_json(path)
    shape = {key: params[key] for key in META_SIZES if key in params}
    if "hidden_dim" in params:
        shape["ffn_dim"] = params["hidden_dim"]
    if params.get("vocab_size") not in (None, -1):
        shape["vocab_size"] = params["vocab_size"]
    problems = shape_problems(shape) + window_problems("sliding_window", params.get("sliding_window"))
    dim, n_heads, head_dim = (params.get(key) for key in ("dim", "n_heads", "head_dim"))
    if not problems and head_dim is not None and (type(head_dim) is not int or (n_heads or 0) * head_dim != dim):
        problems.append(f"head_dim {head_dim!r:.60} is not dim / n_heads")
    if problems:
        raise ValueError(f"{path}: {'; '.join(problems)}; download it again")
    if params.get("use_scaled_rope"):
        shape["rope_factor"] = params.get("rope_scaling_factor", META_ROPE_FACTORS.get(dim))
        shape["rope_high_freq_factor"] = params.get("rope_high_freq_factor", ModelArgs.rope_high_freq_factor)
        if problems := shape_problems(shape):
            raise ValueError(
                f"{path}: use_scaled_rope is true: {'; '.join(problems)}; add the line "
                '"rope_scaling_factor": 8.0 for a Llama-3.1, 32.0 for a Llama-3.2'
            )
    return shape


def read_config_json(path: Path) -> dict:
    """Read the ModelArgs fields that Hugging Face's `config.json` states, with the defaults of transformers.

    Raises:
        OSError: the file is missing, a folder, or may not be read.
        ValueError: it is damaged, or asks for something that the model lacks.
    """
    config = read_json(path)
    found_and_supported = {
        "model_type": (config.get("model_type"), ("llama",)),
        "hidden_act": (config.get("hidden_act", "silu"), ("silu", "swish")),
        "attention_bias": (config.get("attention_bias", False), (False,)),
        "mlp_bias": (config.get("mlp_bias", False), (False,)),
        "transformers_weights": (config.get("transformers_weights"), (None,)),  # another name of the file
    }
    problems = [
        f"{key} is {found!s:.60} ({supported[0]} is supported)"
        for key, (found, supported) in found_and_supported.items()
        if found not in supported
    ]
    if quantization := config.get("quantization_config") or config.get("compression_config"):
        method = quantization.get("quant_method") if isinstance(quantization, dict) else quantization
        problems.append(f"quantization_config is {method!s:.60} (weights that are not quantised are supported)")
    problems += window_problems("sliding_window", config.get("sliding_window"))
    rope, rope_problems = _read_rope(config)
    problems += rope_problems
    shape = {field: config.get(key) for field, key in CONFIG_SIZES.items()} | rope
    shape["n_kv_heads"] = shape["n_kv_heads"] or shape["n_heads"]
    problems = problems or shape_problems(shape, CONFIG_SIZES | ROPE_SCALING)
    if not problems and config.get("head_dim") not in (None, shape["dim"] // shape["n_heads"]):
        problems.append(f"head_dim {config['head_dim']!s:.60} is not hidden_size / num_attention_heads")
    if problems:
        raise ValueError(f"{path}: {'; '.join(problems)}; download it again, or take a plain LLaMA, such as LLaMA-2")
    return shape


def _read_rope(config: dict) -> tuple[dict, list[str]]:
    """Return the ModelArgs fields of the rotations in `config.json`, and what the model lacks of them, as phrases."""
    # Releases of transformers before 5 wrote rope_scaling beside rope_theta
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if not isinstance(rope, dict):
        key = "rope_scaling" if config.get("rope_scaling") else "rope_parameters"
        return {}, [f"{key} is {rope!r:.60} (an object is expected)"]
    rope_type = rope.get("rope_type", rope.get("type", "default"))
    problems = []
    if config.get("rope_scaling") and config.get("rope_parameters") not in (None, {}, rope):
        problems.append("rope_scaling and rope_parameters differ (one of them is supported)")
    if any(isinstance(value, dict) for value in rope.values()):
        problems.append("rope_parameters differ between layers (the same for all is supported)")
    partial = rope.get("partial_rotary_factor", config.get("partial_rotary_factor"))
    if partial not in (None, 1):
        problems.append(f"partial_rotary_factor is {partial!r:.60} (1 is supported)")
    fields = {"rope_theta": rope.get("rope_theta", config.get("rope_theta", ModelArgs.rope_theta))}
    if rope_type == "llama3":
        fields |= {field: rope.get(key) for field, key in ROPE_SCALING.items()}
        # As transformers decides: outside, inside, and else the length that the model reads
        contexts = (
            config.get("original_max_position_embeddings"),
            fields["rope_original_context"],
            config.get("max_position_embeddings"),
        )
        fields["rope_original_context"] = next((context for context in contexts if context is not None), None)
    elif rope_type != "default" and not (rope_type == "linear" and rope.get("factor") == 1):
        factor = f" by {rope['factor']!s:.20}" if "factor" in rope else ""
        problems.append(f"rope_type is {rope_type!s:.60}{factor} (default and llama3 are supported)")
    return fields, problems


def check_begin_token(path: Path, key: str, token: object, vocab_size: int) -> int:
    """Return the begin-of-sequence token that a file states; raise ValueError if it is not one of the vocabulary's."""
    if type(token) is not int or not 0 <= token < vocab_size:
        raise ValueError(
            f"{path}: {key} is {token!r:.60} (an integer below {vocab_size}, the vocabulary, is expected for a prompt "
            "that begins with that token)"
        )
    return token
