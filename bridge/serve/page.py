"""The page: five tabs of Gradio's components, and how they look; what they do is in `bridge.serve.studio`."""

import functools
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import replace
from html import escape
from importlib.resources import files as resources
from typing import Any

import gradio as gr

from bridge.errors import UserError
from bridge.explore import usual_kind
from bridge.score import ScoreMatrix
from bridge.serve.atlas import SIDES, Atlas, make_atlas
from bridge.serve.batching import Owner
from bridge.serve.limits import CAPTION_LENGTH, CAPTIONS, MAX_SEED, PICTURES, RANGES, Fields, restored
from bridge.serve.studio import MOST_STEPS, Shown, Studio

LOG = logging.getLogger("bridge.serve")
PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
UNQUEUED = PRIVATE | {"queue": False}
SAVED = ["download", "fullscreen"]  # what can be done with a picture in its place
LONGEST = 300  # characters of a visitor's text that the page repeats
TABS = 200  # browser tabs whose state is kept, the last used ones: Gradio never forgets one that was closed
ATLAS_DRAWN = 4  # pictures that a click on the map draws
HOW = "Write a caption, then press Draw (or Shift and Enter)."
Start = tuple[gr.Image, gr.Textbox]
Changes = AsyncIterator[dict[Any, Any]]
"""New values of the page's parts that change."""


def build(studio: Studio) -> gr.Blocks:
    """The page of a model."""
    with gr.Blocks(title="Bridge", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.HTML("<h1>Bridge</h1><p>Captions to several pictures, and what lies between them.</p>", elem_id="title")
        with gr.Tabs(elem_id="tabs") as tabs:
            chosen, buttons = _draw(studio, page)
            ends = _between(studio)
            starts = [("around", _around(studio)), *(("between", end) for end in ends)]
            _map(studio)
            _score(studio)
        for button, (tab, start) in zip(buttons, starts, strict=True):
            button.click(functools.partial(_sent, tab), chosen, [tabs, *start], **UNQUEUED)
        page.unload(stopper(studio))
    for field in page.blocks.values():
        if isinstance(field, gr.Slider | gr.Number | gr.Dropdown | gr.Radio):
            field.preprocess = lambda value: value  # `Studio` checks it, whose messages the page shows
    page.state_session_capacity = TABS
    page.queue(default_concurrency_limit=None, max_size=4 * studio.batcher.most, api_open=False)
    return page


def look() -> dict[str, Any]:
    """Theme, style sheet and script of the page; nothing of them comes from another host."""
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    assets = resources("bridge.serve") / "assets"
    script = (assets / "page.js").read_text("utf-8")
    return {"theme": theme, "css": (assets / "page.css").read_text("utf-8"), "head": f"<script>{script}</script>"}


def _draw(studio: Studio, page: gr.Blocks) -> tuple[gr.State, list[gr.Button]]:
    """Captions to pictures; returns the chosen one, and buttons that take it to `_around` and to the ends of a walk."""
    default = studio.default
    with gr.Tab("Draw", id="draw"):
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                captions = caption_lines("captions", 2, "a smiling cat", autofocus=True)
                with gr.Row():
                    count = gr.Slider(1, PICTURES, default.count, step=1, label="Pictures")
                    seed = seed_field()
                styles = [(words, style) for style, words in studio.styles.items()]
                style = gr.Dropdown(styles, value=default.style, label="Style", visible=len(styles) > 1)
                with gr.Accordion("More settings", open=False):
                    more = _more(studio)
                go = go_button(studio, "Draw", "draw")
            with gr.Column(scale=3, min_width=320):
                gallery = drawn_pictures("Pictures", "pictures")
                message = gr.HTML(status(HOW))
                with gr.Row(visible=False) as actions:
                    labels = {"around": "Vary or edit", "from": "Interpolate from", "to": "Interpolate to"}
                    buttons = [
                        gr.Button(label, size="sm", min_width=110, elem_id=f"to-{name}")
                        for name, label in labels.items()
                    ]
                    save = gr.DownloadButton("Download", size="sm", min_width=110, elem_id="download")
        drawn: gr.State = gr.State([])
        chosen: gr.State = gr.State(None)
    fields, outputs = [captions, count, seed, style, *more], [gallery, message, actions, drawn, chosen]

    async def draw(request: gr.Request, *values: Any) -> Changes:
        given = Fields(*values)
        asked = studio.request(given)
        total = asked.count * len(asked.captions)
        before = studio.batcher.waiting
        queue = f"Waiting for {before} earlier requests…" if before else f"Drawing {total} pictures…"
        yield {gallery: [], message: status(queue), actions: gr.update(visible=False), drawn: [], chosen: None}
        shown: list[Shown] = []
        async for picture in studio.draw(asked, request.session_hash):
            shown.append(picture)
            if len(shown) % 4 == 0 and len(shown) < total:
                yield {gallery: gallery_of(shown), message: status(f"{len(shown)} of {total}"), drawn: shown}
        notes = dict.fromkeys(f"{picture.caption}: {picture.note}" for picture in shown if picture.note)
        how = f"{total} pictures. Click one to vary it, edit it or download it."
        done = status(how, notes, given.query(default))
        changes = {message: done, actions: gr.update(visible=True), drawn: shown, chosen: shown[0]}
        yield {gallery: gallery_of(shown), **changes}

    def pick(drawn: list[Shown], event: gr.SelectData) -> Any:
        place = event.index if isinstance(event.index, int) and 0 <= event.index < len(drawn) else 0
        return [drawn[place], drawn[place].path] if drawn else gr.skip()

    def restore(request: gr.Request) -> Any:
        """The fields as the link has them; without one they stay, for somebody may have begun to write."""
        if not request.query_params:
            return gr.skip()
        linked, left_out = restored(dict(request.query_params), default, studio.styles)
        return [*vars(linked).values(), problem("; ".join(left_out)) if left_out else status(HOW)]

    answer = answering(message, draw)
    gr.on([go.click, captions.submit], answer, fields, outputs, api_name="draw", show_progress="hidden")
    gallery.select(pick, drawn, [chosen, save], **UNQUEUED)
    page.load(restore, None, [*fields, message], **PRIVATE)
    return chosen, buttons


def _sent(tab: str, chosen: Shown | None) -> Any:
    """Another tab, opened with the chosen picture."""
    return gr.skip() if chosen is None else [gr.update(selected=tab), chosen.path, chosen.caption]


def _more(studio: Studio) -> list[gr.components.Component]:
    """Fields of settings that few change; the model's own are shown."""
    fields: list[gr.components.Component] = [
        gr.Slider(*RANGES[name], getattr(studio.default, name), step=step, label=label, visible=visible)
        for name, label, step, visible in (
            ("guidance", "Guidance: more is closer to the caption", 0.1, studio.has_steps),
            ("temperature", "Temperature: more is more variety", 0.05, True),
            ("steps", "Steps", 1, studio.has_steps),
            ("novelty", "Novelty: further from known pictures", 0.05, studio.has_novelty),
            ("size", "Size in pixels", 1, studio.has_layers),
        )
    ]
    return [*fields, gr.Checkbox(False, label="Transparent background", visible=studio.has_layers)]


def _between(studio: Studio) -> list[Start]:
    """The pictures between two ends, which it returns."""
    ends: list[Start] = []
    with gr.Tab("Between", id="between"):
        with gr.Row():
            for name in ("From", "To"):
                with gr.Column(min_width=150):
                    ends.append(start(name.lower(), f"{name}: a picture", f"{name}: or a caption"))
        with gr.Row():
            steps = gr.Slider(3, MOST_STEPS, 9, step=1, label="Pictures")
            ways = [("morph", "morph"), ("straight", "linear"), ("along the sphere", "spherical")]
            kind = gr.Radio(ways, value=usual_kind(studio.pipe, "latent"), label="Way")
            seed = seed_field()
        go = go_button(studio, "Interpolate", "between")
        message = gr.HTML(status("Two pictures or captions, and what lies between them."))
        place = gr.Slider(0, 8, 4, step=1, label="Along the way", elem_id="along", visible=False)
        with gr.Row():
            frame = drawn_picture("Picture", "frame", height=260)
            moving = drawn_picture("GIF", "gif", height=260, kind="gif")
        line = drawn_picture("Strip", "strip")
        frames: gr.State = gr.State([])

    async def walk(request: gr.Request, *values: Any) -> Changes:
        made, strip, gif = await studio.batcher.call(lambda: studio.walk(*values), request.session_hash)
        middle = len(made) // 2
        yield {
            message: status(f"{len(made)} pictures; move the slider, or use its arrow keys."),
            place: gr.update(maximum=len(made) - 1, value=middle, visible=True),
            frame: gr.update(value=made[middle], visible=True),
            moving: gr.update(value=gif, visible=True),
            line: gr.update(value=strip, visible=True),
            frames: made,
        }

    def step(frames: list[str], place: float) -> Any:
        return frames[max(0, min(int(place), len(frames) - 1))] if frames else gr.update()

    inputs, outputs = [*ends[0], *ends[1], steps, kind, seed], [message, place, frame, moving, line, frames]
    go.click(answering(message, walk, "Drawing…"), inputs, outputs, **PRIVATE)
    place.input(step, [frames, place], frame, **UNQUEUED)
    return ends


def _around(studio: Studio) -> Start:
    """What lies around a picture, whose fields it returns: variations of it, and directions from it."""
    with gr.Tab("Around", id="around"), gr.Row():
        with gr.Column(scale=2, min_width=300):
            picture = start("around", "A picture, or a caption below", "What it shows", "as is nearest")
            distance = gr.Slider(0, 1, 0.5, step=0.05, label="Distance", elem_id="distance")
            with gr.Row():
                count, seed = gr.Slider(1, PICTURES, 8, step=1, label="Variations"), seed_field()
            go = gr.Button("Vary", variant="primary", elem_id="around-go")
            amounts = [gr.Slider(-2, 2, 0, step=0.1, label=name) for name, _, _ in studio.directions]
            with gr.Row():
                plus = gr.Textbox(label="More of", max_length=CAPTION_LENGTH, elem_id="plus")
                minus = gr.Textbox(label="Less of", max_length=CAPTION_LENGTH, elem_id="minus")
            scale = gr.Slider(0, 2, 1, step=0.1, label="How much")
            edit = go_button(studio, "Edit", "edit", variant="secondary")
        with gr.Column(scale=3, min_width=320):
            message = gr.HTML(status("Choose a picture, then vary it, or move it with the sliders and press Edit."))
            gallery = drawn_pictures("Variations", "variations")
            edited = drawn_picture("Edited", "edited", height=280)

    async def vary(request: gr.Request, *values: Any) -> Changes:
        made, caption = await studio.batcher.call(lambda: studio.vary(*values), request.session_hash)
        known = f"taken to show “{caption}”" if caption else "of which nothing is known"
        yield {gallery: made, message: status(f"{len(made)} variations of a picture {known}.")}

    async def steer(request: gr.Request, *values: Any) -> Changes:
        path = await studio.batcher.call(lambda: studio.steer(*values), request.session_hash)
        yield {edited: gr.update(value=path, visible=True), message: status("Edited.")}

    inputs, moved = [*picture, distance, count, seed], [edit.click, *(amount.release for amount in amounts)]
    go.click(answering(message, vary, "Drawing…"), inputs, [gallery, message], **PRIVATE)
    inputs = [*picture, plus, minus, scale, *amounts]
    gr.on(moved, answering(message, steer, "Drawing…"), inputs, [edited, message], **PRIVATE)
    return picture


def _map(studio: Studio) -> None:
    """Captions and pictures laid out by their latents."""
    with gr.Tab("Map", id="map") as tab:
        message = gr.HTML(status("Laying out captions and pictures…"))
        with gr.Row():
            sides = {
                side: gr.Image(
                    label=label, show_label=False, interactive=False, elem_id=f"map-{side}", elem_classes="atlas",
                    type="pil", format="png", buttons=[],
                )
                for side, label in zip(SIDES, ("By caption", "By picture"), strict=True)
            }  # fmt: skip
        gallery = drawn_pictures("Drawn", "map-drawn", visible=False)
    made: list[Atlas] = []

    async def laid_out(owner: Owner) -> Atlas:
        """The atlas, which is made once."""
        if not made:
            made.append(await studio.batcher.call(lambda: made[0] if made else make_atlas(studio.pipe), owner))
        return made[0]

    def pages(atlas: Atlas, number: int | None = None) -> dict[Any, Any]:
        return {sides[side]: atlas.page(side, number) for side in SIDES}

    async def show(request: gr.Request) -> Changes:
        atlas = await laid_out(request.session_hash)
        what = f"{len(atlas.captions)} captions that the model knows, left by their text, right by a picture of each: "
        yield {message: status(f"{what}neighbours are alike. Click one to draw it."), **pages(atlas)}

    def clicked(side: str) -> Callable[..., Changes]:
        async def click(event: gr.SelectData, request: gr.Request) -> Changes:
            atlas = await laid_out(request.session_hash)
            number = atlas.at(side, float(event.index[0]), float(event.index[1]))
            if number is None:
                return
            caption = atlas.captions[number]
            near = [f"Near by {name}: {', '.join(atlas.near(name, number))}" for name in SIDES]
            yield {message: status(f"Drawing “{caption}”…", near), **pages(atlas, number)}
            asked = studio.request(replace(studio.default, captions=caption, count=ATLAS_DRAWN))
            shown = [picture async for picture in studio.draw(asked, request.session_hash)]
            yield {message: status(f"“{caption}”", near), gallery: gr.update(value=gallery_of(shown), visible=True)}

        return click

    tab.select(answering(message, show), None, [message, *sides.values()], **PRIVATE)
    for side, image in sides.items():
        image.select(answering(message, clicked(side)), None, [message, *sides.values(), gallery], **PRIVATE)


def _score(studio: Studio) -> None:
    """How well pictures fit captions."""
    with gr.Tab("Score", id="score"), gr.Row():
        with gr.Column(scale=2, min_width=300):
            pictures = gr.File(
                label="Pictures", file_count="multiple", type="filepath", elem_id="score-pictures", file_types=["image"]
            )
            captions = caption_lines("score-captions", 4)
            go = go_button(studio, "Score", "score")
        with gr.Column(scale=3, min_width=320):
            message = gr.HTML(status("Which caption fits which picture: the best first."))
            scores = gr.HTML("", elem_id="scores")

    async def score(paths: list[str] | None, text: str, request: gr.Request) -> Changes:
        matrix, near = await studio.batcher.call(lambda: studio.score(paths, text), request.session_hash)
        names = [str(path).replace("\\", "/").rsplit("/", 1)[-1] for path in paths or []]
        what = "Score: evidence for the caption, in nats. Typical: share of the model's own that fit no better."
        yield {message: status(what), scores: table(matrix, near, names)}

    go.click(answering(message, score, "Scoring…"), [pictures, captions], [message, scores], **PRIVATE)


# Handlers


def answering(message: gr.HTML, handler: Callable[..., Changes], working: str = "") -> Callable[..., Changes]:
    """A handler of events that says in `message` that it is `working`, and what goes wrong."""

    @functools.wraps(handler)
    async def answer(*values: Any) -> Changes:
        if working:
            yield {message: status(working)}
        try:
            async for changes in handler(*values):
                yield changes
        except UserError as error:
            yield {message: problem(str(error))}
        except Exception as error:
            log_fault(error)
            yield {message: problem("the server could not do that; try something else")}

    return answer


def log_fault(error: BaseException | None) -> None:
    """A fault of ours as one line of the log."""
    LOG.error("%s: %s", type(error).__name__, error)


def stopper(studio: Studio) -> Callable[[gr.Request], None]:
    """Stops whatever a tab waits for."""

    def stop(request: gr.Request) -> None:
        studio.batcher.cancel(request.session_hash)

    return stop


# Fields and places for pictures


def start(name: str, picture: str, caption: str, placeholder: str | None = None) -> Start:
    """Fields for a picture and for a caption, with their labels."""
    field = gr.Image(
        label=picture, type="filepath", height=220, sources=["upload", "clipboard"], image_mode=None,
        elem_id=f"{name}-picture", buttons=[],
    )  # fmt: skip
    # Gradio has checked that it is an upload of this page's; `open_upload` bounds it before it is decoded. A subclass
    # would be taken for a custom component.
    field.preprocess = lambda payload: None if payload is None else payload.path
    elem_id = f"{name}-caption"
    return field, gr.Textbox(label=caption, max_length=CAPTION_LENGTH, elem_id=elem_id, placeholder=placeholder)


def caption_lines(name: str, lines: int, placeholder: str | None = None, *, autofocus: bool = False) -> gr.Textbox:
    """A field for several captions."""
    return gr.Textbox(
        label="Captions, one a line", placeholder=placeholder, lines=lines, max_lines=CAPTIONS, elem_id=name,
        max_length=(CAPTION_LENGTH + 1) * CAPTIONS, autofocus=autofocus,
    )  # fmt: skip


def seed_field() -> gr.Number:
    """A field for a seed."""
    return gr.Number(0, label="Seed", precision=0, minimum=0, maximum=MAX_SEED)


def go_button(studio: Studio, label: str, name: str, variant: str = "primary") -> gr.Button:
    """A button that starts something, beside one that cancels whatever the tab waits for."""
    with gr.Row():
        go = gr.Button(label, variant=variant, elem_id=f"{name}-go", min_width=100)
        gr.Button("Cancel", elem_id=f"{name}-stop", min_width=100).click(stopper(studio), None, None, **UNQUEUED)
    return go


def drawn_picture(label: str, name: str, height: int | None = None, kind: str = "png") -> gr.Image:
    """A picture that the server makes, not seen before there is one; low ones can be looked at in full."""
    return gr.Image(
        label=label, show_label=height is not None, interactive=False, height=height, elem_id=name,
        elem_classes=None if height is None else "large", format=kind, visible=False, buttons=SAVED,
    )  # fmt: skip


def drawn_pictures(label: str, name: str, visible: bool = True) -> gr.Gallery:
    """Pictures that the server makes, side by side."""
    return gr.Gallery(
        label=label, show_label=False, columns=4, height="auto", elem_id=name, format="png", buttons=SAVED,
        interactive=False, visible=visible, object_fit="contain",
    )  # fmt: skip


def gallery_of(shown: Sequence[Shown]) -> list[tuple[str, str]]:
    """Pictures as a gallery takes them, with their captions where these differ."""
    several = len({picture.caption for picture in shown}) > 1
    return [(picture.path, picture.caption if several else "") for picture in shown]


# HTML in which a visitor's words are text and nothing else


def status(line: str, notes: Iterable[str] = (), link: str | None = None) -> str:
    """A line, notes in grey below it, and a link that restores the settings."""
    parts = [f"<p>{_text(line)}</p>", *(f'<p class="note">{_text(note)}</p>' for note in notes)]
    if link is not None:
        parts.append(f'<p><a href="?{escape(link)}">Link to these settings</a></p>')
    return _live("".join(parts))


def problem(message: str) -> str:
    """What is wrong with what a visitor asked for."""
    return _live(f'<p class="wrong">{_text(message[:1].upper() + message[1:])}</p>')


def table(scores: ScoreMatrix, near: Sequence[Sequence[str]], names: Sequence[str]) -> str:
    """Scores of pictures of these `names` as a table, the best caption of each first; below it what each is `near`."""
    rows = ["<tr><th>Picture</th><th>Caption</th><th>Score</th><th>Typical</th></tr>"]
    for i, name in enumerate(names):
        for place, k in enumerate(scores.best_captions(i)):
            typical = "" if scores.typical is None else f"{float(scores.typical[i, k]):.0%}"
            rows.append(
                f"<tr{' class=best' if place == 0 else ''}><td>{_text(name)}</td><td>{_text(scores.captions[k])}</td>"
                f'<td class="number">{float(scores.score[i, k]):.2f}</td><td class="number">{typical}</td></tr>'
            )
    lines = [f"<p>{_text(n)} is nearest to {_text(', '.join(c))}.</p>" for n, c in zip(names, near, strict=True) if c]
    return f'<div class="scores"><table>{"".join(rows)}</table>{"".join(lines)}</div>'


def _live(html: str) -> str:
    return f'<div class="said" role="status" aria-live="polite">{html}</div>'


def _text(text: str) -> str:
    return escape(text if len(text) <= LONGEST else f"{text[:LONGEST]}…")
