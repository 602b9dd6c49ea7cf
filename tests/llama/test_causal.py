"""The causal objective: one pass per user against passes of single histories, and the settings it brings."""

import pytest
import torch
import torch.nn.functional as F

from llama.causal import to_right_padding
from llama.cross_entropy import SoftTargets, linear_cross_entropy, sampled_cross_entropy
from llama.graph_adapter import bimap_pool, cumulative_bimap_pool
from tests.support.small_model import N_ITEMS, histories, small_hellm, wake

LENGTHS = [7, 1, 4]


def causal(**settings):
    return wake(small_hellm(**{"objective": "causal", "response": (), **settings}))


def padded():
    items = histories(len(LENGTHS), max(LENGTHS))
    return items, torch.arange(items.shape[1]) >= torch.tensor([items.shape[1] - n for n in LENGTHS])[:, None]


@torch.no_grad()
def every_score(model, items):
    """Return the scores after each position of histories without padding: (B, T, I)."""
    return F.linear(*model._head_inputs(model._causal_hidden(items)))


SAME_AS_PREFIX = {
    "one layer": {"n_layers": 1},
    "one layer, no learned prefix": {"n_layers": 1, "prefix_adapter": False},
    "one layer, low rank, mean": {"n_layers": 1, "graph_rank": 3, "graph_mean": True},
    "one layer, no prompt": {"n_layers": 1, "instruct": ()},
    "learned prefix alone": {"graph_adapter": False},
    "no adapter": {"w_adapter": False},
    "grouped queries": {"graph_adapter": False, "n_kv_heads": 2},
}


@pytest.mark.parametrize("settings", SAME_AS_PREFIX.values(), ids=SAME_AS_PREFIX)
@torch.no_grad()
def test_every_position_scores_as_the_prefix_model_does_on_the_history_up_to_it(settings):
    """Compare models of equal weights whose prompt tokens all stand before the items.

    They agree where only the last token attends to graph vectors (one layer) or none does (the learned prefix alone).
    In deeper prefix models older items attend to the pooled graph of the full history.
    """
    ours, theirs = causal(**settings), wake(small_hellm(response=(), **settings))
    items = histories()
    scores = every_score(ours, items)
    for t in range(items.shape[1]):
        torch.testing.assert_close(scores[:, t], theirs(items[:, : t + 1]), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_deeper_models_differ_from_the_prefix_model_by_the_graphs_that_older_items_attend_to():
    items = histories()
    ours, theirs = causal()(items), wake(small_hellm(response=()))(items)
    assert not torch.allclose(ours, theirs, atol=1e-3)
    one = items[:, :1]  # a single item's graph is everybody's, and only the prompt differs
    without_prompt = causal(instruct=())(one), wake(small_hellm(instruct=(), response=()))(one)
    torch.testing.assert_close(*without_prompt, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [{}, {"prefix_adapter": False}, {"graph_rank": 2, "graph_mean": True}, {"n_kv_heads": 2}, {"n_layers": 4}],
)
@torch.no_grad()
def test_no_later_item_reaches_a_position(settings):
    model, items = causal(**settings), histories()
    changed = items.clone()
    changed[:, 3] = (items[:, 3] + 1) % N_ITEMS
    before, after = every_score(model, items), every_score(model, changed)
    assert torch.equal(after[:, :3], before[:, :3])
    assert ((after - before)[:, 3:].abs().amax(-1) > 1e-3).all()


def materialized(model, items):
    """Return the scores computed position by position, with adapter inputs W·norm(prefix + graph) for every slot."""
    llama, adapter = model.llama, model.graph_adapter
    streams = [model._prompt_vectors()[0][0]] if len(model.instruct_ids) else []
    h = torch.cat([*streams, model.item_vectors(items)])
    n_prompt, length = len(h) - len(items), len(items)
    freqs = llama.freqs_cis[model.args.n_adapter_positions :][None, : len(h)]
    graphs = [bimap_pool(model.graph_item_embedding[items[: t + 1]][None]) for t in range(length)]
    for number, layer in enumerate(llama.layers):
        x, out = layer.attention_norm(h)[None], []
        q, (k, v) = layer.attention.queries(x, freqs), layer.attention.keys_values(x, freqs)
        for position in range(len(h)):
            extra = []
            for side, weight in (("key", layer.attention.wk), ("value", layer.attention.wv)):
                inputs = getattr(adapter, f"prefix_{side}")[number]
                if position >= n_prompt:
                    inputs = inputs + adapter.norm_pre[side](adapter.bridge[side](graphs[position - n_prompt]))
                inputs = F.rms_norm(inputs, inputs.shape[-1:], adapter.norm[side].weight, adapter.norm[side].eps)
                extra.append(F.linear(inputs, weight.weight).unflatten(-1, (-1, q.shape[-1]))[None])
            keys, values = (torch.cat([e, t[:, : position + 1]], 1) for e, t in zip(extra, (k, v), strict=True))
            out.append(layer.attention.attend(q[:, position : position + 1], keys, values, None)[0])
        h = layer.residual_and_ffn(h, torch.cat(out))
    return F.linear(llama.norm(h)[n_prompt:], model.score.weight)


@pytest.mark.parametrize("instruct", [(1, 5, 7), ()])
@pytest.mark.parametrize("n_kv_heads", [4, 2])
@torch.no_grad()
def test_factored_adapter_inputs_equal_materialized_ones(instruct, n_kv_heads):
    model, items = causal(instruct=instruct, n_kv_heads=n_kv_heads), histories(1)
    for norm in (*model.graph_adapter.norm.values(), *model.graph_adapter.norm_pre.values()):
        norm.weight.copy_(torch.linspace(0.5, 2, len(norm.weight)))
    torch.testing.assert_close(every_score(model, items)[0], materialized(model, items[0]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("settings", [{}, {"n_layers": 0, "w_adapter": False}, {"tie_score": True}])
@torch.no_grad()
def test_padded_batch_equals_single_histories(settings):
    model, (items, mask) = causal(**settings).eval(), padded()
    scores = model(items, mask)
    for row, length in enumerate(LENGTHS):
        history = items[row : row + 1, -length:]
        torch.testing.assert_close(scores[row], model(history)[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(scores[row], every_score(model, history)[0, -1], rtol=1e-5, atol=1e-5)


def test_loss_is_the_mean_over_all_real_positions():
    model, (items, mask) = causal(), padded()
    targets = (items + 1) % N_ITEMS
    losses = [
        F.cross_entropy(model(items[row : row + 1, first : last + 1]), targets[row, last][None])
        for row, first in enumerate(7 - n for n in LENGTHS)
        for last in range(first, 7)
    ]
    assert len(losses) == sum(LENGTHS)
    torch.testing.assert_close(model.loss(items, mask, targets), torch.stack(losses).mean(), rtol=1e-5, atol=1e-5)
    assert torch.equal(model.loss(items, mask, targets, sum(LENGTHS)), model.loss(items, mask, targets))
    noise = torch.where(mask, items, 5), torch.where(mask, targets, 9)
    assert torch.equal(model.loss(noise[0], mask, noise[1]), model.loss(items, mask, targets))


def test_every_trained_part_gets_a_gradient():
    for settings in ({}, {"tie_score": True, "item_ids": True}, {"graph_rank": 3, "train_score": True}):
        model, (items, mask) = causal(**settings), padded()
        model.loss(items, mask, items).backward()
        lacking = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
        assert not lacking


def test_prompt_gets_gradients_from_all_users():
    model = causal(train_base=True)
    model.loss(*padded(), padded()[0]).backward()
    rows = model.llama.tok_embeddings.weight.grad.abs().sum(1).nonzero().flatten().tolist()
    assert rows == [1, 5, 7]


@pytest.mark.parametrize("deterministic", [False, True])
def test_cumulative_pool_is_the_pool_up_to_every_position(deterministic, request):
    request.addfinalizer(lambda: torch.use_deterministic_algorithms(False))
    torch.use_deterministic_algorithms(deterministic)
    rows = torch.randn(3, 6, 4)
    for mean in (False, True):
        each = torch.stack([bimap_pool(rows[:, : t + 1], mean) for t in range(6)], 1)
        torch.testing.assert_close(cumulative_bimap_pool(rows, mean), each)
    padding = torch.zeros(3, 2, 4)
    torch.testing.assert_close(bimap_pool(torch.cat([padding, rows], 1), True), bimap_pool(rows, True))


def test_padding_moves_to_the_right_and_stays_there():
    items, mask = padded()
    right_mask, right = to_right_padding(mask, items)
    assert right_mask.sum(1).tolist() == LENGTHS
    for row, length in enumerate(LENGTHS):
        assert right_mask[row, :length].all()
        assert torch.equal(right[row, :length], items[row, 7 - length :])
    again_mask, again = to_right_padding(right_mask, right)
    assert torch.equal(again_mask, right_mask)
    assert torch.equal(again, right)


def test_padding_may_be_on_either_side():
    model, (items, mask) = causal().eval(), padded()
    targets = (items + 1) % N_ITEMS
    right_mask, right, right_targets = to_right_padding(mask, items, targets)
    assert torch.equal(model(right, right_mask), model(items, mask))
    assert torch.equal(model.loss(right, right_mask, right_targets), model.loss(items, mask, targets))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_blocked_cross_entropy_and_its_gradients_equal_pytorchs(smoothing, monkeypatch):
    monkeypatch.setattr("llama.cross_entropy.BLOCK_ELEMENTS", 300)  # ten rows at a time
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, 8, generator=generator).requires_grad_() for n in (25, N_ITEMS))
    targets = torch.randint(0, N_ITEMS, (25,), generator=generator)
    ours = linear_cross_entropy(hidden, weight, targets, smoothing)
    theirs = F.cross_entropy(hidden @ weight.T, targets, label_smoothing=smoothing)
    assert_equal_with_gradients(ours, theirs, (hidden, weight))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_sampled_cross_entropy_and_its_gradients_equal_the_formula_by_hand(smoothing, monkeypatch):
    monkeypatch.setattr("llama.cross_entropy.BLOCK_ELEMENTS", 20)  # a few rows at a time
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, 8, generator=generator).requires_grad_() for n in (6, N_ITEMS))
    targets = torch.tensor([0, 3, 9, 9, 29, 17])
    every = torch.arange(N_ITEMS)
    full = F.cross_entropy(hidden @ weight.T, targets, label_smoothing=smoothing)
    assert_equal_with_gradients(
        sampled_cross_entropy(hidden, weight, targets, every, smoothing), full, (hidden, weight)
    )
    drawn = torch.tensor([3, 5, 9, 20])
    by_hand = []
    for h, target in zip(hidden, targets.tolist(), strict=True):
        others = [i for i in drawn.tolist() if i != target]
        total = (h @ weight[target]).exp() + (h @ weight[others].T).exp().mean() * (N_ITEMS - 1)
        by_hand.append(total.log() - (1 - smoothing) * h @ weight[target] - smoothing * (weight @ h).mean())
    found = sampled_cross_entropy(hidden, weight, targets, drawn, smoothing)
    assert_equal_with_gradients(found, torch.stack(by_hand).mean(), (hidden, weight))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_teacher_softens_the_targets_as_the_formula_by_hand_says(smoothing, monkeypatch):
    monkeypatch.setattr("llama.cross_entropy.BLOCK_ELEMENTS", 20)  # a few rows at a time
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, 8, generator=generator).requires_grad_() for n in (6, N_ITEMS))
    teacher = SoftTargets(*(torch.randn(n, 5, generator=generator) for n in (6, N_ITEMS)), share=0.6)
    targets = torch.tensor([0, 3, 9, 9, 29, 17])
    for negatives in (torch.arange(N_ITEMS), torch.tensor([3, 5, 9, 20])):
        by_hand = []
        for row, target in enumerate(targets.tolist()):
            others = [i for i in negatives.tolist() if i != target]
            classes = torch.tensor([target, *others])
            log_weight = torch.tensor([1, *[(N_ITEMS - 1) / len(others)] * len(others)]).log()
            log_p = (weight[classes] @ hidden[row] + log_weight).log_softmax(0)
            q = (teacher.weight[classes] @ teacher.hidden[row] + log_weight).softmax(0)
            scores = weight[classes] @ hidden[row] + log_weight
            soft = (q * scores).sum()
            hard = (1 - smoothing) * scores[0] + smoothing * (weight @ hidden[row]).mean()
            by_hand.append(scores[0] - log_p[0] - 0.6 * soft - 0.4 * hard)
        found = sampled_cross_entropy(hidden, weight, targets, negatives, smoothing, teacher)
        assert_equal_with_gradients(found, torch.stack(by_hand).mean(), (hidden, weight))


def test_a_row_whose_target_is_the_only_negative_has_no_loss():
    hidden, weight = torch.randn(2, 8), torch.randn(N_ITEMS, 8)
    loss = sampled_cross_entropy(hidden, weight, torch.tensor([4, 4]), torch.tensor([4]))
    assert loss == 0


def assert_equal_with_gradients(ours, theirs, parameters):
    """Compare two losses, and their gradients behind another factor."""
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(*(torch.autograd.grad(3 * x, parameters) for x in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b)


def test_sampled_softmax_trains_and_scores_with_all_items():
    model, (items, mask) = causal(n_negatives=5), padded()
    full = model.eval().loss(items, mask, items)
    model.train()
    torch.manual_seed(0)
    first, second = model.loss(items, mask, items), model.loss(items, mask, items)
    assert first != second
    assert not torch.isclose(first, full)


def test_tied_head_scores_with_the_item_vectors():
    model, items = causal(tie_score=True, item_ids=True).eval(), histories()
    assert model.score.weight.shape == (32, 32)
    hidden = model.encode(items) @ model.score.weight.T
    torch.testing.assert_close(model(items), hidden @ model.item_vectors(torch.arange(N_ITEMS)).T)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": "both"}, "objective 'both': prefix or causal"),
        ({"n_layers": 0}, "n_layers 0 needs the causal objective and no w_adapter"),
        ({"n_layers": 0, "w_adapter": False, "objective": "prefix"}, "n_layers 0 needs the causal objective"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        causal(**settings)


def test_too_many_positions_are_refused():
    room = 32 - 3 - 3  # max_seq_len less adapter and prompt
    model = causal()
    assert model(histories(1, room)).shape == (1, N_ITEMS)
    with pytest.raises(ValueError, match="33 adapter, prompt and item positions exceed max_seq_len 32"):
        model(histories(1, room + 1))


def test_dropout_acts_only_in_training():
    model, items = causal(dropout=0.5), histories()
    assert not torch.equal(model(items), model(items))
    model.eval()
    assert torch.equal(model(items), model(items))
