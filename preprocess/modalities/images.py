"""Item pictures on disk: finding them, and opening what may be anything."""

import warnings
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from preprocess.modalities.shards import UnusableInputError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif")  # the earlier one where an item has several
FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
NO_PICTURE = f"not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} picture"
MAX_ASPECT_RATIO = (
    20  # times a picture's width that it may be high, or the other way round: an encoder scales the shorter side
)


def find_images(folder: Path) -> dict[str, Path]:
    """ASIN to picture, from the files' names."""
    found = [path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file()]
    found.sort(key=lambda path: (-SUFFIXES.index(path.suffix.lower()), path.name))
    return {path.stem: path for path in found}


def open_image(path: Path, max_pixels: int) -> Image.Image:
    """A picture in RGB, on white where it is transparent; the first one of an animation.

    Format and size are read from its header, and a picture that is refused for them is never decoded.

    Raises:
        Unusable: saying why.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, of sizes that are refused here and of damage it can read past
            with Image.open(path, formats=FORMATS) as picture:
                _check_size(*picture.size, max_pixels)
                return _to_rgb(picture)
    except UnusableInputError:
        raise
    except UnidentifiedImageError:
        raise UnusableInputError(NO_PICTURE) from None
    except Image.DecompressionBombError as error:
        raise UnusableInputError(f"more than --max_pixels {max_pixels}: {error}") from error
    except Exception as error:  # Pillow raises many kinds for a damaged file
        raise UnusableInputError(f"broken: {error}") from error


def _check_size(width: int, height: int, max_pixels: int) -> None:
    size = f"{width} x {height} pixels"
    if width * height > max_pixels:
        raise UnusableInputError(f"{size}: more than --max_pixels {max_pixels}")
    if min(width, height) < 2:
        raise UnusableInputError(f"{size}: a placeholder")
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise UnusableInputError(f"{size}: more than {MAX_ASPECT_RATIO} times as long as wide")


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")
