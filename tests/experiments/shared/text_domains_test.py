import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.shared.text_domains import DOMAINS, byte_losses, domain_losses, windows_of

TEXTS = [[b"%d-%04d." % (domain, i) for i in range(count)] for domain, count in ((0, 400), (1, 2000))]
"""documents of seven bytes, so that a window of eight, with the new line after it, is one document"""


def documents_in(split, domain):
    return {bytes(row).strip() for row in split["tokens"][split["domain"] == domain]}


@pytest.mark.parametrize("validate", [False, True])
def test_documents_are_held_out_in_runs(validate):
    splits = windows_of(TEXTS, 8, validate=validate, held_out=60)
    for domain, texts in enumerate(TEXTS):
        runs = [texts[start : start + 32] for start in range(0, len(texts), 32)]
        tested = [text for run in runs[4::5] for text in run]
        if validate:
            rest = [text for i, run in enumerate(runs) if i % 5 != 4 for text in run]
            tested = [text for i, text in enumerate(rest) if i // 32 % 5 == 4]
        held_out = documents_in(splits["validation"], domain)
        assert len(held_out) == 60
        assert held_out <= set(tested)
        assert not documents_in(splits["train"], domain) & {*tested, *(t for run in runs[4::5] for t in run)}


def test_domains_keep_their_sizes_unless_told_otherwise():
    def sizes(**options):
        return np.bincount(windows_of(TEXTS, 8, held_out=60, **options)["train"]["domain"]).tolist()

    # 12 whole runs and 16 documents in domain 0, of which two runs are held out; 62 and 16 in domain 1, 12 held out.
    # The last document of the joined text has no new line after it.
    assert sizes() == [400 - 64 - 1, 2000 - 12 * 32 - 1]
    assert sizes(fraction=0.1) == [34, 162]
    assert sizes(fraction=0.1, per_domain=50) == [34, 50]
    first, second = (windows_of(TEXTS, 8, held_out=60, per_domain=9, seed=seed)["train"]["tokens"] for seed in (0, 1))
    assert not np.array_equal(first, second)


def test_a_domain_too_small_to_hold_out_is_named():
    with pytest.raises(ValueError, match=r"^domain 0 has 63 held-out windows, wanted 64\.$"):
        windows_of(TEXTS, 8, held_out=64)


def test_losses_of_domains_are_the_means_of_their_windows():
    tokens = np.random.default_rng(0).integers(0, 256, (2, 3, 4)).astype(np.uint8)
    table = jax.random.normal(jax.random.key(0), (4, 256))

    def apply(params, tokens):
        return jnp.broadcast_to(params, (*tokens.shape, 256))

    table64 = np.asarray(table, np.float64)
    log_p = table64 - np.log(np.exp(table64).sum(axis=1, keepdims=True))
    expected = -log_p[np.arange(4), tokens]
    np.testing.assert_allclose(byte_losses(apply, table, jnp.asarray(tokens[0])), expected[0].mean(axis=1), rtol=1e-5)
    np.testing.assert_allclose(domain_losses(apply, table, jnp.asarray(tokens)), expected.mean((1, 2)), rtol=1e-5)
    assert len(DOMAINS) == 12
