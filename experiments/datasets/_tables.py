"""Readers of tables: archive -> splits of columns (see `_images` for the form)."""

import csv
import functools
import io
from pathlib import Path

import numpy as np

from experiments.datasets._archives import members
from experiments.datasets._images import Columns, Splits, every_fifth_to_test

MISSING = ("", "NA", "?")


def digit_views(archive: Path | None) -> Splits:
    """Six views of 2000 handwritten digits, row by row the same digit: Fourier, profile, Karhunen-Loeve, shape, ..."""
    assert archive is not None
    columns: Columns = {}
    for name, content in members(archive, "*/UCImultifeature/mfeat-*.csv").items():
        table = np.loadtxt(io.BytesIO(content), delimiter=",", skiprows=1, ndmin=2)
        columns[Path(name).stem.removeprefix("mfeat-")] = table[:, :-1].astype(np.float32)
        columns["label"] = table[:, -1].astype(np.int64)
    return every_fifth_to_test(columns)


def islp(file: str, target: str, dropped: tuple[str, ...], archive: Path | None) -> Splits:
    """One CSV table of ISLP as `features` [N, d] float32 and `target` (float32), or `label` if the target is a name.

    Rows with a missing value are left out; a column that is not numeric becomes one column per value, in value order.
    """
    assert archive is not None
    (content,) = members(archive, f"ISLP/data/{file}.csv").values()
    rows = [row for row in csv.DictReader(io.StringIO(content.decode())) if not any(v in MISSING for v in row.values())]
    named = {name: [row[name].strip() for row in rows] for name in rows[0]}
    features = [_numeric(values) for name, values in named.items() if name not in (target, *dropped)]
    columns: Columns = {"features": np.concatenate(features, axis=1)}
    if _is_number(named[target][0]):
        columns["target"] = np.array(named[target], np.float32)
    else:
        columns["label"] = named[target]
    return every_fifth_to_test(columns)


def table(loader: str, archive: Path | None) -> Splits:
    """One table that scikit-learn carries: `features` and `target` (regression) or `label` (classes)."""
    del archive
    import sklearn.datasets

    data = getattr(sklearn.datasets, loader)()
    answer = {"label": data.target} if hasattr(data, "target_names") else {"target": data.target.astype(np.float32)}
    return every_fifth_to_test({"features": data.data.astype(np.float32), **answer})


def clicks(policy: str, archive: Path | None) -> Splits:
    """Impressions of a fashion shop: who saw which of 80 items where, and whether they clicked (the label).

    `propensity` is the probability with which the logging policy (`random`, or `bts`: Thompson sampling) showed the
    item; `user` and `item_kind` hold codes of anonymous categories, `affinity` the user's past clicks per item.
    """
    assert archive is not None
    files = members(archive, f"obp/dataset/obd/{policy}/all/*.csv")
    shown, items = (
        list(csv.DictReader(io.StringIO(files[f"obp/dataset/obd/{policy}/all/{name}.csv"].decode())))
        for name in ("all", "item_context")
    )
    item = np.array([row["item_id"] for row in shown], np.int32)
    order = np.argsort([int(row["item_id"]) for row in items])
    kinds = _codes(items, "item_feature_", range(1, 4))[order]
    price = np.array([row["item_feature_0"] for row in items], np.float32)[order]
    affinity = [key for key in shown[0] if key.startswith("user-item_affinity_")]
    return every_fifth_to_test(
        {
            "user": _codes(shown, "user_feature_", range(4)),
            "affinity": np.array([[row[key] for key in affinity] for row in shown], np.float32),
            "item": item,
            "item_kind": kinds[item],
            "item_price": price[item],
            "position": np.array([row["position"] for row in shown], np.int32),
            "propensity": np.array([row["propensity_score"] for row in shown], np.float32),
            "label": np.array([row["click"] for row in shown], np.int64),
        }
    )


bikeshare = functools.partial(islp, "Bikeshare", "bikers", ("casual", "registered"))
auto = functools.partial(islp, "Auto", "mpg", ("name",))
wage = functools.partial(islp, "Wage", "wage", ("logwage",))
credit = functools.partial(islp, "Credit", "Balance", ("ID",))
hitters = functools.partial(islp, "Hitters", "Salary", ())
caravan = functools.partial(islp, "Caravan", "Purchase", ())
default = functools.partial(islp, "Default", "default", ())


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _numeric(values: list[str]) -> np.ndarray:
    if all(map(_is_number, values)):
        return np.array(values, np.float32)[:, None]
    return (np.array(values)[:, None] == np.unique(values)[None, :]).astype(np.float32)


def _codes(rows: list[dict[str, str]], prefix: str, numbers: range) -> np.ndarray:
    codes = [np.unique([row[f"{prefix}{i}"] for row in rows], return_inverse=True)[1] for i in numbers]
    return np.stack(codes, axis=1).astype(np.int32)
