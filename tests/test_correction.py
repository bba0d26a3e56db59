"""The learned correction of a local flow: what it sees, what it is trained without, and that it is trained."""

import copy

import numpy as np
import pytest
import torch

from bridge.mappers import LocalFlowMapper, load_mapper
from tests.fixtures import randomise
from tests.test_local import PICTURES, SHAPE, memory
from tests.test_mappers import codes_of, normal, repeated, sample_noise, unit_codes

TOKENS = {"family": "TransformerFlowMapper", "patch": 2, "width": 16, "heads": 2, "blocks": 1, "max_tokens": 0}
PERCEPTRON = {"family": "FlowMatchingMapper", "width": 16, "hidden": 16, "blocks": 1, "condition": 16}


def with_random_weights(options=TOKENS, **more) -> LocalFlowMapper:
    mapper = memory(**more).corrected(options)
    randomise(mapper.network, 0)
    return mapper.eval()


@pytest.mark.parametrize("options", [TOKENS, PERCEPTRON])
def test_an_untrained_correction_changes_nothing(options):
    z_t, t, c = normal(3, *SHAPE), torch.tensor([0.0, 0.4, 0.9]), unit_codes(3)
    assert torch.equal(memory().corrected(options).clean(z_t, t, c), memory().clean(z_t, t, c))


@pytest.mark.parametrize("options", [TOKENS, PERCEPTRON])
def test_its_strength_scales_what_it_adds(options):
    z_t, t, c = normal(3, *SHAPE), torch.tensor([0.0, 0.4, 0.9]), unit_codes(3)
    mapper, base = with_random_weights(options), memory().clean(z_t, t, c)
    whole = mapper.clean(z_t, t, c) - base
    mapper.strength = 0.5
    torch.testing.assert_close(mapper.clean(z_t, t, c) - base, whole / 2)
    assert whole.abs().mean().item() > 0.01
    mapper.strength = 0
    assert torch.equal(mapper.clean(z_t, t, c), base)


def test_it_corrects_from_its_time_on():
    z_t, t, c = normal(3, *SHAPE), torch.tensor([0.0, 0.4, 0.9]), unit_codes(3)
    mapper, base = with_random_weights(), memory().clean(z_t, t, c)
    whole = mapper.clean(z_t, t, c)
    late = mapper.varied(begin=0.4).clean(z_t, t, c)
    assert torch.equal(late[0], base[0])
    torch.testing.assert_close(late[1:], whole[1:])


def test_views_of_the_memory_keep_the_correction():
    mapper = with_random_weights(styles=["flat", "shaded"] * (PICTURES // 2))
    view = mapper.restricted(style="flat", novelty=0.5)
    z_t, t, c = normal(1, *SHAPE), torch.tensor([0.4]), unit_codes(1)
    corrected = view.clean(z_t, t, c)
    view.strength = 0
    assert not torch.equal(corrected, view.clean(z_t, t, c))


def test_it_is_saved_and_opened(tmp_path):
    mapper = with_random_weights()
    mapper.save_pretrained(tmp_path)
    again = LocalFlowMapper.from_pretrained(tmp_path, use_safetensors=True)
    noise, c = sample_noise(mapper, 3), unit_codes(3)
    assert torch.equal(again.sample(c, noise=noise), mapper.sample(c, noise=noise))


def test_rounded_weights_are_saved_in_half_the_bytes_and_draw_the_same(tmp_path):
    mapper = with_random_weights(TOKENS | {"width": 64})
    mapper.compact().save_pretrained(tmp_path / "whole")
    for weight in mapper.network.parameters():
        weight.data = weight.data.half().float()
    mapper.compact().save_pretrained(tmp_path / "half")
    sizes = [sum(f.stat().st_size for f in (tmp_path / name).iterdir()) for name in ("whole", "half")]
    assert sizes[1] < 0.6 * sizes[0]
    again = load_mapper(tmp_path / "half")
    noise, c = sample_noise(mapper, 3), unit_codes(3)
    assert torch.equal(again.sample(c, noise=noise), mapper.sample(c, noise=noise))


def weights_without(mapper, z, c, normal_numbers):
    known = mapper._others(c.pooled, z, normal_numbers)
    return known.latents.permute(0, 2, 3, 1).reshape(len(z), -1, *SHAPE), known.log_weight


def test_it_is_trained_without_the_picture_and_its_near_duplicates():
    mapper = memory(neighbours=PICTURES).corrected(TOKENS)
    z = mapper.picture_latents(torch.tensor([0, 1])) + 0.1 * normal(2, *SHAPE, seed=3)
    known, log_weight = weights_without(mapper, z, unit_codes(2, seed=5), torch.full((2,), -9.0))
    apart = (known - z[:, None]).square().mean((2, 3, 4))
    assert bool((apart[log_weight.isfinite()] > 1).all())
    assert log_weight.isfinite().sum(1).tolist() == [PICTURES - 1] * 2
    torch.testing.assert_close(log_weight.exp().sum(1), torch.ones(2))


def test_a_share_of_the_examples_is_trained_without_near_captions():
    mapper = memory(neighbours=PICTURES, perplexity=2).corrected(TOKENS)
    z, c = normal(2, *SHAPE, seed=99), repeated(unit_codes(PICTURES, seed=5)[torch.tensor([3])], 2)
    known, log_weight = weights_without(mapper, z, c, torch.tensor([-9.0, 0.01]))
    own = mapper.picture_latents(torch.tensor([3]))
    present = [bool((known[i][log_weight[i].isfinite()] == own).all((1, 2, 3)).any()) for i in range(2)]
    assert present == [True, False]


def test_its_loss_in_evaluation_knows_all_of_memory():
    mapper = memory(neighbours=PICTURES).corrected(TOKENS)
    z, c = mapper.picture_latents(torch.arange(4)), unit_codes(PICTURES, seed=5)[:4]
    noise = normal(4, *mapper.loss_noise_shape)
    assert bool((mapper.eval().loss(z, c, noise=noise) < mapper.train().loss(z, c, noise=noise)).all())


def test_training_lowers_the_loss_of_pictures_that_memory_lacks():
    """Each picture is another's mirror image, which memory cannot know and a network can learn."""
    z = normal(64, *SHAPE, seed=4)
    codes = unit_codes(64, seed=5)
    mapper = LocalFlowMapper.from_memory(z, codes.pooled, [[i] for i in range(64)], perplexity=4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        mapper = mapper.corrected(TOKENS | {"width": 32}).train()
    before = copy.deepcopy(mapper)
    optimizer = torch.optim.Adam(mapper.parameters(), 3e-3)
    for step in range(80):
        rows = torch.randint(64, (32,), generator=torch.Generator().manual_seed(step))
        noise = normal(32, *mapper.loss_noise_shape, seed=step)
        loss = mapper.loss(-z[rows], codes[rows], noise=noise).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    noise = normal(64, *mapper.loss_noise_shape, seed=1000)
    after, first = (m.loss(-z, codes, noise=noise).mean().item() for m in (mapper, before))
    assert after < 0.8 * first


def test_only_one_that_reads_tokens_asks_for_them():
    assert not memory().corrected(TOKENS).reads_tokens
    assert memory().corrected(TOKENS | {"max_tokens": 4}).reads_tokens


def test_one_without_a_caption_is_trained_on_pictures_of_all_of_memory():
    mapper = memory(neighbours=6).corrected(TOKENS)
    c = codes_of(torch.zeros(1, unit_codes(1).pooled.shape[1]))
    known = mapper._others(c.pooled, normal(1, *SHAPE, seed=99), torch.tensor([-9.0]))
    np.testing.assert_allclose(known.log_weight.exp().numpy(), 1 / 6, rtol=1e-5)


def test_the_samples_of_one_picture_do_not_depend_on_the_others():
    mapper = with_random_weights()
    noise, c = sample_noise(mapper, 4), unit_codes(4)
    together = mapper.sample(c, noise=noise)
    alone = mapper.sample(repeated(c[2:3], 4), noise=noise[2:3].expand(4, *SHAPE))[0]
    assert torch.equal(together[2], alone)
