"""Checkpoints of one run: saved in the background by Orbax, verified by a checksum, restored from the last good one."""

import json
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp


class Restored(NamedTuple):
    """A checkpoint that was read back: its step, the arrays, and the JSON values saved beside them."""

    step: int
    arrays: Any
    values: dict[str, Any]


class Checkpoints:
    """The last two checkpoints in a folder; an older one is deleted only when the next is complete."""

    def __init__(self, folder: Path):
        self._folder = folder.resolve()
        self._manager = ocp.CheckpointManager(self._folder, options=ocp.CheckpointManagerOptions(max_to_keep=2))

    def latest_step(self) -> int | None:
        """Step of the newest complete checkpoint, which may still prove unreadable."""
        return self._manager.latest_step()

    def save(self, step: int, arrays: Any, values: dict[str, Any]) -> None:
        """Copy the arrays and write them in the background; raises OSError if this or the last write failed."""
        values = {"values": values, "checksum": _checksum(arrays, values)}
        args = ocp.args.Composite(state=ocp.args.StandardSave(arrays), values=ocp.args.JsonSave(values))
        try:
            self._manager.save(step, args=args, force=True)
        except Exception as error:
            raise self._write_failed(error) from error

    def restore(self, template: Any) -> Restored | None:
        """Read the newest checkpoint that is intact; None if the folder holds none.

        Newer ones that cannot be read are deleted, but only once an intact one is found.

        Args:
          template: the arrays' shapes and dtypes, from `jax.eval_shape`.

        Raises:
          RuntimeError: if there are checkpoints and none is intact.
        """
        errors = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                restored = self._read(step, template)
            except Exception as error:
                errors[step] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
                continue
            for broken in errors:
                print(f"The checkpoint of step {broken} in {self._folder} is unreadable; going on from step {step}.")
                self._manager.delete(broken)
            return restored
        if errors:
            raise RuntimeError(
                f"No checkpoint in {self._folder} can be read ({errors}). Either all are damaged or the experiment's "
                "code has changed: delete this folder to start the run again."
            )
        return None

    def clear(self) -> None:
        """Delete all checkpoints of the run."""
        for step in self._manager.all_steps():
            self._manager.delete(step)

    def wait(self) -> None:
        """Block until the last save is on disk; raises OSError if it failed."""
        try:
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
        except Exception as error:
            raise self._write_failed(error) from error

    def close(self) -> None:
        """Stop the background threads."""
        self._manager.close()

    def _read(self, step: int, template: Any) -> Restored:
        on_device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        template = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=on_device), template)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(template), values=ocp.args.JsonRestore())
        restored = self._manager.restore(step, args=args)
        arrays, saved = restored["state"], restored["values"]
        wanted, came = ([(x.shape, x.dtype) for x in jax.tree.leaves(tree)] for tree in (template, arrays))
        if wanted != came:
            raise ValueError(f"the arrays are {came}, wanted {wanted}")
        if _checksum(arrays, saved["values"]) != saved["checksum"]:
            raise ValueError("the arrays and values do not match their checksum")
        return Restored(step, arrays, saved["values"])

    def _write_failed(self, error: Exception) -> OSError:
        good = self.latest_step()
        last = "There is no earlier one." if good is None else f"The last complete one is of step {good}."
        return OSError(
            f"Could not write a checkpoint to {self._folder} ({type(error).__name__}: {error}). {last} "
            "If the disk is full, free space; then start the same command again to go on from there."
        )


def _checksum(tree: Any, values: Any) -> int:
    total = zlib.crc32(json.dumps(values, sort_keys=True).encode())
    for leaf in jax.tree.leaves(tree):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        total = zlib.crc32(np.asarray(jax.random.key_data(leaf) if is_key else leaf).tobytes(), total)
    return total
