"""The manifest of a folder of pictures: another tool's is never touched, ours is right whatever happens beside it."""

import json
import os
import re
import threading
from pathlib import Path
from typing import Any

import pytest

from bridge.errors import UserError
from bridge.manifest import Manifest


def row(number: int, **more: Any) -> dict[str, Any]:
    file = f"cat-77af778b/seed0-{number:05d}-c2f21e.png"
    return {"file": file, "caption": "cat", "seed": 0, "index": number, "model": "a-b-c", **more}


def add(manifest: Manifest, number: int, **more: Any) -> None:
    """List a picture that is there."""
    path = manifest.path.parent / row(number)["file"]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    manifest.add(row(number, **more))


def indices(folder: Path) -> list[int]:
    lines = re.split(rb"[\r\n]+", (folder / "manifest.jsonl").read_bytes())
    return [json.loads(line)["index"] for line in lines if line.strip()]


OURS = json.dumps(row(0)).encode()
OTHERS = [
    b'{"file_name": "a.png", "text": "a cat"}\n{"file_name": "b.png", "text": "a dog"}',
    b'{"file_name": "a.png", "text": "a cat"}\n{"file_na',
    b'{"file": "a.wav", "text": "hello"}\n',
    b'{"file": "a.wav", "te',
    b'{"fi',
    b'["cat"]\n',
    b"[]",
    b"3\n",
    b"null\n",
    b"file,caption\na.png,cat\n",
    b"\x00\xff\xfe binary \x80\n",
    b"\x80",
    b"[" * 100_000 + b"\n",
    '{"file": "a.png"}\n'.encode("utf-16"),
    OURS + b"\n" + b'{"file_name": "a.png"}\n',
    OURS + b"\nnot json at all",
    OURS + b'\n{"file": "a.png", "caption": "whole, and not ours"}',
]


@pytest.mark.parametrize("data", OTHERS)
def test_another_tools_manifest_is_refused_and_left(tmp_path, data):
    path = tmp_path / "manifest.jsonl"
    path.write_bytes(data)
    before = path.stat()
    with pytest.raises(UserError, match=r"manifest.jsonl: line \d+ is none that bridge wrote.*choose another folder"):
        Manifest(tmp_path)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == (data, before.st_mtime_ns)


@pytest.mark.parametrize("kind", ["folder", "dangling link", "pipe"])
def test_what_is_no_file_is_refused_and_left(tmp_path, kind):
    path = tmp_path / "manifest.jsonl"
    {
        "folder": path.mkdir,
        "dangling link": lambda: path.symlink_to(tmp_path / "elsewhere"),
        "pipe": lambda: os.mkfifo(path),
    }[kind]()
    with pytest.raises(UserError, match=r"is a folder|is no file"):
        Manifest(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["manifest.jsonl"]


def test_a_link_to_another_tools_manifest_is_refused(tmp_path):
    (tmp_path / "theirs").write_text('{"file_name": "a.png"}')
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "manifest.jsonl").symlink_to(tmp_path / "theirs")
    with pytest.raises(UserError, match="line 1"):
        Manifest(tmp_path / "out")


def test_one_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    (tmp_path / "manifest.jsonl").write_bytes(OURS + b"\n")

    def refuse(path: Path, flags: int, mode: int = 0) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(UserError, match=r"cannot write to .*manifest.jsonl: Permission denied; choose another folder"):
        Manifest(tmp_path)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n \n",
        OURS + b"\n",
        OURS,
        OURS + b"\r\n\r\n",
        b"\xef\xbb\xbf" + OURS + b"\n",
        b"\n" + OURS + b"\n\n  ",
        OURS + b"\n" + json.dumps(row(1)).encode()[:30],
        OURS + b"\n" + b'{"fi',
        OURS + b"\r" + json.dumps(row(1)).encode()[:30],
        json.dumps(row(1)).encode()[:60],
    ],
)
def test_ours_is_gone_on_with_however_it_was_left(tmp_path, data):
    """By a crash, or by an editor."""
    (tmp_path / "manifest.jsonl").write_bytes(data)
    manifest = Manifest(tmp_path)
    assert (tmp_path / "manifest.jsonl").read_bytes() == data
    add(manifest, 7)
    add(manifest, 7)
    assert indices(tmp_path) == ([0] if OURS in data else []) + [7]


def test_captions_that_break_lines_for_some_readers_do_not(tmp_path):
    manifest = Manifest(tmp_path)
    caption = 'a "cat"\n\x85\u2028\u2029 é 猫 \x00 caf\udce9'
    add(manifest, 0, caption=caption)
    text = (tmp_path / "manifest.jsonl").read_text("utf-8")
    assert len(text.splitlines()) == 1 and "é 猫" in text
    assert json.loads(text)["caption"] == caption.replace("\udce9", "?")


def test_two_runs_in_one_folder_list_every_picture_once(tmp_path):
    first, second = Manifest(tmp_path), Manifest(tmp_path)
    for number in range(4):
        add(first, number)
        add(second, number if number % 2 else number + 10)
    assert sorted(indices(tmp_path)) == [0, 1, 2, 3, 10, 12]


def test_many_writers_at_once_lose_no_line(tmp_path):
    def write(start: int) -> None:
        manifest = Manifest(tmp_path)
        for number in range(start, start + 50):
            add(manifest, number)

    threads = [threading.Thread(target=write, args=(100 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(indices(tmp_path)) == [100 * i + k for i in range(4) for k in range(50)]


@pytest.mark.parametrize("by", ["removed", "emptied", "replaced"])
def test_what_was_listed_is_listed_again_if_the_file_goes(tmp_path, by):
    manifest = Manifest(tmp_path)
    add(manifest, 0)
    add(manifest, 1)
    if by == "replaced":
        (tmp_path / "other").write_bytes(json.dumps(row(5)).encode())
        os.replace(tmp_path / "other", manifest.path)
    else:
        manifest.path.unlink() if by == "removed" else manifest.path.write_bytes(b"")
    (tmp_path / row(1)["file"]).unlink()  # and this picture is gone too
    add(manifest, 2)
    assert indices(tmp_path) == ([5] if by == "replaced" else []) + [0, 2]


def test_one_that_becomes_another_tools_meanwhile_is_left(tmp_path):
    manifest = Manifest(tmp_path)
    add(manifest, 0)
    manifest.path.write_text('{"mine": 1}')
    with pytest.raises(UserError, match="line 1 is none that bridge wrote"):
        add(manifest, 1)
    assert manifest.path.read_text() == '{"mine": 1}'


def test_a_full_disk_leaves_no_half_line(tmp_path, monkeypatch):
    manifest = Manifest(tmp_path)
    add(manifest, 0)
    before, real = manifest.path.read_bytes(), os.write
    calls: list[int] = []

    def full(handle: int, data: bytes) -> int:
        calls.append(handle)
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        return real(handle, bytes(data)[:20])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        add(manifest, 1)
    assert manifest.path.read_bytes() == before
