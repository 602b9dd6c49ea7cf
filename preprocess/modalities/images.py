"""Find item pictures on disk, and open files that may hold anything."""

import warnings
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from preprocess.modalities.shards import UnusableInputError
from preprocess.raw.item_files import IMAGE_SUFFIXES

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
NOT_AN_IMAGE = f"not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} picture"
MAX_ASPECT_RATIO = 20  # encoders scale the shorter side to a fixed size, so a long strip would become huge


def find_images(folder: Path) -> dict[str, Path]:
    """Return the pictures of a folder by ASIN, which is the file's name; of several the one with the first suffix."""
    found = [path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()]
    found.sort(key=lambda path: (-IMAGE_SUFFIXES.index(path.suffix.lower()), path.name))
    return {path.stem: path for path in found}  # a later one replaces an earlier one


def open_image(path: Path, max_pixels: int) -> Image.Image:
    """Open a picture in RGB, on white where it is transparent; of an animation the first frame.

    Format and size are read from the header; a picture refused for them is never decoded.

    Raises:
        UnusableInputError: giving the reason.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large sizes and of damage that it can read past
            with Image.open(path, formats=FORMATS) as image:
                _check_size(*image.size, max_pixels)
                return _to_rgb(image)
    except UnusableInputError:
        raise
    except UnidentifiedImageError:
        raise UnusableInputError(NOT_AN_IMAGE) from None
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


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
