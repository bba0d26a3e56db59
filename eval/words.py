"""What the report's page says, where several artists drew each caption and where each has one picture."""

from dataclasses import dataclass

HeadlineWords = tuple[str, str, str, str]
"""Field, title, what it is about, and what its floor is."""

MEMORY = (
    (
        "copied",
        "Copies",
        "Share of pictures nearer to a training picture than 99% of held-out real ones are. A first alarm: noise on a "
        "copy, a blend of two pictures, a shift and mostly a mirrored copy pass it: see the next two as well.",
    ),
    (
        "c_t",
        "C_T",
        "Do pictures lie nearer to training pictures than real ones do? Far below 0: they copy. Grows with their "
        "number: compare equal numbers. A codec’s blur raises it: compare with real pictures through the codec.",
    ),
    (
        "authenticity",
        "Authentic",
        "Share of pictures further from their nearest training picture than that one is from its own; 0 for copies. "
        "Real pictures do not reach 1: compare with them.",
    ),
)
QUALITY = (
    (
        "realistic",
        "Realistic",
        "Share of pictures that lie where real ones do, whatever they show. A copy passes, and so does a blur.",
    ),
    ("kid", "KID", "Distance of all pictures to all real ones, captions ignored; 0 is real. Wrong captions pass."),
    ("frechet", "Fréchet", "Another such distance; few pictures make it larger: compare equal numbers."),
    (
        "sharpness",
        "Sharpness",
        "Edges against those of real pictures: below 1 blurred, above 1 noisy. 1 proves nothing.",
    ),
)
"""Field of `Figures`, title and meaning of what stands beside the headlines."""

METHODS = {
    "real": ("Real pictures", "each held against those by other artists: the 1 of every scale"),
    "reconstruction": ("Real, through the codec", "encoded and decoded: the most a model with this codec can reach"),
    "nearest1": ("Retrieval, nearest caption", "hand out training pictures of the most similar training caption"),
    "nearestk": ("Retrieval, several captions", "one training picture of each of the most similar captions"),
    "ridge + Gaussian": ("Ridge + Gaussian", "linear regression on the caption, with random variation"),
    "ridge mean": ("Ridge regression", "the same without variation: one picture per caption"),
    "unconditional": ("Caption ignored", "training pictures drawn blindly"),
    "model, shuffled captions": ("Model, shuffled captions", "its pictures held against another caption’s"),
    "model, one mode": ("Model, one picture", "its first picture several times"),
    "model, blur": ("Model, blurred", "the average of its pictures several times"),
}
"""Title and explanation of every method that is not a model."""

ABSENT = {
    "artist": ("Artists", ""),
    "family": ("Families of captions", ""),
    "validation": ("Split ‘validation’", ""),
    "baselines": ("Retrieval and ridge regression", ""),
    "trade_off": ("Trade-off curve", ""),
}
"""Titles of what else may be absent."""


@dataclass(frozen=True)
class Words:
    """Words of one kind of page.

    Args:
        intro: What was done.
        warning: What to know first, after "Judged singly: reason."; empty where there is nothing.
        scales: On the three headlines as such.
        headlines: The three.
        one: What 1 is on each scale, on the drawing.
        reached: The same in a sentence.
        explained: The question behind each headline, and what to know of it.
        beside: What stands beside them.
        rows: Title and explanation of rows, and titles of what may be absent.
        methods: Title and explanation of methods.
        glossary: Terms.
        energy: What methods are compared by.
        others: The real pictures that copies are compared with.
        references: Title of a caption's real pictures.
    """

    intro: str
    warning: str
    scales: str
    headlines: tuple[HeadlineWords, ...]
    one: dict[str, str]
    reached: dict[str, str]
    explained: dict[str, tuple[str, str]]
    beside: tuple[tuple[str, str, str], ...]
    rows: dict[str, tuple[str, str]]
    methods: dict[str, tuple[str, str]]
    glossary: tuple[tuple[str, str], ...]
    energy: str
    others: str
    references: str


INTERVAL = (
    "Interval [low, high]",
    "95%, from redrawing the captions; families of like captions are redrawn whole and weigh the same. It does not "
    "cover another seed of training or another judge.",
)
ARTISTS = Words(
    "They are compared with pictures that artists drew for the same captions, and with what simpler methods would "
    "have given.",
    "",
    "Each is 1 for real pictures by other artists and 0 at its floor. Read them together; the smallest counts, because "
    "each alone can be had by cheating.",
    (
        ("fit", "Fit", "What they show", "chance"),
        ("diversity", "Diversity", "Variety", "no recognisable picture"),
        ("joint", "Joint", "A caption’s pictures together", "training pictures that ignore the caption"),
    ),
    dict.fromkeys(("fit", "diversity", "joint"), "real"),
    dict.fromkeys(("fit", "diversity", "joint"), "real pictures"),
    {
        "fit": (
            "Do the pictures show the caption?",
            "A picture counts if it looks real and its own caption is among the 10 likeliest of 100. Floor: chance. "
            "Do not trust it above 1: blurred, average pictures score better than real ones.",
        ),
        "diversity": (
            "Are a caption’s pictures different from one another?",
            "Different styles among those pictures that also show the caption. Floor: none. Do not trust it where fit "
            "is low: few pictures then count.",
        ),
        "joint": (
            "Are a caption’s pictures, as a set, those that artists draw?",
            "Floor: training pictures drawn without reading the caption; below it, the set is further off than those. "
            "Do not trust it on few captions: it is the noisiest of the three.",
        ),
    },
    (
        *MEMORY,
        *QUALITY,
        ("hit", "Recognised", "Share recognised as their caption among 100: the raw figure behind fit."),
        ("styles", "Styles", "Different styles among a caption’s recognised pictures: the raw count behind diversity."),
        ("energy", "Energy", "Energy distance to the real pictures: the raw figure behind joint."),
    ),
    {
        "seen": ("Captions it was trained on", "The real pictures are by artists it never saw."),
        "held-out": ("Captions it never saw", "Whole families of captions were kept from training."),
        "far": ("Captions far from training", "Nothing like them was in training."),
    }
    | ABSENT,
    METHODS,
    (
        (
            "Fit",
            "Share of pictures that look real and are recognised as their caption, from chance (0) to real pictures "
            "(1). A network judges: it can be fooled by texture, and it likes averages, so a figure above 1 is an "
            "alarm for blur.",
        ),
        (
            "Diversity",
            "Different styles among a caption’s recognised pictures, over those of real artists. Noise and wrong "
            "pictures buy nothing. It says little where fit is low.",
        ),
        (
            "Joint",
            "How near the set of pictures comes to the set that artists draw: right, varied and in the right "
            "proportions. 0 is as far off as training pictures drawn blindly, negative is further. It needs many "
            "captions.",
        ),
        (
            "The smallest of the three",
            "The score. Repeating one right picture has fit without diversity; random real pictures have neither; an "
            "average has fit without joint.",
        ),
        (
            "Real pictures",
            "Each held against those by other artists. No artist scores perfectly against others, so 1 is what people "
            "reach, not perfection.",
        ),
        (
            "Energy distance",
            "What joint is made from: how far two sets of pictures are apart, 0 for the same. Used to compare methods "
            "on the same captions. By chance it may fall below 0.",
        ),
        INTERVAL,
        (
            "Retrieval",
            "Looks up the most similar training captions and hands out their pictures. Hard to beat on captions seen "
            "in training, where it hands out real pictures of just that caption; it can never draw anything new.",
        ),
    ),
    "distance",
    "real pictures by other artists",
    "Real pictures by other artists",
)
SINGLE = Words(
    "They are compared with the picture that was drawn for each of these captions, and with what simpler methods would "
    "have given.",
    "What two right pictures of one caption may differ by is not in this data. So 1 never means “as good as real "
    "pictures by other artists” here, the three headlines have no common 1, and there is no single score. What does "
    "not exist is marked absent, with the reason.",
    "Each is 0 at its floor, and each has a 1 of its own, written over it. Read them together, because each alone can "
    "be had by cheating.",
    (
        ("fit", "Fit", "What they show", "chance"),
        ("diversity", "Diversity", "Variety", "no two recognisable pictures"),
        ("joint", "Joint", "Captions and pictures together", "captions ignored"),
    ),
    {"fit": "always found", "diversity": "other captions", "joint": "real pairs"},
    {
        "fit": "pictures that are always found",
        "diversity": "the artist’s pictures of different captions",
        "joint": "real pairs",
    },
    {
        "fit": (
            "Do the pictures show the caption?",
            "A picture counts if it looks real and the artist’s own picture of its caption is among the 10 nearest of "
            "100. Floor: chance. 1 would be finding it every time, which nobody does: the artist drew one of many "
            "right pictures, and a right one that looks otherwise is a miss. Compare with the codec’s mark and the "
            "table below, not with 1. Blurred, average pictures score better than they deserve.",
        ),
        "diversity": (
            "Are a caption’s pictures different from one another?",
            "How far apart two pictures of a caption are drawn, counting only pairs that both show the caption; 1 is "
            "as far as the artist’s pictures of different captions, and further is not rewarded. How much it ought to "
            "be nobody knows, since each caption was drawn once: 0 is a model that repeats itself, 1 is no aim. It is "
            "low wherever fit is low.",
        ),
        "joint": (
            "Do captions and pictures go together as real ones do?",
            "Do like captions get like pictures, as they do among real pairs? How much nearer the pairs of caption and "
            "picture come to the real pairs than with captions shuffled: 1 as near as real pairs, 0 captions ignored, "
            "below 0 misread. It needs about a hundred captions, and several hundred before its interval is narrow; it "
            "compares only models with one text encoder, and sees neither blur nor repetition.",
        ),
    },
    (
        *MEMORY,
        *QUALITY,
        (
            "hit",
            "Recognised",
            "Share of realistic pictures near their caption’s own among 100: the raw figure behind fit.",
        ),
        (
            "energy",
            "Energy score",
            "How far a caption’s pictures are from the real one, less half of how far they are from one another. Lower "
            "is better, 0 is out of reach; only differences between methods mean something.",
        ),
    ),
    {
        "seen": ("Captions it was trained on", "The real pictures are others than it was shown."),
        "held-out": ("Captions it never saw", "The real pictures were kept from training."),
        "far": ("Captions far from training", "Nothing like them was in training."),
    }
    | ABSENT,
    METHODS
    | {
        "real": ("Real pictures", "what all others are held against"),
        "nearest1": ("Retrieval", "hand out training pictures of the most similar training captions"),
    },
    (
        (
            "One picture a caption",
            "What two right pictures of one caption may differ by is not in this data. So no figure here is scaled to "
            "real pictures by other artists, the three have no common 1, and there is no score; figures of this page "
            "and of one on data by several artists do not compare.",
        ),
        (
            "Fit",
            "Share of pictures that look real and are found to be nearest to their caption’s own picture, from chance "
            "(0) to always (1). A network judges: it can be fooled by texture, it likes averages, and it misses right "
            "pictures unlike the one that was drawn.",
        ),
        (
            "Diversity",
            "Distance between a caption’s recognised pictures; 1 is that between the artist’s pictures of different "
            "captions, the most that counts. Noise and wrong pictures buy nothing. It says little where fit is low.",
        ),
        (
            "Joint",
            "How much nearer the pairs of caption and picture come to the real pairs (in energy distance) than the "
            "same pictures do with captions shuffled. It sees wrong captions, not blur and not repetition. Not to be "
            "trusted on few captions, where it is left out.",
        ),
        (
            "Energy score",
            "A strictly proper score, for which one real picture a caption is enough: on average no model does better "
            "than the one that draws as the artist would. It carries the comparison with simpler methods.",
        ),
        INTERVAL,
        (
            "Retrieval",
            "Looks up the most similar training captions and hands out their pictures. It can never draw anything new.",
        ),
    ),
    "score",
    "held-out real pictures",
    "The real picture",
)
