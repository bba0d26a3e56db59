"""Each tab used as a person would, at the width of a desk and of a phone."""

import io
import threading
import time
from pathlib import Path

import pytest
from PIL import Image

from bridge.images import read_facts
from tests.web.conftest import MODEL

CAT, BUS = (
    str(sorted((Path(__file__).parent.parent / "artwork").glob(f"{name}--*.png"))[0]) for name in ("cat", "bus")
)
CAPTION = "a smiling cat" if MODEL else "cat"
WIDTHS = pytest.mark.parametrize(("width", "place"), [(1280, "desk"), (390, "phone")])


def draw(tab, caption: str = CAPTION, count: int = 8) -> None:
    """Type a caption, press Draw and wait for the pictures."""
    tab.fill("#captions textarea", caption)
    tab.click("#draw-go")
    tab.wait_for_function(f"document.querySelectorAll('#pictures .grid-container img').length == {count}")


def fits(tab) -> bool:
    """Whether nothing is wider than the window."""
    return tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth + 1")


@WIDTHS
def test_draw(visit, width, place):
    visitor = visit(width)
    tab = visitor.open()
    visitor.shoot(f"draw-empty-{place}")
    draw(tab)
    tab.wait_for_selector("text=Link to these settings")
    visitor.shoot(f"draw-{place}")
    assert fits(tab)
    tab.locator("#pictures .grid-container button").nth(1).click()
    visitor.shoot(f"draw-chosen-{place}")


def test_what_is_downloaded_tells_how_to_make_it_again(visit):
    tab = visit().open()
    draw(tab)
    tab.locator("#pictures .grid-container button").nth(2).click()
    tab.wait_for_timeout(500)
    with tab.expect_download() as download:
        tab.click("#download")
    facts = read_facts(Path(download.value.path()).read_bytes())
    assert (facts["caption"], facts["index"], facts["seed"]) == (CAPTION, "2", "0")
    assert download.value.suggested_filename.endswith("-seed0-00002.png")


def test_a_link_restores_the_settings(visit):
    tab = visit().open()
    tab.get_by_label("Seed").first.fill("7")
    draw(tab, "cat\nbus", 16)
    link = tab.get_by_role("link", name="Link to these settings").get_attribute("href")
    assert link == "?captions=cat%0Abus&seed=7"
    again = visit().open(link)
    again.wait_for_function("document.querySelector('#captions textarea').value == 'cat\\nbus'")
    assert again.get_by_label("Seed").first.input_value() == "7"


def test_a_hostile_link_is_a_message_and_no_script(visit):
    tab = visit().open("?captions=<img src=x onerror=alert(1)>&seed=x&count=999&style=../etc&nonsense=1")
    tab.wait_for_selector("text=The link's")
    told = tab.inner_text(".said")
    assert "count: expected a number from 1 to 32" in told and "seed: expected" in told
    assert tab.input_value("#captions textarea") == "<img src=x onerror=alert(1)>"
    draw(tab, "<img src=x onerror=alert(1)>")
    assert tab.locator("img[src=x]").count() == 0


def test_known_captions_complete_by_keyboard(visit):
    tab = visit().open()
    field = tab.locator("#captions textarea")
    field.press_sequentially("wav", delay=40)
    tab.wait_for_selector("#known li")
    field.press("ArrowDown")
    field.press("Enter")
    found = field.input_value()
    assert found.startswith("wav") and "\n" not in found and len(found) > 3
    assert tab.locator("#known").is_hidden()
    field.press("Shift+Enter")
    tab.wait_for_selector("#pictures .grid-container img")


def test_everything_is_reached_by_keyboard(visit):
    tab = visit().open()
    tab.focus("#captions textarea")
    reached = set()
    for _ in range(20):
        tab.keyboard.press("Tab")
        reached.add(tab.evaluate("document.activeElement.id || document.activeElement.innerText?.trim()"))
    assert {"draw-go", "draw-stop"} <= reached


@WIDTHS
def test_between(visit, width, place):
    visitor = visit(width)
    tab = visitor.open()
    visitor.choose("Between")
    tab.locator("#from-picture input[type=file]").set_input_files(CAT)
    tab.wait_for_selector("#from-picture img")
    tab.fill("#to-caption textarea, #to-caption input", "a rainbow" if MODEL else "bus")
    tab.click("#between-go")
    tab.wait_for_selector("#strip img")
    tab.wait_for_selector("#gif img")
    before = tab.get_attribute("#frame img", "src")
    slider = tab.locator("#along input[type=range]")
    slider.focus()
    slider.press("ArrowRight")
    tab.wait_for_function(f"document.querySelector('#frame img').src != {before!r}")
    visitor.shoot(f"between-{place}")
    assert fits(tab)


@WIDTHS
def test_around_a_picture_that_was_drawn(visit, width, place):
    visitor = visit(width)
    tab = visitor.open()
    draw(tab)
    tab.locator("#pictures .grid-container button").nth(1).click()
    tab.click("#to-around")
    tab.wait_for_selector("#around-picture img")
    assert tab.input_value("#around-caption textarea, #around-caption input") == CAPTION
    tab.click("#around-go")
    tab.wait_for_function("document.querySelectorAll('#variations .grid-container img').length == 8")
    tab.fill("#plus textarea, #plus input", "crying face" if MODEL else "fire")
    tab.click("#edit-go")
    tab.wait_for_selector("#edited img")
    visitor.shoot(f"around-{place}")
    assert fits(tab)


@WIDTHS
def test_map(visit, width, place):
    visitor = visit(width)
    tab = visitor.open()
    visitor.choose("Map")
    tab.wait_for_selector("#map-picture img")
    tab.wait_for_selector("#map-text img")
    visitor.shoot(f"map-before-{place}")
    box = tab.locator("#map-picture img").bounding_box()
    tab.locator("#map-picture img").click(position={"x": box["width"] * 0.1, "y": box["height"] * 0.2})
    tab.wait_for_selector("#map-drawn img")
    tab.wait_for_selector("text=Near by text")
    visitor.shoot(f"map-{place}")
    assert fits(tab)


@WIDTHS
def test_score(visit, width, place):
    visitor = visit(width)
    tab = visitor.open()
    visitor.choose("Score")
    tab.locator("#score-pictures input[type=file]").set_input_files([CAT, BUS])
    tab.wait_for_selector("#score-pictures >> text=/cat--/")
    tab.fill("#score-captions textarea", "cat\nbus")
    tab.click("#score-go")
    tab.wait_for_selector("#scores table")
    assert tab.locator("#scores tr").count() == 5
    visitor.shoot(f"score-{place}")
    assert fits(tab)


def test_dark(visit):
    visitor = visit(dark=True)
    tab = visitor.open()
    draw(tab)
    assert tab.evaluate("document.body.classList.contains('dark')")
    visitor.shoot("draw-dark")


@pytest.mark.parametrize("data", [b"no picture", b"GIF89a", b"<svg xmlns='http://www.w3.org/2000/svg'/>"])
def test_what_is_no_picture_is_a_message(visit, tmp_path, data, capfd):
    (tmp_path / "photo.png").write_bytes(data)
    visitor = visit()
    tab = visitor.open()
    visitor.choose("Around")
    tab.locator("#around-picture input[type=file]").set_input_files(str(tmp_path / "photo.png"))
    tab.wait_for_timeout(500)
    tab.click("#around-go")
    tab.wait_for_selector(".wrong >> text=/^Picture: /")
    assert "Traceback" not in capfd.readouterr().err


def test_a_picture_of_too_many_bytes_is_a_message(visit, tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, "PNG")
    (tmp_path / "large.png").write_bytes(buffer.getvalue() + bytes(12_000_000))
    visitor = visit()
    tab = visitor.open()
    visitor.choose("Around")
    tab.locator("#around-picture input[type=file]").set_input_files(str(tmp_path / "large.png"))
    tab.wait_for_selector("text=/exceed the maximum allowed size of 10.0 Mb/")
    visitor.complaints.clear()  # the browser's own of the status 413


@pytest.fixture
def busy(site):
    """The model samples nothing before the test has ended."""
    gate, make = threading.Event(), site.studio.pipe.sample

    def slow(*arguments):
        gate.wait(30)
        return make(*arguments)

    site.studio.pipe.sample = slow
    yield
    gate.set()
    del site.studio.pipe.sample


@pytest.fixture
def waiting(visit, site, busy):
    """A tab whose request waits."""
    tab = visit().open()
    tab.fill("#captions textarea", CAPTION)
    tab.click("#draw-go")
    until(lambda: site.studio.batcher.waiting == 1)
    return tab


def test_a_closed_tab_frees_its_place(waiting, site):
    waiting.close()
    until(lambda: site.studio.batcher.waiting == 0)


def test_cancel(waiting, site):
    waiting.click("#draw-stop")
    waiting.wait_for_selector("text=Stopped")
    assert site.studio.batcher.waiting == 0


def until(condition, seconds: float = 30) -> None:
    """Wait for a condition."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
