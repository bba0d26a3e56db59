"""Anybody's captioned pictures: what they are, and as a dataset that train.* and eval read.

    python -m train.prepare SOURCE --sheet sheet.png

prints counts, bad rows with their reasons, duplicates, sizes, captions, and the splits that training would see, and
writes nothing but the sheet.

    python -m train.prepare SOURCE --out data/mine

writes a folder that `datasets.load_from_disk` opens: image, captions, label, artist, style, family, split, source;
and prepared.json, which says how it was made and what was left out. See docs/data.md.

    python -m train.prepare data/mine --words runs/words

writes word vectors of the training captions of a dataset, for `text:` in a mapper's config.

    python -m train.prepare data/mine --contrastive runs/contrastive

tunes MiniLM to the pictures of a dataset, as CLIP's text tower is, into runs/contrastive/text, for the same.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from PIL import ImageColor
from torch import Tensor

from bridge.arguments import writable_folder
from bridge.captions import prepare_caption, well_formed
from bridge.checkpoint import CheckpointError, atomic_folder, check_replaceable, verify_folder
from bridge.errors import UserError
from bridge.images import save_png
from bridge.pairs.reading import Reading, Survey, survey
from bridge.pairs.sources import Wanted, digest_of, open_source
from bridge.text import TextEncoder
from bridge.text.words import WordVectors, split_words
from train.command import Parser, number, run_command, whole, writable_file
from train.config import ConfigError, named
from train.contrastive import ContrastiveTraining
from train.data.dataset import CAPTIONED, features, load_dataset, rows_of
from train.inspect import inspect, prepared_lines, render, summary
from train.splits import Partition, codes_of, near_groups, partition

FACTS, VERSION = "prepared.json", 1  # The version counts changes to what the same source becomes
FEATURES = features(f"{CAPTIONED} source")
DIM = 128  # Length of a word vector
EPOCHS = 20  # Times that captions are read for word vectors


class OtherSourceError(ConfigError):
    """A folder holds a dataset that was made of something else."""


def prepare(
    source: str | Path | Wanted,
    out: str | Path,
    how: Reading | None = None,
    seed: int = 0,
    *,
    resplit: bool = False,
    encoder: TextEncoder | None = None,
) -> Path:
    """Make a dataset folder of a source, complete or not at all, unless `out` is made of it already; returns `out`.

    Another `seed` holds out other captions, `resplit` leaves splits of the source's own aside, and the codes of
    `encoder`, by default MiniLM, tell families of captions apart. Raises ConfigError if the source cannot be read, too
    much of it is bad, it is too small to be split, or `out` holds anything else.
    """
    wanted = source if isinstance(source, Wanted) else Wanted(str(source))
    out, how, opened = Path(out), how or Reading(), open_source(wanted)
    settings = {"version": VERSION, "seed": seed, "resplit": resplit, **asdict(how)}
    columns = dict(opened.columns)
    fingerprint = digest_of(json.dumps([opened.fingerprint, columns, settings], sort_keys=True))
    if _is_done(out, fingerprint):
        return out
    about = {"source": wanted.source, "kind": opened.kind, "columns": columns, "settings": settings}
    try:
        with atomic_folder(out) as folder:
            work = folder / ".work"
            work.mkdir()
            surveyed = survey(opened, how, lambda i, picture: picture.save(work / f"{i}.png"))
            groups, encode = near_groups(surveyed.thumbnails), partial(codes_of, encoder)
            plan = partition(surveyed, groups, encode, seed, resplit=resplit)
            rows = partial(_rows, surveyed, plan, work)
            data = datasets.Dataset.from_generator(rows, FEATURES, str(work / "cache"), fingerprint=fingerprint)
            data.save_to_disk(str(folder))
            shutil.rmtree(work)
            record = {"fingerprint": fingerprint, **about, **summary(surveyed, plan)}
            text = json.dumps(record, ensure_ascii=False, indent=1) + "\n"
            (folder / FACTS).write_text(text, encoding="utf-8", errors="replace")
    except CheckpointError as error:
        raise ConfigError(f"out: {error}") from error
    return out


def _rows(surveyed: Survey, plan: Partition, work: Path) -> Iterator[dict[str, Any]]:
    """The dataset's rows, whose pictures are in `work` by their numbers."""
    for i, pair in enumerate(surveyed.pairs):
        if plan.split[i]:
            image = {"bytes": (work / f"{i}.png").read_bytes(), "path": None}
            own = {"artist": pair.artist, "style": pair.style, "source": pair.name}
            place = {"family": int(plan.family[i]), "split": plan.split[i]}
            yield {"image": image, "captions": list(pair.captions), "label": pair.captions[0], **own, **place}


def _is_done(out: Path, fingerprint: str) -> bool:
    """Whether `out` was already made so. Raises OtherSourceError if otherwise, ConfigError if it is no dataset."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    try:
        same = json.loads((out / FACTS).read_text("utf-8"))["fingerprint"] == fingerprint
        verify_folder(out)
    except CheckpointError as error:
        raise ConfigError(f"out: {out} {error}; remove it or choose another folder") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"out: {out} is no dataset made by train.prepare; choose another folder") from error
    if not same:
        why = "was made of another source, of other files or with other settings"
        raise OtherSourceError(f"out: {out} {why}; remove it or choose another folder")
    return True


def training_sentences(data: Path, every: bool = False) -> list[list[str]]:
    """Words of each distinct training caption of a dataset, or of all of its captions, in order; see `load_dataset`."""
    dataset = load_dataset(data)
    rows = dataset if every else rows_of(dataset, "train")
    captions = dict.fromkeys(text for row in rows["captions"] for text in row)
    return [words for text in captions if (words := split_words(prepare_caption(text)))]


def idf_weights(sentences: Sequence[Sequence[str]], words: Sequence[str]) -> Tensor:
    """Smoothed inverse document frequency ln((1 + N) / (1 + n)) + 1 of V words over N sentences, (V,).

    Source: Spärck Jones 1972, A Statistical Interpretation of Term Specificity

    >>> idf_weights([["red", "cat"], ["red", "bus"]], ["red", "unseen"])
    tensor([1.0000, 2.0986])
    """
    from sklearn.feature_extraction.text import TfidfVectorizer  # noqa: PLC0415

    fitted = TfidfVectorizer(analyzer=list, vocabulary=words).fit(sentences)
    return torch.from_numpy(fitted.idf_).float()


def fit_words(sentences: Sequence[Sequence[str]], dim: int, epochs: int = EPOCHS, seed: int = 0) -> WordVectors:
    """Skip-gram vectors of every word of the sentences, with their idf; one thread, so equal for an equal seed.

    Raises ConfigError if there are no words.

    Source: Mikolov et al. 2013, Distributed Representations of Words and Phrases, arXiv:1310.4546
    """
    from gensim.models import Word2Vec  # noqa: PLC0415

    if not any(sentences):
        raise ConfigError("data: its training captions hold no words")
    # Captions are short: within a window of 5 every word is near every other.
    model = Word2Vec(sentences, vector_size=dim, window=5, min_count=1, sg=1, workers=1, epochs=epochs, seed=seed)
    vectors = torch.from_numpy(np.array(model.wv.vectors, np.float32))
    return WordVectors(list(model.wv.index_to_key), vectors, idf_weights(sentences, model.wv.index_to_key))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments that say which source, and how to read and split it."""
    add = parser.add_argument
    add("source", help="folder, .csv, .tsv, .jsonl or .parquet file, or hub id such as owner/name")
    add("--caption-column", help="column of captions, if it is not found by its name")
    add("--image-column", help="column of pictures or their files, if it is not found")
    add("--names", choices=["file", "folder"], default="", help="names are the captions")
    add("--subset", help="configuration of a hub dataset that has several")
    add("--size", type=int, default=64, help="side of a picture in pixels")
    add("--fit", choices=["pad", "crop"], default="pad", help="how pictures become square")
    add("--background", default="white", help="colour, by name or like #ffcc00")
    add("--max-bad", type=number(0, 1), default=0.05, help="share of rows that may be unusable")
    add("--seed", type=whole(0), default=0, help="another one holds out other captions")
    add("--resplit", action="store_true", help="leave the source's own splits aside")


def chosen(args: argparse.Namespace) -> tuple[Wanted, Reading]:
    """What the options of `add_arguments` say. Raises ConfigError if one is out of range."""
    try:
        red, green, blue = ImageColor.getrgb(args.background)[:3]  # any opacity is left out
    except ValueError as error:
        raise ConfigError(f"--background: {args.background!r} is no colour; try white or #ffcc00") from error
    wanted = Wanted(args.source, args.caption_column, args.image_column, args.names, args.subset)
    return wanted, Reading(args.size, args.fit, (red, green, blue), args.max_bad)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    examples = """
        python -m train.prepare photos/ --sheet sheet.png
        python -m train.prepare photos/ --out data/photos
        python -m train.prepare data/photos --words runs/words
        python -m train.prepare data/photos --contrastive runs/contrastive
    """
    parser = Parser("python -m train.prepare", __doc__, examples)
    add_arguments(parser)
    add = parser.add_argument
    add("--out", type=Path, help="folder of the dataset; without it the source is only looked at")
    add("--sheet", type=Path, help="PNG file for a sheet of a few pictures with captions")
    add("--json", action="store_true", help="print what the source is as JSON")
    add("--words", type=Path, help="folder for word vectors of the captions of a dataset")
    add("--dim", type=whole(1), help=f"length of a word vector (default: {DIM})")
    add("--epochs", type=whole(1), help=f"times that the captions are read for --words (default: {EPOCHS})")
    add("--all-captions", action="store_true", help="read those held out too for --words; no pictures")
    add("--contrastive", type=Path, help="run folder for MiniLM tuned to the pictures of a dataset")
    return run_command(parser, argv, _run)


def _run(args: argparse.Namespace) -> None:
    makes = args.out or args.words or args.contrastive
    for option in ("sheet", "json"):
        if getattr(args, option) and makes:
            makers = "--out, --words and --contrastive"
            raise UserError(f"--{option}: is of a source that is only looked at; leave {makers} out, or it")
    for option in ("dim", "epochs", "all_captions"):
        if getattr(args, option) and not args.words:
            raise UserError(f"--{option.replace('_', '-')}: says how --words reads; give --words FOLDER")
    if not makes:
        _look(args)
    if args.words:
        check_replaceable(args.words)
        writable_folder(args.words.parent, "--words")
    if args.contrastive:
        writable_folder(args.contrastive, "--contrastive")
    if args.out:
        wanted, how = chosen(args)
        writable_folder(args.out.parent)
        prepare(wanted, args.out, how, args.seed, resplit=args.resplit)
        print("\n".join(prepared_lines(json.loads((args.out / FACTS).read_text("utf-8")))), file=sys.stderr)
        print(args.out)
    _fit_texts(args, args.out or Path(args.source), "--out" if args.out else "SOURCE")


def _fit_texts(args: argparse.Namespace, data: Path, argument: str) -> None:
    """Text spaces of a dataset, which `argument` named."""
    if args.words:
        with named(argument):
            sentences = training_sentences(data, args.all_captions)
            encoder = fit_words(sentences, args.dim or DIM, args.epochs or EPOCHS)
        with atomic_folder(args.words) as scratch:
            encoder.save(scratch)
        print(args.words)
    if args.contrastive:
        with named(argument):
            training = ContrastiveTraining(data, args.contrastive, TextEncoder.from_pretrained())
        print(training.run())


def _look(args: argparse.Namespace) -> None:
    if args.sheet:
        if not args.sheet.parent.is_dir():
            raise UserError(f"--sheet: {args.sheet.parent} is no folder; make it, or name another file")
        writable_file(args.sheet, "--sheet")
    facts, sheet = inspect(*chosen(args), args.seed, resplit=args.resplit)
    if args.sheet:
        save_png(sheet, args.sheet, {"pictures": facts["pictures"]["count"]})
    print(well_formed(json.dumps(facts, ensure_ascii=False, indent=1)) if args.json else render(facts))


if __name__ == "__main__":
    sys.exit(main())
