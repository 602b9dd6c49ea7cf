"""Small raw files of three Amazon releases, with the same content."""

import gzip
import json

DAY = 86_400

# user, item, day: u1 … u3 buy A, B and C; u4 buys A and B; X is bought once.
PURCHASES = [
    *(("u3", "C", 3), ("u1", "B", 1), ("u1", "A", 2), ("u1", "C", 3), ("u2", "C", 1), ("u2", "A", 1), ("u2", "B", 0)),
    *(("u3", "A", 1), ("u3", "B", 2), ("u4", "A", 5), ("u4", "B", 6), ("u1", "X", 0), ("u1", "B", 1), ("u2", "C", 9)),
]
ITEMS = {
    "A": (
        "A <b>red</b>\nlamp",
        "Lux & Co",
        ["Home", "Lamps"],
        "Bright &amp; <br>warm<script>x()</script>.",
        "http://x/a.jpg",
    ),
    "B": ("Blue 'cup'", "", ["Home", "Cups"], "", ""),
    "X": ("Unsold", "", [], "", ""),
}


def review(release, user, item, day):
    if release == 2023:
        return {"user_id": user, "parent_asin": item, "asin": item + "1", "timestamp": day * DAY * 1000, "rating": 5.0}
    return {"reviewerID": user, "asin": item, "overall": 5.0, "unixReviewTime": day * DAY, "reviewText": "it's good"}


def meta(release, asin, title, brand, categories, description, image):
    if release == 2014:
        entry = {"asin": asin, "title": title, "brand": brand, "categories": [categories, categories[:1]]}
        return entry | ({"imUrl": image, "description": description} if image else {})
    if release == 2018:
        image = [image] * bool(image)
        own = {"category": categories, "imageURLHighRes": image, "imageURL": [f"{i}-small" for i in image]}
        return {"asin": asin, "title": title, "brand": brand, "description": [description]} | own
    images = [{"thumb": image + "-small", "large": image, "hi_res": None, "variant": "MAIN"}] * bool(image)
    entry = {"parent_asin": asin, "title": title, "store": brand or None, "categories": categories}
    return entry | {"description": [description] * bool(description), "images": images}


def write(path, entries, release, zipped=False):
    lines = "".join((repr(e) if release == 2014 else json.dumps(e)) + "\n" for e in entries)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(lines.encode()) if zipped else lines.encode())
    return path


def raw(place, release=2014, purchases=PURCHASES, items=ITEMS):
    """Files under the release's own names."""
    zipped = release != 2018
    end = ("jsonl" if release == 2023 else "json") + ".gz" * zipped
    name = {2014: "reviews_Small_5", 2018: "Small_5", 2023: "Small"}[release]
    folder = place / "raw"
    reviews = [review(release, *p) for p in purchases]
    write(folder / f"{name}.{end}", reviews, release, zipped)
    write(folder / f"meta_Small.{end}", [meta(release, asin, *rest) for asin, rest in items.items()], release, zipped)
    return folder
