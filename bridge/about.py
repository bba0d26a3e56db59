"""What a model folder holds, in words."""

from pathlib import Path

from bridge.mappers import LocalFlowMapper
from bridge.pipeline import BridgePipeline

CARD = "README.md"


def card_of(folder: Path) -> str:
    """The model card; empty where there is none."""
    path = folder / CARD
    return path.read_text("utf-8") if path.is_file() else ""


def _memory(pipe: BridgePipeline) -> list[str]:
    if not isinstance(pipe.mapper, LocalFlowMapper):
        return []
    styles = ", ".join(filter(None, pipe.mapper.config.styles)) or "none told"
    return [f"memory        {len(pipe.mapper.latents):,} pictures; styles: {styles}"]


def learnt_card(pipe: BridgePipeline, source: str) -> str:
    """The model card of a model that was made from somebody's pictures."""
    assert isinstance(pipe.mapper, LocalFlowMapper)
    return (
        f"# A model of {len(pipe.mapper.latents):,} pictures\n\nMade by `bridge learn {Path(source).name}` from "
        f"{len(pipe.memory):,} captions, without training: a local flow over the pictures' latents. The pictures can "
        "be recovered from it nearly as they are; their licences hold for it too.\n"
    )


def describe(pipe: BridgePipeline, folder: Path) -> str:
    """Parts, sizes, settings and fingerprints of a model opened from `folder`, then its card with data and figures."""
    parameters = sum(p.numel() for p in pipe.mapper.parameters())
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    lines = [
        f"folder        {folder} ({size / 1e6:.1f} MB)",
        f"text encoder  {pipe.text_encoder.id}: codes of {pipe.text_encoder.dim}",
        f"mapper        {type(pipe.mapper).__name__}: {parameters:,} parameters",
        f"codec         {type(pipe.codec).__name__}: {pipe.codec.image_size} px, latents {tuple(pipe.codec.z_shape)}",
        f"captions      {len(pipe.memory):,} known",
        *_memory(pipe),
        f"settings      {', '.join(f'{name}={value}' for name, value in vars(pipe.settings).items() if value != '')}",
        *(f"fingerprint   {part} {value}" for part, value in pipe.fingerprints.items()),
    ]
    card = card_of(folder).strip()
    return "\n".join(lines + (["", card] if card else []))
