"""Random BERT and CLIP models of a few thousand weights, saved by transformers, which is imported when one is made."""

from pathlib import Path

import torch
from PIL import Image

LONGEST = 10  # tokens per text
SIDE = 32  # pixels per side of a picture
WORDS = ["nice", *(f"group{i}" for i in range(9)), *(f"thing{i}" for i in range(3)), "gr", "##oup"]
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}


def write_bert(folder: Path, seed: int = 0) -> Path:
    """Write a BertModel with a tokenizer of most of small_data's words; its large weights distinguish texts."""
    from transformers import BertConfig, BertModel

    folder.mkdir(exist_ok=True)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    config = BertConfig(vocab_size=len(words), max_position_embeddings=LONGEST, initializer_range=0.5, **SIZES)
    _save(BertModel, config, folder, seed)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    return folder


def write_clip(folder: Path, seed: int = 0) -> Path:
    """Write a CLIPModel of small pictures with its image processor."""
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

    vision = {**SIZES, "image_size": SIDE, "patch_size": 8, "initializer_factor": 5.0}
    text = {**SIZES, "vocab_size": 9, "bos_token_id": 1, "eos_token_id": 2}
    _save(CLIPModel, CLIPConfig(text_config=text, vision_config=vision, projection_dim=12), folder, seed)
    size = {"height": SIDE, "width": SIDE}
    CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=size).save_pretrained(folder)
    return folder


def _save(kind: type, config, folder: Path, seed: int) -> None:
    from transformers import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        kind(config).save_pretrained(folder)


def write_pictures(folder: Path, n_items: int) -> None:
    """Write a PNG per item with blocks of random colours, in many sizes."""
    folder.mkdir(exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    for item in range(n_items):
        blocks = torch.randint(256, (3, 4, 3), generator=generator, dtype=torch.uint8).numpy()
        Image.fromarray(blocks).resize((20 + 3 * (item % 17), 25 + item), 0).save(folder / f"A{item}.png")
