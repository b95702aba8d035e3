"""From a folder of images to rows: one image a row, its folder's name its label."""

from pathlib import Path
from typing import Any

import numpy as np

from unveil.data.read import Rows, listed
from unveil.errors import InputError

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
# What lies beside images and is clearly none, like anything whose name begins with a dot.
OTHERS = (".txt", ".md", ".json", ".csv", ".xml", ".yaml", ".yml", ".html", ".db", ".ini", ".log")
LABEL = "label"
MODES = {"1": np.uint8, "L": np.uint8, "RGB": np.uint8, "F": np.float32}  # Pillow's modes
DEEP = ("I", "I;16", "I;16L", "I;16B")  # grey of 16 bits, which some versions widen to 32


def read_folder(folder: Path) -> Rows:
    """The images below a folder, in the order of their paths.

    Grey images become (row, h, w), colours (row, h, w, 3), of uint8, or uint16 where a grey level
    has 16 bits; black-and-white ones are 0 and 1, palettes are looked up, and photographs are
    turned as their camera was. Where every image lies one level deep, the name of its folder is
    its `label`. Hidden files and notes beside the images (OTHERS) are passed over.

    Raises InputError, naming the first file, for an image that cannot be read, has transparent
    pixels, or differs from the first in size or mode, and for any file that might be data but is
    no image.

    >>> from PIL import Image
    >>> folder = getfixture("tmp_path")
    >>> for level in (255, 0):
    ...     (folder / f"of_{level}").mkdir()
    ...     Image.new("L", (3, 2), level).save(folder / f"of_{level}" / "a.png")
    >>> rows = read_folder(folder)
    >>> rows.values.shape, rows.labels["label"].tolist()
    ((2, 2, 3), ['of_0', 'of_255'])
    """
    paths = _images_below(folder)
    first = _pixels(paths[0])
    values = np.empty((len(paths), *first.shape), first.dtype)
    for row, path in enumerate(paths):
        values[row] = _require_alike(_pixels(path), path, first, paths[0])
    parts = [path.relative_to(folder).parts for path in paths]
    if any(len(part) != 2 for part in parts):
        return Rows(values, source=str(folder))
    return Rows(values, labels={LABEL: np.array([part[0] for part in parts])}, source=str(folder))


def _images_below(folder: Path) -> list[Path]:
    """The images in order, once there are some and nothing else that may be data."""
    files = [
        path
        for path in sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).parts)
        if path.is_file() and not _is_hidden(path.relative_to(folder))
    ]
    images = [path for path in files if path.suffix.lower() in IMAGES]
    if not images:
        raise InputError(
            f"expected a file or a folder of images, but {folder}, which holds no image, is a "
            f"folder; name a file inside it"
        )
    strange = [path for path in files if path.suffix.lower() not in (*IMAGES, *OTHERS)]
    if strange:
        raise InputError(
            f"expected images that end in one of {listed(IMAGES)}, but {strange[0]} lies among "
            f"them; convert it, or move it elsewhere"
        )
    return images


def _is_hidden(path: Path) -> bool:
    return any(part.startswith((".", "__")) for part in path.parts)


def _pixels(path: Path) -> np.ndarray:
    """The pixels of one image, (h, w) or (h, w, 3)."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            _require_one_picture(image, path)
            # Pillow would halve colours of 16 bits without a word.
            deep_colours = image.mode == "RGB" and ";16" in str(image.tile)
            image.load()
            upright = ImageOps.exif_transpose(image)
            pixels = _in_own_mode(upright, path)
    except InputError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise InputError(
            f"expected a whole image, but {path} cannot be read ({type(error).__name__}: "
            f"{' '.join(str(error).split()).rstrip('.')}); it may be truncated or damaged, so "
            f"write or fetch it again"
        ) from error
    if deep_colours:
        raise InputError(
            f"expected colours of 8 bits each, but those of {path} have 16; convert the images to "
            f"8 bits, or put their levels into an .npy of uint16"
        )
    return pixels


def _in_own_mode(image: Any, path: Path) -> np.ndarray:
    """Pixels in their compact dtype; palettes looked up, an alpha that hides nothing left out."""
    if image.mode in DEEP:
        levels = np.asarray(image).astype(np.int64)
        if levels.min() >= 0 and levels.max() <= np.iinfo(np.uint16).max:
            return levels.astype(np.uint16)
    if image.has_transparency_data:
        return _opaque(image.convert("RGBA" if image.mode not in ("LA", "La") else "LA"), path)
    if image.mode == "P":
        image = image.convert("RGB")
    if image.mode not in MODES:
        raise InputError(
            f"expected grey or RGB images of 8 bits, or grey ones of 16, but {path} is of mode "
            f"{image.mode}; convert it to one of these"
        )
    return np.asarray(image).astype(MODES[image.mode])


def _opaque(image: Any, path: Path) -> np.ndarray:
    """The pixels without their alpha, once it hides none."""
    pixels = np.asarray(image)
    if (pixels[..., -1] < 255).any():
        raise InputError(
            f"expected images without transparency, but {path} has transparent pixels; lay the "
            f"images on a background of one colour first"
        )
    return np.squeeze(pixels[..., :-1], -1) if pixels.shape[-1] == 2 else pixels[..., :-1]


def _require_one_picture(image: Any, path: Path) -> None:
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        raise InputError(
            f"expected one picture in each file, but {path} holds {frames}; save each as a file of "
            f"its own"
        )


def _require_alike(
    pixels: np.ndarray, path: Path, first: np.ndarray, first_path: Path
) -> np.ndarray:
    if (pixels.shape, pixels.dtype) != (first.shape, first.dtype):
        raise InputError(
            f"expected all images to be {_described(first)}, as {first_path.name} is, but {path} "
            f"is {_described(pixels)}; bring the images to one size and mode first"
        )
    return pixels


def _described(pixels: np.ndarray) -> str:
    """
    >>> _described(np.zeros((2, 3, 3), np.uint8))
    '3 x 2 pixels in colour of uint8'
    """
    height, width, *channels = pixels.shape
    return f"{width} x {height} pixels in {'colour' if channels else 'grey'} of {pixels.dtype}"
