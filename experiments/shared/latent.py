"""Texts as vectors, by latent semantic analysis."""

from typing import Any

import numpy as np


def latent_vectors(texts: list[list[str]], dimensions: int, **options: Any) -> list[np.ndarray]:
    """Singular vectors of the tf-idf counts of the first list, and all lists projected on them.

    Args:
      texts: lists of texts.
      dimensions: D, less than there are terms.
      options: of scikit-learn's `TfidfVectorizer`.

    Returns:
      `[N, D]` float32 for each list, rows of length 1 (0 for a text of unknown terms), leading dimensions first.
    """
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    terms = TfidfVectorizer(sublinear_tf=True, max_features=20000, **options)
    svd = TruncatedSVD(dimensions, random_state=0)
    vectors = [svd.fit_transform(terms.fit_transform(texts[0]))]
    vectors += [svd.transform(terms.transform(part)) for part in texts[1:]]
    return [(v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-6)).astype(np.float32) for v in vectors]
