"""Mapping families."""

from bridge.mappers.base import CleanMapper, DensityMapper, InvertibleMapper, Mapper, VelocityMapper
from bridge.mappers.flow import NormalizingFlowMapper
from bridge.mappers.gaussian import GaussianMapper, MixtureMapper
from bridge.mappers.local import LocalFlowMapper
from bridge.mappers.matching import FlowMatchingMapper, TransformerFlowMapper

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
