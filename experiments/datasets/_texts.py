"""Readers of text data: archive -> splits of columns (see `_images` for the form)."""

import functools
import io
import json
import sysconfig
import tarfile
import unicodedata
from pathlib import Path

import numpy as np

from experiments.datasets._archives import members
from experiments.datasets._images import Columns, Splits, every_fifth_to_test

WINDOW = 256
SENTIMENT_FILES = {"amazon": "amazonReview", "movies": "movieReview", "news": "nytEditorial", "tweets": "tweets"}


def sentiment(archive: Path | None) -> Splits:
    """Sentences of four domains with a mean rating in [-4, 4]; the label is positive if the rating is above 0.

    The archive is a source distribution that holds the tables in an inner .tar.gz: lines of id, rating, text.
    """
    assert archive is not None
    (inner,) = members(archive, "*/hutto_ICWSM_2014.tar.gz").values()
    columns: Columns = {"text": [], "rating": [], "domain": []}
    with tarfile.open(fileobj=io.BytesIO(inner)) as tables:
        files = {Path(entry.name).name: entry for entry in tables}
        for domain, prefix in SENTIMENT_FILES.items():
            table = tables.extractfile(files[f"{prefix}{'' if domain == 'tweets' else 'Snippets'}_GroundTruth.txt"])
            assert table is not None
            for line in table.read().decode("utf-8").splitlines():
                _, rating, text = line.split("\t")
                columns["text"].append(text)
                columns["rating"].append(rating)
                columns["domain"].append(domain)
    rating = np.array(columns["rating"], np.float32)
    label = ["positive" if value > 0 else "negative" for value in rating]
    return every_fifth_to_test({**columns, "rating": rating, "label": label})


def emoji_keywords(archive: Path | None) -> Splits:
    """Emoji with their keywords, one a line, the short name first; one split, `train`.

    `name` has the words of the names in the data set `emoji`, in any order: the name in Unicode of a single code point,
    else the short name.
    """
    assert archive is not None
    (content,) = members(archive, "package/dist/emoji-en-US.json").values()
    keywords: dict[str, list[str]] = json.loads(content)

    def name(character: str) -> str:
        points = character.replace("\ufe0f", "")
        return unicodedata.name(points, keywords[character][0]) if len(points) == 1 else keywords[character][0]

    return {
        "train": {
            "character": list(keywords),
            "name": [name(character) for character in keywords],
            "text": ["\n".join(words) for words in keywords.values()],
        }
    }


def topics(prefix: str, archive: Path | None) -> Splits:
    """Documents with a topic, from the tables `{prefix}-train.tab` and `{prefix}-test.tab`: topic, tab, text.

    `domain` is the part of the topic before the first dot: seven groups of newsgroups; the topic itself for Reuters.
    """
    assert archive is not None
    files = {Path(name).name: content for name, content in members(archive, f"*/{prefix}-*.tab").items()}

    def read(split: str) -> Columns:
        lines = files[f"{prefix}-{split}.tab"].decode("utf-8").split("\n")[3:]
        rows = [line.split("\t", 1) for line in lines if line.strip()]
        labels = [label for label, _ in rows]
        return {
            "text": [text for _, text in rows],
            "label": labels,
            "domain": [label.split(".")[0] for label in labels],
        }

    return {"train": read("train"), "test": read("test")}


newsgroups = functools.partial(topics, "20newsgroups")
reuters_8 = functools.partial(topics, "reuters-r8")
reuters_52 = functools.partial(topics, "reuters-r52")


def spam(archive: Path | None) -> Splits:
    """Whole e-mails, headers included, labelled ham or spam; `domain` is the folder they come from."""
    assert archive is not None
    mails = [json.loads(content) for content in members(archive, "package/data/*/*.json").values()]
    groups = [mail["group"] for mail in mails]
    label = [group.split("-")[0] if group.startswith("spam") else "ham" for group in groups]
    return every_fifth_to_test({"text": [mail["text"] for mail in mails], "label": label, "domain": groups})


def python_text(archive: Path | None) -> Splits:
    """Windows of 256 bytes of three kinds of text in every Python installation: prose, Python source, C headers.

    The content depends on the Python version; the label says which kind.
    """
    del archive
    import pydoc_data.topics

    paths = sysconfig.get_paths()
    files = {"c": sorted(Path(paths["include"]).rglob("*.h")), "python": sorted(Path(paths["stdlib"]).glob("*.py"))}
    for kind, found in files.items():
        if not found:
            raise FileNotFoundError(f"No {kind} files in this Python installation ({paths}); is python3-dev missing?")
    texts = {kind: b"".join(path.read_bytes() for path in found) for kind, found in files.items()}
    texts["prose"] = "\n".join(pydoc_data.topics.topics.values()).encode()
    windows = {kind: np.frombuffer(text[: len(text) // WINDOW * WINDOW], np.uint8) for kind, text in texts.items()}
    windows = {kind: window.reshape(-1, WINDOW) for kind, window in windows.items()}
    labels = [kind for kind, window in windows.items() for _ in window]
    return every_fifth_to_test({"tokens": np.concatenate(list(windows.values())), "label": labels})
