"""What the page says of data with one picture a caption, where that differs from `eval.page`."""

HEADLINES = (
    ("fit", "Fit", "What they show", "chance"),
    ("diversity", "Diversity", "Variety", "no two recognisable pictures"),
    ("joint", "Joint", "Captions and pictures together", "captions ignored"),
)
"""Name, title, what it is about, and what its floor is."""

ONES = {"fit": "always found", "diversity": "other captions", "joint": "real pairs"}
"""What 1 is on each scale; on none is it a real picture by another artist."""

REACHED = {
    "fit": "pictures that are always found",
    "diversity": "the artist’s pictures of different captions",
    "joint": "real pairs",
}
"""The same in a sentence."""

EXPLAINED = {
    "fit": (
        "Do the pictures show the caption?",
        "A picture counts if it looks real and the artist’s own picture of its caption is among the 10 nearest of "
        "100. Floor: chance. 1 would be finding it every time, which nobody does: the artist drew one of many right "
        "pictures, and a right one that looks otherwise is a miss. Compare with the codec’s mark and the table below, "
        "not with 1. Blurred, average pictures score better than they deserve.",
    ),
    "diversity": (
        "Are a caption’s pictures different from one another?",
        "How far apart two pictures of a caption are drawn, counting only pairs that both show the caption; 1 is as "
        "far as the artist’s pictures of different captions, and further is not rewarded. How much it ought to be "
        "nobody knows, since each caption was drawn once: 0 is a model that repeats itself, 1 is no aim. It is low "
        "wherever fit is low.",
    ),
    "joint": (
        "Do captions and pictures go together as real ones do?",
        "Do like captions get like pictures, as they do among real pairs? How much nearer the pairs of caption and "
        "picture come to the real pairs than with captions shuffled: 1 as near as real pairs, 0 captions ignored, "
        "below 0 misread. It needs about a hundred captions, and several hundred before its interval is narrow; it "
        "compares only models with one text encoder, and sees neither blur nor repetition.",
    ),
}
"""The question behind each headline, and what to know of it."""

BESIDE = {
    "hit": ("Recognised", "Share of realistic pictures near their caption’s own among 100: the raw figure behind fit."),
    "energy_score": (
        "Energy score",
        "How far a caption’s pictures are from the real one, less half of how far they are from one another. Lower is "
        "better, 0 is out of reach; only differences between methods mean something.",
    ),
}
"""Title and meaning of the figures that only this report has."""

ROWS = {
    "seen": ("Captions it was trained on", "The real pictures are others than it was shown."),
    "held-out": ("Captions it never saw", "The real pictures were kept from training."),
    "far": ("Captions far from training", "Nothing like them was in training."),
    "artist": ("Artists", ""),
    "family": ("Families of captions", ""),
    "validation": ("Split ‘validation’", ""),
    "baselines": ("Retrieval and ridge regression", ""),
    "trade_off": ("Trade-off curve", ""),
}
"""Title and explanation of rows, and the titles of what may be absent."""

METHODS = {
    "real": ("Real pictures", "what all others are held against"),
    "nearest1": ("Retrieval", "hand out training pictures of the most similar training captions"),
}
"""Title and explanation of methods."""

GLOSSARY = (
    (
        "One picture a caption",
        "What two right pictures of one caption may differ by is not in this data. So no figure here is scaled to real "
        "pictures by other artists, the three have no common 1, and there is no score; figures of this page and of one "
        "on data by several artists do not compare.",
    ),
    (
        "Fit",
        "Share of pictures that look real and are found to be nearest to their caption’s own picture, from chance (0) "
        "to always (1). A network judges: it can be fooled by texture, it likes averages, and it misses right pictures "
        "unlike the one that was drawn.",
    ),
    (
        "Diversity",
        "Distance between a caption’s recognised pictures; 1 is that between the artist’s pictures of different "
        "captions, the most that counts. Noise and wrong pictures buy nothing. It says little where fit is low.",
    ),
    (
        "Joint",
        "How much nearer the pairs of caption and picture come to the real pairs (in energy distance) than the same "
        "pictures do with captions shuffled. It sees wrong captions, not blur and not repetition. Not to be trusted on "
        "few captions, where it is left out.",
    ),
    (
        "Energy score",
        "A strictly proper score, for which one real picture a caption is enough: on average no model does better than "
        "the one that draws as the artist would. It carries the comparison with simpler methods.",
    ),
    (
        "Interval [low, high]",
        "95%, from redrawing the captions; families of like captions are redrawn whole and weigh the same. It does not "
        "cover another seed of training or another judge.",
    ),
    (
        "Retrieval",
        "Looks up the most similar training captions and hands out their pictures. It can never draw anything new.",
    ),
)
"""Terms of the page that are other ones than on data by several artists."""
