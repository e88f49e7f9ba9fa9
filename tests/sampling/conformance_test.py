"""Every public sampler keeps the laws of `minibatch_jax.testing.check_sampler`, on one device and on eight."""

import inspect

import numpy as np
import pytest

from minibatch_jax import sampling
from minibatch_jax.sampling import Sampler
from minibatch_jax.testing import SAMPLER_CHECKS, SamplerCase

N = 48


def labels(rng):
    return {"labels": rng.permutation(np.arange(N) % 6).astype(np.int32)}


def weights(rng):
    return {"weights": rng.gamma(2.0, size=N).astype(np.float32)}


def losses(rng, rows):
    return {"losses": rng.gamma(2.0, size=len(rows.indices)).astype(np.float32)}


CASES = {
    "shuffled": SamplerCase(lambda: sampling.shuffled(N, 16), N),
    "by_class": SamplerCase(lambda: sampling.by_class(6, 4, 2), N, labels),
    "weighted": SamplerCase(lambda: sampling.weighted(16, decay=0.5), N, weights, losses, any_order=True),
}


def public_samplers():
    for name, value in inspect.getmembers(sampling, inspect.isfunction):
        if inspect.signature(value).return_annotation in (Sampler, "Sampler"):
            yield name


def test_every_public_sampler_has_a_case():
    assert set(public_samplers()) == set(CASES)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("check", SAMPLER_CHECKS.values(), ids=SAMPLER_CHECKS)
def test_every_sampler_keeps_every_law(check, case):
    check(case)
