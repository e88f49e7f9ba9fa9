"""The bridge to torch: memory is shared or copied as it says; plans equal POT's, indices pytorch-metric-learning's."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax import mining

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'minibatch_jax[torch]'")

from minibatch_jax.interop.torch import (  # noqa: E402
    OTPlanSampler,
    PairMiner,
    TripletMiner,
    subset,
    to_jax,
    to_torch,
)

RANDOM = np.random.default_rng(0)
X0, X1 = (torch.tensor(RANDOM.normal(size=(6, 2)) + shift, dtype=torch.float32) for shift in (0, 0.5))
EMBEDDINGS = torch.tensor(RANDOM.normal(size=(12, 3)), dtype=torch.float32)
LABELS = torch.arange(12) % 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int32, torch.bool, torch.uint8])
def test_both_ways_keep_the_values_and_share_the_memory(dtype):
    tensor = torch.arange(64).reshape(8, 8).to(dtype)
    array = to_jax(tensor)
    back = to_torch(array)
    assert back.dtype == dtype and torch.equal(back, tensor)
    assert back.data_ptr() == array.unsafe_buffer_pointer()
    if tensor.data_ptr() % 64 == 0:  # which XLA wants of memory that it takes over
        assert array.unsafe_buffer_pointer() == tensor.data_ptr()


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(12.0)[::2],
        torch.arange(12.0).reshape(3, 4).T,
        torch.ones(1).expand(4),
        torch.ones(3, requires_grad=True),
        torch.tensor([1 + 2j, 3j]).conj(),
        torch.arange(3),
        torch.arange(3.0, dtype=torch.float64),
        torch.zeros(0, 3),
    ],
    ids=["gaps", "transposed", "expanded", "gradient", "conjugate", "int64", "float64", "empty"],
)
def test_every_tensor_becomes_an_array_of_its_values(tensor):
    np.testing.assert_array_equal(np.asarray(to_jax(tensor)), tensor.detach().resolve_conj().numpy())


def test_what_cannot_cross_is_named():
    with pytest.raises(ValueError, match=r"tensor is on meta, wanted one that JAX has \(.*cpu.*\)"):
        to_jax(torch.zeros(3, device="meta"))
    with pytest.raises(TypeError, match="tensor is a ndarray, wanted a torch.Tensor"):
        to_jax(np.zeros(3))
    with pytest.raises(TypeError, match="sparse_coo, wanted a dense one"):
        to_jax(torch.eye(2).to_sparse())
    with pytest.raises(ValueError, match="numbers beyond int32"):
        to_jax(torch.tensor([2**40]))
    with pytest.raises(TypeError, match="array is a key<fry>, wanted"):
        to_torch(jax.random.key(0))
    with pytest.raises(TypeError, match="array is a ndarray, wanted"):
        to_torch(np.zeros(3))
    with pytest.raises(TypeError, match="array is traced"):
        jax.eval_shape(to_torch, jnp.zeros(3))
    mesh = jax.make_mesh((2,), ("x",), devices=jax.devices()[:2])
    spread = jax.device_put(jnp.zeros(4), jax.NamedSharding(mesh, jax.P("x")))
    with pytest.raises(ValueError, match=r"array lies on .*0, .*1, wanted one device"):
        to_torch(spread)


def peer_plan(method, cost, reg, reg_m):
    """What torchcfm computes: POT on uniform marginals."""
    ot = pytest.importorskip("ot", reason="POT is not installed")
    a, b = (np.full(size, 1 / size) for size in cost.shape)
    if method == "exact":
        return ot.emd(a, b, cost)
    if method == "sinkhorn":
        return ot.sinkhorn(a, b, cost, reg)
    if method == "unbalanced":
        return ot.unbalanced.sinkhorn_knopp_unbalanced(a, b, cost, reg, reg_m)
    return ot.partial.entropic_partial_wasserstein(a, b, cost, reg)


@pytest.mark.parametrize("method", ["exact", "sinkhorn", "unbalanced", "partial"])
@pytest.mark.parametrize("normalize", [False, True])
def test_plans_are_those_of_pot(method, normalize):
    cost = (torch.cdist(X0, X1) ** 2).numpy().astype(np.float64)
    expected = peer_plan(method, cost / cost.max() if normalize else cost, 0.3, 0.7)
    found = OTPlanSampler(method, 0.3, 0.7, normalize).get_map(X0.reshape(6, 1, 2), X1)
    np.testing.assert_allclose(found, expected, atol=3e-4)


def test_pairs_are_drawn_in_proportion_and_repeat_with_the_seed():
    plan = np.array([[0.1, 0.2], [0.0, 0.7]])
    i, j = OTPlanSampler("exact").sample_map(plan, 20000)
    counts = np.zeros((2, 2))
    np.add.at(counts, (i, j), 1 / len(i))
    np.testing.assert_allclose(counts, plan, atol=0.015)
    i, j = OTPlanSampler("exact").sample_map(plan, 3, replace=False)
    assert sorted(zip(i.tolist(), j.tolist())) == [(0, 0), (0, 1), (1, 1)]
    with pytest.raises(ValueError, match=r"batch_size is 4, wanted at most 3"):
        OTPlanSampler("exact").sample_map(plan, 4, replace=False)
    draws = [OTPlanSampler("exact", seed=seed).sample_plan(X0, X1)[0] for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_labels_and_gradients_go_with_their_rows():
    optimal = OTPlanSampler("exact").get_map(X0, X1).argmax(1)
    x0, y0, y1 = X0.clone().requires_grad_(), torch.arange(6), 10 + torch.arange(6)
    a, b, labels0, labels1 = OTPlanSampler("exact").sample_plan_with_labels(x0, X1, y0, y1)
    assert torch.equal(a, x0[labels0]) and torch.equal(b, X1[labels1 - 10])
    assert (labels1 - 10).tolist() == optimal[labels0.numpy()].tolist()
    a.sum().backward()
    assert x0.grad[:, 0].tolist() == np.bincount(labels0, minlength=6).tolist()
    assert OTPlanSampler("exact").sample_plan_with_labels(X0, X1, y1=y1)[2] is None


def test_trajectories_follow_the_plans():
    populations = torch.stack([X0, X1, X0.flip(0)], dim=1)
    found = OTPlanSampler("exact").sample_trajectory(populations)
    first = OTPlanSampler("exact").get_map(X0, X1).argmax(1)
    second = OTPlanSampler("exact").get_map(X1, X0.flip(0)).argmax(1)
    assert torch.equal(found, torch.stack([X0, X1[first], X0.flip(0)[second[first]]], dim=1))


def test_what_a_plan_lacks_is_said():
    with pytest.warns(UserWarning, match="did not converge: its error is"):
        OTPlanSampler("sinkhorn", 1e-4).get_map(10 * X0, 10 * X1)
    OTPlanSampler("sinkhorn", 1e-4, warn=False).get_map(10 * X0, 10 * X1)
    with pytest.raises(ValueError, match="wanted tensors of finite numbers"):
        OTPlanSampler("exact").get_map(X0 * torch.nan, X1)
    with pytest.raises(ValueError, match="method is 'emd', wanted one of 'exact'"):
        OTPlanSampler("emd")


def triplets_by_hand(keep, references=None, reference_labels=None):
    """Loop over anchors, positives and negatives, as the definition says."""
    unit = torch.nn.functional.normalize
    own = references is None
    references, reference_labels = (EMBEDDINGS, LABELS) if own else (references, reference_labels)
    d = torch.cdist(unit(EMBEDDINGS).double(), unit(references).double()).tolist()
    rows, columns = range(len(LABELS)), range(len(reference_labels))
    for a in rows:
        for p in columns:
            for n in columns:
                is_pair = LABELS[a] == reference_labels[p] and not (own and a == p)
                if is_pair and LABELS[a] != reference_labels[n] and keep(d[a][n] - d[a][p]):
                    yield a, p, n


@pytest.mark.parametrize(
    "mining_kind,keep",
    [
        ("all", lambda gap: gap <= 0.2),
        ("easy", lambda gap: gap > 0.2),
        ("semihard", lambda gap: 0 < gap <= 0.2),
        ("violating", lambda gap: gap <= 0),
    ],
)
def test_triplets_are_those_of_the_definition(mining_kind, keep):
    miner = TripletMiner(mining_kind)
    assert list(zip(*(i.tolist() for i in miner(EMBEDDINGS, LABELS)))) == list(triplets_by_hand(keep))
    others = EMBEDDINGS.flip(0)[:5], LABELS.flip(0)[:5]
    found = miner(EMBEDDINGS, LABELS, *others)
    assert list(zip(*(i.tolist() for i in found))) == list(triplets_by_hand(keep, *others))


def ordered(indices):
    return sorted(zip(*(i.tolist() for i in indices)))


@pytest.mark.parametrize("kind", ["all", "semihard", "violating", "easy", "batch_hard", "multi_similarity", "margin"])
def test_indices_are_those_of_pytorch_metric_learning(kind):
    peers = pytest.importorskip(
        "pytorch_metric_learning.miners", reason="pytorch-metric-learning is not installed beside this torch"
    )
    if kind in ("multi_similarity", "margin"):
        ours = mining.mine_multi_similarity(0.1) if kind == "multi_similarity" else mining.mine_pair_margin(0.2, 0.8)
        distances = (lambda x, y: -mining.cosine_similarity(x, y)) if kind == "multi_similarity" else None
        theirs = peers.MultiSimilarityMiner(0.1) if kind == "multi_similarity" else peers.PairMarginMiner(0.2, 0.8)
        found, expected = PairMiner(ours, distances)(EMBEDDINGS, LABELS), theirs(EMBEDDINGS, LABELS)
        assert ordered(found[:2]) == ordered(expected[:2]) and ordered(found[2:]) == ordered(expected[2:])
        return
    name = "hard" if kind == "violating" else kind
    theirs = peers.BatchHardMiner() if kind == "batch_hard" else peers.TripletMarginMiner(0.2, name)
    ours = TripletMiner(("hard", "hard") if kind == "batch_hard" else kind)
    assert ordered(ours(EMBEDDINGS, LABELS)) == ordered(theirs(EMBEDDINGS, LABELS))


def test_a_subset_reads_the_kept_rows():
    dataset = torch.utils.data.TensorDataset(torch.arange(5) * 10)
    loader = torch.utils.data.DataLoader(subset(dataset, jnp.array([3, 0, -1, 4])), batch_size=2)
    assert [batch.tolist() for (batch,) in loader] == [[30, 0], [40]]
    assert subset(dataset, torch.tensor([True, False, False, False, True])).indices == [0, 4]
    for rows, message in [
        (jnp.array([5]), "numbers from 5 to 5, wanted -1 to 4"),
        (np.array([True]), "1 entries, wanted 5"),
        (np.zeros((1, 1), int), r"shape \[1, 1\], wanted one axis"),
    ]:
        with pytest.raises(ValueError, match=message):
            subset(dataset, rows)
    with pytest.raises(TypeError, match="dtype float64, wanted whole numbers"):
        subset(dataset, np.array([0.5]))


def test_a_missing_torch_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "minibatch_jax.interop.torch")
    with pytest.raises(ImportError, match=r"torch is missing, wanted it here: pip install 'minibatch_jax\[torch\]'$"):
        import minibatch_jax.interop.torch  # noqa: F401
