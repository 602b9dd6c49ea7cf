"""Conversion of a user's own table to a dataset, and the four commands from it to recommendations."""

import importlib
import importlib.util
import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from preprocess import own, tables
from preprocess.raw.item_files import ASIN, encode_id
from tests.support.small_data import write_interactions, write_texts
from tests.training.test_states import holding, refused_as_held
from utils.data.interactions import Interactions

README = Path(__file__).parents[2] / "datasets" / "README.md"
# Equal times keep the order of lines; ü buys b at two times, and repeats one of them; x has one user only
LINES = [
    *("ü,a b,3", "ü,b,3", "ü,b,1", "ü,c,2", "ü,b,3"),
    *("v;1,c,5", "v;1,b,5", "v;1,a b,5", "w,x,1", "w,c,2.5", "w,b,-1", "w,a b,2"),
]


def csv_of(lines, separator=",", header="user,item,time"):
    quoted = [",".join(f'"{word}"' for word in line.split(",")) if separator == ";" else line for line in lines]
    return "\n".join(line.replace(",", separator) for line in [header, *quoted]) + "\n"


def run(root, text, *more, name="table.csv"):
    root.mkdir(exist_ok=True)
    (root / name).write_text(text, encoding="utf-8")
    flags = ["--dataset", "Small", "--data_dir", str(root / "data"), "--k_core", "3"]
    return own.main([str(root / name), *flags, *more])


def written(root):
    folder = root / "data" / "sequential" / "Small"
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_files_equal_those_made_by_hand(tmp_path):
    assert run(tmp_path, csv_of(LINES)) == 0
    files = {name: content.decode() for name, content in written(tmp_path).items()}
    # sorted by encoded id: %C3%BC, v%3B1, w; a%20b, b, c
    assert files["Small.txt"] == "0 1 2 0 1\n1 2 1 0\n2 1 0 2\n"
    assert files["u_id_mapping.csv"] == "user_id,reviewer_id\n0,%C3%BC\n1,v%3B1\n2,w\n"
    assert files["i_id_mapping.csv"] == "item_id,asin\n0,a%20b\n1,b\n2,c\n"
    assert json.loads(files["5-core/train.json"]) == {"0": [1, 2], "1": [2], "2": [1]}
    statistics = json.loads(files["statistics.json"])
    assert [statistics[name] for name in ("reviews", "repeated", "interactions")] == [12, 1, 10]
    assert not {"item_text.tsv", "item_image.tsv"} & files.keys()


@pytest.mark.parametrize(
    ("separator", "header", "flags"),
    [
        ("\t", "user,item,time", ()),
        (";", "User,ITEM,Timestamp", ()),
        ("\t", "user_id:token,item_id:token,timestamp:float", ()),
        (",", "\ufeffwho,what,when", ("--user", "who", "--item", "what", "--time", "When")),
        (",", "who,item,time", ("--user", "who:token")),
    ],
)
def test_separators_and_column_names_are_recognised(tmp_path, separator, header, flags):
    assert run(tmp_path / "one", csv_of(LINES)) == 0
    assert run(tmp_path / "other", csv_of(LINES, separator, header).replace("\n", "\r\n"), *flags) == 0
    assert written(tmp_path / "one") == written(tmp_path / "other")


def test_file_argument_may_come_anywhere(tmp_path):
    flags = ["--dataset", "Small", "--k_core", "3", "--data_dir"]
    (tmp_path / "table.csv").write_text(csv_of(LINES), encoding="utf-8")
    for n, position in enumerate((0, 2, 6)):
        argv = [*flags, str(tmp_path / str(n) / "data")]
        assert own.main([*argv[:position], str(tmp_path / "table.csv"), *argv[position:], "--no-overwrite"]) == 0
    assert written(tmp_path / "0") == written(tmp_path / "1") == written(tmp_path / "2") != {}


def test_dates_are_ordered_by_time(tmp_path):
    dates = ["2024-01-02", "2024-01-01 10:00:00", "2024-01-01T09:30:00+00:00", "2023-12-31T23:59:59.5-05:00"]
    lines = [f"{user},{item},{date}" for user in "pq" for item, date in zip("abcd", dates, strict=True)]
    assert run(tmp_path, csv_of(lines), "--k_core", "2") == 0
    assert written(tmp_path)["Small.txt"] == b"0 3 2 1 0\n1 3 2 1 0\n"
    assert written(tmp_path)["Small_days.txt"] == b"0 0 0 0 1\n1 0 0 0 1\n"  # days of UTC


@pytest.mark.parametrize("units", [1, 1000, 10**6])
def test_days_are_known_of_times_that_count_from_1970_and_removed_with_the_times(tmp_path, units, capsys):
    noon = 20_000 * 86_400 + 43_200
    seconds = (noon, noon + 43_199, noon + 43_200, noon + 40 * 86_400)
    lines = [f"{user},{item},{units * time}" for user in "pq" for item, time in zip("abcd", seconds, strict=True)]
    assert run(tmp_path, csv_of(lines), "--k_core", "2") == 0
    assert written(tmp_path)["Small_days.txt"] == b"0 0 0 1 40\n1 0 0 1 40\n"
    assert "file of days" not in capsys.readouterr().out
    assert run(tmp_path, csv_of(LINES), "--overwrite") == 0
    assert "Small_days.txt" not in written(tmp_path)
    assert "  none  because the times are none of the years 1980 to 2099\n" in capsys.readouterr().out


def test_texts_and_pictures_are_written(tmp_path):
    for name in ("a.png", "x.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    item_table = (
        'item,movie_title,kind,image\na b,"Lamp, <b>red</b>",old,a.png\nb,,,\nb,Cup,,https://x/b.jpg\nx,Unsold,,x.png\n'
    )
    (tmp_path / "items.csv").write_text(item_table)
    flags = ["--item_file", str(tmp_path / "items.csv"), "--text", "kind"]
    assert run(tmp_path, csv_of(LINES), *flags) == 0
    files = written(tmp_path)
    assert files["item_text.tsv"].decode().splitlines()[1:] == ["0\ta%20b\tLamp, red\t\t\told", "1\tb\tCup\t\t\t"]
    assert files["item_image.tsv"].decode() == "item_id\tasin\turl\n1\tb\thttps://x/b.jpg\n"
    assert files["pictures/a%20b.png"] == (tmp_path / "a.png").read_bytes()
    assert not [name for name in files if name.startswith("pictures/x")]
    one_file = csv_of([f"{line},T {n}" for n, line in enumerate(LINES)], "\t", "user,item,time,title")
    assert run(tmp_path, one_file.replace("T 0", '"Lamp" &amp; co'), "--overwrite") == 0
    texts = written(tmp_path)["item_text.tsv"].decode().splitlines()
    assert texts[1:] == ['0\ta%20b\t"Lamp" & co\t\t\t', "1\tb\tT 1\t\t\t", "2\tc\tT 3\t\t\t"]
    assert "item_image.tsv" not in written(tmp_path)


def test_item_file_may_name_the_item_column_differently(tmp_path):
    """RecBole's types are ignored in --text, too, and --item names the column of the first table."""
    item_table = "item_id:token\ttitle:token_seq\tclass:token_seq\na b\tLamp\told\nc\tCup\tnew\n"
    (tmp_path / "items.csv").write_text(item_table)
    flags = ["--item", "sku", "--item_file", str(tmp_path / "items.csv"), "--text", "class:token_seq"]
    assert run(tmp_path, csv_of(LINES, header="user,sku,time"), *flags) == 0
    lines = written(tmp_path)["item_text.tsv"].decode().splitlines()
    assert lines[1:] == ["0\ta%20b\tLamp\t\t\told", "2\tc\tCup\t\t\tnew"]
    (tmp_path / "items.csv").write_text("item,sku,title\nx,a b,Lamp\n")
    assert run(tmp_path, csv_of(LINES, header="user,sku,time"), *flags[:4], "--overwrite") == 0
    assert written(tmp_path)["item_text.tsv"].decode().splitlines()[1:] == ["0\ta%20b\tLamp\t\t\t"]


def test_dataset_is_incomplete_until_its_pictures_are_copied(tmp_path, capsys):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    text = csv_of([f"{line},a.png" for line in LINES], header="user,item,time,picture")
    pictures = tmp_path / "data" / "sequential" / "Small" / "pictures"
    pictures.parent.mkdir(parents=True)
    pictures.write_text("in the way")
    assert run(tmp_path, text) == 2
    assert str(pictures) in capsys.readouterr().err
    assert "Small.txt" not in written(tmp_path)
    pictures.unlink()
    assert run(tmp_path, text) == 0
    assert written(tmp_path)["pictures/c.png"] == (tmp_path / "a.png").read_bytes()


def test_missing_pictures_are_reported_together(tmp_path, capsys):
    lines = [f"{user},{item},{time},{item}.png" for user in "pqr" for time, item in enumerate("abcdefg")]
    table = csv_of([*lines, "p,once,9,once.png"], header="user,item,time,picture")
    Image.new("RGB", (4, 4)).save(tmp_path / "b.png")
    assert run(tmp_path, table) == 2
    (line,) = capsys.readouterr().err.splitlines()
    origins = [f"line {n}: '{item}.png'" for n, item in ((2, "a"), (4, "c"), (5, "d"), (6, "e"), (7, "f"))]
    assert re.findall(r"line \d+: '.*?'", line) == origins
    assert " and 1 more are neither " in line
    assert not (tmp_path / "data").exists()
    for item in "acdefg":
        Image.new("RGB", (4, 4)).save(tmp_path / f"{item}.png")
    assert run(tmp_path, table) == 0  # an item that the k-core removes needs none
    assert sum(name.startswith("pictures/") for name in written(tmp_path)) == 7


@pytest.mark.parametrize("picture", ["a.png", "https://x/a.png"])
def test_id_too_long_for_the_name_of_its_picture_is_refused(tmp_path, picture, capsys):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    assert run(tmp_path, csv_of(LINES)) == 0
    before = written(tmp_path)
    for name, characters in (("商" * 28, 252), ("b" * 247, 247)):
        lines = [line.replace(",c,", f",{name},") for line in LINES]
        text = csv_of([f"{line},{picture}" for line in lines], header="user,item,time,picture")
        assert run(tmp_path, text, "--overwrite") == 2
        message = capsys.readouterr().err
        assert f"line 5: '{name[:20]}" in message
        assert f"has {characters} characters" in message
        assert message.count("\n") == 1
        assert written(tmp_path) == before
    assert run(tmp_path, text.replace(name, name[1:]), "--overwrite") == 0
    assert run(tmp_path, csv_of(lines), "--overwrite") == 0  # without a picture it is no file name


def test_any_id_is_encoded_for_files():
    for text in ("a/b", "../x", "~", "%", "%25", "a\tb", "名", "a,b", "B000:1_2-3.4"):
        assert ASIN.fullmatch(encode_id(text))
        assert "/" not in encode_id(text)
    assert encode_id("B000:1_2-3.4") == "B000:1_2-3.4"
    assert len({encode_id(text) for text in ("~", "%7E", "%257E")}) == 3


@pytest.mark.parametrize(
    ("text", "flags", "message"),
    [
        ("", (), "empty; give a file with a table"),
        ("user,item,time\n", (), "no line below a header"),
        (csv_of(LINES), ("--time", "when"), "line 1: no column when; --time takes one of the header"),
        (csv_of(LINES), ("--title", "name"), "line 1: no column name"),
        (csv_of(LINES), ("--text", "kind"), "line 1: no column kind; --text takes one of the header"),
        (csv_of(["a,b"]), (), "line 2: 2 fields, but 3 in the header"),
        (
            csv_of([",b,3", "u, ,3"]),
            (),
            "no user in 1 of 2 lines, and too little in the others (empty 1; first",
        ),
        (csv_of(["u,b,soon"]), (), "line 2: 'soon' is neither a number nor a date"),
        (csv_of(["u,b,inf"]), (), "line 2: 'inf' is neither"),
        (csv_of(["u,b,nan"]), (), "no time in 1 of 1 lines"),
        (csv_of([*LINES, "u,b,2024-01-31"]), (), "line 14: '2024-01-31' among numbers"),
        (csv_of([*LINES, 'u,"b"c,3']), (), "after line 13: "),
        (csv_of(LINES), ("--k_core", "4"), "no user and item with 4 interactions each"),
        (
            csv_of([f"{line},a.jpg" for line in LINES], header="user,item,time,picture"),
            (),
            "line 5: 'a.jpg' are neither an address nor a file",
        ),
        (csv_of(LINES), ("--item_file", "nowhere.csv"), "nowhere.csv"),
    ],
)
def test_errors_are_one_line_and_nothing_is_written(tmp_path, text, flags, message, capsys):
    assert run(tmp_path, text, *flags) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "data").exists()


def test_missing_files_and_existing_datasets_are_refused(tmp_path, capsys):
    assert own.main([str(tmp_path / "none.csv")]) == 2
    assert "none.csv" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        own.main(["--dataset", "x"])
    assert stop.value.code == 2
    assert "the following arguments are required: FILE" in capsys.readouterr().err
    (tmp_path / "greek.csv").write_bytes(csv_of(LINES).replace("ü", "ωμέγα").encode("cp1253"))
    assert own.main([str(tmp_path / "greek.csv")]) == 2
    assert "not UTF-8" in capsys.readouterr().err
    assert run(tmp_path, csv_of(LINES)) == 0
    before = written(tmp_path)
    assert run(tmp_path, csv_of(LINES[::-1])) == 2
    assert "--overwrite replaces it" in capsys.readouterr().err
    assert written(tmp_path) == before
    assert tables.main(["--dataset", "Small", "--data_dir", str(tmp_path)]) == 2
    assert "Small.txt" in capsys.readouterr().err


def test_overwrite_removes_earlier_pictures(tmp_path):
    header = "user,item,time,picture"
    for name, colour in (("old.jpg", "red"), ("new.png", "blue")):
        Image.new("RGB", (4, 4), colour).save(tmp_path / name)
    assert run(tmp_path, csv_of([f"{line},old.jpg" for line in LINES], header=header)) == 0
    folder = tmp_path / "data" / "sequential" / "Small" / "pictures"
    (folder / "other.jpg").write_text("of no item")
    text = csv_of([f"{line},{'' if ',c,' in line else 'new.png'}" for line in LINES], header=header)
    assert run(tmp_path, text, "--overwrite") == 0
    assert {path.name for path in folder.iterdir()} == {"a%20b.png", "b.png", "other.jpg"}
    (folder.parent / "table.csv").write_text(text.replace("new.png", "pictures/b.png"))
    flags = ["--dataset", "Small", "--data_dir", str(tmp_path / "data"), "--k_core", "3", "--overwrite"]
    assert own.main([str(folder.parent / "table.csv"), *flags]) == 0  # which reads the pictures that it would remove
    assert (folder / "a%20b.png").read_bytes() == (folder / "b.png").read_bytes() == (tmp_path / "new.png").read_bytes()


def purchases(folder):
    """Write the README's table: 40 customers who buy at random (so training ends soon), titles, some pictures."""
    (folder / "pictures").mkdir()
    lines, rng = ["user,item,time,title,picture"], np.random.default_rng(0)
    for user in range(40):
        name = "Jane Doe" if user == 7 else f"customer {user}"
        for day, item in enumerate(rng.permutation(30)[:9].tolist()):
            metadata = f"group{item // 4} thing{item % 4},{'' if item % 2 else f'pictures/{item}.jpg'}"
            lines.append(f"{name},{4700 + item},2024-02-{1 + day:02} 10:00:00,{metadata}")
    for item in range(0, 30, 2):
        Image.new("RGB", (40, 40), (6 * item, 0, 0)).save(folder / "pictures" / f"{item}.jpg")
    (folder / "purchases.csv").write_text("\n".join(lines) + "\n")


@pytest.mark.slow
def test_four_commands_of_the_readme(tmp_path, monkeypatch, capsys):
    block = re.search(r"in four commands:\n\n```bash\n(.*?)```", README.read_text(), re.DOTALL)[1]
    commands = [shlex.split(line) for line in block.splitlines()]
    assert len(commands) == 4
    monkeypatch.chdir(tmp_path)
    purchases(tmp_path)
    for python, *words in commands:
        assert python == "python"
        module, argv = (words[1], words[2:]) if words[0] == "-m" else (words[0].removesuffix(".py"), words[1:])
        capsys.readouterr()
        if importlib.util.find_spec(module).submodule_search_locations:
            module += ".__main__"
        assert importlib.import_module(module).main(argv) == 0
    shown = capsys.readouterr().out.splitlines()
    data = Interactions("datasets/sequential/Mine/Mine.txt", 0)
    users = Path("datasets/sequential/Mine/u_id_mapping.csv").read_text().splitlines()[1:]
    jane = [line.partition(",")[2] for line in users].index("Jane%20Doe")
    assert shown[0] == f"10 recommendations for user Jane Doe (#{jane}):"
    best = [line.split() for line in shown[2:12]]
    assert [int(row[0]) for row in best] == list(range(1, 11))
    item_ids = Path("datasets/sequential/Mine/i_id_mapping.csv").read_text().splitlines()[1:]
    bought = {item_ids[item].partition(",")[2] for item in data.kept_items(jane)}
    assert not {row[3] for row in best} & bought


def table_settings(root):
    flags = {"output_dir": str(root / "output"), "logging_dir": str(root / "log")}
    return tables.TableSettings("Small", str(root / "data"), sentences=False, **flags)


def test_uninformative_modality_is_left_out(tmp_path, capsys):
    """Each title is another word, and no picture can be read."""
    (tmp_path / "none.png").write_bytes(b"none")
    orders = [np.random.default_rng(user).permutation(9) for user in range(30)]
    lines = [f"{user},{item},{day},w{item},none.png" for user, of in enumerate(orders) for day, item in enumerate(of)]
    assert run(tmp_path, csv_of(lines, header="user,item,time,title,picture")) == 0
    tables.make_tables(table_settings(tmp_path), "--num_epochs 1 --embed_dim 4", "--num_epochs 1 --width 4 --hidden 4")
    assert {"MMHCL_item_embeddings.pt", "SASRec_item_embedding.pt"} <= written(tmp_path).keys()
    assert not [name for name in written(tmp_path) if "_feat." in name]
    log = (tmp_path / "log" / "Small" / "stages_log.txt").read_text()
    shown = capsys.readouterr().out
    for reason in ("text left out: ", "no word occurs in two texts", "image left out: ", "no picture of any item"):
        assert reason in log
        assert reason in shown
    assert "--item_loss_ratio 0\n" in log


def test_tables_from_another_interaction_file_are_refused(tmp_path, capsys):
    folder = write_interactions(tmp_path / "data")
    write_texts(folder)
    flags = ("--num_epochs 1 --embed_dim 4", "--num_epochs 1 --width 4 --hidden 4")
    tables.make_tables(table_settings(tmp_path), *flags)
    tables.make_tables(table_settings(tmp_path), *flags)
    made = ["MMHCL_user_embeddings.pt", "MMHCL_item_embeddings.pt", "SASRec_item_embedding.pt", "text_feat.npz"]
    runs = [tmp_path / "output" / "Small" / name / "pretrain" for name in ("MMHCL", "SASRec")]
    lines = (folder / "Small.txt").read_text().splitlines()
    (folder / "Small.txt").write_text("\n".join([*lines[:-1], lines[-1] + " 0"]) + "\n")
    capsys.readouterr()
    argv = ["--dataset", "Small", *(f"--{name}_dir={tmp_path / name}" for name in ("data", "output"))]
    assert tables.main([*argv, f"--logging_dir={tmp_path / 'log'}"]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert "made from another Small.txt; remove them, or give the new data another --dataset name" in captured.err
    assert all(str(path) in captured.err for path in [*runs, *(folder / name for name in made)])
    for path in [*runs, *(folder / name for name in made)]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    tables.make_tables(table_settings(tmp_path), *flags)
    shutil.rmtree(runs[0].parent)
    shutil.rmtree(runs[1].parent)
    (folder / "Small.txt").write_text("\n".join(lines) + "\n")
    tables.make_tables(table_settings(tmp_path), *flags)  # without checkpoints their origin is unknown


def test_second_process_is_refused_with_the_owner_of_the_lock(tmp_path, capsys):
    folder = write_interactions(tmp_path / "data")
    argv = ["--dataset", "Small", *(f"--{name}_dir={tmp_path / name}" for name in ("data", "output"))]
    argv, stages = [*argv, f"--logging_dir={tmp_path / 'log'}"], tmp_path / "log" / "Small" / "stages"
    with holding(stages, is_prefix=True) as holder:
        refused_as_held(tables.main, argv, stages, holder, tmp_path, capsys, "--logging_dir")
    for name in ("MMHCL_item_embeddings.pt", "SASRec_item_embedding.pt"):
        torch.save(torch.ones(1), folder / name)
    assert tables.main(argv) == 0
    left = stages.with_name("stages_held_by.txt")
    assert left.read_text() == ""
    assert f"process {holder.pid} on " in stages.with_name("stages_log.txt").read_text()


def test_tables_without_features_and_with_existing_outputs(tmp_path):
    folder = write_interactions(tmp_path / "data")
    torch.save(torch.ones(1), folder / "SASRec_item_embedding.pt")
    settings = table_settings(tmp_path)
    tables.make_tables(settings, "--num_epochs 1 --embed_dim 4")
    assert torch.load(folder / "MMHCL_item_embeddings.pt", weights_only=True).shape == (40, 4)
    assert torch.load(folder / "SASRec_item_embedding.pt", weights_only=True).shape == (1,)
    log = (tmp_path / "log" / "Small" / "stages_log.txt").read_text()
    assert "--item_loss_ratio 0\n" in log
    assert "pretrain_sasrec" not in log
    write_texts(folder)
    (folder / "MMHCL_item_embeddings.pt").unlink()
    tables.make_tables(settings, "--num_epochs 1 --embed_dim 4 --overwrite --target other")
    log = (tmp_path / "log" / "Small" / "stages_log.txt").read_text().splitlines()[-4:]
    assert "preprocess.features text" in log[0]
    assert "item_loss_ratio" not in log[2]
