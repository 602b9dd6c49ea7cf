"""Opening pictures that may hold anything, and downloading them."""

import http.server
import io
import struct
import threading
import zlib

import numpy as np
import pytest
from PIL import Image

from preprocess import features
from preprocess.modalities import encoders
from preprocess.modalities.images import open_image
from preprocess.modalities.shards import UnusableInputError
from tests.support.small_data import N_ITEMS, write_interactions
from tests.support.small_encoders import write_pictures


@pytest.fixture
def folder(tmp_path):
    """Write a dataset with pictures of the first ten items."""
    folder = write_interactions(tmp_path / "data")
    write_pictures(folder / "pictures", 10)
    (folder / "i_id_mapping.csv").write_text("item_id,asin\n" + "".join(f"{i},A{i}\n" for i in range(N_ITEMS)))
    return folder


def write_urls(folder, urls):
    lines = ["item_id\tasin\turl", *(f"{item}\tA{item}\t{url}" for item, url in urls.items())]
    (folder / "item_image.tsv").write_text("\n".join(lines) + "\n")


def histogram(folder, *more):
    data_flags = ["--dataset", "Small", "--data_dir", str(folder.parents[1])]
    return features.main(["image", "--encoder", "histogram", *data_flags, *more])


def reasons(folder):
    lines = (folder / "image_missing.tsv").read_text().splitlines()[1:]
    return {int(item): reason for item, _, reason in (line.split("\t") for line in lines)}


def as_bytes(picture, kind):
    file = io.BytesIO()
    picture.save(file, kind)
    return file.getvalue()


def png(width, height, content, *more):
    """Return a PNG whose header claims a size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), *more, (b"IDAT", content), (b"IEND", b""))
    parts = (struct.pack(">I", len(c)) + name + c + struct.pack(">I", zlib.crc32(name + c)) for name, c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def webp(width, height):
    """Return a WebP animation of PICTURE whose header claims a size."""
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    chunks = b"VP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + size + b"ANIM" + struct.pack("<I", 6) + bytes(6)
    frame = (
        bytes(6) + (59).to_bytes(3, "little") + (39).to_bytes(3, "little") + bytes(4) + as_bytes(PICTURE, "WEBP")[12:]
    )
    chunks += b"ANMF" + struct.pack("<I", len(frame)) + frame
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks


PICTURE = Image.effect_mandelbrot((60, 40), (-2, -1, 1, 1), 20).convert("RGB")
REFUSED = {
    "jpeg cut": (as_bytes(PICTURE, "JPEG")[:-300], "broken: "),
    "png cut": (as_bytes(PICTURE, "PNG")[:-200], "broken: "),
    "damaged": (png(60, 40, b"no zlib stream"), "broken: "),
    "bomb": (png(60_000, 60_000, zlib.compress(bytes(1000))), "more than --max_pixels 5000"),
    "gif bomb": (
        b"GIF89a\xff\xff\xff\xff\x80" + bytes(8) + b",\0\0\0\0\xff\xff\xff\xff\0\2\0;",
        "more than --max_pixels 5000",
    ),
    "webp bomb": (webp(60_000, 60_000), "more than --max_pixels 5000"),
    "text bomb": (
        png(60, 40, b"", (b"zTXt", b"k\0\0" + zlib.compress(bytes(10**8)))),
        "broken: Decompressed data too large",
    ),
    # within Pillow's limit; the content would be broken if it were decoded
    "large": (png(100, 51, b"no zlib stream"), "100 x 51 pixels: more than --max_pixels 5000"),
    "strip": (png(100, 4, b"no zlib stream"), "100 x 4 pixels: more than 20 times as long as wide"),
    "pixel": (as_bytes(PICTURE.resize((1, 1)), "GIF"), "1 x 1 pixels: a placeholder"),
    "bmp": (as_bytes(PICTURE, "BMP"), "not a JPEG, PNG, WEBP or GIF picture"),
    "page": (b"<html><title>Sorry</title></html>", "not a JPEG, PNG, WEBP or GIF picture"),
    "empty": (b"", "not a JPEG, PNG, WEBP or GIF picture"),
}


def test_unusable_pictures_get_the_mean_of_the_others_and_are_listed(folder):
    pictures = folder / "pictures"
    expected = dict.fromkeys(range(10 + len(REFUSED), N_ITEMS), "no picture")
    for item, (content, reason) in enumerate(REFUSED.values(), 10):
        (pictures / f"A{item}.jpg").write_bytes(content)
        expected[item] = reason
    (pictures / "A9.png").unlink()
    expected[9] = "no picture"
    (pictures / "A30.txt").write_bytes(as_bytes(PICTURE, "PNG"))
    (pictures / "A31.png").mkdir()
    assert histogram(folder, "--max_pixels", "5000", "--batch_size", "4", "--shard_size", "8") == 0
    found = reasons(folder)
    assert list(found) == sorted(expected)
    for item, reason in expected.items():
        assert reason in found[item]
    table = np.load(folder / "image_feat.npy")
    assert (table.shape, table.dtype) == ((N_ITEMS, 64), np.float32)
    for item in range(9):
        assert np.array_equal(table[item], encoders.histogram(Image.open(pictures / f"A{item}.png")))
    np.testing.assert_allclose(table[9:], np.tile(table[:9].mean(0), (N_ITEMS - 9, 1)), atol=1e-6)
    # a picture that is added later is used, and no longer listed
    (pictures / "A35.png").write_bytes((pictures / "A0.png").read_bytes())
    assert histogram(folder, "--max_pixels", "5000", "--overwrite") == 0
    assert set(found) - set(reasons(folder)) == {35}
    table = np.load(folder / "image_feat.npy")
    assert np.array_equal(table[35], table[0])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
def test_pictures_are_opened_in_rgb_whatever_their_suffix(tmp_path, kind):
    path = tmp_path / "A0.jpg"
    path.write_bytes(as_bytes(Image.new("RGB", (8, 6), (255, 0, 0)), kind))
    picture = open_image(path, 100)
    assert (picture.mode, picture.size) == ("RGB", (8, 6))
    assert np.abs(np.asarray(picture).astype(int) - [255, 0, 0]).max() < 8
    with pytest.raises(UnusableInputError, match="8 x 6 pixels: more than --max_pixels 47"):
        open_image(path, 47)


def test_transparency_becomes_white_and_an_animation_its_first_frame(tmp_path):
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    clear.paste((0, 0, 255, 255), (0, 0, 4, 8))
    clear.save(tmp_path / "a.png")
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.paste(1, (0, 0, 4, 8))
    palette.save(tmp_path / "b.gif", transparency=0)
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "c.gif", save_all=True, append_images=frames[1:])
    for name, left, right in (("a.png", (0, 0, 255), 255), ("b.gif", (255, 0, 0), 255), ("c.gif", *[(255, 0, 0)] * 2)):
        pixels = np.asarray(open_image(tmp_path / name, 100))
        assert (pixels[:, :4] == left).all()
        assert (pixels[:, 4:] == right).all()


SILENCE = 0  # status of a response that never comes


class Handler(http.server.BaseHTTPRequestHandler):
    """Respond with `server.responses` of a path, (status, headers, content), in turn, and then with the last one."""

    def do_GET(self):
        self.server.requested.append(self.path)
        responses = self.server.responses.get(self.path, [(404, {}, b"")])
        status, headers, content = responses[min(self.server.requested.count(self.path), len(responses)) - 1]
        if status == SILENCE:
            self.server.closing.wait()
            return
        self.send_response(status)
        for name, value in ({"Content-Length": len(content)} | headers).items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("preprocess.modalities.download.BACKOFF", 0.01)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.responses, server.requested, server.closing = {}, [], threading.Event()
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.closing.set()
    server.shutdown()
    server.server_close()


def test_downloads_retry_transient_errors_and_list_failures(folder, server, tmp_path):
    content = as_bytes(PICTURE, "PNG")
    other = as_bytes(PICTURE.resize((9, 9)), "JPEG")
    (tmp_path / "secret.png").write_bytes(content)
    secret = {"Location": (tmp_path / "secret.png").as_uri()}
    server.responses = {
        "/good": [(200, {}, content)],
        "/busy": [(503, {"Retry-After": "0"}, b""), (429, {}, b""), (200, {}, other)],
        "/down": [(500, {}, b"")],
        "/moved": [(302, {"Location": "/good"}, b"")],
        "/secret": [(302, secret, b"")],
        "/large": [(200, {}, content + bytes(5000))],
        "/cut": [(200, {"Content-Length": len(content) + 5}, content), (200, {}, content)],
        "/page": [(200, {}, b"<html>")],
    }
    paths = ["/good", "/busy", "/down", "/moved", "/secret", "/large", "/cut", "/page", "/gone"]
    urls = {10 + i: server.url + path for i, path in enumerate(paths)}
    urls |= {0: server.url + "/there", 20: "ftp://127.0.0.1/x.png", 21: "x.png", 22: secret["Location"]}
    write_urls(folder, urls)
    flags = ["--fetch", "--retries", "2", "--max_bytes", "5000"]
    assert len(content) < 5000
    assert histogram(folder, *flags) == 0
    found = reasons(folder)
    expected = {
        12: "not fetched: answer 500 (Internal Server Error)",
        14: "not fetched: answer 302",
        15: "not fetched: more than --max_bytes 5000",
        17: "not fetched: not a JPEG, PNG, WEBP or GIF picture",
        18: "not fetched: answer 404 (Not Found)",
        20: "not fetched: unknown url type: ftp",
        21: "not fetched: unknown url type: 'x.png'",
        22: "not fetched: unknown url type: file",
        **dict.fromkeys([19, *range(23, N_ITEMS)], "no picture"),
    }
    assert list(found) == sorted(expected)
    for item, reason in expected.items():
        assert found[item].startswith(reason), found[item]
    n_requests = {path: server.requested.count(path) for path in [*paths, "/there"]}
    attempts = {"/busy": 3, "/down": 3, "/cut": 2, "/good": 2, "/there": 0}
    assert n_requests == {path: attempts.get(path, 1) for path in n_requests}
    pictures = folder / "pictures"
    names = {"A10.png": content, "A11.jpg": other, "A13.png": content, "A16.png": content}
    assert {path.name for path in pictures.iterdir()} == names.keys() | {f"A{item}.png" for item in range(10)}
    assert all((pictures / name).read_bytes() == expected for name, expected in names.items())
    # again: cached pictures are not requested, failed ones are
    server.responses = {"/gone": [(200, {}, other)]}
    server.requested.clear()
    assert histogram(folder, *flags, "--overwrite") == 0
    assert sorted(server.requested) == ["/down", "/gone", "/large", "/page", "/secret"]
    assert 18 not in reasons(folder)


def test_silent_server_times_out(folder, server):
    server.responses = {"/silent": [(SILENCE, {}, b"")]}
    write_urls(folder, {10: server.url + "/silent"})
    assert histogram(folder, "--fetch", "--timeout", "0.3", "--retries", "1") == 0
    assert reasons(folder)[10] == "not fetched: timed out"
    assert server.requested == ["/silent"] * 2


def test_downloading_ends_with_one_line_without_a_connection(folder, server, monkeypatch, capsys):
    monkeypatch.setattr("preprocess.modalities.download.MAX_CONSECUTIVE_FAILURES", 6)
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as closed:
        closed_url = f"http://127.0.0.1:{closed.server_port}/x"
    server.responses = {"/good": [(200, {}, as_bytes(PICTURE, "PNG"))]}
    # each success resets the count
    urls = {item: server.url + "/good" if item in (10, 15, 18) else closed_url for item in range(10, N_ITEMS)}
    write_urls(folder, urls)
    assert histogram(folder, "--fetch", "--retries", "1", "--connections", "1") == 2
    captured = capsys.readouterr()
    assert "6 pictures in a row could not be fetched" in captured.err
    assert captured.err.count("\n") == 1
    assert (folder / "pictures" / "A18.png").is_file()
    assert not (folder / "image_feat.npy").exists()
