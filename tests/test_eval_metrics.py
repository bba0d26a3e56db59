"""What a metric must prove, on a world of known captions x artists: Gaussian features, no network, no pictures."""

import dataclasses
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest

from eval import baselines
from eval.bench import HEADLINES as HEADLINE_OF
from eval.bench import ArtistBench
from eval.data import References
from eval.features import Features
from eval.judge import Described, JudgeSpace, Seen
from eval.metrics import fit
from eval.metrics.bootstrap import Interval, family_mean, paired_bootstrap
from eval.metrics.diversity import distinct_styles
from eval.metrics.energy import energy_distance, energy_distance_of_real, root_skill

ARTISTS, LATE, EARLY, HELD_OUT = 8, 24, 12, 80
fit_of, diversity_of, joint_of, score_of = HEADLINE_OF.values()


@dataclass(frozen=True)
class World:
    """Held-out captions with four references each, other pictures of them, and the space that judges.

    `others` are by the four other artists, `everyone` by all eight; neither holds a reference.
    """

    space: JudgeSpace
    bench: ArtistBench
    others: Features
    everyone: Features
    train: Features
    train_caption: np.ndarray
    codes: np.ndarray
    train_codes: np.ndarray


def draw(rng, centres, styles, artists):
    """Features of one picture by each of `artists` (k,) for every caption centre (C, LATE): C * k rows."""
    count, k = len(centres), len(artists)
    late = centres[:, None] + rng.standard_normal((count, k, LATE)) * np.linspace(0.5, 2, LATE)
    early = styles[artists] + 0.6 * rng.standard_normal((count, k, EARLY))
    return Features(late.reshape(-1, LATE), early.reshape(-1, EARLY))


@cache
def world() -> World:
    rng = np.random.default_rng(5)
    styles = 2 * rng.standard_normal((ARTISTS, EARLY))
    topics = 1.5 * rng.standard_normal((60, LATE))
    train_centres = np.repeat(topics, 3, axis=0) + 1.2 * rng.standard_normal((180, LATE))
    centres = topics[np.arange(HELD_OUT) % 60] + 1.5 * rng.standard_normal((HELD_OUT, LATE))
    everyone = np.arange(ARTISTS)
    train = draw(rng, train_centres, styles, everyone)
    caption = np.repeat(np.arange(180), ARTISTS)
    validation = draw(rng, topics + 1.5 * rng.standard_normal((60, LATE)), styles, everyone)
    space = JudgeSpace.fit(train, caption, np.tile(everyone, 180), caption // 3, validation)
    shown = space.describe(draw(rng, centres, styles, everyone[:4])).split([4] * HELD_OUT)
    artists = (everyone[:4],) * HELD_OUT
    families = np.arange(HELD_OUT) // 2
    refs = References(tuple(map(str, range(HELD_OUT))), families, (everyone[:4],) * HELD_OUT, artists, ())
    x = [d.shows for d in shown]
    population = space.train[rng.choice(len(space.train), 500, replace=False)]
    bench = ArtistBench(None, refs, fit.Rivals.of(x, artists, families), 0, noted(shown), 4, population)
    others = draw(rng, centres, styles, everyone[4:])
    # No linear map leads back from words to pictures, as none does in life: else ridge would be no cheat.
    turn, shift = rng.standard_normal((LATE, 48)) / 5, rng.uniform(0, 2 * np.pi, 48)
    waves = [np.cos(0.8 * c @ turn + shift) for c in (centres, train_centres)]
    codes, train_codes = (w / np.linalg.norm(w, axis=1, keepdims=True) for w in waves)
    everything = draw(rng, centres, styles, everyone)
    return World(space, bench, others, everything, train, caption, codes, train_codes)


def by_caption(features: Features) -> tuple[np.ndarray, np.ndarray]:
    """Late (C, n, LATE) and early (C, n, EARLY)."""
    return features.late.reshape(HELD_OUT, -1, LATE), features.early.reshape(HELD_OUT, -1, EARLY)


def noted(described: list[Described]) -> list[Seen]:
    """What a judge notes of pictures that it describes so, none of them a copy."""
    return [Seen(*vars(d).values(), np.zeros(len(d), bool), np.zeros((len(d), 1)), np.zeros(len(d))) for d in described]


def columns(late: np.ndarray, early: np.ndarray, bench: ArtistBench | None = None) -> np.ndarray:
    """Per-caption columns that the headlines are made of, for samples (C, n, LATE) and (C, n, EARLY)."""
    bench, n = bench or world().bench, late.shape[1]
    flat = Features(late.reshape(-1, LATE), early.reshape(-1, EARLY))
    samples = world().space.describe(flat).split([n] * len(late))
    model, real = bench.judged("samples", noted(samples)).per, bench.real.per
    return np.stack([model.hit, real.hit, model.styles, real.styles, model.energy, bench.unconditional], axis=1)


def headline(of, late: np.ndarray, early: np.ndarray) -> Interval:
    return paired_bootstrap(columns(late, early), world().bench.refs.families, of, draws=400)


def value(of, late: np.ndarray, early: np.ndarray) -> float:
    return float(of(family_mean(columns(late, early), world().bench.refs.families)))


HEADLINES = pytest.mark.parametrize("of", [fit_of, diversity_of, joint_of], ids=["fit", "diversity", "joint"])


def contaminated(share: float) -> tuple[np.ndarray, np.ndarray]:
    """Real pictures by other artists, a share of them replaced by training pictures at random."""
    rng = np.random.default_rng(1)
    late, early = by_caption(world().others)
    chosen = rng.permutation(late.shape[0] * late.shape[1]).reshape(late.shape[:2]) < share * late.shape[0] * 4
    drawn = rng.choice(len(world().train), late.shape[:2])
    replaced = world().train[drawn.ravel()]
    return (
        np.where(chosen[..., None], replaced.late.reshape(late.shape), late),
        np.where(chosen[..., None], replaced.early.reshape(early.shape), early),
    )


def with_artists(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Eight draws a caption, with replacement, among real pictures by only `count` of its eight artists.

    Every caption forgets its artists in an order of its own, so that no one artist's look decides.
    """
    rng = np.random.default_rng(2)
    late, early = by_caption(world().everyone)
    order = rng.permuted(np.tile(np.arange(ARTISTS), (HELD_OUT, 1)), axis=1)
    pick = np.take_along_axis(order, rng.integers(0, ARTISTS, order.shape) % count, axis=1)
    rows = np.arange(len(order))[:, None]
    return late[rows, pick], early[rows, pick]


@HEADLINES
def test_real_pictures_by_other_artists_score_one(of):
    assert not headline(of, *by_caption(world().others)).excludes(1.0)


def test_shuffled_captions_have_no_fit():
    late, early = by_caption(world().others)
    order = baselines.shuffle_captions(world().bench.refs.families, np.random.default_rng(0))
    assert not headline(fit_of, late[order], early[order]).excludes(0.0)


def test_shuffled_captions_have_less_than_no_joint():
    late, early = by_caption(world().others)
    order = baselines.shuffle_captions(world().bench.refs.families, np.random.default_rng(0))
    assert headline(joint_of, late[order], early[order]).high < 0


def test_unconditional_draws_have_joint_zero():
    rng = np.random.default_rng(4)
    drawn = world().train[rng.choice(len(world().train), HELD_OUT * 4)]
    assert not headline(joint_of, *by_caption(drawn)).excludes(0.0)


def test_constant_output_has_no_diversity():
    late, early = by_caption(world().others)
    constant = [np.broadcast_to(v[:1, :1], v.shape) for v in (late, early)]
    assert headline(diversity_of, *constant).high < 0.15


@pytest.mark.parametrize("of", [diversity_of, joint_of], ids=["diversity", "joint"])
def test_falls_with_every_pair_of_artists_dropped(of):
    values = [value(of, *with_artists(count)) for count in (7, 5, 3, 2, 1)]
    assert values == sorted(values, reverse=True)


@HEADLINES
def test_falls_with_contamination(of):
    values = [value(of, *contaminated(share)) for share in (0, 0.25, 0.5, 0.75, 1)]
    assert values == sorted(values, reverse=True)


def test_invariant_to_the_order_of_samples():
    late, early = by_caption(world().others)
    before = columns(late, early)
    np.testing.assert_allclose(columns(late[:, ::-1], early[:, ::-1]), before, atol=1e-9)


def test_invariant_to_the_order_of_references():
    bench, data = world().bench, by_caption(world().others)
    turned = dataclasses.replace(
        bench,
        refs=dataclasses.replace(bench.refs, artists=tuple(a[::-1] for a in bench.refs.artists)),
        seen=[s[::-1] for s in bench.seen],
    )
    np.testing.assert_allclose(columns(*data, turned), columns(*data), atol=1e-9)


@HEADLINES
def test_stable_in_the_number_of_samples(of):
    late, early = by_caption(world().everyone)
    few = value(of, late[:, 2:6], early[:, 2:6])
    assert abs(few - value(of, late, early)) < 0.15


def _noise_beside(late, early):
    noise = np.random.default_rng(0).standard_normal(late.shape) * 8
    keep = np.array([True, False, False, False])[None, :, None]
    return np.where(keep, late, noise), np.where(keep, early, early[:, ::-1])


def _ridge(mean: bool):
    w, rng = world(), np.random.default_rng(0)
    both = np.concatenate([w.train.late, w.train.early], axis=1)
    c = w.train_codes[w.train_caption]
    model = baselines.fit_ridge(
        c, both, c_validation=c[::7], z_validation=both[::7], families_validation=w.train_caption[::7]
    )
    out = np.repeat(model.mean(w.codes)[:, None], 4, 1) if mean else model.sample(w.codes, 4, rng)
    return out[..., :LATE], out[..., LATE:]


def _retrieved(retrieve):
    w = world()
    order = baselines.nearest_captions(w.codes, w.train_codes)
    rows = retrieve(order, w.train_caption, 4, np.random.default_rng(0))
    return w.train.late[rows], w.train.early[rows]


CHEATS = {
    "one mode": lambda late, early: (late[:, [0] * late.shape[1]], early[:, [0] * early.shape[1]]),
    "two modes": lambda late, early: (np.tile(late[:, :2], (1, 2, 1)), np.tile(early[:, :2], (1, 2, 1))),
    "one mode and noise": _noise_beside,
    "blur": lambda late, early: tuple(x.mean(1, keepdims=True).repeat(x.shape[1], 1) for x in (late, early)),
    "noise": lambda late, early: (np.random.default_rng(0).standard_normal(late.shape) * 8, early),
    "nearest1": lambda late, early: _retrieved(baselines.retrieve_one),
    "nearestk": lambda late, early: _retrieved(baselines.retrieve_each),
    "ridge mean": lambda late, early: _ridge(mean=True),
    "ridge + Gaussian": lambda late, early: _ridge(mean=False),
    "blends": lambda late, early: (late / 2 + late[::-1] / 2, early / 2 + early[::-1] / 2),
    "shuffled": lambda late, early: (np.roll(late, 7, axis=0), np.roll(early, 7, axis=0)),
}


@pytest.mark.parametrize("cheat", CHEATS)
def test_planted_cheat_loses(cheat):
    """Its smallest headline stays well under that of real pictures, interval and all."""
    data = by_caption(world().others)
    assert headline(score_of, *CHEATS[cheat](*data)).high < 0.65 < value(score_of, *data)


def test_energy_distance_of_one_distribution_is_zero_at_any_size():
    rng = np.random.default_rng(0)
    values = [energy_distance(*rng.standard_normal((2, 3, 5))) for _ in range(1000)]
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(len(values))


def test_energy_distance_of_shifted_points_by_hand():
    x, r = np.array([[0.0], [1.0]]), np.array([[10.0], [13.0]])
    assert energy_distance(x, r) == pytest.approx(2 * 11 - 1 - 3)


def test_two_pictures_by_one_artist_count_once():
    r = np.array([[0.0], [0.0], [4.0]])
    artists = np.array(["a", "a", "b"])
    x = np.array([[1.0], [3.0]])
    assert energy_distance(x, r, artists) == pytest.approx(energy_distance(x, r[1:]))


def test_references_against_themselves_have_no_energy():
    r = np.random.default_rng(0).standard_normal((5, 3))
    assert energy_distance_of_real(r, r, np.array([0, 0, 1, 2, 3])) == pytest.approx(0, abs=1e-12)


def test_root_skill_is_negative_beyond_caption_blind():
    assert root_skill(np.array(9.0), np.array(4.0)) == pytest.approx(-0.5)


def test_one_sample_has_no_energy_distance():
    with pytest.raises(ValueError, match="at least two points"):
        energy_distance(np.zeros((1, 2)), np.zeros((3, 2)))


def test_chance_of_a_hit_is_a_tenth():
    share = np.linspace(0, 1, 20_001)
    assert fit.hit_probability(share).mean() == pytest.approx(0.1, abs=1e-3)


def test_hit_probability_is_that_of_drawn_rivals():
    rng = np.random.default_rng(0)
    share = 0.08
    drawn = (rng.random((20_000, 99)) < share).sum(axis=1) < 10
    assert fit.hit_probability(np.array(share)) == pytest.approx(drawn.mean(), abs=0.01)


def test_rivals_of_the_own_family_do_not_count():
    weights = fit.rival_weights(np.array([0, 0, 1, 2, 2]), 0)
    np.testing.assert_allclose(weights, [0, 0, 0.5, 0.25, 0.25])


def test_rarefaction_is_the_mean_over_subsets():
    styles, valid = np.array([0, 0, 1, 2, 3]), np.array([True, True, True, True, False])
    rng = np.random.default_rng(0)
    subsets = [rng.permutation(5)[:3] for _ in range(3000)]
    drawn = np.mean([len(set(styles[s][valid[s]])) for s in subsets])
    assert distinct_styles(styles, valid, 3) == pytest.approx(drawn, abs=0.05)


def test_space_whitens_within_captions():
    w = world()
    shows = w.space.train.reshape(180, ARTISTS, -1)
    residual = (shows - shows.mean(axis=1, keepdims=True)).reshape(-1, shows.shape[-1])
    np.testing.assert_allclose(np.cov(residual, rowvar=False, bias=True), np.eye(shows.shape[-1]), atol=0.15)


def test_space_tells_artists_apart():
    w = world()
    style = w.space.describe(w.others).style.reshape(HELD_OUT, 4)
    assert (style == np.arange(4, 8)).mean() > 0.9


def test_noise_is_not_realistic():
    w = world()
    noise = np.random.default_rng(0).standard_normal(w.others.late.shape) * 8
    assert w.space.describe(Features(noise, w.others.early)).realistic.mean() < 0.02


def test_held_out_real_pictures_are_realistic():
    assert world().space.describe(world().others).realistic.mean() > 0.9


def test_space_refuses_a_single_artist():
    f = Features(np.zeros((4, 2)), np.zeros((4, 2)))
    with pytest.raises(ValueError, match="two artists"):
        JudgeSpace.fit(f, ["a", "a", "b", "b"], ["x"] * 4, [0, 0, 1, 1], f)
