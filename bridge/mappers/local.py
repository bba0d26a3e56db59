"""The local flow: the minimiser of the flow matching loss in closed form, over a memory of captioned latents."""

import copy
import math
from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import numpy as np
import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor
from torch.nn import functional as F

from bridge.errors import UserError, import_extra
from bridge.mappers.base import CleanMapper, velocity_error
from bridge.mappers.matching import FlowMatchingMapper, TransformerFlowMapper
from bridge.mappers.numerics import per_row
from bridge.memory import code_key, remembered
from bridge.text import TextCode

KEPT = {2: (1, 1.5), 4: (7, 2.7), 6: (31, 3.5), 8: (127, math.inf)}
"""Bits of a number of a latent -> largest integer that it is kept as, and deviations beyond which it is cut off."""
REMEMBERED, REMEMBERED_IN_TRAINING = 256, 1 << 16  # Captions whose neighbours are kept
ROOM = 24  # Pictures that a caption can be given as material, however few memory holds or weighs
VIEWS = 32  # of other styles and novelties that are kept
SLACK = 0.1  # Cosine by which a caption may be farther than the nearest, and still be the same
ASIDE = 0.1  # Cosine by which captions that only allude to their picture are farther; by eye better than .05 and .13
BEYOND = 2.0  # The same where it matters what is known: palm trees do not show "a palm tree on a beach"
EXACT = 100_000  # Captions that are compared with one by one; of more, an index gives a short list
PROBED, SHORT_LIST = 64, 4096  # Cells of the index that are searched, and captions whose similarity is then exact
NOT, RATHER_NOT = "not ", "rather not "
ENOUGH = 0.85  # A kind that is rather not drawn is drawn where the others' best cosine with a caption is below this,
MISSED = 0.08  # and its own so much higher
COLDEST, HOTTEST, BISECTIONS = 1e-4, 10.0, 50  # Range of the caption kernel's temperature, and steps to find it
NETWORKS: dict[str, type[FlowMatchingMapper | TransformerFlowMapper]] = {
    family.__name__: family for family in (FlowMatchingMapper, TransformerFlowMapper)
}
"""What can correct a local flow."""
RIDGE = 0.1  # Share of the mean variance of captions' codes that is added to every direction's before whitening
SEEN = 3  # Latents that a correction reads: the point, the local flow's answer, and how much known parts differ there
SAME = 0.15  # Mean square of the difference, a number, below which two latents count as one picture
UNKNOWN, CLOSEST, FARTHEST = 0.5, 0.95, 0.5
"""In training: share of the examples whose caption memory seems not to know, and the range of what it then knows."""
MORE_LEAD = 4.0  # that novelty -1 adds
BELOW_ONE = 1 - 2**-24  # The largest number of float32 below 1
LATE = 0.3  # 1 - t is not taken below this in a correction's loss


@dataclass(frozen=True)
class Known:
    """Pictures that B rows draw from, K each; a latent without a grid is one position."""

    latents: Tensor  # At each of P positions, (B, P, K, C)
    square: Tensor  # Half of their squares, summed over channels, (B, P, K)
    log_weight: Tensor  # (B, K), minus infinity for none

    @classmethod
    def of(cls, latents: Tensor, log_weight: Tensor) -> Self:
        """From latents (B, K, *z_shape)."""
        latents = latents.reshape(*latents.shape[:3], -1).permute(0, 3, 1, 2).contiguous()
        return cls(latents, latents.square().sum(3) / 2, log_weight)


@dataclass(frozen=True)
class Material:
    """What a caption draws from in place of its nearest pictures in memory: K latents, ROOM or as many as are weighed.

    `note` is what to say of pictures drawn from it.
    """

    latents: Tensor  # Standardised, (K, *z_shape)
    log_weight: Tensor  # Logarithms of their weights, which sum to one, (K,)
    note: str | None = None
    drawings: Tensor | None = None  # What the latents are of, where they are only near to it, (K, 4, side, side) uint8


SETTINGS = ("window", "perplexity", "neighbours", "whitening", "hottest", "lead")
"""How a memory is drawn from, among the arguments of `LocalFlowMapper`."""


class LocalFlowMapper(CleanMapper):
    """Flow matching without training: the expected clean latent over known pictures, position by position.

    Known picture i weighs w_i = softmax_i(cos(c, c_i) / tau), c_i the nearest of its captions and tau such that w has
    the given perplexity; the cosine is taken after whitening. At position p of the grid, the clean latent is the mean
    of z_i(p) under

        softmax_i( log w_i - sum_q exp(-|p - q|^2 / 2 s^2) |z_t(q) - t z_i(q)|^2 / 2 (1 - t)^2 )

    so that parts of different pictures meet where they fit each other within the window s. A latent without a grid,
    (D,), is one position. Under the null code, pictures spread evenly through memory weigh alike.

    Whitened codes are divided by the standard deviation of known captions along each direction, to the power
    `whitening`. What many captions share, such as a colour, then counts for less than what few do. With tau at
    `hottest`, a caption with few near pictures draws from fewer than the perplexity asks for, and from none that show
    something else.

    With a `lead`, one picture weighs e^lead times more in an image whose code has a choice. Which one is by inverse CDF
    of the weights at that choice, so that images whose choices lie evenly are led by different pictures.

    A correction, a network's answer to z_t, the local flow's answer, the spread of what that was made of, t and the
    caption, is added to the clean latent. Early, an average of what it has seen is likeliest, and no picture; from the
    time `begin` on it mends the seams between parts.

    Raises UserError if a setting is out of range.

    Source: Kamb & Ganguli 2025, An Analytic Theory of Creativity in Convolutional Diffusion Models,
        arXiv:2412.20292; Niedoba et al. 2024, Towards a Mechanistic Explanation of Diffusion Model Generalization,
        arXiv:2411.19339; Scarvelis et al. 2023, Closed-Form Diffusion Models, arXiv:2310.12395; whitening Su et al.
        2021, Whitening Sentence Representations for Better Semantics and Faster Retrieval, arXiv:2103.15316
    """

    unreachable = unstable = "is not made up of pictures in memory, and no noise leads to it; use space latent"
    latents: Tensor  # Of N pictures, in few bits; see `_packed`
    scale: Tensor  # What each channel's integers are multiplied with, (C,)
    codes: Tensor  # Of M captions, in shares of the largest number and few bits, (M, bytes)
    link: Tensor  # Numbers of the first picture's captions, then of the second's, and so on, (links,)
    start: Tensor  # Where in `link` those of each picture begin, and the last ones end, (N + 1,)
    style: Tensor  # Number of each picture's style, (N,)
    group: Tensor  # Number of each picture's group of near-duplicates, -1 for none, (N,)
    index: Tensor  # See `caption_index`
    centre: Tensor  # Of known codes, (text_dim,)
    metric: Tensor  # Which whitens differences from it, (text_dim, text_dim)
    length: Tensor  # Of known codes by that metric, (M,)
    allusion: Tensor  # Whether a caption only alludes to its picture, (M,)

    @register_to_config
    def __init__(
        self,
        z_shape: tuple[int, ...],  # (C, h, w) or (D,)
        text_dim: int,
        pictures: int,  # In memory, N
        captions: int,  # Different ones, M
        links: int,  # How many captions the pictures have, all together
        window: tuple[float, float] = (2.0, 1.7),  # s in positions, at t = 0 and at t = 1, linear between
        perplexity: float = 8.0,  # Pictures that a caption effectively draws from
        neighbours: int = 192,  # The nearest pictures, which alone are weighed
        styles: tuple[str, ...] = (),  # Kinds of pictures that memory holds
        index_bytes: int = 0,  # Size of the captions' index; 0 for none
        time_mean: float = 0.0,  # See `CleanMapper`; of the loss alone
        correction: dict[str, Any] | None = None,  # Arguments of the network, and "family", its class; None for none
        strength: float = 1.0,  # Factor on what the network adds
        begin: float = 0.0,
        whitening: float = 0.0,  # 0, not at all, to 1
        bits: int | tuple[int, ...] = 8,  # 2, 4, 6 or 8, of all numbers of a latent or of those of each channel
        aside: float = 0.0,  # Cosine by which captions that only allude to their picture count as farther
        hottest: float = HOTTEST,  # Most that tau may be
        lead: float = 0.0,  # Logarithm of how much more the picture weighs that leads an image
        code_bits: int = 8,  # As `bits`, of a number of a caption's code
    ) -> None:
        super().__init__()
        self.bits = tuple(bits) if isinstance(bits, Sequence) else (bits,) * z_shape[0]
        if len(self.bits) != z_shape[0] or not {*self.bits, code_bits} <= KEPT.keys():
            raise UserError(
                f"bits: expected 2, 4, 6 or 8, one for all or for each of {z_shape[0]} channels, got {bits}; "
                f"code_bits: one of these, got {code_bits}"
            )
        if not 0 <= whitening <= 1:
            raise UserError(f"whitening: expected a number from 0 to 1, got {whitening}")
        if not all(0 < s < math.inf for s in window):
            raise UserError(f"window: expected two numbers above 0, in grid positions, got {tuple(window)}")
        if not 1 <= perplexity < math.inf or neighbours < 1:
            raise UserError(f"perplexity, neighbours: expected 1 or more, got {perplexity} and {neighbours}")
        if not 0 <= lead < math.inf:
            raise UserError(f"lead: expected a number of 0 or more, got {lead}")
        if not COLDEST < hottest <= HOTTEST:
            raise UserError(f"hottest: expected a number above {COLDEST} and up to {HOTTEST}, got {hottest}")
        if min(pictures, captions, links) < 1:
            raise UserError("pictures: the memory is empty; give it at least one captioned picture")
        self.z_shape, self.text_dim, self.time_mean = tuple(z_shape), text_dim, time_mean
        self.sample_noise_shape, self.loss_noise_shape = self.z_shape, (math.prod(z_shape) + 1,)
        self.window, self.perplexity, self.neighbours = tuple(window), perplexity, neighbours
        self.hottest, self.lead = hottest, lead
        self._make_room(pictures, captions, links, index_bytes)
        grid = torch.ones(self.z_shape[1:]).nonzero().float()  # (positions, axes)
        self.register_buffer("squared", torch.cdist(grid, grid).square().round(), persistent=False)
        self.allowed: Tensor | None = None  # Pictures that are drawn, (N,) bool
        self.avoided: tuple[Tensor, ...] = ()  # Those of each kind that is rather not drawn, the least wanted first
        self._caches: defaultdict[str, OrderedDict[bytes, Any]] = defaultdict(OrderedDict)  # by captions' codes
        self._made: dict[str, Any] = {}  # made of the memory once, for all views of it
        self._views: dict[tuple[str | None, float], LocalFlowMapper] = {}
        self._given: dict[bytes, Material] = {}
        self._last: tuple[tuple[bytes, torch.dtype, torch.device], Known] | None = None
        self.network: FlowMatchingMapper | TransformerFlowMapper | None = None
        self.strength, self.begin = strength, begin
        if correction:
            options = {k: v for k, v in correction.items() if k != "family"}
            self.network = NETWORKS[correction["family"]](self.z_shape, text_dim, inputs=SEEN, **options)
            head = self.network.net if isinstance(self.network, FlowMatchingMapper) else self.network
            torch.nn.init.zeros_(head.leave.bias)  # its weights are zero already
            self.reads_tokens = self.network.reads_tokens
            self.loss_noise_shape = (math.prod(z_shape) + 2,)

    def _make_room(self, pictures: int, captions: int, links: int, index_bytes: int) -> None:
        kept = _packed(torch.zeros(1, *self.z_shape, dtype=torch.int8), self.bits)
        self.register_buffer("latents", kept.new_zeros(pictures, *kept.shape[1:]))
        self.register_buffer("scale", torch.ones(self.z_shape[0]))
        codes = self._packed_codes(torch.zeros(1, self.text_dim, dtype=torch.int8))
        self.register_buffer("codes", codes.new_zeros(captions, codes.shape[1]))
        self.register_buffer("link", torch.zeros(links, dtype=torch.int32))
        self.register_buffer("start", torch.zeros(pictures + 1, dtype=torch.int32))
        self.register_buffer("style", torch.zeros(pictures, dtype=torch.int16))
        self.register_buffer("group", torch.full((pictures,), -1, dtype=torch.int32))
        if index_bytes:
            self.register_buffer("index", torch.zeros(index_bytes, dtype=torch.uint8))
        if self.config.aside:
            self.register_buffer("allusion", torch.zeros(captions, dtype=torch.bool))
        if self.config.whitening:
            self.register_buffer("centre", torch.zeros(self.text_dim))
            self.register_buffer("metric", torch.eye(self.text_dim))
            self.register_buffer("length", torch.ones(captions))

    def corrected(self, correction: dict[str, Any], strength: float = 1.0, begin: float = 0.0) -> Self:
        """A copy with an untrained correction, which changes nothing yet; see the class."""
        config = {k: v for k, v in self.config.items() if not k.startswith("_")}
        mapper = type(self)(**config | {"correction": correction, "strength": strength, "begin": begin})
        mapper.load_state_dict(self.state_dict(), strict=False)
        return mapper

    def corrected_like(self, other: "LocalFlowMapper", strength: float = 1.0, begin: float = 0.0) -> Self:
        """A copy with another's trained correction, UserError if it has none; both remember latents of one codec."""
        if other.network is None:
            raise UserError("correction: that model has none; train one with `python -m train.mapper`")
        mapper = self.corrected(other.config.correction, strength, begin)
        assert mapper.network is not None
        mapper.network.load_state_dict(other.network.state_dict())
        return mapper.eval()

    def compact(self) -> "LocalFlowMapper":
        network = self.network
        if network is None or not all(torch.equal(w, w.half().float()) for w in network.parameters()):
            return self
        view = self.varied()
        view.__dict__["_modules"] = {"network": copy.deepcopy(network).half()}
        return view

    @classmethod
    def from_memory(
        cls,
        latents: Tensor,  # Standardised, of N pictures, (N, *z_shape)
        codes: Tensor,  # Unit text codes of M different captions, (M, text_dim)
        captions: Sequence[Sequence[int]],  # For each picture, the numbers of its captions
        *,
        styles: Sequence[str] | None = None,  # For each picture, its kind in words
        groups: Sequence[int] | None = None,  # For each picture, the number of its near-duplicates, -1 for none
        allusions: Sequence[bool] | None = None,  # For each caption, whether it only alludes to its picture
        window: tuple[float, float] = (2.0, 1.7),
        perplexity: float = 8.0,
        neighbours: int = 192,
        whitening: float = 0.0,
        hottest: float = HOTTEST,
        lead: float = 0.0,
        bits: int | tuple[int, ...] = 8,
        code_bits: int = 8,
    ) -> Self:
        """A mapper over these pictures; UserError unless each has a caption. For the settings see the class.

        Of near-duplicates only the nearest is weighed; captions that only allude, as tags do, are farther by ASIDE.
        """
        if any(not len(numbers) for numbers in captions) or len(captions) != len(latents):
            raise UserError("captions: expected at least one for each picture; leave out pictures without")
        kinds = tuple(sorted(set(styles or ())))
        index = caption_index(codes) if len(codes) > EXACT else np.zeros(0, dtype=np.uint8)
        sizes = tuple(latents.shape[1:]), codes.shape[1], len(latents), len(codes), sum(map(len, captions))
        aside = ASIDE if any(allusions or ()) else 0.0
        mapper = cls(
            *sizes, window, perplexity, neighbours, kinds, len(index), whitening=whitening, bits=bits, aside=aside,
            hottest=hottest, lead=lead, code_bits=code_bits,
        )  # fmt: skip
        channelwise = latents.transpose(0, 1).flatten(1)
        levels, clipped = torch.tensor([KEPT[b] for b in mapper.bits]).to(latents).unbind(1)
        mapper.scale.copy_(channelwise.abs().amax(1).clamp(min=1e-6).minimum(clipped) / levels)
        most = mapper._across(levels)
        whole = (latents / mapper._across(mapper.scale)).round().clamp(-most, most)
        mapper.latents.copy_(_packed(whole.to(torch.int8), mapper.bits))
        shares = codes / codes.abs().amax(1, keepdim=True).clamp(min=1e-6)
        mapper.codes.copy_(mapper._packed_codes((shares * KEPT[code_bits][0]).round().to(torch.int8)))
        if mapper.config.aside:
            mapper.allusion.copy_(torch.tensor(allusions))
        if whitening:
            mapper._whiten()
        mapper.link.copy_(torch.tensor([number for numbers in captions for number in numbers]))
        mapper.start.copy_(torch.tensor([0, *map(len, captions)]).cumsum(0))
        if len(index):
            mapper.index.copy_(torch.from_numpy(index))
        if styles:
            mapper.style.copy_(torch.tensor([kinds.index(name) for name in styles]))
        if groups is not None:
            mapper.group.copy_(torch.as_tensor(groups))
        return mapper.eval()

    def _across(self, scale: Tensor) -> Tensor:
        """One number a channel, to be multiplied with latents."""
        return scale.view(-1, *[1] * (len(self.z_shape) - 1))

    def picture_latents(self, index: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Standardised latents of pictures in memory, (*index.shape, *z_shape)."""
        if self._made.get("of") is not self.latents:
            self._made |= {"of": self.latents, "whole": None, "asked": 0}
        index = index.to(self.latents.device)
        self._made["asked"] += index.numel()
        if self._made["whole"] is None and self._made["asked"] >= len(self.latents):  # before that, few are unpacked
            self._made["whole"] = _unpacked(self.latents, self.bits, self.z_shape)
        if (whole := self._made["whole"]) is not None:
            some = whole[index]
        else:
            some = _unpacked(self.latents[index.flatten()], self.bits, self.z_shape).view(*index.shape, *self.z_shape)
        return some.to(dtype) * self._across(self.scale.to(dtype))

    @property
    def unit_codes(self) -> Tensor:
        """Unit text codes of the captions in memory, (M, text_dim) float32, on the CPU."""
        if "unit" not in self._made:
            self._made["unit"] = self._unit(slice(None))
        return self._made["unit"]

    def _unit(self, which: slice | Tensor) -> Tensor:
        """Unit text codes of some captions in memory, (m, text_dim)."""
        bits = self.config.code_bits
        kept = self.codes[which].cpu().unflatten(1, (1 if bits == 8 else bits // 2, -1))
        return F.normalize(_unpacked(kept, (bits,), (1, self.text_dim))[:, 0].float(), dim=1)

    def _packed_codes(self, whole: Tensor) -> Tensor:
        """Codes (M, text_dim) int8 as memory keeps them."""
        return _packed(whole[:, None], (self.config.code_bits,)).flatten(1)

    def allusions(self, texts: Sequence[str]) -> frozenset[str]:
        """Which captions in memory, M texts, only allude to their pictures."""
        if not self.config.aside:
            return frozenset()
        return frozenset(text for text, alludes in zip(texts, self.allusion.tolist(), strict=True) if alludes)

    def restricted(self, *, style: str | None = None, novelty: float = 0.0) -> "LocalFlowMapper":
        """A view of the same memory.

        `style` draws only from pictures of this kind, or of "one, another"; "not ..." from all but those; "rather not
        ..." from all but those too, unless a caption is shown by one of these kinds and not by others: then by that
        alone, the kind named first being the last resort. `novelty` from 0 to -1 goes towards a greater lead, so more
        copies and more order; above 0, to 1, it is `bridge.variation` that takes pictures away from known ones. Raises
        UserError if memory holds no picture of that kind, or `novelty` is out of range.
        """
        styles, named = tuple(self.config.styles), (style or "").removeprefix(RATHER_NOT).removeprefix(NOT)
        kinds = [named] if named in styles else [kind.strip() for kind in named.split(",")]
        if style is not None and not set(kinds) <= set(styles):
            known = ", ".join(filter(None, styles)) or "none"
            raise UserError(f"style: this model knows no style {style!r}; its styles: {known}")
        if not -1 <= novelty <= 1:
            raise UserError(f"novelty: expected a number from -1 to 1, got {novelty!r}")
        nearer = max(0.0, -novelty)
        if style is None and not nearer:
            return self
        if (kept := self._views.get((style, nearer))) is not None:
            return kept
        view = self.varied(lead=self.lead + MORE_LEAD * nearer)
        if style is not None:
            of_kinds = [self.style == styles.index(kind) for kind in kinds]
            either = torch.stack(of_kinds).any(0)
            view.allowed = ~either if style.startswith((NOT, RATHER_NOT)) else either
            view.avoided = tuple(of_kinds) if style.startswith(RATHER_NOT) else ()
            if not bool(view.allowed.any()):
                raise UserError(f"style: all pictures in memory are {named!r}; leave the style out")
        self._views[style, nearer] = view
        if len(self._views) > VIEWS:
            self._views.pop(next(iter(self._views)), None)
        return view

    def varied(
        self,
        *,
        window: tuple[float, ...] | None = None,
        perplexity: float | None = None,
        lead: float | None = None,
        strength: float | None = None,
        begin: float | None = None,
    ) -> "LocalFlowMapper":
        """A view of the same memory with other settings; see the class."""
        changed = {"window": window, "perplexity": perplexity, "lead": lead, "strength": strength, "begin": begin}
        view = object.__new__(type(self))
        view.__dict__ = self.__dict__ | {"_views": {}, "_last": None, "_caches": defaultdict(OrderedDict)}
        view.__dict__ |= {name: value for name, value in changed.items() if value is not None}
        return view

    def given(self, material: Sequence[tuple[Tensor, Material]]) -> "LocalFlowMapper":
        """A view in which captions with these text codes, (text_dim,), draw from this.

        A code with a choice appended to it, (text_dim + 1,), is one image's alone.
        """
        if not material:
            return self
        view = self.varied()
        view._caches = self._caches
        view._given = self._given | {code_key(code): each for code, each in material}
        return view

    def _whiten(self) -> None:
        """Fit `centre`, `metric` and `length` to the captions in memory; few captions are whitened less."""
        codes = self.unit_codes.double()
        if self.config.aside:
            codes = codes[~self.allusion.cpu()]
        centre = codes.mean(0)
        covariance = (codes - centre).T @ (codes - centre) / len(codes)
        variance, axes = torch.linalg.eigh(covariance)
        variance = (variance + (RIDGE + self.text_dim / len(codes)) * variance.mean()).clamp(min=1e-9)
        scale = (variance / variance.min()) ** -self.config.whitening
        self.centre.copy_(centre)
        self.metric.copy_(axes * scale @ axes.T)
        codes = self.unit_codes - self.centre
        self.length.copy_((codes @ self.metric * codes).sum(1).clamp(min=1e-9).sqrt())

    def similarity(self, code: Tensor, whitened: bool = True) -> np.ndarray:
        """Cosine of a text code (text_dim,) with the nearest caption of each picture, (N,) in [-1, 1].

        Where `whitened`, both are, as far as this mapper does that, and captions that only allude count.
        """
        cosine = self._cosine(code, None, whitened)
        return np.maximum.reduceat(cosine[self.link.cpu().numpy()], self.start[:-1].cpu().numpy())

    def _cosine(self, code: Tensor, captions: np.ndarray | None, whitened: bool) -> np.ndarray:
        """Cosine of a text code (text_dim,) with captions, of all or of these numbers.

        Those that allude to their pictures are farther by `aside`, or beyond all others where it matters what is known.
        """
        code = code.detach().cpu().float()
        which = slice(None) if captions is None else torch.from_numpy(captions)
        codes = self.unit_codes if captions is None else self._unit(which)
        if whitened and self.config.whitening:
            if "white" not in self._made:  # copies: the tensors of a file lie askew, where products round differently
                self._made["white"] = [x.cpu().clone() for x in (self.centre, self.metric, self.length)]
            centre, metric, length = self._made["white"]
            apart = code - centre
            code = metric @ apart
            own = (code @ apart).clamp(min=1e-9).sqrt()
            cosine = (codes @ code - code @ centre) / (length[which] * own)
        else:
            cosine = codes @ code
        if self.config.aside:
            cosine = cosine - (self.config.aside if whitened else BEYOND) * self.allusion.cpu()[which]
        return cosine.numpy()

    def support(self, code: Tensor, slack: float = SLACK) -> int:
        """How many different pictures show a caption, (text_dim,), about as well as the nearest, to within a cosine."""
        cosine = self._nearest_plainly(code)[1]
        return int((cosine >= cosine[0] - slack).sum())

    def familiarity(self, code: Tensor) -> float:
        """Cosine of a text code (text_dim,) with the nearest caption in memory, in [-1, 1]."""
        return float(self._nearest_plainly(code)[1][0])

    def _nearest_plainly(self, code: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """As `_ranked`, neither whitened nor by allusions, and remembered."""
        return remembered(self._caches["plain"], REMEMBERED, code, partial(self._ranked, whitened=False))

    def yields(self, code: Tensor) -> bool:
        """Whether a caption, (text_dim,), is drawn from the kind of pictures that is the last resort."""
        return self.resort(code) == 0

    def resort(self, code: Tensor) -> int | None:
        """Number of the avoided kind that alone shows a caption, or None."""
        return remembered(self._caches["resort"], REMEMBERED, code, self._find_resort) if self.avoided else None

    def _find_resort(self, code: Tensor) -> int | None:
        if not bool(code.any()):
            return None
        near, cosine = self._candidates(code, whitened=False)
        left = np.ones(len(near), dtype=bool)
        for number, kind in enumerate(self.avoided):
            of_kind = kind.cpu().numpy()[near] & left
            left &= ~of_kind
            best, other = (cosine[some].max(initial=-1) for some in (left, of_kind))
            if best < ENOUGH and other > best + MISSED:
                return number
        return None

    def nearest(self, code: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Pictures that a text code, (text_dim,), draws from, nearest first, and their normalised log weights, (K,)."""
        return remembered(self._caches["near"], REMEMBERED, code, self._search)

    def material_of(self, code: Tensor) -> Material:
        """What a text code, (text_dim,), draws from: what it was `given`, else its nearest pictures."""
        if (given := self._given.get(code_key(code))) is not None:
            return given
        near, log_weight = self.nearest(code)
        return Material(self.picture_latents(torch.from_numpy(near)), torch.from_numpy(log_weight))

    def known_code(self, code: Tensor, u: float, temperature: float) -> tuple[Tensor, float]:
        """The code of a caption in memory, (text_dim,), for one that is not, so that an image is of one thing.

        It is the nearest caption of a picture that `code` draws from, chosen by softmax(cosine / temperature), as in
        `CaptionMemory.soften`, by inverse CDF at `u`, in [0, 1). A caption with material of its own (see `given`) keeps
        its code. Also returns where in that caption's part of [0, 1) `u` lies, a number for the next choice.
        """
        if code_key(code) in self._given:
            return code, u
        shown = remembered(self._caches["shown"], REMEMBERED, code, self._nearest_captions)
        cosine = self.unit_codes[shown] @ code.cpu().float()
        chosen, rest = by_inverse_cdf(torch.softmax(cosine.double() / temperature, 0).numpy(), u)
        return self.unit_codes[shown[chosen]].to(code), rest

    def _nearest_captions(self, code: Tensor) -> list[int]:
        """Numbers of the captions that are the nearest of a picture that a text code, (text_dim,), draws from."""
        numbers = []
        for picture in self.nearest(code)[0]:
            captions = self.link[self.start[picture] : self.start[picture + 1]].long().cpu()
            numbers.append(int(captions[(self.unit_codes[captions] @ code.cpu().float()).argmax()]))
        return [*dict.fromkeys(numbers)]

    def _search(self, code: Tensor) -> tuple[np.ndarray, np.ndarray]:
        near, cosine = (rows[: self.neighbours] for rows in self._ranked(code))
        return near, log_kernel(cosine, self.perplexity, self.hottest)

    def _ranked(self, code: Tensor, whitened: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """Allowed pictures, nearest first, of a group the nearest alone, and their cosines.

        From four times as many as are weighed; where `whitened`, an even choice for the null code.
        """
        if whitened and not bool(code.any()):
            near = np.arange(len(self.latents)) if self.allowed is None else self.allowed.cpu().numpy().nonzero()[0]
            count = min(self.neighbours, len(near))
            return near[np.linspace(0, len(near) - 1, count).round().astype(int)], np.zeros(count)
        near, cosine = self._candidates(code, whitened)
        resort = self.resort(code)
        allowed = self.allowed if resort is None else self.avoided[resort]
        if allowed is not None:
            kept = allowed.cpu().numpy()[near]
            if not kept.any():  # of the index's short list: then every picture is compared
                near, cosine = np.arange(len(self.latents)), self.similarity(code, whitened)
                kept = allowed.cpu().numpy()
            near, cosine = near[kept], cosine[kept]
        order = _largest(cosine, 4 * self.neighbours)
        near, cosine = near[order], cosine[order]
        group = self.group.cpu().numpy()[near]
        kept = group < 0
        kept[np.unique(group, return_index=True)[1]] = True
        return near[kept], cosine[kept]

    def _candidates(self, code: Tensor, whitened: bool) -> tuple[np.ndarray, np.ndarray]:
        """Pictures among which the nearest are, of all kinds, and their cosines."""
        if self.config.index_bytes:
            return self._short_list(code.detach().cpu().float(), whitened)
        return np.arange(len(self.latents)), self.similarity(code, whitened)

    def _short_list(self, code: Tensor, whitened: bool) -> tuple[np.ndarray, np.ndarray]:
        """Pictures of the captions that the index gives, and the exact cosine of the nearest caption of each."""
        if "index" not in self._made:
            faiss = import_extra("faiss", "large", "faiss-cpu", "a memory of so many captions")
            self._made["index"] = faiss.deserialize_index(self.index.cpu().numpy())
            link = self.link.cpu().numpy()
            order = np.argsort(link, kind="stable")
            picture = np.repeat(np.arange(len(self.latents)), np.diff(self.start.cpu().numpy()))[order]
            self._made["shown"] = picture, np.searchsorted(link[order], np.arange(len(self.codes) + 1))
        self._made["index"].nprobe = PROBED
        captions = self._made["index"].search(code[None].numpy(), SHORT_LIST)[1][0]
        captions = captions[captions >= 0]
        exact = self._cosine(code, captions, whitened)
        picture, start = self._made["shown"]
        counts = start[captions + 1] - start[captions]
        shown = np.concatenate([picture[start[i] : start[i + 1]] for i in captions])
        cosine = np.repeat(exact, counts)
        order = np.argsort(-cosine, kind="stable")
        nearest = order[np.sort(np.unique(shown[order], return_index=True)[1])]
        return shown[nearest], cosine[nearest]

    def clean(self, z_t: Tensor, t: Tensor, c: TextCode) -> Tensor:
        return self._clean(z_t, t, c, self._known(c, z_t))

    def _clean(self, z_t: Tensor, t: Tensor, c: TextCode, known: Known) -> Tensor:
        first, last = self.window
        s = first + (last - first) * t.view(-1, 1, 1)
        window = torch.exp(-self.squared.to(t) / (2 * s.square()))  # of each position at each, (B, P, P)
        log_weight = known.log_weight[:, None] - _misfit(z_t, known, t, window)
        weight = log_weight.softmax(2)[:, :, None]
        mean = (weight @ known.latents)[:, :, 0]
        clean = mean.mT.reshape(z_t.shape)
        late = t >= self.begin
        if self.network is None or self.strength == 0 or not bool(late.any()):
            return clean
        square = (weight @ known.latents.square())[:, :, 0]
        spread = (square - mean.square()).clamp(min=1e-6).sqrt().mT.reshape(z_t.shape)
        share = per_row((self.strength * late).to(z_t.dtype), z_t)
        return clean + share * self.network.clean(z_t, t, c, clean, spread)

    def loss(self, z: Tensor, c: TextCode, *, noise: Tensor) -> Tensor:
        """Flow matching loss, (B,); see `Mapper.loss`.

        A correction counts whole, at all times. In training mode memory lacks pictures that are nearly `z`, and for a
        share of the examples those of near captions too, so that it learns to reach beyond memory.
        """
        if self.network is None:
            return super().loss(z, c, noise=noise)
        t, z_t = self._on_path(z, c, noise)
        with torch.no_grad():
            known = self._others(c.pooled, z, noise[:, 1]) if self.training else self._known(c, z_t)
        return velocity_error(self.varied(strength=1, begin=0)._clean(z_t, t, c, known), z, t, LATE)

    def _others(self, pooled: Tensor, z: Tensor, normal: Tensor) -> Known:
        """As `_known`, without pictures like z (B, *z_shape), and for some rows, by a normal number, near captions."""
        uniform = (torch.special.ndtr(normal.double()).cpu().numpy() - UNKNOWN) / (1 - UNKNOWN)
        limits = np.where(uniform < 0, np.inf, CLOSEST + (FARTHEST - CLOSEST) * uniform)
        rows = []
        for code, limit in zip(pooled, limits, strict=True):
            near, cosine = remembered(self._caches["ranked"], REMEMBERED_IN_TRAINING, code, self._ranked)
            begin = int((cosine > limit).sum())
            begin = begin if len(near) - begin > self.perplexity else 0
            rows.append((near[begin:][: self.neighbours], cosine[begin:][: self.neighbours]))
        index, cosine = self._padded(rows)
        known = self.picture_latents(index, z.dtype)
        other = ((known - z[:, None]).square_().flatten(2).mean(2) >= SAME).cpu().numpy()
        other |= ~(other & np.isfinite(cosine)).any(1, keepdims=True)  # where nothing else is known
        cosine[~other] = -np.inf
        log_weight = torch.from_numpy(log_kernel(cosine, self.perplexity, self.hottest)).to(z)
        return Known.of(known, log_weight)

    def _known(self, c: TextCode, like: Tensor) -> Known:
        """Each row's neighbours; rows with fewer weigh 0 beyond. What a solver asks for at every step is made once."""
        key = (code_key(c.pooled) + code_key(c.choice), like.dtype, like.device)
        if self._last is None or self._last[0] != key:
            self._last = key, self._gathered(c, like)
        return self._last[1]

    def _gathered(self, c: TextCode, like: Tensor) -> Known:
        pooled = c.pooled
        index, padded = self._padded([self.nearest(code) for code in pooled], ROOM)
        known = self.picture_latents(index, like.dtype)
        log_weight = torch.from_numpy(padded).to(like.dtype)
        for row, (code, choice) in enumerate(zip(pooled, c.choice, strict=True)):
            own = self._given.get(code_key(torch.cat([code, choice[None]])))
            if (given := own or self._given.get(code_key(code))) is not None:
                count = len(given.latents)
                known[row, :count] = given.latents.to(known)
                log_weight[row] = -math.inf
                log_weight[row, :count] = given.log_weight.to(log_weight)
        if self.lead and bool(c.choice.isfinite().any()):
            log_weight = self._led(log_weight, c.choice.cpu())
        return Known.of(known, log_weight.to(like.device))

    def _led(self, log_weight: Tensor, choice: Tensor) -> Tensor:
        """Log weights (B, K) with more for the picture that a row's choice, (B,), falls on; see the class."""
        cdf = log_weight.double().softmax(1).cumsum(1)
        leading = (cdf <= choice[:, None] * cdf[:, -1:]).sum(1, keepdim=True).clamp(max=cdf.shape[1] - 1)
        more = torch.zeros_like(log_weight).scatter(1, leading, self.lead)
        return (log_weight + more.where(choice.isfinite()[:, None], 0.0)).log_softmax(1)

    def _padded(self, rows: Sequence[tuple[np.ndarray, np.ndarray]], least: int = 0) -> tuple[Tensor, np.ndarray]:
        """Rows of numbers of pictures and of what goes with them as (B, K), minus infinity beyond a row's end."""
        most = max(least, min(self.neighbours, len(self.latents)))  # for any batch, so that its kernels round alike
        index, values = np.zeros((len(rows), most), dtype=np.int64), np.full((len(rows), most), -np.inf)
        for row, (near, value) in enumerate(rows):
            index[row, : len(near)], values[row, : len(near)] = near, value
        return torch.from_numpy(index), values


def _misfit(z: Tensor, known: Known, t: Tensor, window: Tensor) -> Tensor:
    """Windowed |z_t - t z_i|^2 / 2 (1 - t)^2 of each row, position and picture, (B, P, K), less a constant in i."""
    t = t.view(-1, 1, 1)
    at = z.reshape(*z.shape[:2], -1).mT
    here = (at[:, :, None] @ known.latents.mT)[:, :, 0]  # a row times a matrix: a quarter of the time of its mirror
    here = t.square() * known.square - t * here
    return window @ here / (1 - t).clamp(min=1e-3).square()


def by_inverse_cdf(weight: np.ndarray, u: float) -> tuple[int, float]:
    """A choice in proportion to weights, (K,), by their inverse CDF at u in [0, 1), and where in its part u lies."""
    cdf = np.append(0.0, weight.cumsum() / weight.sum())
    chosen = min(int(np.searchsorted(cdf, u, side="right")) - 1, int(weight.nonzero()[0][-1]))
    return chosen, float(np.clip((u - cdf[chosen]) / (cdf[chosen + 1] - cdf[chosen]), 0, BELOW_ONE))


def caption_index(codes: Tensor) -> np.ndarray:
    """An inverted file of unit codes (M, D) by inner product, four bits a number, as bytes.

    Source: Douze et al. 2024, The Faiss Library, arXiv:2401.08281
    """
    faiss = import_extra("faiss", "large", "faiss-cpu", "a memory of so many captions")
    cells = int(4 * math.sqrt(len(codes)))
    index = faiss.index_factory(codes.shape[1], f"IVF{cells},SQ4", faiss.METRIC_INNER_PRODUCT)
    vectors = codes.detach().cpu().float().numpy()
    index.train(vectors[:: max(1, len(vectors) // (50 * cells))])
    index.add(vectors)
    return faiss.serialize_index(index)


def _packed(whole: Tensor, bits: Sequence[int]) -> Tensor:
    """Whole numbers (N, C, ...) int8 of so many bits a channel; fewer than eight in planes of two, (N, planes, bytes).

    A byte of a plane has two bits of each of four numbers.
    """
    if set(bits) == {8}:
        return whole
    planes = []
    for number, channel in zip(bits, whole.reshape(*whole.shape[:2], -1).unbind(1), strict=True):
        unsigned = (channel.to(torch.int16) + (1 << number - 1)).to(torch.uint8)
        planes += [unsigned >> low & 3 for low in range(0, number, 2)]
    four = F.pad(torch.stack(planes, 1), (0, -planes[0].shape[1] % 4)).unflatten(2, (-1, 4))
    return four[..., 0] | four[..., 1] << 2 | four[..., 2] << 4 | four[..., 3] << 6


def _unpacked(packed: Tensor, bits: Sequence[int], z_shape: tuple[int, ...]) -> Tensor:
    """The other way, to (N, *z_shape) int8."""
    if set(bits) == {8}:
        return packed
    planes = torch.stack([packed >> low & 3 for low in (0, 2, 4, 6)], -1).flatten(2)[..., : math.prod(z_shape[1:])]
    whole, plane = torch.empty(len(packed), z_shape[0], planes.shape[2], dtype=torch.int8, device=packed.device), 0
    for channel, number in enumerate(bits):
        unsigned = torch.zeros_like(planes[:, 0])
        for low in range(0, number, 2):
            unsigned |= planes[:, plane] << low
            plane += 1
        whole[:, channel] = (unsigned.to(torch.int16) - (1 << number - 1)).to(torch.int8)
    return whole.view(len(packed), *z_shape)


def _largest(x: np.ndarray, k: int) -> np.ndarray:
    """Where the k largest of x are, largest first, of equals the earlier first."""
    chosen = np.arange(len(x))
    if k < len(x):
        least = np.partition(x, len(x) - k)[len(x) - k]
        above, level = (x > least).nonzero()[0], (x == least).nonzero()[0]
        chosen = np.sort(np.concatenate([above, level[: k - len(above)]]))
    return chosen[np.argsort(-x[chosen], kind="stable")]


def log_kernel(cosine: np.ndarray, perplexity: float, hottest: float = HOTTEST) -> np.ndarray:
    """log softmax(cosine / tau) of similarities (..., K), tau by bisection such that its perplexity is as asked.

    With tau at `hottest`, it may be less. Minus infinity stands for no picture. Fewer pictures than twice the
    perplexity share at most half of their number.

    >>> np.exp(log_kernel(np.array([1.0, 0.9, 0.1, 0.0]), 2.0)).round(2)
    array([0.63, 0.36, 0.  , 0.  ])
    """
    cosine = cosine.astype(np.float64)
    present = np.isfinite(cosine)
    goal = np.log(np.clip(present.sum(-1, keepdims=True) / 2, 1, perplexity))
    low, high = np.full(goal.shape, math.log(COLDEST)), np.full(goal.shape, math.log(hottest))
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        log_p = np.where(present, _log_softmax(cosine / np.exp(middle)), 0)
        sharp = -(np.exp(log_p) * log_p).sum(-1, keepdims=True) < goal
        low, high = np.where(sharp, middle, low), np.where(sharp, high, middle)
    return _log_softmax(cosine / np.exp((low + high) / 2))


def _log_softmax(x: np.ndarray) -> np.ndarray:
    shifted = x - x.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
