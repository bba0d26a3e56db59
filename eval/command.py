"""The judge of a dataset, as the commands load it."""

from pathlib import Path

from eval.data import Pictures
from eval.features import Extractor, Features
from eval.judge import Judge
from eval.single_space import fit_single
from train.command import say


def load_judge(data: str | Path, network: Extractor) -> Judge:
    """The judge of a dataset whose captions were drawn by several artists; see `features_of`."""
    return fitted(Pictures.load(data), network, None)


def fitted(pictures: Pictures, network: Extractor, why: str | None) -> Judge:
    """The judge of a dataset; see `features_of`.

    Args:
        pictures: The dataset.
        network: Describes pictures.
        why: Of `why_single`: the judge is one of single pictures where it is given.
    """
    return (Judge.fit if why is None else fit_single)(network, pictures, features_of(pictures, network))


def features_of(pictures: Pictures, network: Extractor) -> Features:
    """Features of all pictures of a dataset, kept in its folder, telling how far they are."""
    say(f"judge: features of the dataset by {network.id} (cached after the first time)")
    return pictures.features(network, lambda done, total: say(f"  {done} of {total} pictures"))
