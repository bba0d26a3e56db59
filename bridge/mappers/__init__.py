"""Mapping families, one file each."""

from bridge.mappers.base import Mapper, VelocityMapper
from bridge.mappers.matching import FlowMatchingMapper

FAMILIES: dict[str, type[Mapper]] = {"FlowMatchingMapper": FlowMatchingMapper}
"""Class name, as a model folder's mapper/config.json has it -> class."""

__all__ = ["FAMILIES", "FlowMatchingMapper", "Mapper", "VelocityMapper"]
