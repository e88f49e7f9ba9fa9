"""`python -m experiments` lists the experiments, `python -m experiments NAME [flags]` runs one.

`--quiet` shows no bar, lines and table, `--no-plots` draws nothing, `--tensorboard` also writes the points for
TensorBoard below the results, in `tensorboard`; all go with the flags of every experiment.
`python -m experiments leaderboard --task TASK` runs the methods of a noun on a task at equal compute.
`python -m experiments NAME --check` runs its smallest arm again and compares it with `experiments/results/NAME.json`.
"""

import ast
import importlib
import os
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from experiments._data_folder import root
from experiments._terminal import end_on_ctrl_c, leave, print_all_characters

HERE = Path(__file__).parent
ROOMS = ("selection", "coupling", "mining", "mixing", "schedules", "modules")
COMMON_FLAGS = (
    "\n\nBesides the flags below: --quiet, --no-plots, --tensorboard; --check, alone, compares with the stored result."
)
COMPILATION_CACHE = {
    "JAX_COMPILATION_CACHE_DIR": str(root() / "compiled"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}


def files(*folders: Path) -> dict[str, Path]:
    """Files of the experiments (or speed cases) by name; by default those of all nouns, and the quickstart."""
    found = [p for f in folders or (HERE, *(HERE / room for room in ROOMS)) for p in f.glob("*.py")]
    return {p.stem: p for p in sorted(found, key=lambda p: p.stem) if not p.stem.startswith("_")}


def docstring(path: Path) -> str:
    """Module docstring of a file, read without importing it."""
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def listing() -> str:
    """One line for each experiment: name, minutes, claim."""
    lines = [
        "Experiments (python -m experiments NAME; --help shows the flags, --check compares with the stored result,"
        "\n  --quiet shows only where the results are, --no-plots draws nothing, --tensorboard writes event files too):"
    ]
    for name, path in files().items():
        doc = docstring(path)
        minutes = re.search(r"^Minutes: (\S+)", doc, re.MULTILINE)
        lines.append(f"  {name:<24} {minutes[1] if minutes else '?':>4} min  {doc.splitlines()[0] if doc else ''}")
    lines.append("Speed cases (python -m experiments speed [CASE ...]):")
    for name, path in files(HERE / "speed").items():
        doc = docstring(path)
        lines.append(f"  {name:<24}           {doc.splitlines()[0] if doc else ''}")
    lines.append("Leaderboards (python -m experiments leaderboard --task TASK):")
    for name, path in files(HERE / "leaderboard").items():
        lines.append(f"  {name:<24}           {docstring(path).splitlines()[0]}")
    return "\n".join(lines)


def module_of(name: str) -> str:
    """Name of the module that holds an experiment."""
    return ".".join(files()[name].relative_to(HERE.parent).with_suffix("").parts)


def run_experiment(name: str, flags: list[str]) -> None:
    """Parse the flags into the experiment's `Config` and run it."""
    from experiments.engine.results import gathered

    module = importlib.import_module(module_of(name))
    config = config_of(module, flags, f"python -m experiments {name}")
    with gathered(name, config):
        module.main(config)


def run_leaderboard(task: str, flags: list[str]) -> None:
    """Run the methods on a task, and write its table and plot."""
    from experiments.leaderboard._site import publish

    module = importlib.import_module(f"experiments.leaderboard.{task}")
    config = config_of(module, flags, f"python -m experiments leaderboard --task {task}")
    publish(module, config, module.main(config))


def config_of(module: ModuleType, flags: list[str], command: str) -> Any:
    """The `Config` that the flags give; those that all experiments have are set apart."""
    import tyro

    from experiments.engine.folders import OUTPUT, Output

    OUTPUT.set(Output("--quiet" in flags, "--no-plots" not in flags, "--tensorboard" in flags))
    flags = [flag for flag in flags if flag not in ("--quiet", "--no-plots", "--tensorboard")]
    description = re.sub(r"\n(?=\S)", "\n\n", module.__doc__ or "") + COMMON_FLAGS
    return tyro.cli(module.Config, args=flags, prog=command, description=description)


def check_experiment(name: str) -> bool:
    """Run the smallest arm of an experiment again; returns whether it agrees with the stored result."""
    from experiments.engine.checks import check

    module = importlib.import_module(module_of(name))
    return check(name, module.Config, module.main)


def run_speed(cases: list[str], flags: list[str] | None = None) -> int:
    """Run the speed cases, all if none is named, `device` with its flags; returns the exit code."""
    code = 0
    for case in cases or files(HERE / "speed"):
        main = importlib.import_module(f"experiments.speed.{case}").main
        if case == "device":
            code = main(flags or [])
        else:
            main()
    return code


def main(args: list[str]) -> int:
    """Dispatch; returns the exit code."""
    print_all_characters()
    for name, value in COMPILATION_CACHE.items():
        os.environ.setdefault(name, value)
    if not args or args[0] in ("-h", "--help"):
        print(listing())
        return 0
    name, *rest = args
    name = name.replace("-", "_")
    if name == "leaderboard":
        tasks = files(HERE / "leaderboard")
        task = rest[1].replace("-", "_") if len(rest) > 1 and rest[0] == "--task" else None
        if task not in tasks:
            print(f"task is {task}, wanted leaderboard --task and one of {', '.join(tasks)}", file=sys.stderr)
            return 2
        run_leaderboard(task, rest[2:])
        return 0
    known = files(HERE / "speed") if name == "speed" else files()
    flags: list[str] = []
    if name == "speed" and rest[:1] == ["device"]:
        rest, flags = rest[:1], rest[1:]
    unknown = [case for case in rest if case not in known] if name == "speed" else [name] * (name not in known)
    if unknown:
        print(f"unknown: {', '.join(unknown)}; wanted one of {', '.join(known)}", file=sys.stderr)
        return 2
    if rest == ["--check"] and name != "speed":
        return 0 if check_experiment(name) else 1
    if name == "speed":
        return run_speed(rest, flags)
    run_experiment(name, rest)
    return 0


if __name__ == "__main__":
    end_on_ctrl_c("Interrupted. The same command goes on from what it has saved.")
    leave(main(sys.argv[1:]))
