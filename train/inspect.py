"""What anybody's captioned pictures are, as train.prepare would read them."""

import warnings
from collections import Counter
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

from bridge.errors import UserError
from bridge.images import contact_sheet
from bridge.pairs.reading import Reading, Survey, all_notes, survey
from bridge.pairs.sources import Wanted, open_source
from bridge.text import CaptionTruncatedWarning, CaptionUnknownWarning, TextEncoder
from train.partition import encoding, partition, same_words, summary
from train.splits import near_groups

SHEET_ROWS = 16
"""Pictures on the sheet, spread evenly over the source."""


class Sample:
    """A few pictures spread evenly over however many come: every second one goes where there are too many."""

    def __init__(self, count: int) -> None:
        self.count, self.step = count, 1
        self.kept: dict[int, Image.Image] = {}

    def add(self, number: int, picture: Image.Image) -> None:
        """Keep a picture, or not."""
        if number % self.step == 0:
            self.kept[number] = picture
        if len(self.kept) >= 2 * self.count:
            self.step *= 2
            self.kept = {i: kept for i, kept in self.kept.items() if i % self.step == 0}


def inspect(
    wanted: Wanted,
    how: Reading | None = None,
    seed: int = 0,
    *,
    resplit: bool = False,
    encoder: TextEncoder | None = None,
) -> tuple[dict[str, Any], Image.Image]:
    """Read a source once, and say what it is; see `train.prepare.prepare` for the arguments.

    Returns facts, fit for JSON, and a sheet of a few pictures with their captions.

    Raises UserError if the source cannot be read, or no row of it is usable.
    """
    how = how or Reading()
    source, sample = open_source(wanted), Sample(SHEET_ROWS)
    surveyed = survey(source, how, sample.add, strict=False)
    encoder = encoder or TextEncoder.from_pretrained()
    facts = {
        "source": {"name": wanted.source, "kind": source.kind, "columns": dict(source.columns)},
        "rows": {
            "all": surveyed.rows,
            "usable": surveyed.rows - len(surveyed.bad),
            "bad": [{"row": name, "why": why} for name, why in surveyed.bad],
            "lost_captions": [{"row": name, "why": why} for name, why in surveyed.lost],
            "splits": dict(Counter(pair.split for pair in surveyed.pairs if pair.split)),
            "artists": len({pair.artist for pair in surveyed.pairs if pair.artist}),
        },
        "pictures": picture_facts(surveyed),
        "duplicates": duplicate_facts(surveyed),
        "captions": caption_facts(surveyed, encoder),
    }
    try:
        plan = summary(surveyed, partition(surveyed, encoding(encoder), seed, resplit=resplit))
        names = ("pictures", "families", "joined_rows", "leak_count", "leaks", "notes")
        training = {"size": how.size, "fit": how.fit} | {name: plan[name] for name in names}
    except UserError as error:
        training = {"refused": str(error)}
    if surveyed.rows and len(surveyed.bad) > how.max_bad * surveyed.rows:
        training["refused"] = (
            f"{len(surveyed.bad)} of {surveyed.rows} rows are bad, more than --max-bad {how.max_bad:g}"
        )
    return facts | {"training": training, "notes": all_notes(source, surveyed)}, sheet_of(surveyed, sample)


def picture_facts(surveyed: Survey) -> dict[str, Any]:
    """Sizes, modes and shapes before resizing."""
    sides = [max(pair.size) for pair in surveyed.pairs]
    shape = Counter(_shape(*pair.size) for pair in surveyed.pairs)
    flat = surveyed.thumbnails.reshape(len(surveyed.pairs), -1, 3)
    return {
        "count": len(surveyed.pairs),
        "longer_side": {"least": min(sides), "median": median(sides), "most": max(sides)},
        "sizes": {f"{w} x {h}": n for (w, h), n in Counter(pair.size for pair in surveyed.pairs).most_common(5)},
        "formats": dict(Counter(pair.kind for pair in surveyed.pairs).most_common()),
        "modes": dict(Counter(pair.mode for pair in surveyed.pairs).most_common()),
        "shapes": dict(shape.most_common()),
        "animated": sum(pair.animated for pair in surveyed.pairs),
        "one_colour": int((np.ptp(flat, axis=1).max(1) <= 5).sum()),
    }


def _shape(width: int, height: int) -> str:
    ratio = width / height
    if 0.95 <= ratio <= 1.05:
        return "square"
    kind, ratio = ("wide", ratio) if ratio > 1 else ("tall", 1 / ratio)
    return f"very {kind} (over 2:1)" if ratio > 2 else kind


def duplicate_facts(surveyed: Survey) -> dict[str, Any]:
    """Pictures and captions that stand there more than once."""
    captions = Counter(same_words(pair.captions[0]) for pair in surveyed.pairs)
    groups = Counter(near_groups(surveyed.thumbnails).tolist())
    files = Counter(pair.digest for pair in surveyed.pairs)
    return {
        "same_file": surveyed.joined + sum(n - 1 for n in files.values()),
        "near_pictures": sum(n - 1 for n in groups.values()),
        "captions_of_several_pictures": sum(n > 1 for n in captions.values()),
        "most_pictures_of_a_caption": max(captions.values()),
    }


def caption_facts(surveyed: Survey, encoder: TextEncoder) -> dict[str, Any]:
    """Lengths, and what the encoder would cut."""
    texts = list(dict.fromkeys(caption for pair in surveyed.pairs for caption in pair.captions))
    words = [len(text.split()) for text in texts]
    longest = 0
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for text in texts:
            longest = max(longest, len(encoder.token_ids(encoder.prepare(text))))
    cut, unknown = (
        [str(warning.message) for warning in caught if issubclass(warning.category, kind)]
        for kind in (CaptionTruncatedWarning, CaptionUnknownWarning)
    )
    return {
        "distinct": len(texts),
        "labels": len({pair.captions[0] for pair in surveyed.pairs}),
        "most_of_a_picture": max(len(pair.captions) for pair in surveyed.pairs),
        "words": {"least": min(words), "median": median(words), "most": max(words)},
        "most_tokens": longest,
        "token_limit": encoder.max_tokens,
        "cut": len(cut),
        "first_cut": cut[0] if cut else "",
        "unknown": len(unknown),
        "first_unknown": unknown[0] if unknown else "",
        "not_ascii": sum(not text.isascii() for text in texts),
    }


def sheet_of(surveyed: Survey, sample: Sample) -> Image.Image:
    """The sampled pictures as they would be trained on, with their captions, in two columns."""
    picked = sorted(sample.kept)[:SHEET_ROWS]
    half = -(-len(picked) // 2)
    pages = []
    for numbers in filter(None, (picked[:half], picked[half:])):
        pairs = [surveyed.pairs[i] for i in numbers]
        notes = [f"{pair.name} {pair.size[0]} x {pair.size[1]}" for pair in pairs]
        captions = ["; ".join(pair.captions) for pair in pairs]
        pages.append(contact_sheet([[sample.kept[i]] for i in numbers], captions, notes))
    sheet = Image.new("RGB", (sum(page.width for page in pages), max(page.height for page in pages)), "white")
    for i, page in enumerate(pages):
        sheet.paste(page, (i * pages[0].width, 0))
    return sheet


def render(facts: dict[str, Any], listed: int = 10) -> str:
    """The facts that `inspect` gave in plain words; `listed` bad rows, and leaks, are named."""
    source = facts["source"]
    columns = ", ".join(f"{role}: {column}" for role, column in source["columns"].items())
    parts = [[f"{source['name']}: {source['kind']} ({columns})", *facts["notes"]]]
    parts += [_row_lines(facts["rows"], listed), _picture_lines(facts["pictures"], facts["duplicates"])]
    parts += [_caption_lines(facts["captions"], facts["duplicates"]), _training_lines(facts["training"], listed)]
    return "\n\n".join("\n".join(filter(None, lines)) for lines in parts)


def _row_lines(rows: dict[str, Any], listed: int) -> list[str]:
    lines = [f"Rows: {rows['all']}, of which {rows['usable']} can be used and {len(rows['bad'])} cannot"]
    for what in ("bad", "lost_captions"):
        lines += [f"  {row['row']}: {row['why']}" for row in rows[what][:listed]]
        lines += [f"  and {len(rows[what]) - listed} more (--json lists all)" if len(rows[what]) > listed else ""]
    lines += [f"  splits of its own: {_counted(rows['splits'])}" if rows["splits"] else ""]
    return [*lines, f"  {rows['artists']} artists" if rows["artists"] else ""]


def _picture_lines(pictures: dict[str, Any], duplicates: dict[str, Any]) -> list[str]:
    side = pictures["longer_side"]
    return [
        f"Pictures: {pictures['count']} different files, longer side {side['least']} to {side['most']} pixels, "
        f"median {side['median']:g}",
        f"  {_counted(pictures['shapes'])}; {_counted(pictures['formats'])}; {_counted(pictures['modes'])}",
        f"  duplicates: {duplicates['same_file']} of the same bytes, {duplicates['near_pictures']} nearly the same",
        f"  {pictures['animated']} are animated: their first frame is taken" if pictures["animated"] else "",
        f"  {pictures['one_colour']} are of one colour" if pictures["one_colour"] else "",
    ]


def _caption_lines(captions: dict[str, Any], duplicates: dict[str, Any]) -> list[str]:
    words, cut, unknown = captions["words"], captions["cut"], captions["unknown"]
    several, most = duplicates["captions_of_several_pictures"], duplicates["most_pictures_of_a_caption"]
    read = f"reads {captions['token_limit']} tokens, the longest has {captions['most_tokens']} of them"
    return [
        f"Captions: {captions['distinct']}, {words['least']} to {words['most']} words, median {words['median']:g}; "
        f"a picture has up to {captions['most_of_a_picture']}",
        f"  {several} stand with several pictures, up to {most}",
        f"  the text encoder {f'cuts {cut} captions; ' + captions['first_cut'] if cut else read}",
        f"  the text encoder knows nothing of {unknown} captions; {captions['first_unknown']}" if unknown else "",
    ]


def _training_lines(training: dict[str, Any], listed: int) -> list[str]:
    if "refused" in training:
        return [f"Training: train.prepare would refuse this: {training['refused']}"]
    joined, more = training["joined_rows"], training["leak_count"] - listed
    return [
        f"Training: {training['size']} x {training['size']} pixels ({training['fit']}), "
        f"{training['families']} families of captions",
        f"  {_counted(training['pictures'])}",
        f"  {joined} rows join an earlier one that has the same picture" if joined else "",
        *(f"  leak: {leak}" for leak in training["leaks"][:listed]),
        f"  and {more} more leaks" if more > 0 else "",
        *(f"  {note}" for note in training["notes"]),
    ]


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())
