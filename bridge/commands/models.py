"""bridge learn, info, push, serve and score: what is asked of a whole model."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from bridge.arguments import writable_folder
from bridge.commands.common import (
    check_caption,
    field,
    learn_model,
    load_model,
    one_line,
    prefixed,
    read_captions,
    words,
    writing,
)
from bridge.errors import UserError
from bridge.extras import import_extra
from bridge.writing import tell

if TYPE_CHECKING:
    from bridge.pipeline import BridgePipeline
    from bridge.score import ScoreMatrix


def learn(args: argparse.Namespace) -> None:
    """A model folder of captioned pictures."""
    from bridge.checkpoint import check_replaceable  # noqa: PLC0415

    writable_folder(args.out.parent)
    with prefixed("--out"):
        check_replaceable(args.out)
    pipe = learn_model(args, "SOURCE")
    card = (
        f"# A model of {len(pipe.mapper.latents):,} pictures\n\nMade by `bridge learn {Path(args.pairs).name}` from "
        f"{len(pipe.memory):,} captions, without training: a local flow over the pictures' latents. The pictures can "
        "be recovered from it nearly as they are; their licences hold for it too.\n"
    )
    with writing("--out"):
        pipe.save_pretrained(args.out, card)
    print(one_line(args.out))


def info(args: argparse.Namespace) -> None:
    """What is in a model: parts, sizes, settings and fingerprints, then its card with data and figures."""
    from bridge.hub import resolve_model  # noqa: PLC0415

    pipe, folder = load_model(args.model, "MODEL"), resolve_model(args.model)
    card = _card_of(folder).strip()
    print("\n".join([*_described(pipe, folder), *(["", card] if card else [])]))


def _card_of(folder: Path) -> str:
    """The model card; empty where there is none."""
    path = folder / "README.md"
    return path.read_text("utf-8") if path.is_file() else ""


def _described(pipe: "BridgePipeline", folder: Path) -> Iterator[str]:
    from bridge.mappers import LocalFlowMapper  # noqa: PLC0415

    parameters = sum(p.numel() for p in pipe.mapper.parameters())
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    yield f"folder        {folder} ({size / 1e6:.1f} MB)"
    yield f"text encoder  {pipe.text_encoder.id}: codes of {pipe.text_encoder.dim}"
    yield f"mapper        {type(pipe.mapper).__name__}: {parameters:,} parameters"
    yield f"codec         {type(pipe.codec).__name__}: {pipe.codec.image_size} px, latents {tuple(pipe.codec.z_shape)}"
    yield f"captions      {len(pipe.memory):,} known"
    if isinstance(pipe.mapper, LocalFlowMapper):
        styles = ", ".join(filter(None, pipe.mapper.config.styles)) or "none told"
        yield f"memory        {len(pipe.mapper.latents):,} pictures; styles: {styles}"
    yield f"settings      {', '.join(f'{name}={value}' for name, value in vars(pipe.settings).items() if value != '')}"
    yield from (f"fingerprint   {part} {value}" for part, value in pipe.fingerprints.items())


def push(args: argparse.Namespace) -> None:
    """Upload a model with its card, and print where it is. Raises UserError also if the hub does not take it."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError  # noqa: PLC0415

    from bridge.hub import resolve_model  # noqa: PLC0415

    pipe = load_model(args.model, "MODEL")
    try:
        print(pipe.push_to_hub(args.repo, _card_of(resolve_model(args.model)), private=args.private))
    except HFValidationError as error:
        raise UserError(f"USER/NAME: {str(error).splitlines()[0]}") from None
    except (HfHubHTTPError, OSError) as error:
        why = str(error).strip().splitlines()[0]
        raise UserError(f"USER/NAME: the hub did not take {args.repo} ({why}); log in with `hf auth login`") from None


def serve(args: argparse.Namespace) -> None:
    """The web page of a model, until Ctrl-C."""
    with words({"port": "--port"}):
        import_extra("gradio", "serve", "gradio", "the web page")
        from bridge.serve.app import free_port, hosts_of, run  # noqa: PLC0415

        port = free_port(args.host, args.port)
    pipe = load_model(args.model)
    where = "for everybody who can reach it" if hosts_of(args.host) is None else "for this machine alone"
    host = f"[{args.host}]" if ":" in args.host else args.host
    tell(f"http://{host}:{port}, {where}; Ctrl-C ends it")
    run(pipe, args.host, port)


def score(args: argparse.Namespace) -> None:
    """A table of how well images fit captions."""
    from bridge.images import read_image  # noqa: PLC0415
    from bridge.score import check_samples, resolve_method  # noqa: PLC0415

    with words({"samples": "--samples"}):
        check_samples(args.samples)
    captions = read_captions([], args.captions)
    pipe = load_model(args.model)
    for caption in captions:
        check_caption("--captions", caption, pipe)
    with words({"model": "--model"}):
        method = resolve_method(pipe.mapper)
    with prefixed("IMAGE"):
        images = [read_image(name, size=pipe.codec.image_size) for name in args.image]
    scored = pipe.score(images, captions, method=method, samples=args.samples, seed=args.seed)
    tell(f"scores by {method}; columns: file, caption, score, typical")
    for i, k in _ranked(scored, args.by):
        last = [] if scored.typical is None else [f"{float(scored.typical[i, k]):.2f}"]
        print(field(args.image[i]), field(captions[k]), f"{float(scored.score[i, k]):.3f}", *last, sep="\t")


def _ranked(scored: "ScoreMatrix", by: str) -> Iterator[tuple[int, int]]:
    """Pairs (image, caption) in the order in which they are printed."""
    images, captions = scored.score.shape
    if by == "image":
        return ((i, c) for i in range(images) for c in scored.best_captions(i))
    return ((i, c) for c in range(captions) for i in scored.best_images(c))
