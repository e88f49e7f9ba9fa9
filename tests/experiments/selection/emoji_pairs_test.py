"""Words of keywords, pairs that are drawn, and towers of two resolutions, against loops, numpy and XLA's own count."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.selection import _emoji_pairs as pairs
from experiments.selection import _emoji_towers as towers


def test_words_of_an_emoji_are_found_by_its_name_in_any_order():
    keywords = {
        "name": np.array([b"GRINNING FACE", b"flag_cote_d_ivoire"], object),
        "text": np.array([b"grinning\nhappy-face\n:D", "flag_cote_d_ivoire\nCôte\nnation".encode()], object),
    }
    found = pairs.keyword_words(keywords)
    assert found[pairs.words("Face Grinning")] == found[pairs.words("grinning")] == ["d", "face", "grinning", "happy"]
    assert found[pairs.words("Cote D’Ivoire Flag".replace("’", " "))] == ["cote", "d", "flag", "ivoire", "nation"]


def test_ids_are_the_words_that_are_present():
    has = pairs.multi_hot([["b", "x"], [], ["c", "a", "b"]], ["a", "b", "c"])
    assert has.tolist() == [[0, 1, 0], [0, 0, 0], [1, 1, 1]]
    assert pairs.word_ids(has).tolist() == [[1, -1, -1], [-1, -1, -1], [0, 1, 2]]


def test_emoji_of_a_draw_are_different():
    rows, vendors = pairs.draw(jax.random.key(0), 50, 30)
    assert len(set(rows.tolist())) == 30 and set(vendors.tolist()) == set(range(pairs.VENDORS))


@pytest.fixture(scope="module")
def model():
    return towers.towers(vocabulary=9, width=8, depth=1, dimensions=6)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    image = rng.normal(size=(4, pairs.SIDE, pairs.SIDE, 3)).astype(np.float32)
    return {"image": jnp.asarray(image), "words": jnp.asarray(rng.integers(0, 2, (4, 9)), jnp.float32)}


def test_the_coarse_tower_shares_all_that_does_not_depend_on_the_number_of_patches(model, batch):
    params = model.init(jax.random.key(0))
    slopes = jax.jit(jax.grad(lambda p: jnp.sum(model.coarse(p, batch)[0][:, 0])))(params)
    found = {jax.tree_util.keystr(path): bool(jnp.any(g != 0)) for path, g in jax.tree.leaves_with_path(slopes)}
    unused = [name for name, used in found.items() if name.startswith("['image']") and not used]
    assert len(unused) == 3 and all("places" in name or "tokens" in name for name in unused)
    assert all(used for name, used in found.items() if name.startswith("['coarse']"))
    blurred = {**batch, "image": jnp.repeat(jnp.repeat(batch["image"][:, ::2, ::2], 2, axis=1), 2, axis=2)}
    averages = np.asarray(blurred["image"]).reshape(4, 8, 2, 8, 2, 3).mean((2, 4))
    np.testing.assert_allclose(averages, blurred["image"][:, ::2, ::2], rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(model.coarse(params, blurred)[0], axis=1), 1, rtol=1e-5)


def test_flops_are_those_that_xla_counts(model, batch):
    params = model.init(jax.random.key(0))
    for embed, flops in zip((model.fine, model.coarse), model.flops):
        counted: Any = jax.jit(embed).lower(params, batch).cost_analysis()
        assert 1 <= counted["flops"] / 4 / flops < 1.35  # norms, sums and biases are not counted


def test_recalls_against_a_sort():
    rng = np.random.default_rng(1)
    similarities, own = rng.normal(size=(40, 12)), rng.integers(0, 12, 40)
    where = np.arange(12) % 3 > 0
    for columns, given in ((np.ones(12, bool), None), (where, jnp.asarray(where))):
        rows = [r for r in range(40) if columns[own[r]]]
        order = [np.flatnonzero(columns)[np.argsort(-similarities[r, columns])].tolist() for r in rows]
        expected = [np.mean([own[r] in best[:k] for r, best in zip(rows, order)]) for k in (1, 5)]
        found = towers.recalls(jnp.asarray(similarities), jnp.asarray(own), given)
        np.testing.assert_allclose(found, expected, rtol=1e-6)
