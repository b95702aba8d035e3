"""A folder of images is rows in the order of their paths, or one sentence about the first file."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unveil.data.infer import infer
from unveil.data.read import read
from unveil.errors import InputError

GREY = np.arange(12, dtype=np.uint8).reshape(3, 4)
COLOUR = np.arange(36, dtype=np.uint8).reshape(3, 4, 3)


def save(path: Path, pixels: np.ndarray, mode: str | None = None) -> None:
    path.parent.mkdir(exist_ok=True, parents=True)
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".tiff", ".PNG"])
@pytest.mark.parametrize("pixels", [GREY, COLOUR])
def test_pixels_come_as_they_were_saved(tmp_path: Path, suffix: str, pixels: np.ndarray) -> None:
    save(tmp_path / f"a{suffix}", pixels)
    save(tmp_path / f"b{suffix}", pixels[::-1])
    rows = read(tmp_path)
    np.testing.assert_array_equal(rows.values, [pixels, pixels[::-1]])
    assert rows.values.dtype == np.uint8
    assert (rows.names, rows.labels, rows.source) == ((), {}, str(tmp_path))


@pytest.mark.parametrize(
    ("name", "pixels"), [("a.pgm", GREY), ("a.ppm", COLOUR), ("a.jpg", GREY), ("a.jpeg", COLOUR)]
)
def test_other_formats(tmp_path: Path, name: str, pixels: np.ndarray) -> None:
    save(tmp_path / name, pixels)
    assert read(str(tmp_path)).event_shape == pixels.shape


def test_webp(tmp_path: Path) -> None:
    Image.fromarray(COLOUR).save(tmp_path / "a.webp", lossless=True)
    np.testing.assert_array_equal(read(tmp_path).values[0], COLOUR)


def test_the_order_is_that_of_the_paths_and_folders_are_labels(tmp_path: Path) -> None:
    for level, name in enumerate(["b/1.png", "a/2.png", "a/10.png", "c/0.png"]):
        save(tmp_path / name, np.full((2, 2), level, np.uint8))
    rows = read(tmp_path)
    assert rows.values[:, 0, 0].tolist() == [2, 1, 0, 3]
    assert rows.labels["label"].tolist() == ["a", "a", "b", "c"]
    assert read(tmp_path, given=["label"]).given["label"].tolist() == ["a", "a", "b", "c"]


@pytest.mark.parametrize("names", [["a.png", "b/c.png"], ["a/b/c.png", "a/b/d.png"]])
def test_images_at_other_depths_have_no_label(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        save(tmp_path / name, GREY)
    assert read(tmp_path).labels == {}
    assert len(read(tmp_path)) == 2


def test_16_bits_stay_16_bits(tmp_path: Path) -> None:
    deep = np.array([[0, 300], [65_535, 7]], np.uint16)
    for name in ("a.png", "b.tif"):
        save(tmp_path / name, deep)
    rows = read(tmp_path)
    assert rows.values.dtype == np.uint16
    np.testing.assert_array_equal(rows.values, [deep, deep])


def test_a_folder_of_deep_images_has_their_depth(tmp_path: Path) -> None:
    for row in range(10):
        save(tmp_path / f"{row}.png", np.array([[row, 60_000 - row]], np.uint16))
    assert infer(read(tmp_path)).columns[0].high == 65_535


def test_black_and_white_is_0_and_1(tmp_path: Path) -> None:
    save(tmp_path / "a.png", 255 * (GREY % 2), "1")
    np.testing.assert_array_equal(read(tmp_path).values[0], GREY % 2)


def test_palettes_are_looked_up(tmp_path: Path) -> None:
    image = Image.fromarray(GREY % 3)
    image.putpalette([9, 8, 7, 1, 2, 3, 255, 0, 128])
    image.save(tmp_path / "a.png")
    colours = np.array([[9, 8, 7], [1, 2, 3], [255, 0, 128]])
    np.testing.assert_array_equal(read(tmp_path).values[0], colours[GREY % 3])


@pytest.mark.parametrize("pixels", [GREY[..., None], COLOUR])
def test_an_alpha_that_hides_nothing_is_left_out(tmp_path: Path, pixels: np.ndarray) -> None:
    opaque = np.concatenate([pixels, np.full((3, 4, 1), 255, np.uint8)], axis=-1)
    save(tmp_path / "a.png", opaque)
    np.testing.assert_array_equal(read(tmp_path).values[0], pixels.squeeze())


def test_photographs_are_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter: shown with its columns as rows
    Image.fromarray(GREY).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read(tmp_path).values[0], np.rot90(GREY, -1))


def test_what_is_clearly_no_image_is_passed_over(tmp_path: Path) -> None:
    save(tmp_path / "a.png", GREY)
    for name in ("Thumbs.db", ".DS_Store", "notes.txt", "labels.JSON", ".cache/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"?")
    assert len(read(tmp_path)) == 1


def transparent(path: Path) -> None:
    save(path, np.full((3, 4, 4), 128, np.uint8))


def two_pictures(path: Path) -> None:
    first, second = Image.fromarray(GREY), Image.fromarray(GREY[::-1])
    first.save(path, format="TIFF", save_all=True, append_images=[second])


def cut(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    save(path, noise)
    path.write_bytes(path.read_bytes()[:-900])


def deep_colours(path: Path) -> None:
    """A PNG of one red pixel of 16 bits, which Pillow does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(b"\0" + struct.pack(">HHH", 65_535, 0, 0)))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("name", "make", "sentence"),
    [
        ("b.png", lambda path: save(path, GREY.T.copy()), r"to be 4 x 3 .*b\.png is 3 x 4"),
        ("b.png", lambda path: save(path, COLOUR), r"in grey of uint8, .*b\.png is .* in colour"),
        ("b.png", lambda path: save(path, GREY.astype(np.uint16)), r"b\.png is .* of uint16; br"),
        ("b.png", cut, r"expected a whole image, but .*b\.png cannot be read .*; it may be trunc"),
        ("b.png", lambda path: path.write_bytes(b""), r"image, but .*b\.png cannot be read"),
        ("b.png", lambda path: path.write_text("hello"), r"b\.png cannot be read \(Unidentified"),
        ("b.png", transparent, r"without transparency, but .*b\.png has transparent pixels; lay"),
        ("b.png", deep_colours, r"colours of 8 bits each, but those of .*b\.png have 16; convert"),
        ("b.tif", two_pictures, r"one picture in each file, but .*b\.tif holds 2; save each"),
        ("b.jpg", lambda path: save(path, COLOUR, "CMYK"), r"b\.jpg is of mode CMYK; convert it"),
        ("b.gif", lambda path: path.write_text(""), r"one of \.png, .* but .*b\.gif lies among"),
        ("b", lambda path: path.write_text(""), r"b lies among them; convert it, or move it"),
    ],
)  # fmt: skip
def test_images_that_are_refused(
    tmp_path: Path, name: str, make: Callable[[Path], Any], sentence: str
) -> None:
    save(tmp_path / "a.png", GREY)
    make(tmp_path / name)
    with pytest.raises(InputError, match=sentence):
        read(tmp_path)


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a\n1\n")
    with pytest.raises(InputError, match="which holds no image, is a folder; name a file inside"):
        read(tmp_path)
