"""Anybody's captioned pictures: folders, tables, Parquet, datasets.

from bridge.pairs import load_pairs
pairs = load_pairs("my_folder", image_size=64)
"""

from bridge.pairs.reading import Pairs, load_pairs, pairs_fingerprint

__all__ = ["Pairs", "load_pairs", "pairs_fingerprint"]
