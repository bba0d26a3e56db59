"""What anybody's captioned pictures are, as train.prepare would read them: in facts, on a sheet, and in plain words."""

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

from bridge.errors import UserError
from bridge.images import contact_sheet
from bridge.pairs.reading import Reading, Survey, all_notes, survey
from bridge.pairs.sources import Wanted, open_source
from bridge.pairs.tables import SPLITS
from bridge.text import CaptionTruncatedWarning, CaptionUnknownWarning, TextEncoder
from train.splits import Partition, codes_of, near_groups, partition, same_words

SHEET_ROWS = 16  # Pictures on the sheet, spread evenly over the source
LISTED, SHOWN = 1000, 10  # Bad rows and leaks that a summary lists, and that are printed


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
    """Read a source once; facts of it, fit for JSON, and a sheet of a few pictures with their captions.

    See `train.prepare.prepare` for the arguments.
    Raises UserError if the source cannot be read, or no row of it is usable.
    """
    how, encoder = how or Reading(), encoder or TextEncoder.from_pretrained()
    source, sample = open_source(wanted), Sample(SHEET_ROWS)
    surveyed = survey(source, replace(how, max_bad=1), sample.add)
    pairs, bad, groups = surveyed.pairs, len(surveyed.bad), near_groups(surveyed.thumbnails)
    try:
        plan = summary(surveyed, partition(surveyed, groups, partial(codes_of, encoder), seed, resplit=resplit))
        names = ("pictures", "families", "joined_rows", "leak_count", "leaks", "notes")
        training = {"size": how.size, "fit": how.fit} | {name: plan[name] for name in names}
    except UserError as error:
        training = {"refused": str(error)}
    if bad > how.max_bad * surveyed.rows:
        training["refused"] = f"{bad} of {surveyed.rows} rows are bad, more than --max-bad {how.max_bad:g}"
    facts = {
        "source": {"name": wanted.source, "kind": source.kind, "columns": dict(source.columns)},
        "rows": {
            "all": surveyed.rows,
            "usable": surveyed.rows - bad,
            "bad": _reasons(surveyed.bad),
            "lost_captions": _reasons(surveyed.lost),
            "splits": dict(Counter(pair.split for pair in pairs if pair.split)),
            "artists": len({pair.artist for pair in pairs if pair.artist}),
        },
        "pictures": _picture_facts(surveyed),
        "duplicates": _duplicate_facts(surveyed, groups),
        "captions": _caption_facts(surveyed, encoder),
        "training": training,
        "notes": all_notes(source, surveyed),
    }
    return facts, _sheet(surveyed, sample)


def summary(surveyed: Survey, plan: Partition) -> dict[str, Any]:
    """Counts, what was left out and why, and leaks, fit for JSON."""
    return {
        "rows": surveyed.rows,
        "pictures": {name or "left out": plan.split.count(name) for name in (*SPLITS, "") if name in plan.split},
        "families": len(set(plan.family.tolist())),
        "bad_rows": len(surveyed.bad),
        "bad": _reasons(surveyed.bad[:LISTED]),
        "lost_captions": _reasons(surveyed.lost[:LISTED]),
        "joined_rows": surveyed.joined,
        "leak_count": len(plan.leaks),
        "leaks": list(plan.leaks[:LISTED]),
        "notes": list(plan.notes),
    }


def _reasons(rows: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"row": name, "why": why} for name, why in rows]


def _spread(numbers: list[int]) -> dict[str, float]:
    return {"least": min(numbers), "median": median(numbers), "most": max(numbers)}


def _picture_facts(surveyed: Survey) -> dict[str, Any]:
    """Sizes, modes and shapes before resizing."""
    pairs = surveyed.pairs
    colours = surveyed.thumbnails.reshape(len(pairs), -1, 3)
    return {
        "count": len(pairs),
        "longer_side": _spread([max(pair.size) for pair in pairs]),
        "sizes": {f"{w} x {h}": n for (w, h), n in Counter(pair.size for pair in pairs).most_common(5)},
        "formats": dict(Counter(pair.kind for pair in pairs).most_common()),
        "modes": dict(Counter(pair.mode for pair in pairs).most_common()),
        "shapes": dict(Counter(_shape(*pair.size) for pair in pairs).most_common()),
        "animated": sum(pair.animated for pair in pairs),
        "one_colour": int((np.ptp(colours, axis=1).max(1) <= 5).sum()),
    }


def _shape(width: int, height: int) -> str:
    if 0.95 <= width / height <= 1.05:
        return "square"
    kind = "wide" if width > height else "tall"
    return f"very {kind} (over 2:1)" if max(width, height) > 2 * min(width, height) else kind


def _duplicate_facts(surveyed: Survey, groups: np.ndarray) -> dict[str, Any]:
    """Pictures and captions that stand there more than once."""
    captions = Counter(same_words(pair.captions[0]) for pair in surveyed.pairs)
    return {
        "same_file": surveyed.joined + len(surveyed.pairs) - len({pair.digest for pair in surveyed.pairs}),
        "near_pictures": len(surveyed.pairs) - len(np.unique(groups)),
        "captions_of_several_pictures": sum(n > 1 for n in captions.values()),
        "most_pictures_of_a_caption": max(captions.values()),
    }


def _caption_facts(surveyed: Survey, encoder: TextEncoder) -> dict[str, Any]:
    """Lengths, and what the encoder would cut."""
    texts = list(dict.fromkeys(caption for pair in surveyed.pairs for caption in pair.captions))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        longest = max(len(encoder.token_ids(encoder.prepare(text))) for text in texts)
    cut, unknown = (
        [str(warning.message) for warning in caught if issubclass(warning.category, kind)]
        for kind in (CaptionTruncatedWarning, CaptionUnknownWarning)
    )
    return {
        "distinct": len(texts),
        "labels": len({pair.captions[0] for pair in surveyed.pairs}),
        "most_of_a_picture": max(len(pair.captions) for pair in surveyed.pairs),
        "words": _spread([len(text.split()) for text in texts]),
        "most_tokens": longest,
        "token_limit": encoder.max_tokens,
        "cut": len(cut),
        "first_cut": cut[0] if cut else "",
        "unknown": len(unknown),
        "first_unknown": unknown[0] if unknown else "",
        "not_ascii": sum(not text.isascii() for text in texts),
    }


def _sheet(surveyed: Survey, sample: Sample) -> Image.Image:
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


def prepared_lines(facts: dict[str, Any]) -> list[str]:
    """The summary of a dataset in a few lines."""
    left_out = [f"left out: {bad['row']}: {bad['why']}" for bad in facts["bad"]]
    return [
        f"{facts['rows']} rows, {facts['families']} families of captions: {_counted(facts['pictures'])}",
        *_shortened(left_out, facts["bad_rows"]),
        *_leak_lines(facts),
    ]


def render(facts: dict[str, Any]) -> str:
    """The facts that `inspect` gave in plain words; ten bad rows, and leaks, are named."""
    source, rows, captions, duplicates = (facts[name] for name in ("source", "rows", "captions", "duplicates"))
    columns = ", ".join(f"{role}: {column}" for role, column in source["columns"].items())
    bad, lost = ([f"{row['row']}: {row['why']}" for row in rows[what]] for what in ("bad", "lost_captions"))
    row_lines = [
        f"Rows: {rows['all']}, of which {rows['usable']} can be used and {len(bad)} cannot",
        *_shortened(bad, len(bad), " (--json lists all)"),
        *_shortened(lost, len(lost), " (--json lists all)"),
        f"splits of its own: {_counted(rows['splits'])}" if rows["splits"] else "",
        f"{rows['artists']} artists" if rows["artists"] else "",
    ]
    pictures, side = facts["pictures"], facts["pictures"]["longer_side"]
    picture_lines = [
        f"Pictures: {pictures['count']} different files, longer side {side['least']} to {side['most']} pixels, "
        f"median {side['median']:g}",
        "; ".join(_counted(pictures[what]) for what in ("shapes", "formats", "modes")),
        f"duplicates: {duplicates['same_file']} of the same bytes, {duplicates['near_pictures']} nearly the same",
        f"{pictures['animated']} are animated: their first frame is taken" if pictures["animated"] else "",
        f"{pictures['one_colour']} are of one colour" if pictures["one_colour"] else "",
    ]
    words, cut, unknown = captions["words"], captions["cut"], captions["unknown"]
    several, most = duplicates["captions_of_several_pictures"], duplicates["most_pictures_of_a_caption"]
    read = f"reads {captions['token_limit']} tokens, the longest has {captions['most_tokens']} of them"
    caption_lines = [
        f"Captions: {captions['distinct']}, {words['least']} to {words['most']} words, median {words['median']:g}; "
        f"a picture has up to {captions['most_of_a_picture']}",
        f"{several} stand with several pictures, up to {most}",
        f"the text encoder {f'cuts {cut} captions; ' + captions['first_cut'] if cut else read}",
        f"the text encoder knows nothing of {unknown} captions; {captions['first_unknown']}" if unknown else "",
    ]
    about = "\n".join([f"{source['name']}: {source['kind']} ({columns})", *facts["notes"]])
    parts = (row_lines, picture_lines, caption_lines, _training_lines(facts["training"]))
    return "\n\n".join([about, *("\n  ".join(filter(None, lines)) for lines in parts)])


def _training_lines(training: dict[str, Any]) -> list[str]:
    if "refused" in training:
        return [f"Training: train.prepare would refuse this: {training['refused']}"]
    size, joined = training["size"], training["joined_rows"]
    return [
        f"Training: {size} x {size} pixels ({training['fit']}), {training['families']} families of captions",
        _counted(training["pictures"]),
        f"{joined} rows join an earlier one that has the same picture" if joined else "",
        *_leak_lines(training),
    ]


def _leak_lines(facts: dict[str, Any]) -> list[str]:
    leaks = [f"leak: {leak}" for leak in facts["leaks"]]
    return [*_shortened(leaks, facts["leak_count"], " leaks"), *facts["notes"]]


def _shortened(lines: Sequence[str], count: int, more: str = "") -> list[str]:
    """The first ten lines, and one that says how many of `count` are left."""
    return [*lines[:SHOWN], *([f"and {count - SHOWN} more{more}"] if count > SHOWN else [])]


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())
