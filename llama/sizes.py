"""Whether the sizes that a file of weights states can be a LLaMA's."""

import math

INT_LIMITS = {"dim": 2**16, "n_layers": 2**10}  # nothing near has been trained; built before a tensor is looked at
MAX_INT = 2**24
FLOAT_LIMITS = {"norm_eps": 1.0, "rope_theta": math.inf, "ffn_dim_multiplier": math.inf}  # what they are below


def shape_problems(shape: dict, names: dict[str, str]) -> list[str]:
    """Everything wrong with sizes from a file, a phrase each.

    Args:
        shape: ModelArgs fields as the file states them; names: what the file calls them, where it is something else.
    """
    wrong = []
    for field, value in shape.items():
        if field in FLOAT_LIMITS:
            good = type(value) in (int, float) and 0 < value < FLOAT_LIMITS[field]
            expected = f"a number between 0 and {FLOAT_LIMITS[field]}"
        else:
            largest = INT_LIMITS.get(field, MAX_INT)
            good, expected = type(value) is int and 1 <= value <= largest, f"a whole number from 1 to {largest}"
        if not good and not (field in ("n_kv_heads", "ffn_dim_multiplier") and value is None):
            wrong.append(f"{names.get(field, field)} is {value!r:.60} ({expected} is read)")
    if not wrong and {"dim", "n_heads"} <= shape.keys():
        dim, n_heads, n_kv_heads = shape["dim"], shape["n_heads"], shape.get("n_kv_heads") or shape["n_heads"]
        if dim % (2 * n_heads) or n_heads % n_kv_heads:
            wrong.append(f"{dim} columns do not divide into {n_heads} heads of even width, shared by {n_kv_heads} keys")
    return wrong
