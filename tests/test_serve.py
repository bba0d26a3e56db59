"""The server over HTTP: bounds, privacy, no other host, one line in the log. Tabs in a browser: tests/web."""

import asyncio
import io
import json
import logging
import re
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from bridge.captions import well_formed
from bridge.cli import main
from bridge.errors import UserError
from bridge.images import read_facts
from bridge.score import ScoreMatrix
from bridge.serve import atlas, limits, page
from bridge.serve.app import LOCAL, OneLineFormatter, Served, free_port, hosts_of, served
from bridge.serve.limits import Fields
from bridge.serve.studio import Files
from tests.fixtures import KNOWN, make_tiny_pipeline
from tests.pictures import bomb, encoded, pattern, png

ARTWORK = Path(__file__).parent / "artwork"


@pytest.fixture(scope="module")
def site(encoder) -> Iterator[Served]:
    with served(make_tiny_pipeline(encoder)) as found:
        yield found


def ask(url: str, data: bytes | None = None, headers: dict[str, str] | None = None) -> tuple[int, bytes, Any]:
    """Status, body and headers of an answer."""
    request = urllib.request.Request(url, data, headers or {})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read(), answer.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(), error.headers


def draw(site: Served, **fields: object) -> tuple[list[Any], str]:
    """What the tab Draw shows for these fields: the gallery's pictures, and what is said."""
    values = list(vars(site.studio.default).values())
    names = list(vars(site.studio.default))
    for name, value in fields.items():
        values[names.index(name)] = value
    body = json.dumps({"data": values}).encode()
    status, answer, _ = ask(f"{site.url}/gradio_api/call/draw", body, {"content-type": "application/json"})
    assert status == 200, answer
    event = json.loads(answer)["event_id"]
    _, stream, _ = ask(f"{site.url}/gradio_api/call/draw/{event}")
    last = [line for line in stream.decode().splitlines() if line.startswith("data: [")][-1]
    gallery, told, *_ = json.loads(last.removeprefix("data: "))
    return gallery if isinstance(gallery, list) else [], unescape(re.sub("<[^>]*>", " ", told)).strip()


def picture(site: Served, entry: Any) -> bytes:
    """The file of a gallery's entry."""
    status, data, _ = ask(f"{site.url}/gradio_api/file={entry['image']['path']}")
    assert status == 200
    return data


def test_pictures_are_those_of_the_pipeline_and_tell_how_they_were_made(site: Served):
    gallery, told = draw(site, captions="cat\nbus", count=2, seed=5)
    assert told.startswith("4 pictures.")
    data = [picture(site, entry) for entry in gallery]
    alone = site.studio.pipe(["cat", "bus"], 2, seed=5).images
    assert [Image.open(io.BytesIO(one)).tobytes() for one in data] == [image.tobytes() for image in alone]
    facts = read_facts(data[3])
    assert (facts["caption"], facts["seed"], facts["index"], facts["model"]) == (
        "bus", "5", "1", site.studio.pipe.fingerprint,
    )  # fmt: skip


def test_what_is_downloaded_can_be_made_again(site: Served, tmp_path: Path, monkeypatch, capsys):
    gallery, _ = draw(site, captions="a far thing", count=2, seed=5, guidance=3, steps=3)
    (tmp_path / "it.png").write_bytes(picture(site, gallery[1]))
    site.studio.pipe.save_pretrained(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    assert main(["redo", "it.png", "--model", "model"]) == 0
    assert "the same, bit for bit" in capsys.readouterr().err


def test_an_unknown_caption_is_noted(site: Served):
    assert "not among the captions this model knows" in draw(site, captions="qwerty zxcv", count=1)[1]


def test_visitors_at_once_get_what_each_would_get_alone(site: Served):
    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(lambda n: draw(site, captions=KNOWN[n % 8], count=1, seed=n), range(12)))
    for n, (gallery, _) in enumerate(found):
        [alone] = site.studio.pipe(KNOWN[n % 8], 1, seed=n).images
        assert Image.open(io.BytesIO(picture(site, gallery[0]))).tobytes() == alone.tobytes()


# bad input


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"captions": "x" * 100_000}, "Captions: at most 8 lines of 300 characters"),
        ({"captions": "x" * 301}, "Captions: at most 300 characters each"),
        ({"captions": "cat\n" * 9}, "Captions: at most 8 at a time"),
        ({"captions": " \n "}, "Captions: write what the picture should show"),
        ({"captions": "\u200b"}, "is empty or blank"),
        ({"captions": None}, "Captions: "),
        ({"count": 33}, "Pictures: expected a whole number from 1 to 32, got 33"),
        ({"count": 10**9}, "Pictures: "),
        ({"count": 0}, "Pictures: "),
        ({"count": 1.5}, "Pictures: "),
        ({"count": "8"}, "Pictures: "),
        ({"captions": "cat\nbus\nfire", "count": 11}, "Pictures: expected a whole number from 1 to 10"),
        ({"seed": -1}, "Seed: "),
        ({"seed": 2**60}, "Seed: "),
        ({"seed": None}, "Seed: "),
        ({"steps": 10_000}, "Steps: expected a number from 1 to 50"),
        ({"guidance": 1e9}, "Guidance: expected a number from 0 to 20"),
        ({"temperature": "hot"}, "Temperature: "),
        ({"style": "../../etc/passwd"}, "Style: is none that this model knows"),
        ({"size": 512}, None),
        ({"transparent": True}, "Transparent: this model's pictures have no background"),
    ],
)
def test_a_field_that_cannot_be_used_is_a_message(site: Served, capfd, fields, named):
    gallery, told = draw(site, **{"captions": "cat", "count": 1, **fields})
    if named is None:
        assert len(gallery) == 1
    else:
        assert (gallery, named in told) == ([], True), told
        assert len(told) < 200
    assert capfd.readouterr().err == ""
    assert len(draw(site, captions="cat", count=1)[0]) == 1


@pytest.mark.parametrize(
    "caption", ["/etc/passwd", "../../x.png", "file:///etc/passwd", "C:\\x.png", "<b>bold</b> & \0"]
)
def test_a_path_in_a_field_is_a_caption(site: Served, caption: str):
    gallery, _ = draw(site, captions=caption, count=1)
    path = Path(gallery[0]["image"]["path"])
    assert path.parent.parent == site.studio.files.root
    assert re.fullmatch(r"[a-z0-9-]+\.png", path.name)
    assert read_facts(picture(site, gallery[0]))["caption"] == well_formed(caption).strip().replace("\0", "\ufffd")


def test_what_a_visitor_wrote_is_never_markup():
    for text in (page.status("<script>"), page.problem("<script>"), page.status("", ["<script>"], '"><script>')):
        assert "<script" not in text
    scores = ScoreMatrix(("<script>",), torch.ones(1, 1), torch.ones(1, 1), "density")
    assert "<script" not in page.table(scores, [["<script>"]], ["<script>.png"])


def test_a_fault_of_ours_is_one_line_and_the_server_goes_on(site: Served, monkeypatch, caplog, capfd):
    with monkeypatch.context() as patch:
        patch.setattr(site.studio.pipe, "sample", lambda *_: 1 / 0)
        gallery, told = draw(site, captions="cat", count=1)
    assert (gallery, told) == ([], "The server could not do that; try something else")
    assert [record.getMessage() for record in caplog.records if record.name == "bridge.serve"] == [
        "ZeroDivisionError: division by zero"
    ]
    assert "Traceback" not in capfd.readouterr().err
    assert len(draw(site, captions="cat", count=1)[0]) == 1


def test_a_full_queue_says_so_at_once(encoder):
    gate, entered = threading.Event(), threading.Event()
    pipe = make_tiny_pipeline(encoder)
    make = pipe.sample

    def slow(*arguments):
        entered.set()
        assert gate.wait(60)
        return make(*arguments)

    pipe.sample = slow  # type: ignore[method-assign]
    with served(pipe, waiting=2) as site, ThreadPoolExecutor(3) as pool:
        first = pool.submit(draw, site, captions="cat", count=1)
        assert entered.wait(60)
        second = pool.submit(draw, site, captions="bus", count=1)
        while site.studio.batcher.waiting < 2:
            assert not second.done()
        assert draw(site, captions="fire", count=1)[1].startswith("Busy: 2 requests wait already")
        gate.set()
        assert [len(first.result()[0]), len(second.result()[0])] == [1, 1]


def test_tabs_that_are_gone_are_forgotten(site: Served, monkeypatch):
    from gradio.routes import App  # noqa: PLC0415

    monkeypatch.setattr(page, "TABS", 3)

    async def tabs() -> int:
        holder = App.create_app(page.build(site.studio)).state_holder
        for number in range(5):
            holder[f"tab {number}"].is_closed = True
        return len(holder.session_data)

    assert asyncio.run(tabs()) == 3


# privacy, bounds and other hosts


@pytest.mark.parametrize(
    "path", ["/etc/passwd", str(ARTWORK / "captions.json"), "../../../../etc/passwd", "pyproject.toml"]
)
def test_no_file_of_the_machine_is_served(site: Served, path: str):
    assert ask(f"{site.url}/gradio_api/file={path}")[0] in (403, 404)


def test_nobody_can_guess_anothers_pictures(site: Served):
    a, b = (draw(site, captions="cat", count=1, seed=1)[0][0]["image"]["path"] for _ in range(2))
    folders = {Path(path).parent.name for path in (a, b)}
    assert len(folders) == 2 and all(len(name) == 32 for name in folders)
    assert ask(f"{site.url}/gradio_api/file={Path(a).parent}")[0] in (403, 404)


def test_the_page_names_no_other_host_to_load_from(site: Served):
    _, body, headers = ask(site.url)
    text = body.decode()
    loaded = re.findall(r"<(?:script|link|img|iframe)[^>]*?(?:src|href)=[\"']?([^\"' >]+)", text)
    assert loaded
    assert [url for url in loaded if "//" in url and not url.startswith(site.url)] == []
    assert "fonts.g" not in text and 'analytics_enabled":true' not in text.replace(" ", "")
    policy = headers["content-security-policy"]
    assert "http" not in policy and "default-src 'self'" in policy


def test_a_style_sheet_of_the_theme_asks_no_other_host(site: Served):
    _, body, _ = ask(f"{site.url}/theme.css")
    assert b"--primary-50" in body
    assert not re.search(rb"@import|url\(\s*['\"]?(https?:)?//", body)


def test_another_name_of_this_machine_is_refused(site: Served):
    """So that no other site can lead a browser here under its own name."""
    assert ask(site.url, headers={"host": "evil.example"})[0] == 400
    assert ask(site.url, headers={"host": f"localhost:{site.url.rsplit(':')[-1]}"})[0] == 200
    assert hosts_of("0.0.0.0") is None


def test_a_body_is_bounded_whether_it_tells_its_length_or_not(site: Served):
    host, port = site.url.removeprefix("http://").split(":")
    head = "POST /gradio_api/call/draw HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: "
    for length in (str(limits.BODY_BYTES + 1), "9" * 30):
        with socket.create_connection((host, int(port)), timeout=30) as raw:
            raw.sendall(f"{head}{length}\r\n\r\n".encode())
            assert raw.recv(100).split()[1] in (b"413", b"400")
    with socket.create_connection((host, int(port)), timeout=30) as raw:
        raw.sendall(b"POST /gradio_api/call/draw HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n")
        piece = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
        try:
            for _ in range(14):
                raw.sendall(piece)
            raw.sendall(b"0\r\n\r\n")
            answer = raw.recv(100)
        except OSError:
            answer = b""
    assert b" 200 " not in answer
    assert len(draw(site, captions="cat", count=1)[0]) == 1


def test_an_upload_is_bounded(site: Served):
    boundary = "x" * 20

    def upload(data: bytes) -> int:
        head = f'--{boundary}\r\ncontent-disposition: form-data; name="files"; filename="../../a.png"\r\n\r\n'
        body = head.encode() + data + f"\r\n--{boundary}--\r\n".encode()
        status, answer, _ = ask(
            f"{site.url}/gradio_api/upload", body, {"content-type": f"multipart/form-data; boundary={boundary}"}
        )
        if status == 200:
            [path] = json.loads(answer)
            assert Path(path).is_relative_to(site.studio.files.root.parent)
        return status

    assert upload(png()) == 200
    assert upload(bytes(limits.UPLOAD_BYTES + 1000)) == 413


def test_known_captions_complete(site: Served):
    def complete(text: str) -> Any:
        return json.loads(ask(f"{site.url}/known?q={text}")[1])

    assert complete("wav") == ["waving hand", "waving hand: dark skin tone"]
    assert complete("mug") == ["beer mug"]
    assert complete("w") == complete("zzz") == complete("%00" * 50) == []
    assert len(complete("a" * 5000)) == 0


def test_an_upload_is_read_only_within_bounds(tmp_path: Path, monkeypatch):
    def told(data: bytes) -> str:
        (tmp_path / "secret-name.png").write_bytes(data)
        with pytest.raises(UserError) as caught:
            limits.open_upload(str(tmp_path / "secret-name.png"), "picture", 64)
        return str(caught.value)

    assert "3600000000 pixels" in told(bomb())
    assert "5000 x 5000 pixels are more than" in told(bomb(5000))
    assert "is no picture" in told(b"<svg/>")
    assert told(b"") == "picture: cannot be read as a picture (the file is empty); replace or remove it"
    assert "secret" not in told(png()[:40])
    monkeypatch.setattr(limits, "UPLOAD_BYTES", 10)
    assert told(png()).startswith("picture: at most")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_uploads_of_known_kinds_are_read(tmp_path: Path, kind: str):
    (tmp_path / "a").write_bytes(encoded(pattern(1, 48), kind))
    assert limits.open_upload(str(tmp_path / "a"), "picture", 64).size == (64, 64)


# links


def test_a_link_says_what_differs_and_restores_it():
    default = Fields(style="flat")
    fields = Fields("a cat & a <dog>\nbus", 3, 7, "", 2.5, 0.5, 9, 0.25, 256, True)
    query = dict(urllib.parse.parse_qsl(fields.query(default), keep_blank_values=True))
    assert limits.restored(query, default, ["", "flat"]) == (fields, [])
    assert default.query(default) == ""


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("count", value) for value in ("0", "33", "1e9", "nan", "1.5", "x", "9" * 5000, "")],
        *[("seed", value) for value in ("-1", "1e30", "inf")],
        *[("style", value) for value in ("../x", "3d<script>", "flat ")],
        *[("captions", value) for value in ("x" * 100_000, "", "a\n" * 20)],
        ("guidance", "-inf"),
    ],
)
def test_a_hostile_link_changes_nothing(name: str, value: str):
    found, left_out = limits.restored({name: value, "__class__": "x", "nonsense": "y"}, Fields(), ["", "flat"])
    assert found == Fields()
    assert len(left_out) == 1 and left_out[0].startswith(f"the link's {name}")
    assert len(left_out[0]) < 200


# files


def test_files_do_not_pile_up(tmp_path: Path):
    files = Files(tmp_path / "drawn", kept=3)
    paths = [Path(files.save(Image.new("RGB", (2, 2)), "a.png")) for _ in range(5)]
    assert [path.exists() for path in paths] == [False, False, True, True, True]
    old = Files(tmp_path / "old", seconds=0)
    first = old.place("a.png")
    old.place("b.png")
    assert not first.parent.exists()


# map


def test_the_map_lays_out_what_is_alike_side_by_side(site: Served):
    made = atlas.make_atlas(site.studio.pipe)
    assert sorted(made.captions) == sorted(KNOWN)
    assert sorted(made.places["text"]) == sorted(made.places["picture"]) == list(range(8))
    hand = made.captions.index("waving hand")
    assert made.near("text", hand)[0] == "waving hand: dark skin tone"
    for side in atlas.SIDES:
        assert made.page(side, hand).size == (6 * atlas.CELL[0], 2 * atlas.CELL[1])
        place = made.places[side].index(hand)
        x, y = place % 6 * atlas.CELL[0] + 3, place // 6 * atlas.CELL[1] + 3
        assert made.at(side, x, y) == hand
        assert made.at(side, 5 * atlas.CELL[0] + 1, atlas.CELL[1] + 1) is None
        assert made.at(side, -1, 0) is made.at(side, 1e9, 1e9) is None


def test_a_grid_follows_the_widest_directions():
    points = torch.tensor([[10.0 * column, float(row), 0.0] for row in range(3) for column in range(4)])
    shuffled = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    order = atlas.grid(points[shuffled], 4)
    columns = (points[shuffled][order][:, 0] / 10).view(3, 4)
    assert torch.equal(columns, columns[:1].expand(3, 4))
    assert columns[0].tolist() in ([0, 1, 2, 3], [3, 2, 1, 0])


def test_few_vectors_have_a_grid_too():
    for count in (1, 2, 7):
        assert sorted(atlas.grid(torch.randn(count, 1), 6)) == list(range(count))


# the command


def test_it_says_where_it_listens_and_to_whom(monkeypatch, capsys, tmp_path, encoder):
    from bridge.serve import app  # noqa: PLC0415

    make_tiny_pipeline(encoder).save_pretrained(tmp_path / "model")
    asked: list[tuple[str, int]] = []
    monkeypatch.setattr(app, "run", lambda _, host, port: asked.append((host, port)))
    assert main(["serve", "--model", str(tmp_path / "model"), "--port", "0"]) == 0
    assert main(["serve", "--model", str(tmp_path / "model"), "--port", "0", "--host", "0.0.0.0"]) == 0
    assert [host for host, _ in asked] == [LOCAL, "0.0.0.0"]
    first, second = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"bridge: http://127\.0\.0\.1:\d+, for this machine alone; Ctrl-C ends it", first)
    assert "for everybody who can reach it" in second


def test_an_address_that_is_taken_is_one_line(capsys):
    with socket.socket() as taken:
        taken.bind((LOCAL, 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["serve", "--port", str(port)]) == 2
    assert re.match(rf"bridge serve: --port: cannot listen at 127\.0\.0\.1:{port} \(", capsys.readouterr().err)
    for host in ("nowhere.invalid", "192.0.2.1"):
        assert main(["serve", "--host", host]) == 2
        assert capsys.readouterr().err.startswith(f"bridge serve: --host: cannot listen at {host}:7860 (")
    with pytest.raises(UserError):
        free_port(LOCAL, 10**6)


def test_without_gradio_the_command_names_the_extra(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["serve"]) == 2
    install = "`pip install 'bridge-captions[serve]'` or `pip install gradio`"
    assert capsys.readouterr().err == f"bridge serve: the web page needs gradio; {install}\n"


def test_no_other_command_imports_gradio():
    code = (
        "import sys, bridge, bridge.cli, bridge.commands\n"
        "print([name for name in ('gradio', 'fastapi', 'uvicorn', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_what_gradio_cannot_read_is_one_line_of_the_log(site: Served, capfd, caplog):
    body = json.dumps({"data": ["cat"], "session_hash": "x", "fn_index": 10**6}).encode()
    for path in ("queue/join", "call/draw", "call/nothing", "run/draw"):
        ask(f"{site.url}/gradio_api/{path}", body, {"content-type": "application/json"})
    assert "Traceback" not in capfd.readouterr().err
    assert len(draw(site, captions="cat", count=1)[0]) == 1


def test_an_error_in_the_log_is_one_line():
    try:
        raise KeyError("a\nb")
    except KeyError:
        record = logging.LogRecord("x", logging.ERROR, "", 0, "in\nhere", None, sys.exc_info())
    assert OneLineFormatter().format(record) == "bridge: in here: KeyError: 'a\\nb'"
