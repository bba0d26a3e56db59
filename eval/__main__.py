"""python -m eval MODEL --data data/emoji --split validation --out report/: judge a model in one command."""

import argparse
import copy
import hashlib
import itertools
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bridge.checkpoint import atomic_write
from bridge.noise import generator_for
from bridge.pipeline import BridgePipeline
from eval.features import EfficientNetLite0
from eval.judge import Judge
from eval.report import ROWS, Generate, check_counts, evaluate
from eval.table import to_json, to_text

CHUNK = 64


def generate_with(
    pipe: BridgePipeline,
    seed: int = 0,
    *,
    guidance_scale: float | None = None,
    num_inference_steps: int | None = None,
    temperature: float | None = None,
) -> Generate:
    """A pipeline as the report wants it: captions and n to pictures (captions, n, 3, H, W).

    Noise is keyed by caption too: one seed's images share theirs across captions, which would make the
    captions' errors agree and every interval over captions too narrow.

    Args:
        pipe: The model.
        seed: Of the noise.
        guidance_scale: Like the next two, the model's default where absent.
        num_inference_steps: Solver steps.
        temperature: Factor on the noise.
    """

    def generate(captions: Sequence[str], n: int) -> Tensor:
        parts = []
        for start in range(0, len(captions), CHUNK):
            some = list(captions[start : start + CHUNK])
            noise = [generator_for(seed, _number(c), i) for c in some for i in range(n)]
            output = pipe(
                some,
                n,
                generator=noise,
                guidance_scale=guidance_scale,
                num_inference_steps=num_inference_steps,
                temperature=temperature,
                output_type="pt",
            )
            parts.append(output.images.unflatten(0, (len(some), n)))
        return torch.cat(parts)

    return generate


def with_neighbours(
    pipe: BridgePipeline, familiar: float | None, neighbour_temperature: float | None
) -> BridgePipeline:
    """The same model with other values of these `Settings`; None keeps the model's."""
    chosen: dict[str, Any] = {"familiar": familiar, "neighbour_temperature": neighbour_temperature}
    other = copy.copy(pipe)
    other.settings = replace(pipe.settings, **{k: v for k, v in chosen.items() if v is not None})
    return other


def _number(caption: str) -> int:
    return int.from_bytes(hashlib.sha256(caption.encode()).digest()[:8], "little")


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(prog="python -m eval", description=__doc__)
    parser.add_argument("model", help="a shipped model's name, a model folder, or a hub id")
    parser.add_argument("--data", default="data/emoji", help="a dataset made by train.emoji")
    parser.add_argument("--split", choices=sorted(ROWS), default="validation", help="choose on validation")
    parser.add_argument("--out", default="report", help="folder for report.json")
    parser.add_argument("--captions", type=int, help="judge at most so many captions of each row")
    parser.add_argument("--samples", type=int, default=4, help="pictures a caption, at least 2")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--guidance-scale", type=float, nargs="+", default=[None], metavar="G")
    parser.add_argument("--steps", type=int, nargs="+", default=[None], metavar="K")
    parser.add_argument("--temperature", type=float, nargs="+", default=[None], metavar="T")
    parser.add_argument("--familiar", type=float, nargs="+", default=[None], metavar="COSINE")
    parser.add_argument("--neighbour-temperature", type=float, nargs="+", default=[None], metavar="T")
    return parser


def models_of(pipe: BridgePipeline, args: argparse.Namespace) -> dict[str, Generate]:
    """One model for every combination of the settings given, named after those that vary.

    Raises:
        ValueError: A setting is out of its range.
    """
    axes = {
        "guidance_scale": args.guidance_scale,
        "num_inference_steps": args.steps,
        "temperature": args.temperature,
        "familiar": args.familiar,
        "neighbour_temperature": args.neighbour_temperature,
    }
    models = {}
    for values in itertools.product(*axes.values()):
        settings = dict(zip(axes, values, strict=True))
        call = {name: settings[name] for name in ("guidance_scale", "num_inference_steps", "temperature")}
        pipe.resolve(**call)
        other = with_neighbours(pipe, settings["familiar"], settings["neighbour_temperature"])
        varied = [f"{name}={value:g}" for name, value in settings.items() if len(axes[name]) > 1]
        models[", ".join(varied) or "model"] = generate_with(other, args.seed, **call)
    return models


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 when the report is written, 2 for bad input."""
    args = build_parser().parse_args(argv)
    try:
        _run(args, argv if argv is not None else sys.argv[1:])
    except (ValueError, OSError) as error:
        print(f"python -m eval: {error}", file=sys.stderr)
        return 2
    return 0


def _run(args: argparse.Namespace, argv: Sequence[str]) -> None:
    check_counts(args.samples, args.captions)
    out = Path(args.out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--out: cannot write to {out} ({error.strerror}); give another folder") from error
    pipe = BridgePipeline.from_pretrained(args.model)
    models = models_of(pipe, args)
    _say("judge: features of the dataset (cached after the first time)")
    judge = Judge.load(args.data, EfficientNetLite0(), lambda done, total: _say(f"  {done} of {total} pictures"))
    report = evaluate(
        models,
        judge,
        split=args.split,
        codec=pipe.codec,
        encode_text=lambda captions: encode_captions(pipe, captions),
        n=args.samples,
        captions=args.captions,
        seed=args.seed,
        say=_say,
        about={
            "command": shlex.join(["python", "-m", "eval", *argv]),
            "model": pipe.fingerprint,
            "settings": str(pipe.settings),
        },
    )
    atomic_write(out / "report.json", to_json(report))
    print(to_text(report))


def encode_captions(pipe: BridgePipeline, captions: Sequence[str]) -> np.ndarray:
    """Unit text codes of captions, (N, D)."""
    return pipe.text_encoder.encode(captions, batch_size=CHUNK, with_tokens=False).pooled.cpu().numpy()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
