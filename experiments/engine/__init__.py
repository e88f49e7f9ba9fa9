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
            selected = value_and_grad(losses, selection)        # losses(params, batch) -> [B]

            def start(key):             # fields of `State`
                return {"params": init_mlp(key), "selection_state": selection.init(jnp.zeros(config.batch_size))}

            def gradient(state, batch):     # batch: the rows of data["train"], and "index" [B]
                (_, aux), grads, selection_state = selected(state.params, batch, state.selection_state)
                metrics = {"kept": jnp.mean(aux.weights > 0)}   # a mean over steps; a pair (sum, count) is a ratio
                return grads, {"selection_state": selection_state}, metrics

            return gradient_arm(optimizer, start, gradient)

        @jax.jit
        def evaluate(state, data):      # every evaluate_every steps; not jitted by `run`, which turns values to floats
            return {"test_accuracy": accuracy(state.params, data["test"])}

        arms = {"all samples": arm(normalize()), "keep lowest": arm(optax.chain(keep_bottomk(38), normalize()))}
        return run(config, arms, data, evaluate, baseline="all samples")

An arm is a pair of functions, `Arm(init, step)`: `gradient_arm` writes both around a gradient, and what is no gradient
step writes them itself. `run` jits them once per arm; every arm meets a seed with the same key and the same batches.
`State.keys` is for random numbers drawn in a step (split and replace them there); `run` counts `State.step`. For small
models there are `init_mlp(key, sizes)` and `mlp(layers, inputs)`, and `with_wrong_labels` makes label noise. An arm
that trains on other data names its split: `gradient_arm(optimizer, start, gradient, split="train_and_holdout")`.
`minimize` trains inside one compiled function, and `descend` is a single update. Weights enter a gradient through
`value_and_grad` alone: with the transformation inside or, from drawn pairs or rows, by `weighted_gradient`. A selection
that needs no losses takes `score_fn=without_losses`. `minibatch_jax.weights_of` shows weights without a training.

What is not a training loop (an estimator, a solver, a fit) gives numbers for a seed and calls `compare`.

Both take `baseline="all samples"`, the arm that knows nothing (or arm -> its baseline), and `better={"test_accuracy":
"higher"}`, the metrics the claim is about. They write result.json: figures of all arms, and differences to the baseline
paired by seed. `python -m experiments NAME` with the default configuration also writes `experiments/results/NAME.json`,
with a table for each call, which is committed; run again on a finished folder, it trains nothing and writes the file.
"""

from experiments.engine.arms import descend as descend
from experiments.engine.arms import gradient_arm as gradient_arm
from experiments.engine.arms import minimize as minimize
from experiments.engine.arms import weighted_gradient as weighted_gradient
from experiments.engine.arms import without_losses as without_losses
from experiments.engine.comparisons import compare as compare
from experiments.engine.loops import Arm as Arm
from experiments.engine.loops import State as State
from experiments.engine.runs import Config as Config
from experiments.engine.runs import run as run
from experiments.shared.mlp import init_mlp as init_mlp
from experiments.shared.mlp import mlp as mlp
from experiments.shared.mlp import with_wrong_labels as with_wrong_labels
