"""Recommendations of finished runs on data of a few hundred lines."""

import base64
import io
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import train_HeLLM
from preprocess.raw.item_files import (
    ITEM_ID_FILE,
    ITEM_ID_HEADER,
    ITEM_TEXT_FILE,
    USER_ID_FILE,
    USER_ID_HEADER,
    encode_id,
)
from tests.support.html_page import Page
from tests.support.small_data import (
    N_ITEMS,
    N_USERS,
    command,
    sequences,
    write_dataset,
    write_interactions,
    write_texts,
)
from tests.support.small_model import N_ITEMS as N_SMALL
from tests.support.small_model import histories, small_hellm, wake
from tests.training.test_states import without
from utils.data.interactions import Interactions
from utils.io.torch_files import save_with_checksum
from utils.recommend import load, recommend
from utils.recommend.explain import ablate_graph_vector, explain
from utils.recommend.names import read_catalogue
from utils.recommend.recommend import RecommendSettings
from utils.recommend.requests import read_requests
from utils.training.run_files import BEST_ADAPTER, STATE

RUNS = {
    "prefix": [],
    "causal": ["--objective", "causal", "--prompt", "none", "--standardize", "--graph_mean", "--warm_head"],
    "bare": ["--no-w_adapter", "--max_len", "6"],  # less than most histories have
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Write finished runs, and texts, pictures and id maps beside the data."""
    place = tmp_path_factory.mktemp("recommend")
    folder = write_dataset(place / "data")
    write_texts(folder)
    (folder / "pictures").mkdir()
    for item in range(0, N_ITEMS, 2):
        Image.new("RGB", (400, 200), (item, 0, 0)).save(folder / "pictures" / f"A{item}.png")
    (folder / "pictures" / "A1.png").write_bytes(b"none")
    ids = [f"{item},A{item}" for item in range(N_ITEMS)]
    (folder / ITEM_ID_FILE).write_text("\n".join([ITEM_ID_HEADER, *ids]) + "\n")
    users = [f"{user},a%20user{user}" for user in range(N_USERS)]
    (folder / USER_ID_FILE).write_text("\n".join([USER_ID_HEADER, *users]) + "\n")
    for target, flags in RUNS.items():
        assert train_HeLLM.main(command(place, "--target", target, "--n_layers", "1", *flags)) == 0
    return place


def folder_of(place, target):
    return place / "output" / "Small" / "MMHCL" / target


def ask(place, target, *more):
    argv = ["--run", folder_of(place, target), "--data_dir", place / "data", "--device", "cpu", *more]
    return recommend.main([str(argument) for argument in argv])


def found_of(place, target, **given):
    settings = RecommendSettings(str(folder_of(place, target)), str(place / "data"), device="cpu", **given)
    loaded = load(settings.run, settings.data_dir, device="cpu")
    ablated = ablate_graph_vector(loaded.model)
    models = [loaded.model] if ablated is None else [loaded.model, ablated]
    requests = read_requests(settings, loaded.data, loaded.catalogue)
    return [explain(models, one, loaded.n_newest, settings.k, settings.seen) for one in requests]


@pytest.mark.parametrize("target", RUNS)
@pytest.mark.parametrize("seen", [False, True])
def test_ranks_of_the_held_out_items_are_those_of_the_runs_test(place, target, seen):
    """The model is made again from its folder alone."""
    found = found_of(place, target, html="x", users=N_USERS, k=5, seen=seen)
    with np.load(place / "log" / "Small" / "MMHCL" / f"{target}_ranks.npz") as logged:
        assert [one.held_out.rank for one in found] == logged["seen_kept" if seen else "seen_removed"].tolist()
    assert [one.hit for one in found] == [one.held_out.rank <= 5 for one in found]
    assert 5 < sum(one.hit for one in found) < N_USERS
    assert all((one.held_out.ablated_rank is None) == (target == "bare") for one in found)


def test_the_best_items_are_in_order_of_score_without_seen_ones(place):
    data = Interactions(place / "data" / "sequential" / "Small" / "Small.txt", 0)
    for one, all_of_it in zip(
        found_of(place, "causal", html="x", users=40),
        found_of(place, "causal", html="x", users=40, k=N_ITEMS),
        strict=True,
    ):
        assert [p.rank for p in one.best] == list(range(1, 11))
        scores = [p.score for p in all_of_it.best]
        assert scores == sorted(scores, reverse=True)
        assert np.isfinite(scores).all()
        assert one.best == all_of_it.best[:10]
        unseen = set(range(N_ITEMS)) - set(one.history) | {one.held_out.item}
        assert {p.item for p in all_of_it.best} == unseen
        assert {p.item for p in one.best if p.ablated_rank > 10} == {p.item for p in one.best} - {
            p.item for p in all_of_it.best if p.ablated_rank <= 10
        }
        assert {p.item for p in one.only_without_graph} == {
            p.item for p in all_of_it.best if p.ablated_rank <= 10 < p.rank
        }
    (whole,) = found_of(place, "causal", user="#7", whole=True)
    assert whole.history == data.kept_items(7).tolist()
    assert whole.held_out is None


def test_the_newest_items_of_a_long_history_are_read_and_all_of_them_excluded(place):
    items = [n % 20 for n in range(60)] + list(range(20, 30)) * 5
    (one,) = found_of(place, "prefix", items=tuple(f"#{item}" for item in items), k=N_ITEMS)
    assert one.history == items[-49:]
    assert sorted(p.item for p in one.best) == list(range(30, N_ITEMS))
    (same,) = found_of(place, "prefix", items=tuple(f"A{item}" for item in items[-49:]), k=N_ITEMS, seen=True)
    assert [p for p in same.best if p.item >= 30] != []
    assert len(same.best) == N_ITEMS


def test_an_id_names_the_user_of_its_line(tmp_path):
    folder = write_interactions(tmp_path)
    data = Interactions(folder / "Small.txt", 0)

    def asked(**given):
        return list(read_requests(RecommendSettings(**given), data, read_catalogue(data)))

    for user in ("3", "#3"):
        (one,) = asked(user=user)
        assert (one.title, one.items) == ("user 3", sequences()[3][:-1])
    for user in ("u3", "-1", "#120", "120", "#", "#-1", "#+3", "##3"):
        with pytest.raises(ValueError, match=f"--user {re.escape(user)}: not in .*Small.txt; the numbers are 0 to 119"):
            asked(user=user)
    lines = [f"{user},u{user}" for user in reversed(range(N_USERS)) if user != 7]
    lines[0] = f"{N_USERS - 1},{encode_id('#3')}"  # an id that looks like a number of ours
    (folder / USER_ID_FILE).write_text("\n".join([USER_ID_HEADER, *lines]) + "\n")
    (one,) = asked(user="u3")
    assert (one.title, one.items) == ("user u3 (#3)", sequences()[3][:-1])
    (one,) = asked(user="#3")
    assert (one.title, one.items) == ("user #3 (#119)", sequences()[119][:-1])
    (one,) = asked(user="#7")
    assert (one.title, one.items) == ("user #7", sequences()[7][:-1])
    titles = [one.title for one in asked(html="x", users=N_USERS)]
    assert titles[5:8] == ["user u5 (#5)", "user u6 (#6)", "user #7"]
    for user in ("u7", "3"):
        message = f"--user {user}: not in .*u_id_mapping.csv; give an id of it, or '#0' to '#119'"
        with pytest.raises(ValueError, match=message):
            asked(user=user)


def test_two_users_of_one_id_are_refused(tmp_path):
    folder = write_interactions(tmp_path)
    (folder / USER_ID_FILE).write_text("\n".join([USER_ID_HEADER, "3,a", "5,b", "8,a"]) + "\n")
    with pytest.raises(ValueError, match="u_id_mapping.csv: users 3 and 8 have the same id 'a'; "):
        read_catalogue(Interactions(folder / "Small.txt", 0))


@pytest.mark.parametrize("objective", ["prefix", "causal"])
@torch.no_grad()
def test_the_ablated_model_scores_as_one_whose_graph_vector_is_zero(objective):
    model = wake(small_hellm(objective=objective)).eval()
    items, mask = histories(3, 6), torch.arange(6) >= torch.tensor([[0], [2], [4]])
    bare = ablate_graph_vector(model)
    assert (bare(items, mask) - model(items, mask)).abs().max() > 1e-3
    for bridge in model.graph_adapter.bridge.values():
        bridge[3].weight.zero_()
        bridge[3].bias.zero_()  # GELU(0) is 0, and so is its norm
    torch.testing.assert_close(bare(items, mask), model(items, mask), rtol=0, atol=1e-5)
    assert bare.score.weight.data_ptr() == model.score.weight.data_ptr()


@torch.no_grad()
def test_the_ablated_model_has_no_adapter_if_nothing_else_is_in_it():
    model = wake(small_hellm(prefix_adapter=False)).eval()
    bare, items = ablate_graph_vector(model), histories()
    assert bare.graph_adapter is None
    alone = small_hellm(w_adapter=False).eval()
    alone.load_state_dict(model.state_dict(), strict=False)
    torch.testing.assert_close(bare(items), alone(items))
    assert bare(items).shape == (3, N_SMALL)
    assert ablate_graph_vector(alone) is None
    assert ablate_graph_vector(small_hellm(graph_adapter=False)) is None


def test_printed_recommendations(place, capsys):
    (one,) = found_of(place, "prefix", user="#42")
    capsys.readouterr()
    assert ask(place, "prefix", "--user", "#42") == 0
    text = capsys.readouterr().out
    assert ask(place, "prefix", "--user", "a user42") == 0
    assert capsys.readouterr().out == text
    lines = text.splitlines()
    assert lines[0] == "10 recommendations for user a user42 (#42):"
    ranked = sorted({*one.best, one.held_out, *one.only_without_graph}, key=lambda p: p.rank)
    for line, p in zip(lines[2:], ranked, strict=False):
        title = [f"group{p.item // 4}", f"thing{p.item % 4}", "nice"]
        assert line.split()[:7] == [str(p.rank), f"{p.score:.3f}", str(p.ablated_rank), f"A{p.item}", *title]
    assert lines[2 + len(ranked)] == ""
    (held_out,) = [line for line in lines if "<- held out" in line]
    assert held_out.split()[0] == str(one.held_out.rank)
    history = lines[lines.index("history, newest first:") + 1 :]
    assert [line.split()[0] for line in history] == [f"A{item}" for item in reversed(one.history)]
    assert ask(place, "bare", "--items", "#3,#2,#1") == 0
    text = capsys.readouterr().out
    assert text.startswith("10 recommendations for the items given:\n")
    assert "ithout" not in text
    assert ask(place, "bare", "--items", "A3,A2,A1") == 0
    assert capsys.readouterr().out == text


def test_printed_lines_have_100_columns_and_a_long_history_ten(place, tmp_path, capsys):
    folder = shutil.copytree(place / "data", tmp_path / "data") / "sequential" / "Small"
    text = (folder / ITEM_TEXT_FILE).read_text()
    (folder / ITEM_TEXT_FILE).write_text(text.replace("nice", "and a very long title " * 20))
    items = ",".join(f"#{item % 20}" for item in range(30))
    for flags in (["--user", "#42", "--k", 40], ["--items", items]):
        assert ask(place, "prefix", *flags, "--data_dir", tmp_path / "data") == 0
        lines = capsys.readouterr().out.splitlines()
        assert max(map(len, lines)) <= 100
    start = lines.index("history, the 10 newest of 30 items, newest first:") + 1
    assert [line.split()[0] for line in lines[start:]] == [f"A{item}" for item in range(9, -1, -1)]


def test_the_page_loads_nothing_and_runs_no_script(place, capsys):
    path = place / "page.html"
    assert ask(place, "prefix", "--html", path, "--users", 20, "--k", 5) == 0
    html = path.read_text()
    page = Page(html)
    assert all(address.startswith("data:") for address in page.fetched)
    found = found_of(place, "prefix", html="x", users=20, k=5)
    assert html.count("<h2>") == 20 == len({one.title for one in found})
    n_hits, bare_hits = sum(one.hit for one in found), sum(one.held_out.ablated_rank <= 5 for one in found)
    assert f"{n_hits} of 20 are among the 5 best, framed; {bare_hits} without the graph adapter." in html
    cards = [p for one in found for p in {*one.best, one.held_out, *one.only_without_graph}]
    items = [p.item for p in cards] + [item for one in found for item in one.history]
    pictures = [address for address in page.fetched if address.startswith("data:image")]
    assert len(pictures) == sum(item % 2 == 0 for item in items)
    for address in pictures[:3]:
        with Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))) as picture:
            assert picture.size == (120, 60)


def test_titles_and_ids_are_escaped_in_the_page(place, tmp_path):
    folder = shutil.copytree(place / "data", tmp_path / "data") / "sequential" / "Small"
    for name, plain, other in (
        (ITEM_TEXT_FILE, "group0 thing3 nice", "<script>alert(3)</script>"),
        (ITEM_ID_FILE, "3,A3\n", "3," + encode_id('"onclick="3') + "\n"),
        (USER_ID_FILE, "7,a%20user7\n", "7," + encode_id("</h2>'7'&") + "\n"),
    ):
        lines = (folder / name).read_text()
        assert lines.count(plain) == 1
        (folder / name).write_text(lines.replace(plain, other))
    path = tmp_path / "page.html"
    flags = ["--user", "#7", "--seen", "--k", N_ITEMS, "--html", path, "--data_dir", tmp_path / "data"]
    assert ask(place, "bare", *flags) == 0
    html = path.read_text()
    page = Page(html)
    assert "<h2>user &lt;/h2&gt;" in html
    assert ("h2", "user </h2>'7'& (#7)") in page.texts
    assert '"onclick="3 (#3)' in page.titles
    assert "&lt;script&gt;alert(3)&lt;/script&gt;</div>" in html
    assert ("div", "<script>alert(3)</script>") in page.texts


def test_errors_are_one_line_and_nothing_is_written(place, tmp_path, capsys):
    def refused(target, *more):
        assert ask(place, target, "--html", tmp_path / "page.html", *more) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.count("\n") == 1
        return captured.err

    assert "--user #120: not in" in refused("prefix", "--user", "#120")
    assert "give an id of it, or '#0' to '#119'" in refused("prefix", "--user", "x")
    assert "--items 1, #40, -1: not in" in refused("prefix", "--items", "1,#1,#40,-1")
    assert f"{BEST_ADAPTER}: missing; the folder of a run" in refused("nowhere", "--user", 1)
    for name, damage, message in (
        (STATE, lambda path: path.unlink(), f"{STATE}: missing"),
        (STATE, lambda path: path.write_bytes(b"none"), f"{STATE}: cut short"),
        (STATE, lambda path: shutil.copy(path.with_name(BEST_ADAPTER), path), f"{STATE}: not a HeLLM training state"),
        (BEST_ADAPTER, lambda path: path.write_bytes(b"none"), f"{BEST_ADAPTER}: cut short"),
        (STATE, without("settings"), f"{STATE}: without settings; "),
        (BEST_ADAPTER, without("tensors"), f"{BEST_ADAPTER}: without tensors; "),
    ):
        copy = shutil.copytree(folder_of(place, "bare"), folder_of(place, "damaged"), dirs_exist_ok=True)
        damage(copy / name)
        assert message in refused("damaged", "--user", "#1")
    other = write_dataset(tmp_path / "data")
    (other / "Small.txt").write_text("0 1 2 3 4\n" + (other / "Small.txt").read_text().partition("\n")[2])
    message = refused("bare", "--user", "#1", "--data_dir", tmp_path / "data")
    assert "was trained on: CRC-32 of Small.txt differs" in message
    assert "no such folder" in refused("bare", "--user", "#1", "--data_dir", tmp_path / "nowhere")
    assert not (tmp_path / "page.html").exists()
    for argv in (["--user", "1"], ["--run", "x"], ["--run", "x", "--user", "1", "--items", "2"]):
        with pytest.raises(SystemExit) as stop:
            recommend.main(argv)
        assert stop.value.code == 2
        assert capsys.readouterr().err.count("\n") == 1


def settings(**values):
    return lambda content: content["settings"].update(values)


def part(name, value):
    return lambda content: content.update({name: value})


def head(change):
    def damage(content):
        content["tensors"]["score.weight"] = change(content["tensors"]["score.weight"])

    return damage


WHOLE = "'score.weight': a dense tensor of torch.float32, all finite, is expected; put back a copy"
STRANGE = [  # what a file of a stranger holds, its checksum right
    (STATE, settings(n_layers=10**9), "--n_layers 1000000000: from -1 to 1024"),
    (STATE, settings(n_layers=-5), "--n_layers -5: from -1 to 1024"),
    (STATE, settings(graph_rank=2**60), f"--graph_rank {2**60}: 0 or above, at most"),
    (STATE, settings(adapter_len=2**16), "adapter_len is 4 there, 65536 here"),
    (STATE, settings(seed=torch.zeros(3)), "settings: strings and numbers are expected"),
    (STATE, settings(seed=None), "seed is None, expected an integer"),
    (STATE, settings(seed=10**30), f"--seed {10**30}: from 0 to"),
    (STATE, settings(lora_alpha=10**400), "lora_alpha is 1000"),
    (STATE, settings(max_len="6"), "max_len is '6', expected an integer"),
    (STATE, settings(max_len=True), "max_len is True, expected an integer"),
    (STATE, settings(w_lora="no"), "w_lora is 'no', expected True or False"),
    (STATE, settings(lora_targets=[3]), "lora_targets is (3,), expected a tuple of strings"),
    (STATE, settings(model_name=3, dataset=3), "model_name is 3, expected a string"),
    (STATE, settings(dtype="zzz"), "dtype is 'zzz', expected one of auto, fp32, bf16"),
    (STATE, settings(dataset="../../etc"), "--dataset '../../etc': a name without folders"),
    (STATE, part("settings", [["seed", 3]]), "settings: a dictionary is expected"),
    (BEST_ADAPTER, part("settings", [["dim", 3]]), "settings: a dictionary is expected"),
    (BEST_ADAPTER, settings(dim=torch.zeros(3)), "settings: strings and numbers are expected"),
    (BEST_ADAPTER, part("tensors", [torch.zeros(3)]), "tensors: a dictionary is expected"),
    (BEST_ADAPTER, lambda content: content["tensors"].update({3: torch.zeros(3)}), "3: a dense tensor of"),
    (BEST_ADAPTER, head(lambda t: "none"), WHOLE),
    (BEST_ADAPTER, head(lambda t: t.long()), WHOLE),
    (BEST_ADAPTER, head(lambda t: t * float("nan")), WHOLE),
    (BEST_ADAPTER, head(lambda t: t[:1, :1].clone().expand(t.shape)), WHOLE),
]


@pytest.mark.parametrize(("name", "damage", "message"), STRANGE)
def test_odd_content_of_a_runs_files_is_refused(place, tmp_path, capsys, name, damage, message):
    folder = shutil.copytree(folder_of(place, "prefix"), tmp_path / "run")
    content = torch.load(folder / name, weights_only=True)
    damage(content)
    save_with_checksum(content, folder / name)
    argv = ["--run", str(folder), "--data_dir", str(place / "data"), "--device", "cpu", "--user", "#1"]
    assert recommend.main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert len(captured.err) < 1000
    assert message in captured.err
    assert str(folder / name) in captured.err or "there" in message


@pytest.mark.parametrize(("page", "message"), [(".", "is a folder"), ("none/page.html", "no folder ")])
def test_a_page_that_can_not_be_written_is_refused_before_the_run_is_read(tmp_path, capsys, page, message):
    with pytest.raises(SystemExit) as stop:
        recommend.main(["--run", "x", "--html", str(tmp_path / page)])
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.count("\n") == 1
    assert error.startswith(f"error: --html {tmp_path / page}: ")
    assert message in error
