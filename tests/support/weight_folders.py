"""Folders of base weights as they are found, from models of the transformers library."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support.small_gguf import write_gguf
from tests.support.small_llama import PARAMS, meta_state
from tests.support.small_model import SPLIT, shards_of, write_meta

# A tokenizer.model in Meta's form of Llama-3: a token in base64 and its number
TIKTOKEN = "".join(f"{letter} {number}\n" for number, letter in enumerate(["IQ==", "Ig==", "Iw=="]))


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def write_config(folder, model):
    folder.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(folder)


def write_shards(folder, model, name, n_shards=2, write=save_file, index=None):
    """Write every n-th tensor to a shard NAME-0000i-of-0000n.SUFFIX, and the index if it has a name."""
    write_config(folder, model)
    stem, suffix = name.rsplit(".", 1)
    tensors = state(model)
    weight_map = {}
    for number in range(n_shards):
        part = dict(list(tensors.items())[number::n_shards])
        file = f"{stem}-{number + 1:05}-of-{n_shards:05}.{suffix}"
        weight_map |= dict.fromkeys(part, file)
        write(part, folder / file)
    if index:
        (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def write_single(folder, model, name="model.safetensors"):
    write_config(folder, model)
    save_file(state(model), folder / name)


def legacy_save(content, path):
    torch.save(content, path, _use_new_zipfile_serialization=False)


def consolidated(form, n_shards, write=torch.save, whole=False):
    """Return a function that writes Meta's layout with other file names, sliced or each tensor in one file."""

    def make(folder, model, _):
        folder.mkdir(exist_ok=True)
        (folder / "params.json").write_text(json.dumps({**PARAMS, "vocab_size": -1}))
        tensors = {name: tensor.contiguous() for name, tensor in meta_state(model).items()}
        if whole:
            shards = [dict(list(tensors.items())[number::n_shards]) for number in range(n_shards)]
        else:
            shards = shards_of(tensors, n_shards)
        for number, shard in enumerate(shards):
            contiguous = {name: tensor.contiguous() for name, tensor in shard.items()}
            write(contiguous, folder / form.format(number=number, after=number + 1, n=n_shards))

    return make


def remove(pattern, write):
    """Return a function that writes a folder without the first file of a pattern."""

    def make(folder, model, other):
        write(folder, model, other)
        sorted(folder.glob(pattern))[0].unlink()

    return make


def tensor_in_two_shards(folder, model, other):
    write_shards(folder, model, "model.safetensors", index="model.safetensors.index.json")
    first, second = sorted(folder.glob("model-*"))
    name = next(iter(load_file(first)))
    save_file(load_file(second) | {name: load_file(first)[name]}, second)


def tensor_by_two_names(folder, model, _):
    write_config(folder, model)
    tensors = state(model)
    save_file(tensors | {"norm.weight": tensors["model.norm.weight"].clone()}, folder / "model.safetensors")


def tensor_in_two_meta_files(folder, model, other):
    consolidated("consolidated-{after:05}-of-{n:05}.pth", 2, whole=True)(folder, model, other)
    first, second = (torch.load(path, weights_only=True) for path in sorted(folder.glob("*.pth")))
    torch.save(
        second | {"norm.weight": torch.ones(32), **dict(list(first.items())[:1])}, sorted(folder.glob("*.pth"))[1]
    )


def rows_in(n_shards, left, stated):
    """Return a function that writes Llama-3's shards, some of which are left, with a stated vocabulary."""

    def write(folder, model, _):
        SPLIT["tok_embeddings"] = 0
        try:
            write_meta(folder, meta_state(model), PARAMS, n_shards)
        finally:
            SPLIT["tok_embeddings"] = 1
        (folder / "params.json").write_text(json.dumps({**PARAMS, "vocab_size": stated}))
        for path in sorted(folder.glob("*.pth"))[left:]:
            path.unlink()

    return write


def hub_cache(root, model, names=("1f3c",), links=True):
    """Write models--org--name with some snapshots, whose files are links to blobs if asked."""
    folder = root / "models--org--name"
    for name in names:
        snapshot = folder / "snapshots" / name
        model.save_pretrained(snapshot)
        for path in list(snapshot.iterdir()) if links else ():
            blob = folder / "blobs" / f"{name}{path.name.encode().hex()}"
            blob.parent.mkdir(exist_ok=True)
            shutil.move(path, blob)
            path.symlink_to(Path("../../blobs") / blob.name)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(names[0])
    return folder


def split_gguf(folder, model, n_parts=3):
    """Split a GGUF file as llama-gguf-split does: the metadata are in the first part."""
    gguf = pytest.importorskip("gguf")
    folder.mkdir()
    whole = write_gguf(folder / "whole.gguf", model, tokenizer={"model": "llama", "tokens": ["a"], "bos_token_id": 7})
    reader = gguf.GGUFReader(whole)
    paths = []
    for number in range(n_parts):
        paths.append(folder / f"small-{number + 1:05}-of-{n_parts:05}.gguf")
        writer = gguf.GGUFWriter(paths[-1], "llama")
        if number:
            writer.kv_data[0].clear()
        else:
            for key, field in reader.fields.items():
                if key.startswith(("llama.", "tokenizer.")):
                    value = field.contents()
                    add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
                    add.get(type(value), writer.add_array)(key, value)
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", n_parts)
        for tensor in reader.tensors[number::n_parts]:
            writer.add_tensor(tensor.name, tensor.data.copy(), raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    del reader
    whole.unlink()
    return paths


def write_tokenizer_json(path):
    """Write a byte-level BPE without merges: one token per byte."""
    tokenizers = pytest.importorskip("tokenizers")
    letters = {letter: number for number, letter in enumerate(sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()))}
    model = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=letters, merges=[]))
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(False)
    model.save(str(path))
