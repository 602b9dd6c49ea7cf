"""Tiny random models of every LLaMA family, with their tokenizers, against the transformers library."""

import io
import json
import sys

import pytest
import torch
from sentencepiece import SentencePieceTrainer

from llama.checkpoint import open_checkpoint
from llama.tokenizer import Tokenizer
from tests.support.small_gguf import write_gguf
from tests.support.small_llama import load, meta_state
from tests.support.small_model import write_meta
from utils.training.prompt import INSTRUCT, RESPONSE, prompt_ids

transformers = pytest.importorskip("transformers")

SCALING = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA_3_1 = {**SCALING, "factor": 8.0, "original_max_position_embeddings": 8192}
LLAMA_3_2 = {**SCALING, "factor": 32.0, "original_max_position_embeddings": 8192}
# What differs in the published config.json of each family, with small sizes: 8 columns per head
FAMILIES = {
    "LLaMA-2": {"num_key_value_heads": 4, "rms_norm_eps": 1e-5, "max_position_embeddings": 4096},
    "TinyLlama": {"num_key_value_heads": 1, "rms_norm_eps": 1e-5, "max_position_embeddings": 2048},
    "Llama-3": {"num_key_value_heads": 2, "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "bos_token_id": 70},
    "Llama-3.1": {
        "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "rope_scaling": LLAMA_3_1,
        "max_position_embeddings": 131072, "bos_token_id": 70,
    },
    "Llama-3.2": {
        "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "rope_scaling": LLAMA_3_2,
        "max_position_embeddings": 131072, "bos_token_id": 70, "tie_word_embeddings": True, "head_dim": 8,
    },
    "SmolLM2": {
        "num_attention_heads": 9, "num_key_value_heads": 3, "hidden_size": 72, "rms_norm_eps": 1e-5,
        "rope_theta": 100000.0, "max_position_embeddings": 8192, "tie_word_embeddings": True, "bos_token_id": 0,
    },
    "short context": {  # so that every part of the scaling changes the rotations of few positions
        "num_key_value_heads": 4, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
        "rope_scaling": {**SCALING, "factor": 4.0, "original_max_position_embeddings": 64},
    },
}  # fmt: skip
IDS = torch.randint(0, 90, (2, 60), generator=torch.Generator().manual_seed(0))


def family(name):
    """Return a random model of a family, in which every weight changes the output, and its config.json of old."""
    settings = {
        "model_type": "llama", "vocab_size": 90, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "rope_theta": 10000.0, "rope_scaling": None, "hidden_act": "silu",
        "initializer_range": 0.2, **FAMILIES[name],
    }  # fmt: skip
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**json.loads(json.dumps(settings)))).eval()
    with torch.no_grad():
        for parameter_name, p in model.named_parameters():
            if "norm" in parameter_name:
                p.uniform_(0.5, 1.5)
    return model, settings


@torch.no_grad()
def assert_same_hidden(path, model):
    """Check that the base weights at a path compute the model's hidden states; return ours."""
    transformer = load(path, max_seq_len=64)
    ours = transformer(transformer.tok_embeddings(IDS))
    torch.testing.assert_close(ours, model.model(IDS).last_hidden_state, rtol=0, atol=1e-5)
    return ours


@pytest.mark.parametrize("name", FAMILIES)
def test_family_equals_transformers(tmp_path, name):
    model, config = family(name)
    model.save_pretrained(tmp_path)
    hidden = assert_same_hidden(tmp_path, model)
    assert prompt_ids("bos", tmp_path) == ([model.config.bos_token_id],) * 2
    written = json.loads((tmp_path / "config.json").read_text())
    assert "rope_parameters" in written
    (tmp_path / "config.json").write_text(json.dumps(config))  # rope_scaling beside rope_theta
    assert torch.equal(assert_same_hidden(tmp_path, model), hidden)
    if name == "short context":
        (tmp_path / "config.json").write_text(json.dumps({**config, "rope_scaling": None}))
        with pytest.raises(AssertionError, match="not close"):
            assert_same_hidden(tmp_path, model)


@pytest.mark.parametrize("name", ["Llama-3", "Llama-3.1"])
@pytest.mark.parametrize("n_shards", [1, 2])
def test_meta_release_of_llama_3_equals_transformers(tmp_path, monkeypatch, name, n_shards):
    """Llama-3 splits its token table by rows; params.json of 3.1 says that the rotations are scaled, not how."""
    monkeypatch.setitem(sys.modules["tests.support.small_model"].SPLIT, "tok_embeddings", 0)
    model, config = family(name)
    params = {"dim": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "norm_eps": 1e-5, "rope_theta": 500000.0}
    params |= {"ffn_dim_multiplier": 0.5, "multiple_of": 16}
    if name == "Llama-3.1":
        params |= {"use_scaled_rope": True, "rope_scaling_factor": 8.0}
    folder = write_meta(tmp_path / "meta", meta_state(model), params, n_shards)
    (folder / "params.json").write_text(json.dumps({**params, "vocab_size": 90}))
    assert_same_hidden(folder, model)


def test_meta_params_name_the_scaling_of_published_sizes_only(tmp_path):
    params = {"n_layers": 1, "n_heads": 8, "n_kv_heads": 8, "multiple_of": 16, "norm_eps": 1e-5}
    for dim, factor in ((2048, 32.0), (4096, 8.0)):
        state = {"tok_embeddings.weight": torch.zeros(2, dim)}
        folder = write_meta(tmp_path / str(dim), state, {**params, "dim": dim, "use_scaled_rope": True})
        assert open_checkpoint(folder).shape["rope_factor"] == factor
    folder = write_meta(tmp_path / "other", state, {**params, "dim": 1024, "use_scaled_rope": True})
    with pytest.raises(ValueError, match=r'params\.json: use_scaled_rope is true: .*"rope_scaling_factor": 8\.0 for'):
        open_checkpoint(folder)


@pytest.mark.parametrize("name", ["Llama-3.1", "Llama-3.2"])
def test_gguf_file_of_llama_3_equals_transformers(tmp_path, name):
    """llama.cpp's converter writes the divisors of the frequencies as a tensor."""
    gguf = pytest.importorskip("gguf")
    model, config = family(name)
    scaled = model.model.rotary_emb.inv_freq
    plain = 1 / 500000.0 ** (torch.arange(0, 8, 2) / 8)
    divisors = ((plain / scaled).numpy(), gguf.GGMLQuantizationType.F32)
    path = write_gguf(
        tmp_path / "small.gguf",
        model,
        change=lambda _, tensors: tensors.update({"rope_freqs.weight": divisors}),
        tokenizer={"model": "gpt2", "tokens": ["a", "b"], "bos_token_id": 70},
    )
    assert_same_hidden(path, model)
    assert prompt_ids("bos", path) == ([70], [70])


@pytest.mark.parametrize(
    ("rope", "message"),
    [
        ({"rope_type": "yarn", "factor": 2.0}, r"rope_type is yarn by 2\.0 \(default and llama3 are supported\)"),
        ({"rope_type": "linear", "factor": 1.5}, r"rope_type is linear by 1\.5"),
        ({"type": "dynamic", "factor": 1.0}, "rope_type is dynamic by 1.0"),
        ({**LLAMA_3_1, "factor": None}, "factor is None"),
        ({**LLAMA_3_1, "high_freq_factor": 1.0}, "low_freq_factor is not below their high_freq_factor"),
        ({**LLAMA_3_1, "original_max_position_embeddings": "8192"}, "original_max_position_embeddings is '8192'"),
        ({**LLAMA_3_1, "partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ({"full_attention": {"rope_type": "llama3"}}, "differ between layers"),
    ],
    ids=str,
)
def test_other_rotations_are_refused_by_name(tmp_path, rope, message):
    model, config = family("Llama-3.1")
    model.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config, "rope_scaling": rope}))
    with pytest.raises(ValueError, match=rf"config\.json: .*({message})"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"rope_scaling": {"type": "linear", "factor": 1.0}},
        {"rope_scaling": {"rope_type": "default"}},
        {"sliding_window": 4096},
        {"sliding_window": None, "partial_rotary_factor": 1.0, "hidden_act": "swish"},
        {"rope_scaling": {**LLAMA_3_1, "factor": 1.0}},
    ],
    ids=str,
)
def test_settings_that_change_nothing_are_accepted(tmp_path, change):
    model, config = family("LLaMA-2")
    model.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    assert_same_hidden(tmp_path, model)


def test_llama3_scaling_without_a_context_takes_the_models_as_transformers_does(tmp_path):
    model, config = family("Llama-3.1")
    scaling = {key: value for key, value in LLAMA_3_1.items() if key != "original_max_position_embeddings"}
    for more, expected in (({}, 131072), ({"original_max_position_embeddings": 4096}, 4096)):
        settings = {**config, "rope_scaling": dict(scaling), **more}
        theirs = transformers.LlamaConfig(**json.loads(json.dumps(settings)))
        theirs.standardize_rope_params()
        model.save_pretrained(tmp_path)
        (tmp_path / "config.json").write_text(json.dumps(settings))
        found = open_checkpoint(tmp_path).shape["rope_original_context"]
        assert found == theirs.rope_parameters["original_max_position_embeddings"] == expected


def sentencepiece_tokenizer(folder):
    """Write a BPE as LLaMA-2's; return transformers' tokenizer of the same pieces."""
    model = io.BytesIO()
    texts = [INSTRUCT.replace("\n", " "), RESPONSE.strip(), "more words of 123 texts"]
    SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=model, vocab_size=400, hard_vocab_limit=False, minloglevel=2,
        model_type="bpe", byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
    )  # fmt: skip
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    pieces = Tokenizer(folder / "tokenizer.model").model
    vocabulary = {pieces.id_to_piece(number): number for number in range(len(pieces))}
    merges = [
        (piece[:cut], piece[cut:])
        for piece, number in vocabulary.items()
        if number > 258
        for cut in range(1, len(piece))
        if piece[:cut] in vocabulary and piece[cut:] in vocabulary
    ]
    return transformers.LlamaTokenizer(vocab=vocabulary, merges=merges, add_bos_token=True)


def byte_level_tokenizer(folder, splits, adds_begin, settings=None):
    """Train and write a byte-level BPE as tokenizer.json; return transformers' tokenizer of the folder."""
    tokenizers = pytest.importorskip("tokenizers")
    begin = "<|begin_of_text|>"
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    model.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(splits)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", begin],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    model.train_from_iterator([INSTRUCT, RESPONSE, "more words of 123 texts"], trainer)
    if adds_begin:
        model.post_processor = tokenizers.processors.TemplateProcessing(
            single=f"{begin} $A", special_tokens=[(begin, 1)]
        )
    model.enable_truncation(5)  # for other uses; neither program cuts a text unasked
    model.enable_padding(length=7)
    model.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": begin, "eos_token": "<|endoftext|>"} | (
        settings or {}
    )
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return transformers.AutoTokenizer.from_pretrained(folder)


def llama_3_tokenizer(folder, **settings):
    tokenizers = pytest.importorskip("tokenizers")
    words = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"
    split = tokenizers.pre_tokenizers
    splits = [split.Split(tokenizers.Regex(words), "isolated"), split.ByteLevel(False, use_regex=False)]
    return byte_level_tokenizer(folder, splits, True, settings)


def smollm2_tokenizer(folder, **settings):
    split = pytest.importorskip("tokenizers").pre_tokenizers
    splits = [split.Digits(individual_digits=True), split.ByteLevel(False)]
    return byte_level_tokenizer(folder, splits, False, {"tokenizer_class": "GPT2Tokenizer", **settings})


@pytest.mark.parametrize("write", [sentencepiece_tokenizer, llama_3_tokenizer, smollm2_tokenizer])
def test_prompt_tokens_equal_transformers(tmp_path, write):
    theirs = write(tmp_path)
    expected = tuple(theirs(text)["input_ids"] for text in (INSTRUCT, RESPONSE))
    assert prompt_ids("alpaca", tmp_path) == expected
    assert len(expected[0]) > 9
    inside = tmp_path / "weights"
    inside.mkdir()
    assert prompt_ids("alpaca", inside) == expected  # one folder up


@pytest.mark.parametrize("write", [llama_3_tokenizer, smollm2_tokenizer])
@pytest.mark.parametrize(
    "settings", [{"add_bos_token": True, "add_eos_token": True}, {"add_bos_token": False}], ids=["added", "left out"]
)
def test_settings_beside_tokenizer_json_count_as_in_transformers(tmp_path, write, settings):
    theirs = write(tmp_path, **settings)
    assert prompt_ids("alpaca", tmp_path)[1] == theirs(RESPONSE)["input_ids"]
