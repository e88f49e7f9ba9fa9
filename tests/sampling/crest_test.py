"""`crest` against the method written out in numpy over a training, and by its cases: what is learned, NaN, few rows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax.mining.class_batches import ClassIndex
from minibatch_jax.sampling import crest
from minibatch_jax.sampling.coresets import random_coreset
from minibatch_jax.selection.crest import LearnedState

N, D, C = 200, 3, 3
B, R, EACH_STEP, MOST, WARMUP = 12, 30, 3, 9, 2
THRESHOLD, LEARNED, PATIENCE, MULTIPLIER, RATE = 0.1, 0.3, 2, 2.0, 0.6
STEPS = 40
BROKEN = 7


@functools.cache
def problem():
    """Three clusters of very different sizes; one row is NaN."""
    rng = np.random.default_rng(3)
    labels = rng.permutation(np.repeat(np.arange(C), [140, 56, 4])).astype(np.int32)
    x = rng.normal(size=(N, D)).astype(np.float32) + 2.0 * np.eye(C, D, dtype=np.float32)[labels]
    x[BROKEN] = np.nan
    return {"x": x, "y": labels}


def items(params, batch):
    logits = jnp.dot(batch["x"], params["w"], precision="highest") + params["b"][None]
    onehot = jax.nn.one_hot(batch["y"], C)
    return -jnp.sum(onehot * jax.nn.log_softmax(logits), axis=1), {"features": jax.nn.softmax(logits) - onehot}


SETTINGS = {"batch_size": B, "num_classes": C, "subset_size": R, "coresets_per_step": EACH_STEP, "max_coresets": MOST}
SAMPLER = crest(
    items,
    **SETTINGS,
    warmup=WARMUP,
    threshold=THRESHOLD,
    learned_below=LEARNED,
    patience=PATIENCE,
    multiplier=MULTIPLIER,
)


def begin(seed=0):
    params = {"b": jnp.zeros(C), "w": jnp.zeros((D, C))}
    return params, SAMPLER.init(seed, labels=jnp.asarray(problem()["y"]), params=params)


def train_step(params, state, data):
    rows, state = SAMPLER.sample(state)
    batch = jax.tree.map(lambda x: x[jnp.maximum(rows.indices, 0)], data)
    usable = (rows.weights > 0) & jnp.isfinite(batch["x"]).all(1)
    batch["x"] = jnp.where(usable[:, None], batch["x"], 0)
    grads = jax.grad(lambda p: jnp.sum(jnp.where(usable, rows.weights, 0) * items(p, batch)[0]))(params)
    params = jax.tree.map(lambda p, g: p - RATE * g, params, grads)
    return params, SAMPLER.update(state, rows, params=params, data=data), rows


step = jax.jit(train_step)


class Card:
    """The method in float64 loops. Random draws are those of jax, and of equally good medoids the one `crest` took."""

    def __init__(self):
        data = problem()
        self.x, self.y = data["x"].astype(np.float64), data["y"]
        self.key = jax.random.split(jax.random.key(1), 1)[0]
        self.w, self.b = np.zeros((D, C)), np.zeros(C)
        self.streaks = [0] * N
        self.coresets, self.subsets, self.wanted = [], [], EACH_STEP
        self.interval, self.age, self.first = WARMUP, 0, None
        self.checks = self.selections = self.made = 0

    def split(self):
        self.key, draw = jax.random.split(self.key)
        return draw

    def probabilities(self, rows):
        logits = self.x[rows] @ self.w + self.b
        e = np.exp(logits - logits.max(1, keepdims=True))
        return e / e.sum(1, keepdims=True)

    def losses(self, rows):
        return -np.log(self.probabilities(rows)[np.arange(len(rows)), self.y[rows]])

    def gradient(self, rows, weights):
        slope = (self.probabilities(rows) - np.eye(C)[self.y[rows]]) * weights[:, None]
        return np.concatenate([slope.sum(0), (self.x[rows].T @ slope).reshape(-1)])

    def probe(self, key, rows, weights):
        keys = jax.random.split(key, 2)
        vb = np.asarray(jax.random.rademacher(keys[0], (C,), jnp.float32), np.float64)
        vw = np.asarray(jax.random.rademacher(keys[1], (D, C), jnp.float32), np.float64)
        p, move = self.probabilities(rows), self.x[rows] @ vw + vb
        change = p * (move - (p * move).sum(1, keepdims=True)) * weights[:, None]
        product = np.concatenate([change.sum(0), (self.x[rows].T @ change).reshape(-1)])
        return np.concatenate([vb, vw.reshape(-1)]) * product

    def flat(self):
        return np.concatenate([self.b, self.w.reshape(-1)])

    def sample(self):
        key = self.split()
        if not self.coresets:
            by_class = np.argsort(self.y, kind="stable")
            return by_class[np.asarray(jax.random.randint(key, (B,), 0, N))], np.full(B, 1 / B)
        return self.coresets[int(jax.random.randint(key, (B,), 0, len(self.coresets))[0])]

    def train(self, rows, weights):
        real = np.array([r >= 0 and np.isfinite(self.x[r]).all() for r in rows])
        move = RATE * self.gradient(rows[real], weights[real])
        self.b, self.w = self.b - move[:C], self.w - move[C:].reshape(D, C)

    def update(self, taken):
        key = self.split()
        self.age += 1
        if self.age < self.interval:
            return
        self.age = 0
        if self.coresets:
            self.checks += 1
            rows = np.concatenate(self.subsets)
            true = np.mean([x for x in self.losses(rows) if np.isfinite(x)])
            move = self.flat() - self.origin
            predicted = self.loss + self.g @ move + 0.5 * move @ (self.h * move)
            if abs(true - predicted) <= THRESHOLD * true:
                return
        self.select(key, taken)

    def select(self, key, taken):
        self.selections += 1
        self.coresets, self.subsets, seen = [], [], []
        for p in range(self.wanted):
            self.made += 1
            subset, losses = self.draw(jax.random.fold_in(key, p), set(taken[p]))
            if p < EACH_STEP:
                self.subsets.append(subset)
                seen += [x for x in losses if np.isfinite(x)]
        self.origin, self.loss = self.flat(), np.mean(seen)
        m, v = 0.0, 0.0
        for p in range(EACH_STEP):
            rows, weights = self.coresets[p]
            rows, weights = rows[weights > 0], weights[weights > 0]
            m = 0.9 * m + 0.1 * self.gradient(rows, weights)
            v = 0.999 * v + 0.001 * self.probe(jax.random.fold_in(key, MOST + p), rows, weights) ** 2
        self.g = m / (1 - 0.9**EACH_STEP)
        self.h = np.sqrt(v / (1 - 0.999**EACH_STEP)) + 1e-4
        norm = np.linalg.norm(self.h)
        self.first = self.first or norm
        self.interval = max(1, int(np.ceil(MULTIPLIER * self.first / norm)))
        self.wanted = min(EACH_STEP * self.interval, MOST)

    def draw(self, key, taken):
        sizes = np.bincount(self.y, minlength=C)
        places = np.asarray(jax.random.randint(key, (C, R // C), 0, jnp.asarray(sizes, jnp.int32)[:, None]))
        subset = np.stack([np.flatnonzero(self.y == c)[places[c]] for c in range(C)]).reshape(-1)
        losses = self.losses(subset)
        streaks = {}
        for row, loss in zip(subset, losses):
            if np.isfinite(loss):
                streaks[row] = self.streaks[row] + 1 if loss <= LEARNED else 0
        for row, streak in streaks.items():
            self.streaks[row] = streak
        alive = [i for i, row in enumerate(subset) if row in streaks and streaks[row] < PATIENCE]
        alive = alive or [i for i, row in enumerate(subset) if row in streaks]
        z = self.probabilities(subset) - np.eye(C)[self.y[subset]]
        count = np.zeros(R)
        for c in range(C):
            mine = [i for i in alive if self.y[subset[i]] == c]
            for i, n in self.medoids(mine, z, [i for i in mine if subset[i] in taken]).items():
                count[i] = n
        order = np.argsort(-count, kind="stable")[:B]
        rows = np.where(count[order] > 0, subset[order], -1)
        self.coresets.append((rows, count[order] / count.sum()))
        return subset, losses

    def medoids(self, mine, z, taken):
        """Greedy facility location: each medoid and how many it stands for. Two rows alone in a cluster are a tie."""
        distance = lambda i, j: np.sqrt(((z[i] - z[j]) ** 2).sum())  # noqa: E731
        chosen = []
        for _ in range(min(B // C, len(mine))):
            far = 10.0
            near = {i: min([distance(i, j) for j in chosen], default=far) for i in mine}
            gains = {j: sum(max(near[i] - distance(i, j), 0) for i in mine) for j in mine if j not in chosen}
            best = [j for j in gains if gains[j] >= max(gains.values()) - 1e-5]
            chosen.append(next((j for j in best if j in taken), best[0]))
        owners = [i if i in chosen else min(chosen, key=lambda j: distance(i, j)) for i in mine]
        return {j: owners.count(j) for j in chosen}


def test_forty_steps_are_those_of_the_method_in_numpy():
    data, card = jax.tree.map(jnp.asarray, problem()), Card()
    params, state = begin(1)
    intervals, picked, padded = [], set(), 0
    for number in range(STEPS):
        params, state, rows = step(params, state, data)
        wanted_rows, wanted_weights = card.sample()
        np.testing.assert_array_equal(np.sort(rows.indices), np.sort(wanted_rows), err_msg=f"step {number}")
        mass = [np.bincount(np.asarray(i) + 1, np.asarray(w), N + 1) for i, w in (rows, (wanted_rows, wanted_weights))]
        np.testing.assert_allclose(*mass, rtol=1e-5)
        card.train(wanted_rows, wanted_weights)
        card.update(np.asarray(state.coresets.indices).tolist())
        np.testing.assert_allclose(params["w"], card.w, rtol=1e-3, atol=1e-5)
        found = state.interval, state.age, state.costs.checks, state.costs.selections, state.costs.coresets
        assert tuple(map(int, found)) == (card.interval, card.age, card.checks, card.selections, card.made)
        np.testing.assert_array_equal(state.learned.streaks, card.streaks)
        intervals.append(card.interval)
        picked |= set(wanted_rows.tolist())
        padded += int(np.sum(wanted_rows < 0))
    # the training has met every case
    assert card.selections > 3 and card.checks > card.selections and len(set(intervals)) > 2
    assert 0 < np.sum(np.array(card.streaks) >= PATIENCE) < N and padded > 0
    assert len(picked) > 40
    assert all(BROKEN not in rows for rows, _ in card.coresets)


def test_a_scan_of_a_thousand_steps_is_one_trace_and_trains():
    traces = []

    @functools.partial(jax.jit, donate_argnums=1)
    def run(params, state, data):
        def one(carry, _):
            traces.append(1)
            params, state, _ = train_step(*carry, data)
            return (params, state), None

        return jax.lax.scan(one, (params, state), None, length=1000)[0]

    data = jax.tree.map(jnp.asarray, problem())
    params, state = run(*begin(), data)
    params, state = run(params, state, data)
    assert len(traces) <= 2  # JAX traces the body of a scan twice if it has to find its types
    logits = problem()["x"] @ np.asarray(params["w"]) + np.asarray(params["b"])
    real = np.isfinite(logits).all(1)
    assert np.mean(logits[real].argmax(1) == problem()["y"][real]) > 0.85
    assert int(state.costs.selections) > 3 and BROKEN not in np.asarray(state.coresets.indices)


def test_vmap_over_seeds_is_each_seed_alone():
    data = jax.tree.map(jnp.asarray, problem())

    def run(key):
        params, state = begin(key)
        step = lambda carry, _: (train_step(*carry, data)[:2], None)  # noqa: E731
        params, state = jax.lax.scan(step, (params, state), None, length=8)[0]
        return params, state.coresets.indices, state.costs

    keys = jax.random.split(jax.random.key(4), 2)
    params, *exact = jax.jit(jax.vmap(run))(keys)
    alone = jax.jit(run)
    for place, key in enumerate(keys):
        params_alone, *wanted = alone(key)
        jax.tree.map(lambda x, y: np.testing.assert_array_equal(x[place], y), exact, wanted)  # noqa: B023
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x[place], y, atol=1e-5), params, params_alone)  # noqa: B023


@functools.partial(jax.jit, static_argnames=("batch_size", "subset_size"))
def program(data, examples, streaks, batch_size, subset_size):
    def given(params, batch):
        return batch["loss"], {"features": batch["feature"]}

    sizes = {"batch_size": batch_size, "subset_size": subset_size}
    return random_coreset(given, jax.random.key(1), (), data, examples, LearnedState(streaks), **sizes)


def coreset(losses, features, labels, streaks, batch_size=8, subset_size=40):
    """A coreset of given losses and features."""
    data = {"loss": jnp.asarray(losses, jnp.float32), "feature": jnp.asarray(features, jnp.float32)}
    counts = np.bincount(labels, minlength=2).astype(np.int32)
    order, starts = np.argsort(labels, kind="stable").astype(np.int32), np.cumsum(counts, dtype=np.int32) - counts
    made = program(data, ClassIndex(order, starts, counts), jnp.asarray(streaks, jnp.int32), batch_size, subset_size)
    return jax.tree.map(np.asarray, made)


LINE = np.arange(8.0)[:, None]
HALVES = np.repeat([0, 1], 4)


def test_learned_rows_leave_and_all_stay_if_everything_is_learned():
    losses = np.where(np.arange(8) % 4 < 2, 0.05, 1.0)
    made = coreset(losses, LINE, HALVES, np.full(8, 4))
    assert set(made.rows.indices[made.rows.weights > 0].tolist()) == {2, 3, 6, 7}
    assert made.learned.streaks.tolist() == [5, 5, 0, 0, 5, 5, 0, 0] and not made.everything_learned
    made = coreset(np.full(8, 0.05), LINE, HALVES, np.full(8, 4))
    assert set(made.rows.indices.tolist()) == set(range(8)) and made.everything_learned
    np.testing.assert_allclose(made.rows.weights.sum(), 1, rtol=1e-6)


def test_rows_without_finite_loss_or_features_are_never_chosen():
    losses, features = np.ones(8), LINE.copy()
    losses[[0, 5]], features[[1, 6]] = [np.nan, np.inf], [[np.nan], [np.inf]]
    made = coreset(losses, features, HALVES, np.full(8, 3))
    assert set(made.rows.indices[made.rows.weights > 0].tolist()) == {2, 3, 4, 7}
    assert made.learned.streaks.tolist() == [3, 3, 0, 0, 0, 3, 3, 0]  # what is not finite counts neither way
    made = coreset(np.full(8, np.nan), LINE, HALVES, np.zeros(8))
    assert made.rows.indices.tolist() == [-1] * 8 and made.rows.weights.tolist() == [0] * 8
    assert not made.everything_learned


def test_a_small_class_is_as_much_of_a_subset_and_weighs_as_much():
    labels = np.repeat([0, 1], [7, 1])
    made = coreset(np.ones(8), LINE, labels, np.zeros(8), batch_size=4)
    assert np.sum(made.subset == 7) == 20
    np.testing.assert_allclose(made.rows.weights[made.rows.indices == 7].sum(), 0.5, rtol=1e-6)
    made = coreset(np.ones(8), LINE, np.zeros(8, int), np.zeros(8), batch_size=4)  # no example of 1
    assert made.subset[20:].tolist() == [-1] * 20
    assert np.sum(made.rows.indices >= 0) == 2 and made.rows.weights.sum() == pytest.approx(1)


def test_the_state_says_that_everything_is_learned_and_batches_go_on():
    sampler = crest(items, **SETTINGS, learned_below=100.0, patience=1)
    params, _ = begin()
    state = sampler.init(0, labels=jnp.asarray(problem()["y"]), params=params)
    rows, state = sampler.sample(state)
    assert not state.everything_learned
    data = jax.tree.map(jnp.asarray, problem())
    state = jax.jit(lambda s, r: sampler.update(s, r, params=params, data=data))(state, rows)
    rows, state = sampler.sample(state)
    assert state.everything_learned and np.all(np.asarray(rows.indices) >= 0)
    np.testing.assert_allclose(rows.weights.sum(), 1, rtol=1e-6)


def test_a_model_that_broke_is_replaced_once_losses_are_finite_again():
    data = jax.tree.map(jnp.asarray, problem())
    params, state = begin()
    broken = jax.tree.map(lambda p: p * jnp.nan, params)
    rows, state = SAMPLER.sample(state)
    update = jax.jit(lambda s, p: SAMPLER.update(s, rows, params=p, data=data))
    for _ in range(WARMUP):
        state = update(state, broken)
    assert int(state.costs.selections) == 1 and not np.isfinite(state.model.loss)
    assert np.all(np.asarray(state.coresets.weights) == 0) and int(state.interval) == 1
    state = update(state, broken)
    assert int(state.costs.selections) == 1 and int(state.costs.checks) == 1
    state = update(state, params)
    assert int(state.costs.selections) == 2 and np.isfinite(state.model.loss)


PARAMS = {"w": jnp.ones(2)}


def small(**settings):
    return crest(items, **{"batch_size": 2, "num_classes": 2, "subset_size": 4} | settings)


def update(params=PARAMS, data=None, items_fn=items):
    sampler = crest(items_fn, batch_size=2, num_classes=2, subset_size=4)
    rows, state = sampler.sample(sampler.init(0, labels=jnp.array([0, 1, 0, 1]), params=PARAMS))
    return sampler.update(state, rows, params=params, data=jnp.ones(4) if data is None else data)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: small(batch_size=3), ValueError, r"batch_size is 3, wanted a multiple of 2 \(the number of classes\)"),
        (lambda: small(subset_size=5), ValueError, "subset_size is 5, wanted a multiple of 2"),
        (lambda: small(batch_size=6), ValueError, r"batch_size is 6, wanted at most 4 \(the rows of a subset\)"),
        (lambda: small(max_coresets=4), ValueError, r"coresets_per_step is 5, wanted at most 4 \(max_coresets\)"),
        (lambda: small(warmup=0), ValueError, "warmup is 0, wanted at least 1"),
        (lambda: small(threshold=-1.0), ValueError, "threshold is -1.0"),
        (lambda: small(patience=0), ValueError, "patience is 0"),
        (lambda: small(multiplier=0.0), ValueError, "multiplier is 0.0"),
        (lambda: small(metric="dot"), ValueError, "metric is 'dot'"),
        (lambda: small().init(0, labels=jnp.zeros(0, jnp.int32), params=PARAMS), ValueError, "labels has shape"),
        (lambda: small().init(0, labels=jnp.ones(4), params=PARAMS), TypeError, "labels has dtype float32"),
        (
            lambda: small().init(0, labels=jnp.array([0, 0, 0, 0]), params=PARAMS),
            ValueError,
            r"no example of the classes \[1\]",
        ),
        (
            lambda: small().init(0, labels=jnp.array([0, 1, 2, 1]), params=PARAMS),
            ValueError,
            r"labels holds 2, wanted labels in \[0, 2\)",
        ),
        (lambda: small().init(0, labels=jnp.array([0, 1]), params=PARAMS), ValueError, "subset_size is 4, wanted at m"),
        (
            lambda: small(batch_size=4).init(0, labels=jnp.array([0, 1]), params=PARAMS),
            ValueError,
            r"batch_size is 4, wanted at most 2 \(the number of labels\)",
        ),
        (
            lambda: small().init(0, labels=jnp.array([0, 1, 0, 1]), params={"w": jnp.ones(2, jnp.int32)}),
            TypeError,
            r"params\['w'\] has dtype int32",
        ),
        (lambda: small().init(0, labels=jnp.array([0, 1, 0, 1])), TypeError, "params"),
        (lambda: small().update(None, None, data=jnp.ones(4)), TypeError, "params"),
        (lambda: small().update(None, None, params=PARAMS), TypeError, "data"),
        (lambda: update(params={"v": jnp.ones(2)}), ValueError, r"params has params\['v'\] more than in init"),
        (lambda: update(params={"w": jnp.ones(3)}), ValueError, r"params\['w'\] has shape \[3\], wanted \[2\]"),
        (
            lambda: update(data={"x": jnp.ones(3)}),
            ValueError,
            r"data\['x'\] has shape \[3\], wanted 4 rows, one for each label",
        ),
        (lambda: update(items_fn=lambda p, b: b), TypeError, "items_fn returned a .*, wanted"),
        (
            lambda: update(items_fn=lambda p, b: (jnp.sum(b), {"features": b[:, None]})),
            ValueError,
            r"losses of items_fn has shape \[\], wanted \[20\]",
        ),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
