import numpy as np

from minibatch_jax import mining
from tests.case import ROWS, Case


def ones(rng: np.random.Generator) -> np.ndarray:
    del rng
    return np.ones((ROWS, ROWS), np.float32)


def distances(rng: np.random.Generator) -> dict[str, np.ndarray]:
    points = rng.normal(size=(ROWS, 2)).astype(np.float32)
    apart = np.sqrt(np.sum((points[:, None] - points[None]) ** 2, -1))
    return {"distances": apart / 2, "labels": rng.permutation(np.arange(ROWS) % 3).astype(np.int32)}


def case(make) -> Case:
    return Case(make, distances, ones, tolerance=1e-6)


CASES: dict[str, Case] = {
    "mine_all": case(mining.mine_all),
    "mine_angular": case(mining.mine_angular),
    "mine_distance_weighted": case(lambda: mining.mine_distance_weighted(3, key=0, farthest=1.9)),
    "mine_easy_hard": case(mining.mine_easy_hard),
    "mine_hard": case(mining.mine_hard),
    "mine_hardest_pairs": case(mining.mine_hardest_pairs),
    "mine_multi_similarity": case(mining.mine_multi_similarity),
    "mine_pair_margin": case(mining.mine_pair_margin),
    "mine_random": case(lambda: mining.mine_random(key=0)),
    "mine_ranges": case(lambda: mining.mine_ranges((0.1, 0.9), (0.2, 0.8))),
    "mine_ranks": case(lambda: mining.mine_ranks((0, 2), (1, -1))),
    "mine_semihard": case(mining.mine_semihard),
    "mine_uniform_distances": case(lambda: mining.mine_uniform_distances(6)),
    "weigh_pairs": case(lambda: mining.weigh_pairs(mining.contrastive_loss)),
}
