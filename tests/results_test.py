"""What the docstrings, the README and the guides say of the experiments is what the files of results hold."""

import functools
import json
import re
import runpy
from pathlib import Path

import pytest

from experiments.__main__ import HERE, docstring, files

ROOT = Path(__file__).parent.parent
FILES = files()
RESULTS = HERE / "results"
STORED = sorted(path.stem for path in RESULTS.glob("*.json"))
FIGURE = re.compile(r"([+-]?\d+(?:\.\d+)?) ± (\d+(?:\.\d+)?)")


@functools.cache
def result(name):
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def figures(name, arm=None):
    """Means and errors of an arm and of its differences, in units and in percent; of all arms if none is named."""
    for table in result(name)["tables"].values():
        for kind in ("arms", "differences"):
            for found, values in table[kind].items():
                for figure in values["metrics"].values() if arm in (None, found) else ():
                    if figure["error"] is not None:
                        yield figure["mean"], figure["error"]
                        yield 100 * figure["mean"], 100 * figure["error"]


def is_one_of(printed, known):
    """Whether a printed mean and error, such as ("0.93", "0.01"), are one of the figures, at their own rounding."""
    size = [0.5 * 10.0 ** -len(text.partition(".")[2]) for text in printed]
    return any(
        all(abs(float(text) - value) <= s + 1e-5 * abs(value) for text, value, s in zip(printed, pair, size))
        for pair in known
    )


def expected(text):
    """Text of an experiment's docstring from `Expected:` to `Verdict:`."""
    return text.partition("\nExpected:")[2].partition("\nVerdict:")[0]


def printed_figures(text, arms):
    """Pairs of arm and printed figure in the tables of a text, or in its sentences if it has no table.

    The arm of a figure is the last cell before it that names one, None if there is none.
    """
    rows = [re.split(r"\s*\|\s*|  +", line.strip()) for line in text.splitlines() if re.search(r"\S  +\S|\|", line)]
    rows = [row for row in rows if any(FIGURE.search(cell) for cell in row)]
    for row in rows or [[" ".join(text.split())]]:
        arm = None
        for cell in row:
            arm = cell if cell in arms else arm
            yield from ((arm, found) for found in FIGURE.findall(cell))


def missing(name):
    """Figures of an experiment's docstring that its file does not hold."""
    arms = {arm for table in result(name)["tables"].values() for arm in table["arms"]}
    printed = printed_figures(expected(docstring(FILES[name])), arms)
    return [f"{arm}: {' ± '.join(found)}" for arm, found in printed if not is_one_of(found, figures(name, arm))]


@pytest.mark.parametrize("name", sorted(FILES))
def test_an_experiment_has_a_verdict_and_a_result(name):
    assert re.search(r"^Verdict: (reproduced|(partly|not reproduced): \S.*)$", docstring(FILES[name]), re.MULTILINE)
    assert name in STORED, f"run python -m experiments {name}"


@pytest.mark.parametrize("name", STORED)
def test_a_result_is_whole(name):
    found = result(name)
    assert found["name"] == name and name in FILES, "a result without its experiment"
    assert len(found["config"]["seeds"]) >= 3
    assert any(table["differences"] for table in found["tables"].values()), "no call of the experiment names a baseline"
    for table in found["tables"].values():
        assert set(table["better"]) <= {metric for arm in table["arms"].values() for metric in arm["metrics"]}
    assert str(Path.home()) not in json.dumps(found)


@pytest.mark.parametrize("name", [name for name in STORED if name in FILES])
def test_the_tables_of_a_docstring_are_the_result(name):
    assert not missing(name)


def test_a_wrong_figure_is_noticed(monkeypatch):
    text = docstring(FILES["quickstart"])
    wrong = text.replace("0.926 ± 0.010", "0.936 ± 0.010")
    assert wrong != text
    monkeypatch.setitem(globals(), "docstring", lambda path: wrong)
    assert missing("quickstart") == ["None: 0.936 ± 0.010"]


def test_figures_belong_to_the_arm_of_their_row():
    text = "an error of 9 ± 9\n  | a    | 1.0 ± 0.1 | b | -2 ± 1 |\n  c, d  3 ± 1  4 ± 1\n  other  5 ± 1"
    found = [("a", ("1.0", "0.1")), ("b", ("-2", "1")), ("c, d", ("3", "1")), ("c, d", ("4", "1")), (None, ("5", "1"))]
    assert list(printed_figures(text, {"a", "b", "c, d"})) == found
    assert list(printed_figures("an error of\n  9 ± 9", {"a"})) == [(None, ("9", "9"))]


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda path: path.stem
)
def test_what_a_page_quotes_is_in_a_result(page):
    generated = page.stem in ("results", "leaderboard")
    known = [] if generated else [pair for name in STORED for pair in figures(name)]
    printed = [] if generated else FIGURE.findall(page.read_text(encoding="utf-8"))
    assert [" ± ".join(found) for found in printed if not is_one_of(found, known)] == []


@pytest.mark.parametrize("page", ["results", "leaderboard"])
def test_the_page_of_results_is_up_to_date(page):
    text = runpy.run_path(str(ROOT / "docs" / "generate.py"))[page]()
    assert text == (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8"), "run python docs/generate.py"


def method_rows():
    """Method -> experiments, from the method table."""
    lines = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8").splitlines()
    rows = [
        re.split(r" ?\| ?", line)[1:-1] for line in lines if line.startswith("| ") and not line.startswith("| method")
    ]
    return {row[0]: re.findall(r"`(.*?)`", row[4]) for row in rows}


def test_every_method_names_an_experiment_that_exists():
    cases = {f"speed {name}" for name in files(HERE / "speed")}
    rows = method_rows()
    assert [method for method, named in rows.items() if not named] == []
    assert {name for named in rows.values() for name in named} <= {*FILES, *cases}
