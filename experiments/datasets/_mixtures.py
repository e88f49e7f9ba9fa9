"""Reader of training runs over data mixtures (see `_images` for the form)."""

import csv
from pathlib import Path

import numpy as np

from experiments.datasets._images import Columns, Splits

DOMAINS = (
    "arxiv", "freelaw", "nih_exporter", "pubmed_central", "wikipedia_en", "dm_mathematics", "github", "philpapers",
    "stackexchange", "enron_emails", "gutenberg_pg_19", "pile_cc", "ubuntu_irc", "europarl", "hackernews",
    "pubmed_abstracts", "uspto_backgrounds",
)  # fmt: skip
VALIDATED = tuple(
    domain for domain in DOMAINS if domain not in ("nih_exporter", "philpapers", "enron_emails", "europarl")
)
ROUNDING = 0.0005  # proportions are rounded to 0.001


def regmix(folder: Path | None) -> Splits:
    """Runs of RegMix (arXiv 2407.01492): `mixture` [N, 17] over `DOMAINS`, `losses` [N, 13] over `VALIDATED`.

    `train` and `test_1m` are models of 1M parameters. `test_60m` holds the mixtures of `test_1m`, row by row, at 60M
    parameters. The 64 mixtures of `test_1b` are others. The tables round proportions to 0.001, so that rows sum to
    0.996 to 1.003; they are divided by their sums here.

    Raises:
      ValueError: if a column is missing, the two tables of a split name different runs, a number is not finite, or a
        mixture does not sum to 1 within rounding.
    """
    assert folder is not None
    return {
        "train": _runs(folder, "train", "1m"),
        "test_1m": _runs(folder, "test", "1m"),
        "test_60m": _runs(folder, "test", "60m"),
        "test_1b": _runs(folder, "test", "1B"),
    }


def _runs(folder: Path, split: str, size: str) -> Columns:
    mixtures, losses = folder / f"{split}_mixture_{size}.csv", folder / f"{split}_pile_loss_{size}.csv"
    ids, mixture = _table(mixtures, [f"train_the_pile_{name}" for name in DOMAINS])
    others, loss = _table(losses, [f"metric/the_pile_{name}_val_loss" for name in VALIDATED])
    if ids != others:
        raise ValueError(f"{mixtures.name} and {losses.name} differ in their index, wanted the same runs in each.")
    sums = mixture.sum(axis=1)
    wrong = np.flatnonzero(~(np.abs(sums - 1) <= ROUNDING * len(DOMAINS)) | (mixture < 0).any(axis=1))
    if len(wrong):
        row = wrong[0]
        raise ValueError(
            f"Row {row} of {mixtures.name} sums to {sums[row]:.4f}, wanted proportions >= 0 that sum to 1."
        )
    return {"mixture": (mixture / sums[:, None]).astype(np.float32), "losses": loss.astype(np.float32)}


def _table(path: Path, names: list[str]) -> tuple[list[str], np.ndarray]:
    """The column `index` and the columns of these names, in their order."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    missing = [name for name in ("index", *names) if not rows or name not in rows[0]]
    if missing:
        raise ValueError(f"{path.name} has no column {', '.join(missing)}, wanted the tables of sail-sg/regmix.")
    values = np.array([[row[name] for name in names] for row in rows], np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"{path.name} holds a number that is not finite, wanted none.")
    return [row["index"] for row in rows], values
