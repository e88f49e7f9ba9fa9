"""Parts of the device run in their order: the most important first, as the run may end before the last."""

from typing import NamedTuple


class Part(NamedTuple):
    """A part: its title, the seconds after which it begins no row, and module and function of its rows."""

    title: str
    seconds: float
    function: tuple[str, str]


PARTS = {
    "solvers": Part("Correctness: exact solvers against scipy", 40, ("_device_solvers", "solvers")),
    "kernels": Part("Correctness: kernels against loops and the CPU", 30, ("_device_solvers", "kernels")),
    "laws": Part("Correctness: laws of methods of every noun", 60, ("_device_laws", "laws")),
    "shards": Part("Correctness: several devices against one", 20, ("_device_laws", "shards")),
    "A": Part("A. Exact assignment and transport", 45, ("_device_couplings", "assignments")),
    "J": Part("J. Time of a dependent step", 15, ("_device_steps", "dependent_steps")),
    "B": Part("B. Sinkhorn", 40, ("_device_couplings", "sinkhorns")),
    "D": Part("D. Greedy selection", 30, ("_device_choices", "greedy")),
    "growing": Part("Time and memory as the batch grows", 45, ("_device_steps", "growing")),
    "C": Part("C. Partial transport", 20, ("_device_couplings", "partials")),
    "E": Part("E. JEST", 10, ("_device_choices", "jest")),
    "F": Part("F. Triplets", 25, ("_device_choices", "triplets")),
    "G": Part("G. A step that keeps half of the batch", 15, ("_device_steps", "selecting_steps")),
    "H": Part("H. Norms of single gradients", 15, ("_device_steps", "norms")),
    "I": Part("I. A sharded step", 10, ("_device_steps", "sharded")),
    "K": Part("K. Compiling", 30, ("_device_steps", "compiling")),
    "L": Part("L. Temporaries", 20, ("_device_steps", "temporaries")),
}
CHECKED = ("solvers", "kernels", "laws", "shards")
"""Parts of correctness, of which no row may fail."""
