"""Small raw files of the three Amazon releases, with the same content."""

import gzip
import json

DAY = 86_400

# user, item, day: u1 to u3 buy A, B and C; u4 buys A and B; X is bought once
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
        entry = {"asin": asin, "title": title, "brand": brand, "description": [description], "category": categories}
        images = [image] if image else []
        return entry | {"imageURLHighRes": images, "imageURL": [f"{url}-small" for url in images]}
    entry = {"parent_asin": asin, "title": title, "store": brand or None, "categories": categories}
    images = [{"thumb": image + "-small", "large": image, "hi_res": None, "variant": "MAIN"}] if image else []
    return entry | {"description": [description] if description else [], "images": images}


def write(path, entries, release, gzipped=False):
    lines = "".join((repr(entry) if release == 2014 else json.dumps(entry)) + "\n" for entry in entries)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(lines.encode()) if gzipped else lines.encode())
    return path


def raw(root, release=2014, purchases=PURCHASES, items=ITEMS):
    """Write reviews and metadata under the release's names, and return their folder."""
    name = {2014: "reviews_Small_5", 2018: "Small_5", 2023: "Small"}[release]
    suffix = {2014: "json.gz", 2018: "json", 2023: "jsonl.gz"}[release]
    gzipped = release != 2018
    folder = root / "raw"
    reviews = [review(release, *purchase) for purchase in purchases]
    metadata = [meta(release, asin, *fields) for asin, fields in items.items()]
    write(folder / f"{name}.{suffix}", reviews, release, gzipped)
    write(folder / f"meta_Small.{suffix}", metadata, release, gzipped)
    return folder
