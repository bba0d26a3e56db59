"""bridge learn, info, push, serve and score: what is asked of a whole model."""

import argparse
from pathlib import Path

from bridge.arguments import writable_folder
from bridge.commands.common import check_caption, field, open_model, prefixed, print_path, read_captions, writing
from bridge.errors import UserError
from bridge.extras import import_extra
from bridge.writing import tell


def learn(args: argparse.Namespace) -> None:
    """A model folder of captioned pictures."""
    from bridge.checkpoint import check_replaceable  # noqa: PLC0415

    writable_folder(args.out.parent)
    with prefixed("--out"):
        check_replaceable(args.out)
    pipe = open_model(args)
    card = (
        f"# A model of {len(pipe.mapper.latents):,} pictures\n\nMade by `bridge learn {Path(args.pairs).name}` from "
        f"{len(pipe.memory):,} captions, without training: a local flow over the pictures' latents. The pictures can "
        "be recovered from it nearly as they are; their licences hold for it too.\n"
    )
    with writing("--out"):
        pipe.save_pretrained(args.out, card)
    print_path(args.out)


def info(args: argparse.Namespace) -> None:
    """What is in a model: parts, sizes, settings and fingerprints, then its card with data and figures."""
    from bridge.hub import resolve_model  # noqa: PLC0415
    from bridge.mappers import LocalFlowMapper  # noqa: PLC0415

    pipe, folder = open_model(args), resolve_model(args.model)
    mapper, codec = pipe.mapper, pipe.codec
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    parameters = sum(p.numel() for p in mapper.parameters())
    rows = [
        ("folder", f"{folder} ({size / 1e6:.1f} MB)"),
        ("text encoder", f"{pipe.text_encoder.id}: codes of {pipe.text_encoder.dim}"),
        ("mapper", f"{type(mapper).__name__}: {parameters:,} parameters"),
        ("codec", f"{type(codec).__name__}: {codec.image_size} px, latents {tuple(codec.z_shape)}"),
        ("captions", f"{len(pipe.memory):,} known"),
    ]
    if isinstance(mapper, LocalFlowMapper):
        styles = ", ".join(filter(None, mapper.config.styles)) or "none told"
        rows.append(("memory", f"{len(mapper.latents):,} pictures; styles: {styles}"))
    rows.append(
        ("settings", ", ".join(f"{name}={value}" for name, value in vars(pipe.settings).items() if value != ""))
    )
    rows += [("fingerprint", f"{part} {value}") for part, value in pipe.fingerprints.items()]
    for name, text in rows:
        print(f"{name:13} {text}")
    if card := _card_of(folder).strip():
        print(f"\n{card}")


def push(args: argparse.Namespace) -> None:
    """Upload a model with its card, and print where it is. Raises UserError also if the hub does not take it."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError  # noqa: PLC0415

    from bridge.hub import resolve_model  # noqa: PLC0415

    pipe = open_model(args)
    try:
        print(pipe.push_to_hub(args.repo, _card_of(resolve_model(args.model)), private=args.private))
    except HFValidationError as error:
        raise UserError(f"USER/NAME: {str(error).splitlines()[0]}") from None
    except (HfHubHTTPError, OSError) as error:
        why = str(error).strip().splitlines()[0]
        raise UserError(f"USER/NAME: the hub did not take {args.repo} ({why}); log in with `hf auth login`") from None


def _card_of(folder: Path) -> str:
    """The model card; empty where there is none."""
    path = folder / "README.md"
    return path.read_text("utf-8") if path.is_file() else ""


def serve(args: argparse.Namespace) -> None:
    """The web page of a model, until Ctrl-C."""
    import_extra("gradio", "serve", "gradio", "the web page")
    from bridge.serve.app import free_port, hosts_of, run  # noqa: PLC0415

    port = free_port(args.host, args.port)
    pipe = open_model(args)
    where = "for everybody who can reach it" if hosts_of(args.host) is None else "for this machine alone"
    host = f"[{args.host}]" if ":" in args.host else args.host
    tell(f"http://{host}:{port}, {where}; Ctrl-C ends it")
    run(pipe, args.host, port)


def score(args: argparse.Namespace) -> None:
    """A table of how well images fit captions."""
    from bridge.images import read_image  # noqa: PLC0415
    from bridge.score import check_samples, resolve_method  # noqa: PLC0415

    check_samples(args.samples)
    captions = read_captions([], args.captions)
    pipe = open_model(args)
    for caption in captions:
        check_caption("--captions", caption, pipe)
    method = resolve_method(pipe.mapper)
    with prefixed("IMAGE"):
        images = [read_image(name, size=pipe.codec.image_size) for name in args.image]
    scores = pipe.score(images, captions, samples=args.samples, seed=args.seed)
    tell(f"scores by {method}; columns: file, caption, score, typical")
    if args.by == "image":
        cells = [(i, c) for i in range(len(images)) for c in scores.best_captions(i)]
    else:
        cells = [(i, c) for c in range(len(captions)) for i in scores.best_images(c)]
    for i, c in cells:
        typical = [] if scores.typical is None else [f"{float(scores.typical[i, c]):.2f}"]
        print(field(args.image[i]), field(captions[c]), f"{float(scores.score[i, c]):.3f}", *typical, sep="\t")
