"""`python -m experiments` lists the experiments, `python -m experiments NAME [flags]` runs one."""

import ast
import importlib
import os
import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
NOT_EXPERIMENTS = {"common"}
COMPILATION_CACHE = {
    "JAX_COMPILATION_CACHE_DIR": ".jax_cache",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}


def names(folder: Path = HERE) -> list[str]:
    """Names of the experiments (or speed cases) in a folder."""
    return sorted(p.stem for p in folder.glob("*.py") if not p.stem.startswith("_") and p.stem not in NOT_EXPERIMENTS)


def docstring(path: Path) -> str:
    """Module docstring of a file, read without importing it."""
    return ast.get_docstring(ast.parse(path.read_text())) or ""


def listing() -> str:
    """One line for each experiment: name, minutes, claim."""
    lines = ["Experiments (python -m experiments NAME; --help shows the flags):"]
    for name in names():
        doc = docstring(HERE / f"{name}.py")
        minutes = re.search(r"^Minutes: (\S+)", doc, re.MULTILINE)
        lines.append(f"  {name:<24} {minutes[1] if minutes else '?':>4} min  {doc.splitlines()[0] if doc else ''}")
    lines.append("Speed cases (python -m experiments speed [CASE ...]):")
    for name in names(HERE / "speed"):
        doc = docstring(HERE / "speed" / f"{name}.py")
        lines.append(f"  {name:<24}           {doc.splitlines()[0] if doc else ''}")
    return "\n".join(lines)


def run_experiment(name: str, flags: list[str]) -> None:
    """Parse the flags into the experiment's `Config` and run it."""
    import tyro

    module = importlib.import_module(f"experiments.{name}")
    description = re.sub(r"\n(?=\S)", "\n\n", module.__doc__ or "")
    module.main(tyro.cli(module.Config, args=flags, prog=f"python -m experiments {name}", description=description))


def run_speed(cases: list[str]) -> None:
    """Run the speed cases, all if none is named."""
    for case in cases or names(HERE / "speed"):
        importlib.import_module(f"experiments.speed.{case}").main()


def main(args: list[str]) -> int:
    """Dispatch; returns the exit code."""
    for name, value in COMPILATION_CACHE.items():
        os.environ.setdefault(name, value)
    if not args or args[0] in ("-h", "--help"):
        print(listing())
        return 0
    name, *rest = args
    name = name.replace("-", "_")
    known = names(HERE / "speed") if name == "speed" else names()
    unknown = [case for case in rest if case not in known] if name == "speed" else [name] * (name not in known)
    if unknown:
        print(f"unknown: {', '.join(unknown)}; wanted one of {', '.join(known)}", file=sys.stderr)
        return 2
    run_speed(rest) if name == "speed" else run_experiment(name, rest)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
