"""Mapping families, one file each."""

from bridge.mappers.base import CleanMapper, DensityMapper, InvertibleMapper, Mapper, VelocityMapper
from bridge.mappers.flow import NormalizingFlowMapper
from bridge.mappers.gaussian import GaussianMapper
from bridge.mappers.local import LocalFlowMapper
from bridge.mappers.matching import FlowMatchingMapper
from bridge.mappers.mixture import MixtureMapper
from bridge.mappers.transformer import TransformerFlowMapper

FAMILIES: dict[str, type[Mapper]] = {
    family.__name__: family
    for family in (
        FlowMatchingMapper,
        GaussianMapper,
        LocalFlowMapper,
        MixtureMapper,
        NormalizingFlowMapper,
        TransformerFlowMapper,
    )
}
"""Class name, as a model folder's mapper/config.json has it -> class."""

__all__ = [
    "FAMILIES",
    "CleanMapper",
    "DensityMapper",
    "FlowMatchingMapper",
    "GaussianMapper",
    "InvertibleMapper",
    "LocalFlowMapper",
    "Mapper",
    "MixtureMapper",
    "NormalizingFlowMapper",
    "TransformerFlowMapper",
    "VelocityMapper",
]
