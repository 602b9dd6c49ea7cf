"""The model's parts and switches, its initial values, its sizes, and what must not change its outputs."""

import math

import pytest
import torch

from llama.HeLLM import HeLLM, HeLLMArgs, base_parameters, materialize
from llama.model import AdapterInput, ModelArgs
from tests.support.small_model import N_ITEMS, SHAPE, histories, small_args, small_hellm, tables, wake

ALL_TARGETS = ("wq", "wk", "wv", "wo", "w1", "w2", "w3")
LORA = {
    f"llama.layers.{n}.feed_forward.{w}.lora.{p}" for n in (0, 1) for w in ("w1", "w2", "w3") for p in ("down", "up")
}
PROJECTOR = {f"item_projector.{n}.{p}" for n in (0, 2) for p in ("weight", "bias")}
PREFIX = {f"graph_adapter.prefix_{side}" for side in ("key", "value")}
NORMS = {f"graph_adapter.norm.{side}.weight" for side in ("key", "value")}
BRIDGE = {
    f"graph_adapter.{name}"
    for side in ("key", "value")
    for name in (f"norm_pre.{side}.weight", *(f"bridge.{side}.{n}.{p}" for n in (0, 3) for p in ("weight", "bias")))
}
BASE = {"llama.tok_embeddings.weight", "llama.norm.weight"} | {
    f"llama.layers.{n}.{name}.weight"
    for n in (0, 1)
    for name in (
        *(f"attention.{w}" for w in ("wq", "wk", "wv", "wo")),
        *(f"feed_forward.{w}" for w in ("w1", "w2", "w3")),
        *("attention_norm", "ffn_norm"),
    )
}
EVERYTHING = LORA | PROJECTOR | PREFIX | NORMS | BRIDGE
SWITCHES = [
    ({}, EVERYTHING),
    ({"train_score": True}, EVERYTHING | {"score.weight"}),
    ({"tie_score": True}, EVERYTHING | {"score.weight"}),
    ({"item_ids": True}, EVERYTHING | {"item_ids.weight"}),
    ({"train_base": True}, EVERYTHING | BASE),
    ({"w_lora": False}, EVERYTHING - LORA),
    ({"w_adapter": False}, LORA | PROJECTOR),
    ({"prefix_adapter": False}, EVERYTHING - PREFIX),
    ({"graph_adapter": False}, EVERYTHING - BRIDGE),
    ({"graph_rank": 2}, EVERYTHING | {"graph_adapter.bimap.weight"}),
    ({"graph_input": False}, EVERYTHING),
    ({"seq_input": False}, EVERYTHING),
    ({"feature_input": True}, EVERYTHING),
    ({"lora_targets": ("wq", "wv")}, EVERYTHING - LORA | {
        f"llama.layers.{n}.attention.{w}.lora.{p}" for n in (0, 1) for w in ("wq", "wv") for p in ("down", "up")
    }),
]  # fmt: skip
NAMES = [",".join(f"{k}={v}" for k, v in settings.items()) or "default" for settings, _ in SWITCHES]


@pytest.mark.parametrize(("settings", "trainable"), SWITCHES, ids=NAMES)
def test_exact_set_of_trained_parameters_and_all_are_used(settings, trainable):
    model = wake(small_hellm(**settings))
    assert {name for name, p in model.named_parameters() if p.requires_grad} == trainable
    assert {f"llama.{name}" for name in base_parameters(model)} == BASE
    items, mask = padded([5, 2, 1])
    model.loss(items, mask, torch.tensor([1, 2, 3])).backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert reached == trainable


def padded(lengths, fill_with=0):
    """Random histories of these lengths, padded on the left with an item id."""
    longest = max(lengths)
    mask = torch.arange(longest) >= longest - torch.tensor(lengths)[:, None]
    return histories(len(lengths), longest).masked_fill(~mask, fill_with), mask


def reads(model, table):
    """Return whether the scores change with one of the tables."""
    before = model(histories())
    getattr(model, table).normal_(generator=torch.Generator().manual_seed(9))
    return not torch.equal(model(histories()), before)


@pytest.mark.parametrize(
    ("settings", "read"),
    [
        ({}, {"graph", "sequence"}),
        ({"graph_input": False}, {"graph", "sequence"}),  # it reaches the adapter
        ({"w_adapter": False}, {"graph", "sequence"}),  # it reaches the item vectors
        ({"graph_input": False, "w_adapter": False}, {"sequence"}),
        ({"graph_input": False, "graph_adapter": False}, {"sequence"}),
        ({"seq_input": False}, {"graph"}),
        ({"feature_input": True}, {"graph", "sequence", "features"}),
        ({"feature_input": True, "graph_input": False, "seq_input": False}, {"graph", "features"}),
        ({"feature_input": True, "graph_input": False, "seq_input": False, "graph_adapter": False}, {"features"}),
    ],
)
def test_which_tables_are_read(settings, read):
    model = wake(small_hellm(**settings))
    names = {"graph": "graph_item_embedding", "sequence": "seq_item_embedding", "features": "feature_embedding"}
    found = {name for name, buffer in names.items() if getattr(model, buffer).numel() and reads(model, buffer)}
    assert found == read


@pytest.mark.parametrize(("table", "row"), [("graph_item_embedding", 6), ("seq_item_embedding", 7)])
@torch.no_grad()
def test_which_row_of_a_table_belongs_to_an_item(table, row):
    model, items = wake(small_hellm()), torch.tensor([[6]])
    before = model(items)
    rows = getattr(model, table)
    rows[[other for other in range(len(rows)) if other != row]] += 1
    assert torch.equal(model(items), before)
    rows[row] += 1
    assert not torch.allclose(model(items), before, atol=1e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dim": 30}, "dim 30 must be n_heads 4 times an even number"),
        ({"n_kv_heads": 3}, "n_heads 4 must be a multiple of n_kv_heads 3"),
        ({"prefix_adapter": False, "graph_adapter": False}, "w_adapter needs"),
        ({"graph_input": False, "seq_input": False}, "an item vector needs"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        small_args(**settings)


def test_wrong_tables_and_prompts_are_refused():
    graph, sequence = tables()
    with pytest.raises(ValueError, match=f"sequence table has {N_ITEMS} rows, the graph table {N_ITEMS}"):
        HeLLM(small_args(), graph, sequence[1:], [], [])
    with pytest.raises(ValueError, match=f"table of features has 3 rows, the graph table {N_ITEMS}"):
        HeLLM(small_args(), graph, sequence, [], [], feature_embedding=torch.ones(3, 2))
    with pytest.raises(ValueError, match=r"response_ids \[20\] outside the vocabulary of 20"):
        HeLLM(small_args(), graph, sequence, [], [3, 20])


def test_adapter_positions_count_towards_max_seq_len():
    room = SHAPE["max_seq_len"] - 5  # the prompt has five tokens
    items = histories(1, room)
    assert small_hellm(w_adapter=False)(items).shape == (1, N_ITEMS)
    with pytest.raises(ValueError, match=f"3 adapter \\+ {room + 5} token positions exceed max_seq_len {room + 5}"):
        small_hellm()(items)
    assert small_hellm()(items[:, 3:]).isfinite().all()


def transformer_case(w_adapter, with_mask):
    """Return a transformer, inputs, mask and adapter inputs; rows 1 and 2 are padded."""
    model = wake(small_hellm(w_adapter=w_adapter)).llama
    generator = torch.Generator().manual_seed(5)
    h = torch.randn(3, 7, 32, generator=generator)
    mask = torch.arange(7) >= torch.tensor([[0], [3], [6]]) if with_mask else None
    adapter = None
    if w_adapter:  # the same for all rows, of rows and slots, the same for all slots

        def part(*shape):
            return torch.randn(shape, generator=generator)

        slots = [AdapterInput(part(3, 32), None, part(3)) for _ in range(2)]
        adapter = [
            slots,
            [AdapterInput(part(3, 32), part(3, 32), part(3, 3)), AdapterInput(None, part(3, 32), part(3, 1))],
        ]
    return model, h, mask, adapter


@pytest.mark.parametrize("with_mask", [False, True])
@pytest.mark.parametrize("w_adapter", [False, True])
@torch.no_grad()
def test_last_position_alone_equals_the_full_pass(w_adapter, with_mask):
    model, h, mask, adapter = transformer_case(w_adapter, with_mask)
    full, last = model(h, mask, adapter), model(h, mask, adapter, last_only=True)
    assert full.shape == (3, 7, 32)
    assert last.shape == (3, 1, 32)
    torch.testing.assert_close(last, full[:, -1:], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("w_adapter", [False, True])
@torch.no_grad()
def test_earlier_positions_do_not_see_later_ones(w_adapter):
    for with_mask in (False, True):
        model, h, mask, adapter = transformer_case(w_adapter, with_mask)
        changed = h.clone()
        changed[:, 4] += 1
        before, after = model(h, mask, adapter), model(changed, mask, adapter)
        torch.testing.assert_close(after[:, :4], before[:, :4], rtol=0, atol=1e-6)
        seen = torch.ones(3, dtype=torch.bool) if mask is None else mask[:, 4]
        assert ((after - before)[seen, 4:].abs().amax(-1) > 1e-3).all()


@torch.no_grad()
def test_padded_positions_have_no_influence():
    model, h, mask, adapter = transformer_case(True, True)
    other = torch.where(mask[..., None], h, 50 * torch.randn(h.shape))
    torch.testing.assert_close(model(other, mask, adapter)[mask], model(h, mask, adapter)[mask], rtol=0, atol=1e-5)
    short = [
        [p if p.history is None else AdapterInput(p.slot, p.history[1:2], p.scale[1:2]) for p in pair]
        for pair in adapter
    ]
    torch.testing.assert_close(model(h[1:2, 3:], None, short)[0], model(h, mask, adapter)[1, 3:], rtol=0, atol=1e-5)


@pytest.mark.parametrize("prompt", [((1, 5, 7), (1, 9)), ((), (1, 9)), ((1, 5), ()), ((), ())])
@torch.no_grad()
def test_padded_batch_equals_single_histories(prompt):
    model, lengths = wake(small_hellm(instruct=prompt[0], response=prompt[1])).eval(), [5, 1, 3]
    items, mask = padded(lengths)
    batch = model(items, mask)
    assert batch.shape == (3, N_ITEMS)
    assert batch.dtype == torch.float32
    torch.testing.assert_close(model(padded(lengths, fill_with=N_ITEMS - 1)[0], mask), batch, rtol=0, atol=1e-5)
    single = torch.cat([model(row[-length:][None]) for row, length in zip(items, lengths, strict=True)])
    torch.testing.assert_close(batch, single, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_prompt_and_order_of_items_matter():
    model, items = wake(small_hellm()), histories()
    scores = model(items)
    for other in (wake(small_hellm(instruct=(1, 5, 8)))(items), wake(small_hellm(response=(1, 8)))(items)):
        assert not torch.allclose(other, scores, atol=1e-3)
    assert not torch.allclose(model(items.flip(1)), scores, atol=1e-3)


def test_dropout_acts_only_in_training():
    for settings in ({"lora_dropout": 0.5}, {"graph_dropout": 0.5}):
        model, items = wake(small_hellm(**settings)), histories()
        assert not torch.equal(model(items), model(items))
        model.eval()
        assert torch.equal(model(items), model(items))


def test_initial_values_follow_the_published_distributions():
    """Compare initial parameters with the distributions of docs/method.md, section 3."""
    model = small_hellm(dim=64, multiple_of=64, adapter_len=20)
    for name, p in model.named_parameters():
        if name.endswith("lora.up"):
            assert not p.any(), name
        elif name.endswith("lora.down"):  # Kaiming-uniform with a = √5
            bound = 1 / math.sqrt(p.shape[1])
            assert 0.8 * bound < p.abs().max() <= bound, name
        elif name in PREFIX:
            assert p.shape == (2, 20, 64)
            assert abs(p.mean()) < 0.1, name
            assert abs(p.std() - 1) < 0.1, name
        elif "norm" in name:
            assert (p == 1).all(), name
        elif name.startswith("llama."):
            assert abs(p.mean()) < 0.002, name
            assert abs(p.std() - 0.02) < 0.002, name
    key, value = model.graph_adapter.prefix_key, model.graph_adapter.prefix_value
    assert not torch.equal(key, value)
    assert not torch.equal(key[0], key[1])


def test_building_on_meta_allocates_nothing_and_materialize_initialises_the_rest():
    with torch.device("meta"):
        model, other = small_hellm(), small_hellm()
    assert all(p.is_meta for p in model.parameters())
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    torch.manual_seed(4)
    materialize(model, "cpu")
    assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
    assert {name for name, p in model.named_parameters() if p.requires_grad} == trainable
    assert torch.equal(model(histories()), small_hellm(seed=4)(histories()))  # the same as building at once
    kept = model.llama.tok_embeddings.weight
    other.llama.tok_embeddings.weight = kept
    materialize(other, "cpu")
    assert other.llama.tok_embeddings.weight is kept
    assert not any(p.is_meta for p in other.parameters())


def test_sizes_of_llama_2_7b():
    """Count the parameters of docs/method.md, section 3; the trained parts do not depend on the number of items."""

    def count(*names):
        return sum(p.numel() for name, p in model.named_parameters() if any(part in name for part in names))

    for n_items in (12_101, 18_357):
        with torch.device("meta"):
            model = HeLLM(HeLLMArgs(), torch.empty(n_items, 64), torch.empty(n_items + 1, 64), [1], [1])
        assert sum(p.numel() for p in base_parameters(model).values()) == 6_607_343_616
        assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 110_272_512
        assert count("score") == n_items * 4096
        assert count(".lora.") == 23_199_744
        assert count("prefix_") == 2_621_440
        assert count("item_projector") == 17_309_696
        assert count("bridge") == 67_125_248
        assert count("graph_adapter.norm") == 16_384


def test_feed_forward_width_follows_metas_rule():
    assert ModelArgs().ffn_width == 11_008
    assert ModelArgs(dim=5120, n_heads=40, n_layers=40).ffn_width == 13_824
    seventy = ModelArgs(dim=8192, n_heads=64, n_kv_heads=8, n_layers=80, multiple_of=4096, ffn_dim_multiplier=1.3)
    assert seventy.ffn_width == 28_672
    assert ModelArgs(ffn_dim=100).ffn_width == 100


@pytest.mark.parametrize("objective", ["prefix", "causal"])
def test_activation_checkpointing_changes_no_gradient_and_keeps_less(objective):
    items, mask = padded([5, 2, 1])
    results = []
    for recompute in (False, True):
        model = wake(small_hellm(objective=objective, recompute=recompute, lora_dropout=0.3, dropout=0.2, n_layers=4))
        kept = {}

        def pack(tensor, kept=kept):
            kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
            return tensor

        torch.manual_seed(0)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = model.loss(items, mask, items if objective == "causal" else items[:, 0])
        loss.backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
        results.append((loss.detach(), gradients, sum(kept.values())))
    (loss, gradients, kept), (loss_again, again, kept_again) = results
    assert torch.equal(loss, loss_again)
    for name, gradient in gradients.items():
        torch.testing.assert_close(again[name], gradient, rtol=1e-5, atol=1e-7)
    assert kept_again < 0.7 * kept
