"""Triplets and their losses by loops over lists, for the tests of mining."""

import numpy as np

MARGIN = 0.25


def batch(seed, rows=9, columns=13):
    """Distances without ties; anchor 0 has no positive, anchor 1 no negative, some pairs are neither."""
    rng = np.random.default_rng(seed)
    distances = rng.uniform(0, 1, (rows, columns)).astype(np.float32)
    kind = rng.integers(0, 5, (rows, columns))
    positives, negatives = kind < 2, kind > 2
    positives[0], negatives[1] = False, False
    return distances, positives, negatives


def choose(d, p, n, positive, negative, fallback):
    """The triplet (p, n) of one anchor, or None, by loops over lists."""
    ps, ns = np.flatnonzero(p), np.flatnonzero(n)
    if not ps.size or not ns.size:
        return None
    if positive == "semihard":
        limit = negative_for(d, None, ns, negative, fallback)
        nearer = [j for j in ps if d[j] < d[limit]]
        pick = {"drop": lambda *a, **k: None, "easiest": min, "hardest": max}[fallback]
        best = (max if nearer else pick)(nearer or ps, key=lambda j: d[j])
        return None if best is None else (best, limit)
    best = max(ps, key=lambda j: d[j]) if positive == "hard" else min(ps, key=lambda j: d[j])
    return best, negative_for(d, best, ns, negative, fallback)


def negative_for(d, best, ns, negative, fallback):
    if negative == "hard":
        return min(ns, key=lambda j: d[j])
    if negative == "easy":
        return max(ns, key=lambda j: d[j])
    beyond = [j for j in ns if d[j] > d[best]]
    if beyond:
        return min(beyond, key=lambda j: d[j])
    return {"drop": lambda *a, **k: None, "easiest": max, "hardest": min}[fallback](ns, key=lambda j: d[j])


def mined_triplets(d, p, n, mining_name, fallback, margin):
    found = []
    for i in range(d.shape[0]):
        ps, ns = np.flatnonzero(p[i]), np.flatnonzero(n[i])
        if mining_name in ("hard", "easy_positive"):
            kinds = ("hard", "hard") if mining_name == "hard" else ("easy", "semihard")
            chosen = choose(d[i], p[i], n[i], *kinds, fallback)
            found += [(i, *chosen)] if chosen and chosen[1] is not None else []
            continue
        for a in ps:
            if mining_name == "all":
                found += [(i, a, b) for b in ns]
            elif mining_name == "nearest_semihard":
                b = negative_for(d[i], a, ns, "semihard", fallback) if ns.size else None
                found += [] if b is None else [(i, a, b)]
            else:
                found += [(i, a, b) for b in ns if d[i, a] < d[i, b] < np.float32(d[i, a] + np.float32(margin))]
                if ns.size and fallback != "drop" and not any(d[i, b] > d[i, a] for b in ns):
                    found.append((i, a, negative_for(d[i], a, ns, "semihard", fallback)))
    return found


def oracle(d, p, n, mining_name, fallback, smooth, reduction, margin=MARGIN):
    triplets = mined_triplets(d, p, n, mining_name, fallback, margin)
    d = d.astype(np.float64)
    value, weights, active = 0.0, np.zeros_like(d), 0
    per_anchor = {i: sum(t[0] == i for t in triplets) for i in range(d.shape[0])}
    anchors = max(sum(c > 0 for c in per_anchor.values()), 1)
    for i, a, b in triplets:
        excess = d[i, a] - d[i, b] + margin
        loss = np.log1p(np.exp(excess)) if smooth else max(excess, 0)
        slope = 1 / (1 + np.exp(-excess)) if smooth else float(excess > 0)
        scale = 1 / (per_anchor[i] * anchors) if reduction == "anchor_mean" else 1.0
        active += loss > 0
        value += scale * loss
        weights[i, a] += scale * slope
        weights[i, b] -= scale * slope
    total = {"active_mean": active, "mean": len(triplets)}.get(reduction, 1)
    return value / max(total, 1), weights / max(total, 1)
