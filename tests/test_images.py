"""Pictures: any file becomes the right colours the right way up, or an error that names it."""

import io
import math
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from bridge import images
from bridge.images import (
    AnimatedImageWarning,
    ImageError,
    contact_sheet,
    flatten,
    read_image,
    save_png,
    slug,
    to_pil,
    to_tensor,
)

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def halves(left: tuple[int, ...] = RED, right: tuple[int, ...] = BLUE, mode: str = "RGB") -> Image.Image:
    """16 x 8 pixels in two colours."""
    image = Image.new(mode, (16, 8), right)
    image.paste(left, (0, 0, 8, 8))
    return image


def noise(width: int = 64, height: int = 64) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


# reading


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_pixels_are_read_as_they_are(kind):
    assert np.array_equal(np.asarray(read_image(encoded(noise(), kind))), np.asarray(noise()))


def test_a_path_and_its_bytes_give_one_picture(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(noise(), "PNG"))
    from_path, from_bytes = read_image(tmp_path / "a.png"), read_image((tmp_path / "a.png").read_bytes())
    assert from_path.tobytes() == from_bytes.tobytes()


def test_an_empty_file_is_named(tmp_path):
    (tmp_path / "empty.png").touch()
    with pytest.raises(ImageError, match=r"empty\.png: .*the file is empty"):
        read_image(tmp_path / "empty.png")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_a_truncated_file_is_named(tmp_path, kind):
    data = encoded(noise(), kind)
    (tmp_path / "half").write_bytes(data[: len(data) // 2])
    with pytest.raises(ImageError, match="half: "):
        read_image(tmp_path / "half")


@pytest.mark.parametrize("data", [b"not a picture", b"\0" * 1000, b"\x89PNG\r\n\x1a\n", b"<svg/>"])
def test_what_is_no_picture_is_refused(data):
    with pytest.raises(ImageError, match=f"<{len(data)} bytes>"):
        read_image(data)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ImageError, match=r"nothing\.png"):
        read_image(tmp_path / "nothing.png")


def test_a_picture_format_that_runs_programs_is_refused():
    with pytest.raises(ImageError, match="no picture of a known format"):
        read_image(encoded(halves(), "EPS"))


def test_transparent_pixels_show_the_background_not_their_hidden_colour():
    picture = halves((*RED, 255), (0, 255, 0, 0), "RGBA")
    for background in (WHITE, (10, 20, 30)):
        read = read_image(encoded(picture, "PNG"), background=background)
        assert (read.getpixel((0, 0)), read.getpixel((15, 0))) == (RED, background)


def test_half_transparent_pixels_are_blended():
    read = read_image(encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 128)), "PNG"))
    assert read.getpixel((0, 0)) == (127, 127, 127)


def test_a_transparent_palette_colour_shows_the_background():
    picture = halves().quantize(2)
    data = encoded(picture, "PNG", transparency=picture.getpixel((15, 0)))
    read = read_image(data)
    assert (read.getpixel((0, 0)), read.getpixel((15, 0))) == (RED, WHITE)


def test_a_transparent_grey_shows_the_background():
    data = encoded(halves(0, 100, "L"), "PNG", transparency=100)
    assert read_image(data, background=BLUE).getpixel((15, 0)) == BLUE


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_to_eight(kind):
    values = np.array([[0, 257, 128 * 257, 65535]], dtype=np.uint16)
    read = np.asarray(read_image(encoded(Image.fromarray(values), kind)))
    assert read[0, :, 0].tolist() == [0, 1, 128, 255]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def raw_png(depth: int, colour: int, row: bytes, width: int = 2, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of one row, as no encoder here writes it; colour 0 is grey, 2 RGB, 4 grey with alpha."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, 1, depth, colour, 0, 0, 0)), *chunks]
    parts += [(b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def test_sixteen_bit_colour_is_scaled_to_eight():
    data = raw_png(16, 2, struct.pack(">HHH", 65535, 128 * 257, 0), 1)
    assert read_image(data).getpixel((0, 0)) == (255, 128, 0)


@pytest.mark.parametrize(
    ("depth", "colour", "row", "hidden"),
    [
        (16, 0, struct.pack(">HH", 1000, 65535), (1000,)),
        (16, 0, struct.pack(">HH", 0, 65535), (0,)),
        (16, 2, struct.pack(">6H", 1000, 2000, 3000, 65535, 65535, 0), (1000, 2000, 3000)),
        (16, 2, struct.pack(">6H", 0, 0, 0, 65535, 65535, 0), (0, 0, 0)),
        (8, 0, bytes([9, 200]), (9,)),
        (8, 2, bytes([1, 2, 3, 9, 9, 9]), (1, 2, 3)),
        (4, 0, bytes([0x9F]), (9,)),
        (2, 0, bytes([0b10_11_0000]), (2,)),
        (1, 0, bytes([0b01_000000]), (0,)),
        (1, 0, bytes([0b10_000000]), (1,)),
    ],
)
def test_a_transparent_colour_is_transparent_at_every_depth(depth, colour, row, hidden):
    data = raw_png(depth, colour, row, 2, (b"tRNS", struct.pack(f">{len(hidden)}H", *hidden)))
    assert [pixel[3] for pixel in read_image(data, background=None).get_flattened_data()] == [0, 255]
    assert read_image(data, background=BLUE).getpixel((0, 0)) == BLUE


TEXT = b"x" * 3_000_000


@pytest.mark.parametrize(
    "text",
    [
        (b"tEXt", b"parameters\0" + TEXT),
        (b"zTXt", b"workflow\0\0" + zlib.compress(TEXT)),
        (b"iTXt", b"prompt\0\1\0\0\0" + zlib.compress(TEXT)),
        (b"iTXt", b"prompt\0\0\0\0\0" + TEXT),
        (b"iCCP", b"profile\0\0" + zlib.compress(TEXT)),
    ],
    ids=lambda text: text[0].decode(),
)
def test_a_long_text_in_a_png_is_no_hindrance(text):
    assert read_image(raw_png(8, 2, bytes([1, 2, 3]), 1, text)).getpixel((0, 0)) == (1, 2, 3)


def test_a_damaged_png_with_a_text_is_still_refused():
    data = raw_png(8, 2, bytes(range(192)), 64, (b"tEXt", b"parameters\0x"))
    with pytest.raises(ImageError):
        read_image(data[:-60])


@pytest.mark.parametrize("values", [np.full((2, 2), 1e6, np.int32), np.full((2, 2), 0.5, np.float32)])
def test_wider_pixels_are_refused(values):
    with pytest.raises(ImageError, match="expected 8 or 16"):
        read_image(encoded(Image.fromarray(values), "TIFF"))


@pytest.mark.parametrize("kind", ["TIFF", "JPEG"])
def test_cmyk_has_the_right_colours(kind):
    ink = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    assert np.abs(np.subtract(read_image(encoded(ink, kind)).getpixel((4, 4)), RED)).max() <= 3


@pytest.mark.parametrize("profile", [b"nonsense", ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()])
def test_cmyk_with_an_unusable_profile_has_plain_colours(profile):
    ink = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    assert read_image(encoded(ink, "TIFF", icc_profile=profile)).getpixel((4, 4)) == RED


def test_a_palette_has_the_right_colours():
    assert read_image(encoded(halves().quantize(2), "GIF")).getpixel((0, 0)) == RED


def test_one_bit_is_black_and_white():
    read = read_image(encoded(halves(1, 0, "1"), "PNG"))
    assert (read.getpixel((0, 0)), read.getpixel((15, 0))) == (WHITE, (0, 0, 0))


@pytest.mark.parametrize(("orientation", "corner"), [(1, (0, 0)), (3, (15, 7)), (6, (7, 0)), (8, (0, 15))])
def test_a_rotated_picture_is_turned_upright(orientation, corner):
    exif = Image.Exif()
    exif[0x0112] = orientation
    read = read_image(encoded(halves(), "PNG", exif=exif))
    assert read.getpixel(corner) == RED
    assert read.getpixel((read.width - 1 - corner[0], read.height - 1 - corner[1])) == BLUE


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_an_animation_gives_its_first_frame_and_says_so(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in (WHITE, RED, BLUE)]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
    with pytest.warns(AnimatedImageWarning, match="first frame"):
        assert read_image(data).getpixel((4, 4)) == WHITE


def test_the_animation_warning_is_shown_once():
    frames = [Image.new("RGB", (8, 8), colour) for colour in (WHITE, RED)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            read_image(data)
    assert len(caught) == 1


def bomb(side: int) -> bytes:
    """A PNG whose header says side x side and which holds nothing."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    length, crc = struct.pack(">I", len(header)), struct.pack(">I", zlib.crc32(b"IHDR" + header))
    return b"\x89PNG\r\n\x1a\n" + length + b"IHDR" + header + crc + struct.pack(">I", 0) + b"IDAT" + b"\x35\xaf\x06\x1e"


@pytest.mark.parametrize("side", [8_000, 10_000, 60_000])
def test_a_decompression_bomb_is_refused_from_its_header(side):
    with pytest.raises(ImageError, match=r"pixels"):
        read_image(bomb(side))


def test_the_pixel_limit_is_the_callers():
    data = encoded(noise(20, 10), "PNG")
    assert read_image(data, max_pixels=200).size == (20, 10)
    with pytest.raises(ImageError, match="20 x 10 pixels are more than max_pixels=199"):
        read_image(data, max_pixels=199)


def test_a_size_keeps_the_shape_and_fills_with_background():
    read = read_image(encoded(Image.new("RGB", (16, 8), RED), "PNG"), size=8, background=BLUE)
    assert read.size == (8, 8)
    column = [read.getpixel((4, y)) for y in range(8)]
    assert column == [BLUE] * 2 + [RED] * 4 + [BLUE] * 2


def test_a_picture_of_that_size_is_not_resampled():
    assert read_image(encoded(noise(), "PNG"), size=64).tobytes() == noise().tobytes()


def test_a_very_long_picture_can_be_fitted():
    assert read_image(encoded(noise(1, 500), "PNG"), size=16).size == (16, 16)


def test_a_size_below_one_is_refused():
    with pytest.raises(ValueError, match="size: expected 1 or more"):
        read_image(encoded(noise(), "PNG"), size=0)


# tensors


def test_pixels_are_in_the_unit_range():
    x = to_tensor([halves()])
    assert x.shape == (1, 3, 8, 16)
    assert x[0, :, 0, 0].tolist() == [1, 0, 0]


def test_pictures_survive_the_way_to_tensors_and_back():
    pictures = [noise(), Image.new("RGB", (64, 64), BLUE)]
    assert [p.tobytes() for p in to_pil(to_tensor(pictures))] == [p.tobytes() for p in pictures]


def test_pixels_are_rounded_and_cut_off():
    x = torch.tensor([-0.5, 0.4 / 255, 0.6 / 255, 1.5]).reshape(1, 1, 1, 4).expand(1, 3, 1, 4)
    assert np.asarray(to_pil(x)[0])[0, :, 0].tolist() == [0, 0, 1, 255]


@pytest.mark.parametrize("pictures", [[], [noise(), noise(32)], [noise().convert("L")]])
def test_unlike_pictures_make_no_tensor(pictures):
    with pytest.raises(ValueError, match="images: expected one or more RGB pictures of one size"):
        to_tensor(pictures)


@pytest.mark.parametrize("x", [torch.zeros(3, 4, 4), torch.zeros(1, 5, 4, 4), torch.full((1, 3, 2, 2), math.nan)])
def test_what_is_no_pixels_makes_no_pictures(x):
    with pytest.raises(ValueError, match="x: expected finite pixels"):
        to_pil(x)


# writing


def test_a_png_carries_pixels_and_facts(tmp_path):
    save_png(noise(), tmp_path / "a.png", {"caption": "a “😀”\ncat", "seed": 7, "guidance_scale": 1.5})
    with Image.open(tmp_path / "a.png") as image:
        assert image.text == {"bridge:caption": "a “😀”\ncat", "bridge:seed": "7", "bridge:guidance_scale": "1.5"}
        assert image.convert("RGB").tobytes() == noise().tobytes()


def test_facts_that_no_file_can_hold_are_replaced(tmp_path):
    save_png(noise(), tmp_path / "a.png", {"caption": "a\0b\ud83d"})
    with Image.open(tmp_path / "a.png") as image:
        assert image.text == {"bridge:caption": "a\ufffdb?"}


def test_the_same_picture_and_facts_are_the_same_bytes(tmp_path):
    for name in "ab":
        save_png(noise(), tmp_path / name, {"seed": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("name", ["", "é", "a\n", "x" * 71])
def test_a_name_that_png_cannot_hold_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"facts: .* cannot name"):
        save_png(noise(), tmp_path / "a.png", {name: 1})
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_no_file(tmp_path, monkeypatch):
    def full(*args: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="disk full"):
        save_png(noise(), tmp_path / "a.png", {})
    assert not list(tmp_path.iterdir())


# names


@pytest.mark.parametrize(
    "caption",
    [
        "a cat",
        "../../etc/passwd",
        "/abs",
        "C:\\x",
        "CON",
        "a\0b",
        "...",
        "",
        "😀",
        "שלום",
        "x" * 5000,
        "\udcff",
        "~",
        "-",
    ],
)
def test_a_slug_is_a_safe_file_name(caption):
    name = slug(caption)
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert name[0].isalnum()
    assert len(name) <= 49
    assert Path(name).name == name


@pytest.mark.parametrize(
    ("caption", "readable"),
    [("A smiling cat!", "a-smiling-cat"), ("Café Ærø", "cafe-r"), ("😀", "caption"), ("x" * 50, "x" * 40)],
)
def test_a_slug_is_readable(caption, readable):
    assert slug(caption).rsplit("-", 1)[0] == readable


def test_captions_that_look_alike_have_different_slugs():
    alike = ["a cat", "A cat", "a-cat", "a cat ", "a cat!", "а cat"]
    assert len({slug(c) for c in alike}) == len(alike)


def test_canonically_equal_captions_have_one_slug():
    assert slug("caf\u00e9") == slug("cafe\u0301")


# sheets


def test_pictures_stand_in_the_sheet_in_reading_order():
    colours = [(40 * i, 0, 0) for i in range(5)]
    row = [Image.new("RGB", (64, 64), colour) for colour in colours]
    sheet = np.asarray(contact_sheet([row], ["five"], columns=3))
    found = {c: np.argwhere((sheet == c).all(-1)).mean(0) for c in colours[1:]}
    assert all((sheet == c).all(-1).sum() >= 126 * 126 for c in colours)
    assert found[colours[1]][1] < found[colours[2]][1]
    assert found[colours[3]][0] > found[colours[2]][0]


def test_a_caption_is_written_left_of_its_pictures():
    def ink(caption: str) -> np.ndarray:
        return np.asarray(contact_sheet([[Image.new("RGB", (64, 64), WHITE)]], [caption])) < 100

    difference = ink("a smiling cat") ^ ink(" ")
    assert difference.any()
    assert not difference[:, 220:].any()


def test_a_note_is_grey():
    sheet = np.asarray(contact_sheet([[Image.new("RGB", (8, 8), RED)]], [" "], ["unknown"]))
    text = sheet[:, :200]
    assert text.min() >= images._GREY[0]
    assert (text < 160).any()


def test_a_long_caption_stays_in_its_column():
    def sheet(caption: str) -> np.ndarray:
        return np.asarray(contact_sheet([[Image.new("RGB", (64, 64), RED)]], [caption]))

    assert np.array_equal(sheet("x" * 5000)[:, 216:], sheet("")[:, 216:])


def test_a_long_word_breaks_and_loses_nothing():
    font = images.ImageFont.load_default(16)
    lines = images.text_lines("key " + "abcdefghij" * 5, font, 192)
    assert "".join(lines) == "key" + "abcdefghij" * 5
    assert all(font.getlength(line) <= 192 for line in lines)


def test_a_caption_too_long_for_its_row_ends_in_an_ellipsis():
    lines = images.text_lines("smiling cats " * 100, images.ImageFont.load_default(16), 192)
    assert len(lines) == images._MAX_LINES
    assert lines[-1].endswith("…")


@pytest.mark.parametrize("caption", ["😀", "שלום", "日本語", "\udcff", "a\0b\nc", "\u202e", "é ½ —"])
def test_any_caption_can_be_drawn(caption):
    assert contact_sheet([[noise()]], [caption], [caption]).mode == "RGB"


def test_accents_that_the_font_lacks_are_left_out():
    assert images.text_lines("Curaçao – piñata", images.ImageFont.load_default(16), 500) == ["Curacao - pinata"]


@pytest.mark.parametrize(
    ("rows", "captions", "notes"), [([], [], None), ([[noise()]], [], None), ([[noise()]], ["a"], [])]
)
def test_unequal_counts_are_refused(rows, captions, notes):
    with pytest.raises(ValueError, match="as many of each"):
        contact_sheet(rows, captions, notes)


def test_a_transparent_picture_lies_on_white_in_a_sheet():
    hidden = Image.new("RGBA", (32, 32), (*RED, 0))
    assert (
        contact_sheet([[hidden]], ["a"], cell=32).tobytes()
        == contact_sheet([[flatten(hidden)]], ["a"], cell=32).tobytes()
    )
    assert flatten(hidden).getcolors() == [(32 * 32, WHITE)]
