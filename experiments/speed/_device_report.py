"""The JSON and the table of a device run, from the lines that its workers have written so far."""

import json
from pathlib import Path
from typing import Any

from experiments.speed._device_parts import CHECKED, PARTS

Line = dict[str, Any]


def read(file: Path) -> list[Line]:
    """The whole lines of the file; none if it is not there."""
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    return [json.loads(line) for line in text.split("\n")[:-1]]


def gather(lines: list[Line], about: Line) -> Line:
    """One object: `about`, the machine, the rows of each part, and the rows of correctness that failed."""
    machine: dict[str, str] = {}
    for line in lines:
        machine = line.get("machine", machine)
    rows = [line for line in lines if "part" in line]
    parts = {}
    for name in PARTS:
        own = [{key: value for key, value in row.items() if key != "part"} for row in rows if row["part"] == name]
        if own:
            parts[name] = {"title": PARTS[name].title, "rows": own}
    return {**about, "machine": machine, "parts": parts, "failed checks": failed_checks(lines)}


def failed_checks(lines: list[Line]) -> list[str]:
    """Names of the rows of correctness that failed."""
    return [f"{x['part']}: {x['name']}" for x in lines if x.get("result") == "failed" and x["part"] in CHECKED]


def markdown(run: Line) -> str:
    """The table: what was used, then the rows of each part."""
    counts: dict[str, int] = {}
    for part in run["parts"].values():
        for row in part["rows"]:
            counts[row["result"]] = counts.get(row["result"], 0) + 1
    said = ", ".join(f"{count} {result}" for result, count in counts.items())
    lines = [f"# Device run: {run['machine'].get('device', 'no device')}", "", f"Rows: {said}."]
    if run["failed checks"]:
        lines += ["", f"**{len(run['failed checks'])} rows of correctness failed**: {'; '.join(run['failed checks'])}."]
    about = {name: run[name] for name in ("date", "command", "seconds") if name in run}
    lines += [
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {_cell(text)} |" for name, text in (about | run["machine"]).items()),
    ]
    for part in run["parts"].values():
        lines += ["", f"## {part['title']}", "", "| row | ours, or what was found | beside it (ours / this) |"]
        lines += ["|---|---|---|", *map(_line, part["rows"])]
    return "\n".join(lines) + "\n"


def _line(row: Line) -> str:
    """One row: its first value, and the others; for times, what ours is of each."""
    if row["result"] != "ok" or not row["values"]:
        said = f"**{row['result']}**: {row['message']}" if row["message"] else row["result"]
        return f"| {_cell(row['name'])} | {_cell(said)} | |"
    ours, cells = next(iter(row["values"].values())), []
    unit = "" if row["unit"] == "check" else f" {row['unit']}"
    for what, value in row["values"].items():
        cells.append(f"{what} {value:.3g}{unit}" if isinstance(value, float | int) else f"{what}: {value}")
        if (
            len(cells) > 1
            and row["unit"] == "ms"
            and isinstance(value, float)
            and isinstance(ours, float)
            and value > 0
        ):
            cells[-1] += f" ({ours / value:.2g})"
    return f"| {_cell(row['name'])} | {_cell(cells[0])} | {_cell('; '.join(cells[1:]))} |"


def _cell(text: str) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")
