"""The title of an axis in words, of the name of a metric."""

WORDS = {
    "1b": "(1 billion parameters)",
    "1m": "(1 million parameters)",
    "60m": "(60 million parameters)",
    "c": "C",
    "cc": "CC",
    "cpu": "CPU",
    "frechet": "Fréchet distance",
    "log2": "binary logarithm:",
    "map": "mean average precision",
    "ms": "milliseconds",
    "ndcg": "normalized discounted cumulative gain",
    "r": "R",
    "r2": "coefficient of determination",
    "w2": "2-Wasserstein distance",
}
"""what stands in a title for a part of a name that is no word"""


def axis_title(metric: str) -> str:
    """The words of a metric's name: `sliced_w2_at_4` is a "sliced 2-Wasserstein distance at 4"."""
    return " ".join(WORDS.get(part.lower(), part) for part in metric.split("_"))
