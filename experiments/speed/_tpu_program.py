"""Programs of the TPU compiler, which needs no TPU, and how many operations they do one after another.

A core of a TPU does the operations of a program one at a time. Counted are those that its vector or matrix units do:
fusions, slices, copies, reductions, sorts, kernels, each as one. The compiler puts an estimate of cycles on them, or
gives them a part of the fast memory. Arithmetic of single numbers is done beside them by the scalar unit, and copies
that are started early and awaited later run beside other operations: both are free here.
"""

import functools
import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax

from experiments.speed._depth_loops import with_names

TOPOLOGY = "v5e:2x2"
COMPUTATION = re.compile(r"^(ENTRY )?%?(\S+) \(.*\{$")
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?(\S+) = (.*)$")
OPCODE = re.compile(r"\s([a-z][a-z0-9-]*)\(")
NAME = re.compile(r'op_name="[^"]*?(at_[\d_]+)/(?:while|cond)"')
CHARGED = ('"estimated_cycles":"', '"used_scoped_memory_configs":[{')


class Instruction(NamedTuple):
    """One line of a computation: what it does, its text, the loop or branch it is, the computations it runs."""

    opcode: str
    text: str
    name: str | None
    runs: tuple[str, ...]


class Program(NamedTuple):
    """Computations by name, and which one is the entry."""

    computations: dict[str, list[Instruction]]
    entry: str


class Depth(NamedTuple):
    """What a call of a program does one after another.

    Attributes:
      steps: how often the bodies of loops run, all loops together.
      in_steps: operations in these bodies.
      once: operations outside of loops.
      unknown: loops whose steps could not be counted; one step of each is in the sums.
    """

    steps: int
    in_steps: int
    once: int
    unknown: int

    @property
    def operations(self) -> int:
        return self.in_steps + self.once


@functools.cache
def _device() -> Any:
    from jax.experimental import topologies

    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    return topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGY).devices[0]


def compile_for_tpu(function: Callable[..., Any], *args: Any, kernels: bool = True) -> str:
    """Return the text of the optimized program of `function(*args)` for one TPU, its loops and branches named.

    Args:
      function: from arrays to arrays, fit for `jax.jit`.
      *args: its arrays.
      kernels: whether code for TPUs that is a kernel is taken, or the other code in its place.
    """
    named, leaves = with_names(function, *args, kernels=kernels)
    place = jax.sharding.SingleDeviceSharding(_device())
    shapes = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place) for leaf in leaves]
    return jax.jit(named).lower(*shapes).compile().as_text() or ""


def parse(text: str) -> Program:
    """Return the computations of a program's text."""
    computations: dict[str, list[Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if header := COMPUTATION.match(line):
            current = computations.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and (found := INSTRUCTION.match(line)) and (opcode := OPCODE.search(found[2])):
            name = NAME.search(line)
            current.append(Instruction(opcode[1], line, name and name[1], _runs(opcode[1], line)))
    return Program(computations, entry)


def _runs(opcode: str, line: str) -> tuple[str, ...]:
    """Return the computations that an instruction runs: body and condition of a loop, branches in order."""
    if opcode == "while":
        return _named(line, "body", "condition")
    if opcode == "conditional":
        if listed := re.search(r"branch_computations=\{([^}]*)\}", line):
            return tuple(name.strip().lstrip("%") for name in listed[1].split(","))
        return _named(line, "false_computation", "true_computation")
    return _named(line, "to_apply") if opcode == "call" else ()


def _named(line: str, *attributes: str) -> tuple[str, ...]:
    return tuple(re.findall(rf"\b{attribute}=%?([^\s,)]+)", line)[0] for attribute in attributes)


def is_charged(instruction: Instruction) -> bool:
    """Return whether an instruction is one of the vector or matrix units."""
    return any(mark in instruction.text for mark in CHARGED)


def depth(program: Program, counts: Mapping[str, int]) -> Depth:
    """Return what a call does one after another, given how often its loops and branches ran.

    Args:
      program: as `parse` returns it.
      counts: as `loop_counts` returns them. A loop that the compiler made has no name: its condition says how often
        it runs. Of a branch that the compiler made the longest is taken.
    """
    return _add_up(program, counts, program.entry, 1, False)


def _add_up(program: Program, counts: Mapping[str, int], computation: str, times: int, in_loop: bool) -> Depth:
    total = Depth(0, 0, 0, 0)
    for instruction in program.computations[computation]:
        if instruction.opcode == "while":
            body, condition = instruction.runs
            trips = counts.get(instruction.name or "")
            if trips is None:
                fixed = _trips(program, condition)
                trips = times * (1 if fixed is None else fixed)
                total = _plus(total, Depth(0, 0, 0, int(fixed is None)))
            total = _plus(total, Depth(trips, 0, 0, 0))
            parts = [_add_up(program, counts, part, trips, True) for part in (body, condition)]
        elif instruction.opcode == "conditional":
            parts = list(_branches(program, counts, instruction, times, in_loop))
        elif instruction.opcode == "call":
            parts = [_add_up(program, counts, part, times, in_loop) for part in instruction.runs]
        else:
            charge = times * is_charged(instruction)
            parts = [Depth(0, charge, 0, 0) if in_loop else Depth(0, 0, charge, 0)]
        total = functools.reduce(_plus, parts, total)
    return total


def _branches(
    program: Program, counts: Mapping[str, int], instruction: Instruction, times: int, in_loop: bool
) -> Iterator[Depth]:
    """Yield the operations of each branch as often as it was taken, or of the longest if that is not known."""
    taken = [counts.get(f"{instruction.name}_b{number}") for number in range(len(instruction.runs))]
    if all(count is not None for count in taken):
        for part, count in zip(instruction.runs, taken):
            yield _add_up(program, counts, part, count or 0, in_loop)
        return
    found = [_add_up(program, counts, part, times, in_loop) for part in instruction.runs]
    yield max(found, key=lambda part: part.operations)


def _trips(program: Program, condition: str) -> int | None:
    """Return how often a loop runs whose condition compares a counter from 0 with a constant, else None."""
    text = "\n".join(instruction.text for instruction in program.computations[condition])
    compared = re.search(r"ROOT .* compare\(.*direction=LT", text)
    constants = re.findall(r" = s32\[\]\S* constant\((\d+)\)", text)
    return int(constants[0]) if compared and len(constants) == 1 else None


def _plus(left: Depth, right: Depth) -> Depth:
    return Depth(*(a + b for a, b in zip(left, right)))
