"""What experiments share: arms x seeds with one progress bar, JSON lines, plots, a table, and exact resumption.

An experiment is one file. It writes down its arms, a step and an evaluation as pure functions, and calls `run`:

    @dataclass(frozen=True)
    class Config:
        seeds: tuple[int, ...] = (0, 1, 2)
        out: str = "runs/my_experiment"
        steps: int = 1000               # `run` needs these six fields; the others are the experiment's own
        batch_size: int = 64
        evaluate_every: int = 100
        checkpoint_every: int = 200
        learning_rate: float = 0.1

    def main(config: Config):
        optimizer = optax.sgd(config.learning_rate)

        def data(seed):                 # dict of splits; `run` draws batches from "train" and puts all on the device
            return {"train": arrays("digits", "train"), "test": arrays("digits", "test")}

        def arm(selection):
            gradient = value_and_grad(losses, selection)        # losses(params, batch) -> [B]

            def init(key):
                params = init_mlp(key)
                return State(params, optimizer.init(params), selection.init(jnp.zeros(config.batch_size)))

            def step(state, batch):     # batch: the rows of data["train"], and "index" [B]
                (_, aux), grads, selection_state = gradient(state.params, batch, state.selection_state)
                updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
                params = optax.apply_updates(state.params, updates)
                metrics = {"kept": jnp.mean(aux.weights > 0)}   # a mean over steps; a pair (sum, count) is a ratio
                return state._replace(params=params, opt_state=opt_state, selection_state=selection_state), metrics

            return Arm(init, step)

        @jax.jit
        def evaluate(state, data):      # every evaluate_every steps; not jitted by `run`, which turns values to floats
            return {"test_accuracy": accuracy(state.params, data["test"])}

        arms = {"all samples": arm(normalize()), "keep lowest": arm(optax.chain(keep_bottomk(38), normalize()))}
        return run(config, arms, data, evaluate)

`run` jits `init` and `step` once per arm; every arm meets a seed with the same key and the same batches. `State.keys`
is for random numbers drawn in `step` (split and replace them there); `run` counts `State.step`. For small models there
are `init_mlp(key, sizes)` and `mlp(layers, inputs)`, and `with_wrong_labels` makes label noise. An arm that trains on
other data names its split: `Arm(init, step, split="train_and_holdout")`.

What is not a training loop (an estimator, a solver, a fit) gives numbers for a seed and calls `compare`.
"""

from experiments.engine.comparisons import compare as compare
from experiments.engine.loops import Arm as Arm
from experiments.engine.loops import State as State
from experiments.engine.runs import Config as Config
from experiments.engine.runs import run as run
from experiments.shared.mlp import init_mlp as init_mlp
from experiments.shared.mlp import mlp as mlp
from experiments.shared.mlp import with_wrong_labels as with_wrong_labels
