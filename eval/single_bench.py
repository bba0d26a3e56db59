"""One row of data with one picture a caption: from pictures to figures, every method alike."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from bridge.errors import UserError
from eval.data import first_by_hash
from eval.decoded import EncodeText
from eval.headlines import Calibration
from eval.judge import Judge, Seen
from eval.metrics import calibration, fit, memorization, quality, single
from eval.metrics.bootstrap import Interval, family_mean, paired_bootstrap
from eval.single_figures import Drawn, SingleFigures, SingleTarget
from eval.single_space import LEAST, PairSpace, single_references

ITSELF = "real pictures are what all others are held against"
ONE_EACH = "one picture a caption, nothing to tell apart"
NO_PAIR = "no caption has two pictures that show it"
NO_TEXT = "captions are compared by their text codes, and no text encoder was given"


def fit_pairs(judge: Judge, encode_text: EncodeText | None) -> tuple[PairSpace, EncodeText] | None:
    """The space of pairs of caption and picture, fitted on training pairs; None without a text encoder."""
    if encode_text is None:
        return None
    codes = encode_text(judge.pictures.label[judge.train].tolist())
    return PairSpace.fit(codes, judge.space.train), encode_text


@dataclass(frozen=True)
class SingleBench:
    """One target with everything that methods are compared with. Build it with `SingleBench.of`.

    Args:
        judge: Describes pictures.
        target: The captions and what their pictures are held against.
        seed: Of the bootstrap and the shuffles.
        pairs: The space of pairs, and what turns captions into codes; None without a text encoder.
        real: The real pictures themselves.
        weights: Of captions in each redrawing, (1 + draws, C).
        shuffled: What joint 0 costs: energy distance of real pictures with captions shuffled, (1 + draws,); or
            why joint is absent.
    """

    judge: Judge
    target: SingleTarget
    seed: int
    pairs: tuple[PairSpace, EncodeText] | None
    real: Drawn
    weights: np.ndarray
    shuffled: np.ndarray | str

    @classmethod
    def of(
        cls,
        judge: Judge,
        split: str,
        pairs: tuple[PairSpace, EncodeText] | None = None,
        *,
        captions: int | None = None,
        only: Collection[str] | None = None,
        seed: int = 0,
    ) -> "SingleBench":
        """Gather the captions of a split and their real pictures.

        Args:
            judge: Of `eval.single_space.fit_single`.
            split: The part of the data.
            pairs: Of `fit_pairs`.
            captions: Judge at most so many, chosen by hash; all of the split's stay rivals.
            only: Judge none but these; all of the split's stay rivals.
            seed: Of the bootstrap and the shuffles.

        Raises:
            ValueError: The split has too few captions, or too few of them are in `only`.
        """
        everything = single_references(judge.pictures, split)
        shown = judge.describe_rows(everything.rows)
        rivals = fit.Rivals(np.stack([d.shows.mean(axis=0) for d in shown]), everything.families)
        refs = everything
        if only is not None:
            refs = everything[np.flatnonzero([caption in only for caption in everything.captions])]
            if len(np.unique(refs.families)) < 2:
                raise UserError(f"only: {len(refs)} of these captions are in {split!r}; it takes two of two families")
        if captions is not None:
            refs = first_by_hash(refs, captions)
        target = SingleTarget(refs, judge.describe_rows(refs.rows), rivals)
        seen, sizes = judge.look_at(np.concatenate(refs.rows)), [len(r) for r in refs.rows]
        real = _drawn(seen, sizes, [np.ones(size) for size in sizes], "real", refs.families)
        return cls._with_unit(judge, target, seed, pairs, real)

    @classmethod
    def _with_unit(
        cls, judge: Judge, target: SingleTarget, seed: int, pairs: tuple[PairSpace, EncodeText] | None, real: Drawn
    ) -> "SingleBench":
        """The bench with what joint 0 costs on its own captions."""
        weights = single.redrawn_weights(target.refs.families, seed=seed)
        bench = cls(judge, target, seed, pairs, real, weights, NO_TEXT)
        count = len(np.unique(target.refs.families))
        if pairs is None:
            return bench
        if count < LEAST:
            return cls(judge, target, seed, pairs, real, weights, f"{count} families of captions; it takes {LEAST}")
        points = [pairs[0].pictures(p) for p in real.shows]
        families = target.refs.families
        unit = single.shuffled_energy(
            bench.text, points, points, families=families, asked=families, weights=weights, seed=seed
        )
        try:
            single.joint_interval(unit, unit, unit)
        except UserError as error:
            return cls(judge, target, seed, pairs, real, weights, str(error))
        return cls(judge, target, seed, pairs, real, weights, unit)

    def __getitem__(self, index: np.ndarray) -> "SingleBench":
        """The captions at `index`, (C',), with the same rivals."""
        return self._with_unit(self.judge, self.target[index], self.seed, self.pairs, self.real[index])

    @property
    def rows(self) -> np.ndarray:
        """Rows of the real pictures, caption by caption, (R,)."""
        return np.concatenate(self.target.refs.rows)

    @property
    def text(self) -> np.ndarray:
        """The captions in the space of pairs, (C, K).

        Raises:
            ValueError: There is no text encoder.
        """
        if self.pairs is None:
            raise UserError(f"pairs: {NO_TEXT}")
        space, encode_text = self.pairs
        return space.text(encode_text(self.target.refs.captions))

    @property
    def chance(self) -> float:
        """Share of hits of pictures that know nothing of their caption."""
        return single.chance_of(len(np.unique(self.target.rivals.families)) - 1)

    def samples(self, seen: Seen, asked: np.ndarray | None = None) -> Drawn:
        """Of a model's pictures, the same number for each of C captions.

        Args:
            seen: The pictures, caption by caption.
            asked: Family of the caption they were drawn for, (C,), where that is another one. Joint then leaves
                out what lies near a real picture only because it was drawn for that one's caption.
        """
        count = len(self.target.refs)
        asked = self.target.refs.families if asked is None else asked
        return self._judge(seen, [len(seen) // count] * count, "samples", asked)

    def reconstructions(self, seen: Seen) -> Drawn:
        """Of what a codec made of each real picture, R of them."""
        refs = self.target.refs
        return self._judge(seen, [len(rows) for rows in refs.rows], "reconstruction", refs.families)

    def _judge(self, seen: Seen, sizes: Sequence[int], kind: str, asked: np.ndarray) -> Drawn:
        described = seen.described.split(sizes)
        hits = single.hits_of(
            [d.shows for d in described],
            [d.realistic for d in described],
            self.real.shows,
            self.target.refs.families,
            self.target.rivals,
        )
        return _drawn(seen, sizes, hits, kind, asked)

    def interval(self, values: np.ndarray) -> Interval:
        """Mean of one number a caption (C,), families weighing equally."""
        return paired_bootstrap(values, self.target.refs.families, seed=self.seed)

    def energy(self, drawn: Drawn) -> np.ndarray:
        """Energy score of every caption, (C,); of one reconstruction, the distance to its original."""
        if drawn.kind != "samples":
            each = zip(drawn.shows, self.real.shows, strict=True)
            return np.array([np.linalg.norm(x - r, axis=1).mean() for x, r in each])
        return single.energy_scores(drawn.shows, self.real.shows)

    def figures(self, drawn: Drawn) -> SingleFigures:
        """All figures of a method, and why some do not exist."""
        absent: dict[str, str] = {}
        real = drawn.kind == "real"
        if real:
            absent |= dict.fromkeys(("fit", "hit"), "a real picture is the one looked for, so it is always found")
            absent |= dict.fromkeys(("joint", "energy_score", "c_t", "kid", "frechet", "sharpness"), ITSELF)
        points, known = np.concatenate(drawn.shows), self.judge.space.train
        late, real_late = np.concatenate(drawn.late), np.concatenate(self.real.late)
        sharp = float(np.concatenate(drawn.gradient).mean() / np.concatenate(self.real.gradient).mean())
        hit = _means(drawn.hits)
        return SingleFigures(
            fit=None if real else paired_bootstrap(hit, self.target.refs.families, self._fit_of, seed=self.seed),
            diversity=self._diversity(drawn, absent),
            joint=None if real else self._joint(drawn, absent),
            hit=None if real else self.interval(hit),
            energy_score=None if real else self.interval(self.energy(drawn)),
            realistic=self.interval(_means(drawn.realistic)),
            copied=self.interval(_means(drawn.copied)),
            c_t=None if real else memorization.c_t(known, np.concatenate(self.real.shows), points),
            authenticity=memorization.authenticity(known, points),
            kid=None if real else quality.kid(late, real_late),
            frechet=None if real else quality.frechet(late, real_late),
            sharpness=None if real else sharp,
            absent=absent,
        )

    def _fit_of(self, m: np.ndarray) -> np.ndarray:
        return fit.chance_adjusted(m[..., 0], np.array(1.0), self.chance)

    def _diversity(self, drawn: Drawn, absent: dict[str, str]) -> Interval | None:
        if drawn.kind != "samples":
            absent["diversity"] = ONE_EACH
            return None
        if not any((h >= single.VALID).sum() >= 2 for h in drawn.hits):
            absent["diversity"] = NO_PAIR
            return None
        families = self.target.refs.families
        unit = float(family_mean(single.distance_to_others(self.real.style, families), families))
        own = [single.valid_distance(s, h, unit) for s, h in zip(drawn.style, drawn.hits, strict=True)]
        return self.interval(np.array(own))

    def _joint(self, drawn: Drawn, absent: dict[str, str]) -> Interval | None:
        if self.pairs is None or isinstance(self.shuffled, str):
            absent["joint"] = str(self.shuffled)
            return None
        x, r = ([self.pairs[0].pictures(p) for p in group] for group in (drawn.shows, self.real.shows))
        families, text = self.target.refs.families, self.text
        own = single.pair_energy(text, x, r, families=families, asked=drawn.asked, weights=self.weights)
        dealt = single.shuffled_energy(
            text, x, r, families=families, asked=drawn.asked, weights=self.weights, seed=self.seed
        )
        return single.joint_interval(own, dealt, self.shuffled)

    def calibration(self, drawn: Drawn) -> Calibration:
        """Of a model's samples, the same number for every caption; one real picture a caption is enough."""
        n = len(drawn.shows[0])
        columns = np.stack(calibration.spread_skill(drawn.shows, self.real.shows), axis=1)

        def ratio(m: np.ndarray) -> np.ndarray:
            return calibration.spread_skill_ratio(m[..., 0], m[..., 1], n)

        ranks = calibration.rank_histogram(
            drawn.shows, self.real.shows, pre_rank=calibration.outlyingness, seed=self.seed
        )
        interval = paired_bootstrap(columns, self.target.refs.families, ratio, seed=self.seed)
        return Calibration(interval, ranks.tolist(), calibration.reliability(ranks))


def _drawn(seen: Seen, sizes: Sequence[int], hits: list[np.ndarray], kind: str, asked: np.ndarray) -> Drawn:
    described, cuts = seen.described.split(sizes), np.cumsum(sizes)[:-1]
    shows, style, realistic = ([getattr(d, name) for d in described] for name in ("shows", "style", "realistic"))
    copied, late, gradient = (np.split(column, cuts) for column in (seen.copied, seen.late, seen.gradient))
    return Drawn(kind, shows, style, realistic, hits, copied, late, gradient, asked)


def _means(values: Sequence[np.ndarray]) -> np.ndarray:
    return np.array([v.mean() for v in values])
