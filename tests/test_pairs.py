"""`bridge.pairs.load_pairs`: anybody's captioned pictures in memory."""

import hashlib
import os
import subprocess
import sys
import time
import zlib

import datasets
import numpy as np
import pytest
from PIL import Image

from bridge.errors import UserError
from bridge.pairs import load_pairs, pairs_fingerprint
from bridge.pairs.reading import Reading, look
from bridge.pairs.sources import Raw, Wanted
from tests.pictures import encoded, pattern, png
from tests.test_images import raw_png


@pytest.fixture
def folder(tmp_path):
    """Three pictures of a table: opaque and wide, transparent, empty."""
    (tmp_path / "a.png").write_bytes(png((255, 0, 0), (40, 20)))
    (tmp_path / "b.png").write_bytes(encoded(Image.new("RGBA", (40, 20), (0, 0, 255, 128))))
    (tmp_path / "c.png").write_bytes(b"")
    rows = ["a.png,a red car,Ann,flat,test", "b.png,a blue car,Bob,,Val", "c.png,a car,,,train"]
    (tmp_path / "metadata.csv").write_text("\n".join(["file_name,caption,artist,style,split", *rows]))
    return tmp_path


def test_pictures_keep_their_shape_and_transparency(folder):
    pairs = load_pairs(folder)
    assert [(picture.mode, picture.size) for picture in pairs.pictures] == [("RGB", (40, 20)), ("RGBA", (40, 20))]
    assert pairs.pictures[1].getpixel((0, 0)) == (0, 0, 255, 128)


def test_squares_are_padded_with_white_or_with_nothing(folder):
    red, blue = load_pairs(folder, image_size=16).pictures
    assert (red.size, red.getpixel((0, 0)), red.getpixel((8, 8))) == ((16, 16), (255, 255, 255), (255, 0, 0))
    assert (blue.size, blue.getpixel((0, 0)), blue.getpixel((8, 8))) == ((16, 16), (0, 0, 0, 0), (0, 0, 255, 128))


def test_a_square_on_white_is_what_training_reads(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(pattern(3, 48).crop((0, 0, 48, 20))))
    (kept,) = load_pairs(tmp_path, names="file", image_size=32).pictures
    _, trained, _ = look(Raw("a", tmp_path / "a.png", "a"), Reading(32))
    assert kept.tobytes() == trained.tobytes()


def test_what_is_known_of_each_picture_is_told(folder):
    pairs = load_pairs(folder)
    assert pairs.captions == [["a red car"], ["a blue car"]]
    assert pairs.names == ["a.png (metadata.csv row 1)", "b.png (metadata.csv row 2)"]
    assert (pairs.artist, pairs.style, pairs.split) == (["Ann", "Bob"], ["flat", ""], ["test", "validation"])
    assert pairs.hashes == [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ("a.png", "b.png")]


def test_what_is_left_out_is_told_with_its_reason(folder):
    told = "1 row left out: its picture is empty (0 bytes) (c.png (metadata.csv row 3))"
    assert load_pairs(folder).skipped == (told,)


@pytest.mark.parametrize("kind", [b"tEXt", b"zTXt", b"iTXt"])
def test_a_picture_with_a_long_text_is_read(tmp_path, kind):
    """As programs that draw write their settings into PNGs."""
    text = b"x" * 3_000_000
    told = {b"tEXt": text, b"zTXt": b"\0" + zlib.compress(text), b"iTXt": b"\0\0\0\0" + text}
    (tmp_path / "a.png").write_bytes(raw_png(8, 2, bytes([1, 2, 3]), 1, (kind, b"workflow\0" + told[kind])))
    (tmp_path / "a.txt").write_text("a dark square")
    pairs = load_pairs(tmp_path)
    assert (pairs.pictures[0].getpixel((0, 0)), pairs.skipped) == ((1, 2, 3), ())


def test_nothing_usable_is_an_error(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(UserError, match="none of its rows has a picture and a caption"):
        load_pairs(tmp_path, names="file")


def test_a_dataset_in_memory_is_a_source():
    columns = {"image": [{"bytes": png(), "path": None}, {"bytes": png((0, 0, 0)), "path": None}], "text": ["a", "b"]}
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    data = datasets.Dataset.from_dict(columns, features=features)
    both = load_pairs(datasets.DatasetDict({"train": data, "test": data.select([1])}))
    assert load_pairs(data).captions == [["a"], ["b"]]
    assert (both.captions, both.split) == ([["a"], ["b"], ["b"]], ["train", "train", "test"])


@pytest.mark.parametrize("change", ["nothing", "picture", "table", "size"])
def test_the_fingerprint_tells_whether_reading_again_gives_the_same(folder, change):
    before = pairs_fingerprint(Wanted(folder), image_size=64)
    if change == "picture":
        (folder / "a.png").write_bytes(png())
    if change == "table":
        table = folder / "metadata.csv"
        state = table.stat()
        table.write_text(table.read_text().replace("red", "new"))
        os.utime(table, ns=(state.st_atime_ns, state.st_mtime_ns))
    after = pairs_fingerprint(Wanted(folder), image_size=32 if change == "size" else 64)
    assert (before == after) == (change == "nothing")


def test_two_hundred_pictures_take_less_than_a_second(tmp_path):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for i in range(200):
        noise[:8, :8] = i % 256, i // 256, 0
        picture = Image.fromarray(noise).resize((256, 256), Image.Resampling.BICUBIC)
        (tmp_path / f"{i}.png").write_bytes(encoded(picture, compress_level=1))
    began = time.process_time()
    assert len(load_pairs(tmp_path, names="file", image_size=64)) == 200
    assert time.process_time() - began < 2.4  # 0.6 s on an idle core
    began = time.process_time()
    pairs_fingerprint(Wanted(tmp_path, names="file"), image_size=64)
    assert time.process_time() - began < 0.2


def test_folders_and_tables_need_no_datasets(folder):
    code = f"""
import sys
sys.modules["datasets"] = sys.modules["pyarrow"] = None
from bridge.errors import UserError
from bridge.pairs import load_pairs
print(len(load_pairs({str(folder)!r})))
try:
    load_pairs("owner/name")
except UserError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [
        "2",
        "source: this source needs datasets; `pip install 'bridge-captions[pairs]'` or `pip install datasets`",
    ], done.stderr
