"""What a model folder holds, in words."""

from pathlib import Path

from bridge.pipeline import BridgePipeline

CARD = "README.md"


def card_of(folder: Path) -> str:
    """The model card; empty where there is none."""
    path = folder / CARD
    return path.read_text("utf-8") if path.is_file() else ""


def describe(pipe: BridgePipeline, folder: Path) -> str:
    """Parts, sizes, settings and fingerprints of a model, then its card with data and figures.

    Args:
        pipe: The model, opened from `folder`, so that every file has been checked.
        folder: Where it lies.
    """
    parameters = sum(p.numel() for p in pipe.mapper.parameters())
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    lines = [
        f"folder        {folder} ({size / 1e6:.1f} MB)",
        f"text encoder  {pipe.text_encoder.id}: codes of {pipe.text_encoder.dim}",
        f"mapper        {type(pipe.mapper).__name__}: {parameters:,} parameters",
        f"codec         {type(pipe.codec).__name__}: {pipe.codec.image_size} px, latents {tuple(pipe.codec.z_shape)}",
        f"captions      {len(pipe.memory):,} known",
        f"settings      {', '.join(f'{name}={value:g}' for name, value in vars(pipe.settings).items())}",
        *(f"fingerprint   {part} {value}" for part, value in pipe.fingerprints.items()),
    ]
    card = card_of(folder).strip()
    return "\n".join(lines + (["", card] if card else []))
