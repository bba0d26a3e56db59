"""Mapping families."""

import inspect
from pathlib import Path

from bridge.checkpoint import CheckpointError
from bridge.mappers.base import CleanMapper, DensityMapper, InvertibleMapper, Mapper, VelocityMapper
from bridge.mappers.flow import NormalizingFlowMapper
from bridge.mappers.gaussian import GaussianMapper, MixtureMapper
from bridge.mappers.local import LocalFlowMapper
from bridge.mappers.matching import FlowMatchingMapper, TransformerFlowMapper
from bridge.opening import CONFIG, open_module, read_config, refuse_unknown

FAMILIES: dict[str, type[Mapper]] = {
    "FlowMatchingMapper": FlowMatchingMapper,
    "GaussianMapper": GaussianMapper,
    "LocalFlowMapper": LocalFlowMapper,
    "MixtureMapper": MixtureMapper,
    "NormalizingFlowMapper": NormalizingFlowMapper,
    "TransformerFlowMapper": TransformerFlowMapper,
}
"""Class name, as a model folder's mapper/config.json has it -> class."""

__all__ = [
    "FAMILIES", "CleanMapper", "DensityMapper", "FlowMatchingMapper", "GaussianMapper", "InvertibleMapper",
    "LocalFlowMapper", "Mapper", "MixtureMapper", "NormalizingFlowMapper", "TransformerFlowMapper", "VelocityMapper",
    "load_mapper",
]  # fmt: skip


def load_mapper(folder: Path) -> Mapper:
    """The mapper of a folder, on torch's default device. Raises CheckpointError if damaged, or of another version."""
    config = read_config(folder, "mapper", FAMILIES)
    family = FAMILIES[config["_class_name"]]
    if config.pop("coherence", 0):  # which version 0.1 had, 0 by default
        raise CheckpointError(f"{folder / CONFIG}: coherence is no longer known; make the model again, with a lead")
    refuse_unknown(folder / CONFIG, config, inspect.signature(family.__init__).parameters)
    return open_module(family, folder)
