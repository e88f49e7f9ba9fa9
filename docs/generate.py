"""Write the pages that the docstrings give: the method table, the results, the leaderboards, and the API.

`python docs/generate.py` writes `docs/methods.md`, `docs/results.md` and `docs/leaderboard.md`, which are committed;
with `--check` it fails if one is out of date. Every build of the site writes `docs/api/`, which is not committed.

A module whose docstring ends in lines `Method:`, `Paper:` and `Experiment:` gives a row of the table. The row names
what the module defines and its noun, the part of the package right below `minibatch_jax`, makes public. If modules of
several nouns name one method, its row is in the table of the first noun, and names of the others have their noun before
them.
"""

import ast
import importlib
import importlib.util
import inspect
import json
import math
import pkgutil
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent
PACKAGE = "minibatch_jax"
TITLES = {
    "selection": "Selection: which examples of a batch count",
    "coupling": "Coupling: which sources and targets belong together",
    "mining": "Mining: which pairs and triplets count",
    "mixing": "Mixing: how much of each domain is in a batch",
    "schedules": "Schedules: how large the batch is, and how the learning rate follows",
    "sampling": "Sampling: which rows come next",
    "scores": "Scores: what the signals are made of",
    "boundaries": "Boundaries: from weights to gradients, rows and pairs",
    "metrics": "Metrics: how well embeddings retrieve",
    "modules": "Modules: networks in which examples see each other",
    "pool": "Pool: which rows of a file that is larger than memory",
}
HEAD = """\
# Methods

Each row is a method: its paper, its functions on arrays, its transformations of weights, and the experiment that tests
its claim, to run as `python -m experiments NAME`. Functions and transformations are names of the noun, such as
`minibatch_jax.selection`, or of the noun before their dot. This file is generated from the docstrings by
`python docs/generate.py`.
"""
RESULTS_HEAD = """\
# Results

Each experiment tests a claim of a paper in small: on data and networks that a CPU trains in minutes, over at least
three seeds, against a baseline that knows nothing, and says whether the claim held. A number is the mean over seeds ±
its standard error; a difference is paired by seed. Where an arm did not give a number with every seed, the number of
seeds that did is in parentheses. The docstring of an experiment says the rest: data, tuning, cost, what else was seen.

`python -m experiments NAME` runs one again and writes `experiments/results/NAME.json`, from which
`python docs/generate.py` makes this page; `git diff` shows what changed. `--check` runs its smallest arm with one seed,
says whether the numbers agree, and writes nothing there. Every experiment takes `--quiet`, which shows only where the
results are, `--no-plots`, `--tensorboard` and its own flags (`--help`). All this is in a clone, after
`pip install -e '.[experiments]'`.
"""
LEADERBOARD_HEAD = """\
# Leaderboards

Which methods of a noun are best on a small task, when all spend the same compute: rows forwarded + 2 x rows
differentiated, a reference model by its FLOPs relative to those of the trained one. The CPU seconds of training,
without compilation, stand beside it, because they also count what the choice itself costs. Every method has its default
arguments, or those shown, and none is tuned: the learning rate is the best one for the baseline, on other seeds and
held-out rows. A method with a learning rate of its own may do better: see its experiment in [the results](results.md).
A method that needs a signal that the task does not give is listed with the signal.

A number is the mean over seeds ± its standard error; a difference to the baseline is paired by seed. With three seeds,
most differences are within their errors, and a place in the table says little. The rules of each task were changed
once, after a first look at one or a few methods with the seeds of the tuning: the uniform start and the longer training
of the reference (label-noise), unseen images of known classes in place of unseen classes (retrieval), the decay of the
learning rate (moons). In the pictures a dot is a seed, a black bar the mean, and a baseline orange.
`python -m experiments leaderboard --task NAME` runs a task again and writes its table and picture.
"""
WIDTH = 3
"""metrics of a table of results"""
TABLE = "| method | paper | functions | transformations | experiment |\n|---|---|---|---|---|"


class Row(NamedTuple):
    """Cells of a row of the method table, each a list of entries."""

    papers: list[str]
    functions: list[str]
    transformations: list[str]
    experiments: list[str]


def nouns() -> list[str]:
    """Return the names of the parts of the package: those with a title in its order, then the others."""
    found = [m.name for m in pkgutil.iter_modules(importlib.import_module(PACKAGE).__path__) if m.name[0] != "_"]
    return [n for n in TITLES if n in found] + [n for n in found if n not in TITLES]


def modules(noun: str) -> Iterator[ModuleType]:
    """Iterate over the module of a noun and all modules below it."""
    top = importlib.import_module(f"{PACKAGE}.{noun}")
    yield top
    for found in pkgutil.walk_packages(getattr(top, "__path__", []), f"{top.__name__}."):
        needs_torch = found.name == f"{PACKAGE}.interop.torch" and not importlib.util.find_spec("torch")
        if not found.name.endswith("__main__") and not needs_torch:
            yield importlib.import_module(found.name)


def defined(module: ModuleType) -> dict[str, Any]:
    """Return the public functions and classes that a module defines, in its order."""
    return {
        name: value
        for name, value in vars(module).items()
        if name[0] != "_" and getattr(value, "__module__", None) == module.__name__
        if inspect.isfunction(value) or inspect.isclass(value)
    }


def public(noun: str) -> dict[str, Any]:
    """Return the functions and classes of the library that are attributes of a noun."""
    return {
        name: value
        for name, value in vars(importlib.import_module(f"{PACKAGE}.{noun}" if noun else PACKAGE)).items()
        if name[0] != "_" and (inspect.isfunction(value) or inspect.isclass(value))
        if value.__module__.startswith(PACKAGE)
    }


def makes_transformation(value: Any) -> bool:
    """Return whether a function says that it returns a transformation."""
    return inspect.isfunction(value) and "Transformation" in str(inspect.signature(value).return_annotation)


def fields(docstring: str | None) -> dict[str, list[str]]:
    """Return the values of the lines `Method:`, `Paper:` and `Experiment:`, those of several methods in one list."""
    found: dict[str, list[str]] = {"Method": [], "Paper": [], "Experiment": []}
    for name, value in re.findall(r"^(Method|Paper|Experiment): *(\S.*?) *$", docstring or "", flags=re.MULTILINE):
        found[name] += [value] if name == "Method" else re.split(r", *", value)
    return found


def rows(noun: str) -> dict[str, Row]:
    """Return the rows of a noun by method; modules that name the same method share a row."""
    names, found = public(noun), {}
    for module in modules(noun):
        lines = fields(module.__doc__)
        if lines["Method"]:
            own = {n: v for n, v in defined(module).items() if names.get(n) is v and not _is_record(v)}
            made = [n for n, v in own.items() if makes_transformation(v)]
            row = Row(lines["Paper"], [n for n in own if n not in made], made, lines["Experiment"])
            old = found.get(method := "; ".join(lines["Method"]), Row([], [], [], []))
            found[method] = Row(*(list(dict.fromkeys(a + b)) for a, b in zip(old, row)))
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def _is_record(value: Any) -> bool:
    return inspect.isclass(value) and issubclass(value, tuple)


def tables() -> dict[str, dict[str, Row]]:
    """Return the rows of each noun, with each method in the table of its first noun only."""
    found: dict[str, dict[str, Row]] = {}
    for noun in nouns():
        found[noun] = {}
        for method, row in rows(noun).items():
            home = next((table for table in found.values() if method in table), None)
            if home is None:
                found[noun][method] = row
            else:
                named = row._replace(
                    functions=[f"{noun}.{name}" for name in row.functions],
                    transformations=[f"{noun}.{name}" for name in row.transformations],
                )
                home[method] = Row(*(list(dict.fromkeys(a + b)) for a, b in zip(home[method], named)))
    return found


def methods() -> str:
    """Return the text of `methods.md`."""
    parts = [HEAD]
    for noun, table in tables().items():
        lines = []
        for method, row in table.items():
            papers = ", ".join(f"[{p}](https://arxiv.org/abs/{p})" for p in row.papers)
            code = [", ".join(f"`{entry}`" for entry in entries) for entries in row[1:]]
            lines.append(f"| {method} | {papers} | {' | '.join(code)} |")
        if lines:
            parts.append("\n".join([f"## {TITLES.get(noun, noun.capitalize())}", "", TABLE, *lines, ""]))
    return "\n".join(parts)


def results() -> str:
    """Return the text of `results.md`."""
    rooms: dict[str, dict[str, str]] = {}
    for path in sorted((ROOT / "experiments").rglob("*.py"), key=lambda path: path.stem):
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        if section(docstring, "Verdict"):
            rooms.setdefault(path.parent.name, {})[path.stem] = docstring
    order = [room for room in ("experiments", *TITLES) if room in rooms]
    index, parts = ["| experiment | what it is about | verdict | minutes |", "|---|---|---|---|"], []
    for room in [*order, *(room for room in rooms if room not in order)]:
        parts.append(f"## {TITLES.get(room, 'Start').partition(':')[0]}\n")
        for name, docstring in rooms[room].items():
            path = ROOT / "experiments" / "results" / f"{name}.json"
            found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"tables": {}}
            verdict, minutes = section(docstring, "Verdict").partition(":")[0], section(docstring, "Minutes").split()[0]
            index.append(f"| [{name}](#{name}) | {summary(docstring)} | {verdict} | {minutes} |")
            parts.append(experiment(name, docstring, found))
    return "\n".join([RESULTS_HEAD, *index, "", *parts])


def leaderboard() -> str:
    """Return the text of `leaderboard.md`."""
    parts = [LEADERBOARD_HEAD]
    for path in sorted((ROOT / "experiments" / "results" / "leaderboard").glob("*.json")):
        board = json.loads(path.read_text(encoding="utf-8"))
        source = ROOT / "experiments" / "leaderboard" / path.with_suffix(".py").name
        docstring = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""
        lines = [f"## {path.stem.replace('_', '-')}: {board['noun']}", "", summary(docstring), ""]
        lines += [f"- {name}: {section(docstring, name)}" for name in ("Task", "Rows", "Signals", "Tuning")]
        lines += [
            f"- `python -m experiments leaderboard --task {path.stem.replace('_', '-')}`: {board['minutes']} minutes"
        ]
        lines += ["", f"![Scores and CPU seconds of all methods.](_static/leaderboard_{path.stem}.png)", ""]
        lines += [*board_table(board), ""]
        if board["missing"]:
            lines += ["| no entry | signal that the task does not give |", "|---|---|"]
            lines += [f"| `{name}` | {signal} |" for name, signal in board["missing"].items()] + [""]
        lines += [f"Also without an entry: `{name}`, as {reason}." for name, reason in board["no_entry"].items()]
        parts.append("\n".join([*lines, ""]))
    return "\n".join(parts)


def board_table(board: dict[str, Any]) -> list[str]:
    """Return the lines of a leaderboard's table, best first."""
    table, seeds = board["table"], len(board["table"]["seeds"])
    better, titles, bases = table["better"], board["titles"], {d["baseline"] for d in table["differences"].values()}
    first = next(iter(better))
    head = ["method", *(f"{titles[metric]} ({way} is better)" for metric, way in better.items())]
    head += [f"{titles[first]}, less the baseline's", "updates", "CPU seconds"]
    head += ["baseline"] if len(bases) > 1 else []
    arms = sorted(table["arms"], key=lambda arm: table["arms"][arm]["metrics"][first]["mean"])
    rows = [head, ["---"] * len(head)]
    for arm in arms if better[first] == "lower" else arms[::-1]:
        own, less = table["arms"][arm]["metrics"], table["differences"].get(arm)
        call = board["calls"][arm] if board["calls"][arm] == arm else f"`{board['calls'][arm]}`"
        row = [call, *(number(own[metric], seeds) for metric in better)]
        row += [number(less["metrics"][first], seeds, own[first]) if less else "", f"{own['updates']['mean']:.0f}"]
        row += [f"{own['cpu_seconds']['mean']:.2g}"] + ([less["baseline"] if less else ""] if len(bases) > 1 else [])
        rows.append(row)
    return ["| " + " | ".join(row) + " |" for row in rows]


def section(docstring: str, name: str) -> str:
    """Return the text of a part of an experiment's docstring, in one line."""
    found = re.search(rf"^{name}: *(.*(?:\n  .*)*)", docstring, flags=re.MULTILINE)
    return " ".join(found[1].split()) if found else ""


def summary(docstring: str) -> str:
    """Return the first paragraph of a docstring, in one line."""
    return docstring.split("\n\n")[0].replace("\n", " ")


def experiment(name: str, docstring: str, found: dict[str, Any]) -> str:
    """Return the part of `results.md` on one experiment."""
    word, _, reason = section(docstring, "Verdict").partition(": ")
    lines = [f"### {name}", "", summary(docstring), ""]
    lines += [f"- Claim: {section(docstring, 'Claim')}", f"- **{word.capitalize()}**{reason and f': {reason}'}"]
    run = f"{found['minutes']} in the stored run, beside other work" if found["tables"] else "no run is stored"
    lines += [f"- Minutes: {section(docstring, 'Minutes')}; {run}", f"- `python -m experiments {name}`", ""]
    for title, table in found["tables"].items():
        shown = list(table["better"]) or list(next(iter(table["arms"].values()))["metrics"])[:1]
        for start in range(0, len(shown), WIDTH):
            lines += [*result_table(title, table, shown[start : start + WIDTH]), ""]
    return "\n".join(lines)


def result_table(title: str, table: dict[str, Any], shown: list[str]) -> list[str]:
    """Return the lines of a table: some metrics of all arms, and the differences to the baseline."""
    arms, differences = table["arms"], table["differences"]
    bases = list(dict.fromkeys(d["baseline"] for d in differences.values()))
    head = [title or "arm"]
    for metric in shown:
        better = table["better"].get(metric)
        head += [metric.replace("_", " ") + (f" ({better} is better)" if better else "")]
        head += [f"difference to {bases[0] if len(bases) == 1 else 'the baseline'}"] if bases else []
    head += ["baseline"] if len(bases) > 1 else []
    rows = [head, ["---"] * len(head)]
    for arm, values in arms.items():
        less, row = differences.get(arm, {"baseline": "", "metrics": {}}), [arm]
        for metric in shown:
            own = values["metrics"].get(metric)
            row.append(number(own, len(table["seeds"])))
            row += [number(less["metrics"].get(metric), len(table["seeds"]), own)] if bases else []
        rows.append([*row, less["baseline"]] if len(bases) > 1 else row)
    return ["| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows]


def number(figure: dict[str, Any] | None, seeds: int, difference_of: dict[str, Any] | None = None) -> str:
    """Return mean ± standard error as text; a difference has a sign, and as many digits as the figure it is of."""
    if figure is None or figure["mean"] is None:
        return "" if figure is None else "none"
    places, sign = digits(figure), ""
    if difference_of:
        most = 3 if abs(figure["mean"]) > 0.01 else 5
        places, sign = max(min(digits(difference_of), most), min(places, 3)), "+"
    small = 0 < max(abs(figure["mean"]), figure["error"] or 0) < 1e-4
    form = ".2g" if small else f".{places}f"
    error = "" if figure["error"] is None else f" ± {figure['error']:{form}}"
    count = f" ({figure['finite']})" if figure["finite"] < seeds else ""
    return f"{figure['mean']:{sign}z{form}}{error}{count}"


def digits(figure: dict[str, Any]) -> int:
    """Return how many digits after the point show two of the error, as in the tables that experiments print."""
    size = figure["error"] or abs(figure["mean"]) / 100 or 1.0
    return min(max(1 - math.floor(math.log10(size)), 0), 3 if abs(figure["mean"]) > 0.01 else 5)


def api(noun: str) -> str:
    """Return the text of a page: what a noun makes public, then what else its public modules define."""
    full = f"{PACKAGE}.{noun}" if noun else PACKAGE
    lines = [f"# `{full}`", "", f"```{{py:module}} {full}", "```", ""]
    for part in inspect.cleandoc(importlib.import_module(full).__doc__ or "").split("\n\n"):
        lines += ["```text", part, "```", ""] if part.startswith("  ") else [part, ""]  # columns stay columns
    names = public(noun)
    lines += [_entry(full, name, value) for name, value in names.items()]
    for module in modules(noun) if noun else ():
        steps = {n: v for n, v in defined(module).items() if names.get(n) is not v}
        if steps and "._" not in module.__name__ and module.__name__ != full:
            lines += [f"## `{module.__name__}`", "", f"```{{py:module}} {module.__name__}", "```", ""]
            lines += [f"Import these by `from {module.__name__} import ...`; `{full}` does not have them.", ""]
            lines += [_entry(module.__name__, name, value) for name, value in steps.items()]
    return "\n".join(lines)


def _entry(module: str, name: str, value: Any) -> str:
    directive = "autoclass" if inspect.isclass(value) else "autofunction"
    options = "   :members:\n" if inspect.isclass(value) and not _is_record(value) else ""
    return f"```{{eval-rst}}\n.. {directive}:: {module}.{name}\n{options}```\n"


def signals() -> str:
    """Markdown of the table of signals."""
    table = importlib.import_module("minibatch_jax.signals").SIGNALS
    rows = [
        f"| `{name}` | `[{', '.join(signal.shape)}]` | {signal.dtype.__name__.rstrip('_')} | {signal.meaning} |"
        for name, signal in table.items()
    ]
    head = ["\n## The signals, `SIGNALS`\n", "| name | shape | dtype | what it holds |", "|---|---|---|---|"]
    return "\n".join([*head, *rows, ""])


def write_api() -> None:
    """Write the pages of `docs/api`."""
    folder = FOLDER / "api"
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.md"):
        old.unlink()
    pages = {"package": api(""), **{noun: api(noun) for noun in nouns()}}
    pages["signals"] += signals()
    index = ["# API", "", "```{toctree}", ":maxdepth: 1", "", *pages, "```", ""]
    for name, text in {**pages, "index": "\n".join(index)}.items():
        (folder / f"{name}.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    for page, text in (
        (FOLDER / "methods.md", methods()),
        (FOLDER / "results.md", results()),
        (FOLDER / "leaderboard.md", leaderboard()),
    ):
        if sys.argv[1:] != ["--check"]:
            page.write_text(text, encoding="utf-8")
        elif page.read_text(encoding="utf-8") != text:
            sys.exit(f"docs/{page.name} is out of date, wanted what its sources say: run python docs/generate.py.")
