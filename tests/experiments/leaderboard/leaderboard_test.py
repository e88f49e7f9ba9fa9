"""A leaderboard lists every factory of its noun, spends equal compute, and leaves its table and plot."""

import importlib
import inspect
import json
from functools import partial
from pathlib import Path

import jax
import jax.extend
import jax.numpy as jnp
import optax
import pytest

import minibatch_jax
from experiments import __main__ as dispatcher
from experiments.datasets import arrays
from experiments.engine import folders
from experiments.engine.results import RESULTS
from experiments.leaderboard import _site, label_noise, moons, retrieval
from experiments.leaderboard._race import POINTS, Entry, call_text, made, name_of, schedule
from experiments.leaderboard._signals import missing_signals
from minibatch_jax import coupling, mining, selection, weight_transformation

TASKS = {"label_noise": label_noise, "retrieval": retrieval, "moons": moons}
TINY = {
    "label_noise": ["--budget", "4608", "--reference-updates", "9", "--arms", "uniform", "keep_topk"],
    "retrieval": ["--budget", "2304", "--arms", "mine_random", "mine_hard", "all pairs"],
    "moons": ["--budget", "4608", "--hidden", "8", "--arms", "pairs as they come", "couple_assignment"],
}


@pytest.fixture(autouse=True)
def as_the_terminal_starts():
    token = folders.OUTPUT.set(folders.Output())
    yield
    folders.OUTPUT.reset(token)


def factories(noun):
    """The public functions of a noun that say that they return a transformation."""
    module = importlib.import_module(f"minibatch_jax.{noun}")
    return {
        name
        for name, value in inspect.getmembers(module, inspect.isfunction)
        if value.__module__.startswith(module.__name__)
        and inspect.signature(value).return_annotation is optax.GradientTransformationExtraArgs
    }


def test_every_task_has_its_file_and_its_result():
    assert set(dispatcher.files(Path(_site.__file__).parent)) == set(TASKS)
    assert {path.stem for path in (RESULTS / "leaderboard").glob("*.json")} == set(TASKS)
    assert {task.NOUN for task in TASKS.values()} == {"selection", "mining", "coupling"}


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_every_factory_of_the_noun_is_listed_once(task):
    names = [name_of(method) for method in task.METHODS] + list(task.NO_ENTRY)
    assert sorted(names) == sorted(factories(task.NOUN))


@pytest.mark.parametrize("name", TASKS)
def test_the_stored_board_is_that_of_the_default_configuration(name):
    task, board = TASKS[name], json.loads((RESULTS / "leaderboard" / f"{name}.json").read_text(encoding="utf-8"))
    config = vars(task.Config()) | {"out": None}
    assert board["config"] == {k: list(v) if isinstance(v, tuple) else v for k, v in config.items() if k != "out"}
    assert len(board["config"]["seeds"]) >= 3 and task.BASELINE in board["table"]["arms"]
    entered, lacking = set(board["table"]["arms"]), set(board["missing"])
    methods = {name_of(m) for m in task.METHODS}
    assert not entered & lacking and methods == (entered | lacking) & methods and lacking <= methods
    assert board["calls"].items() >= {name_of(m): call_text(m) for m in task.METHODS if name_of(m) in entered}.items()
    assert (_site.PICTURES / f"leaderboard_{name}.png").is_file()


def needs(*names, extra=()):
    code = f"def update(weights, state, params=None, *, {', '.join(names)}, **extra_args): return weights, state"
    scope = {}
    exec(code, scope)
    return weight_transformation(lambda weights: optax.EmptyState(), scope["update"], extra)


@pytest.mark.parametrize(
    ("transformation", "given", "missing"),
    [
        (needs("losses"), ["losses"], []),
        (needs("losses", "reference_losses", "features"), ["losses"], ["reference_losses", "features"]),
        (needs("labels"), ["losses"], ["labels"]),
        (optax.chain(needs("losses"), needs("domains")), ["losses"], ["domains"]),
        (mining.mine_hard(), [], ["distances", "labels"]),
        (coupling.couple_assignment(), [], ["cost"]),
        (coupling.couple_independent(), [], []),
    ],
)
def test_missing_signals_are_those_that_the_errors_name(transformation, given, missing):
    weights = jnp.ones(4) if "losses" in given else jnp.ones((4, 4))
    assert missing_signals(transformation, weights, dict.fromkeys(given, jnp.ones(4))) == missing


def test_another_error_is_no_missing_signal():
    with pytest.raises(ValueError, match="losses has shape .3., wanted .4."):
        missing_signals(needs("losses"), jnp.ones(4), {"losses": jnp.ones(3)})
    with pytest.raises(TypeError):
        missing_signals(needs("labels"), jnp.ones(4), {"labels": jnp.ones(4)})


def test_the_signals_of_label_noise_are_those_that_a_method_reads():
    config = label_noise.Config()
    read = {
        "keep_topk": {"losses"},
        "keep_random": set(),
        "keep_by_badge": {"logits", "features"},
        "keep_by_reducible_loss": {"losses", "reference_losses"},
    }
    methods = {name_of(m): m for m in label_noise.METHODS}
    assert {name: label_noise.reads(config, methods[name]) for name in read} == read


def test_no_entry_spends_more_than_the_budget():
    arm = label_noise.entry(label_noise.Config(), optax.sgd(0.1), None).arm
    uniform, dear = Entry(arm, 32, 96), Entry(arm, 64, 160, before=500)
    for warm_up in (None, uniform):
        for entry in (uniform, dear):
            parts = schedule(9600, warm_up, entry)
            spent = entry.before + sum(part.cost * updates for part, updates in parts)
            assert len(parts) == POINTS and 9600 - POINTS * 160 < spent <= 9600
    assert schedule(9600, uniform, dear)[0] == (uniform, 16)
    with pytest.raises(ValueError, match="budget is 900, wanted at least 1460"):
        schedule(900, None, dear)


def rows_of_first_layer(jaxpr):
    """Rows forwarded and differentiated, by the products with the first kernel; not what runs only after a NaN."""
    forwarded = differentiated = 0
    for equation in jaxpr.eqns:
        shapes = [var.aval.shape for var in equation.invars], [var.aval.shape for var in equation.outvars]
        if equation.primitive.name == "dot_general" and shapes[0][1] == (64, 48):
            forwarded += shapes[0][0][0]
        elif equation.primitive.name == "dot_general" and shapes[1][0] in ((64, 48), (48, 64)):
            (contracted, _), _ = equation.params["dimension_numbers"]
            differentiated += shapes[0][0][contracted[0]]
        if equation.primitive.name != "cond":
            for inner in jax.extend.core.jaxprs_in_params(equation.params):
                found = rows_of_first_layer(inner)
                forwarded, differentiated = forwarded + found[0], differentiated + found[1]
    return forwarded, differentiated


@pytest.mark.parametrize(
    ("name", "rows"),
    [("uniform", (32, 32)), ("keep_topk", (96, 32)), ("keep_random", (32, 32)), ("keep_by_adaptive_k", (32, 32))],
)
def test_the_cost_is_that_of_the_rows_in_the_program(name, rows):
    method = {name_of(m): m for m in label_noise.METHODS}.get(name)
    entry = label_noise.entry(label_noise.Config(hidden=48), optax.sgd(0.1), method)
    state = jax.eval_shape(entry.arm.init, jax.random.key(0))
    number, loss = (jax.ShapeDtypeStruct((entry.rows,), dtype) for dtype in (jnp.int32, jnp.float32))
    image = jax.ShapeDtypeStruct((entry.rows, 64), jnp.float32)
    batch = {"image": image, "label": number, "index": number, "reference_losses": loss}
    assert rows_of_first_layer(jax.make_jaxpr(entry.arm.step)(state, batch).jaxpr) == rows
    assert entry.cost == rows[0] + 2 * rows[1]


def test_the_reference_costs_its_share_of_the_flops():
    config = label_noise.Config(hidden=64, reference_hidden=16, reference_updates=10)
    assert label_noise.reference_cost(config) == (16 * (64 + 10)) / (64 * (64 + 10)) * (10 * 96 + 1438)
    methods = {name_of(m): m for m in label_noise.METHODS}
    entry = label_noise.entry(config, optax.sgd(0.1), methods["keep_by_reducible_loss"])
    assert entry.before == label_noise.reference_cost(config) and entry.arm.split == "train_without_holdout"


@pytest.mark.parametrize("name", TASKS)
def test_a_small_run_by_the_command_writes_table_and_plot(name, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(moons, "TEST_POINTS", 16)
    few = lambda *of: {key: values[:150] for key, values in arrays(*of).items()}  # noqa: E731
    monkeypatch.setattr(retrieval, "arrays", few)
    sites = [path.read_bytes() for path in sorted((RESULTS / "leaderboard").glob("*"))]
    flags = ["--seeds", "0", "--out", str(tmp_path), *TINY[name], "--quiet"]
    assert dispatcher.main(["leaderboard", "--task", name.replace("_", "-"), *flags]) == 0
    board = json.loads((tmp_path / "leaderboard.json").read_text(encoding="utf-8"))
    assert board["name"] == name and board["table"]["seeds"] == [0]
    arms = TINY[name][TINY[name].index("--arms") + 1 :]
    assert list(board["table"]["arms"]) == [arm for arm in board["calls"] if arm in arms]
    assert (tmp_path / "leaderboard.png").stat().st_size > 5000
    assert sites == [path.read_bytes() for path in sorted((RESULTS / "leaderboard").glob("*"))]
    assert "leaderboard.json" in capsys.readouterr().out


def test_runs_start_alike_and_updates_are_counted(tmp_path):
    config = label_noise.Config(
        seeds=(0,), out=str(tmp_path), arms=("uniform", "keep_topk"), budget=9600, reference_updates=9
    )
    records, missing = label_noise.main(config)
    by_arm = {arm: [r for r in records if r["arm"] == arm] for arm in config.arms}
    assert [r["step"] for r in by_arm["uniform"]] == [1600 * point for point in range(1, POINTS + 1)]
    uniform, top = ([r["metrics"] for r in by_arm[arm]] for arm in config.arms)
    assert uniform[0]["test_accuracy"] == top[0]["test_accuracy"]  # both begin with uniform rows
    assert [m["updates"] for m in uniform] == [16 * point for point in range(1, POINTS + 1)]
    assert [m["updates"] for m in top] == [16 + 10 * point for point in range(POINTS)]
    assert missing["keep_by_jest"] == ["pair_losses", "reference_pair_losses"] and missing["keep_topk"] == []


@pytest.mark.parametrize("flags", [[], ["--task"], ["--task", "nonsense"], ["label-noise"]])
def test_an_unknown_task_is_refused(flags, capsys):
    assert dispatcher.main(["leaderboard", *flags]) == 2
    assert "wanted leaderboard --task and one of label_noise, moons, retrieval" in capsys.readouterr().err


def test_calls_are_shown_without_keys_and_arrays():
    assert call_text(selection.keep_by_adaptive_k) == "keep_by_adaptive_k()"
    assert call_text(partial(selection.keep_random, k=3)) == "keep_random(k=3)"
    hidden = partial(selection.keep_nearest_in_turn, 3, queries=jnp.ones((1, 2, 2)))
    assert call_text(hidden) == "keep_nearest_in_turn(k=3)"
    assert isinstance(made(partial(selection.keep_random, k=3), 7), optax.GradientTransformationExtraArgs)
    assert (
        minibatch_jax.weights_of(made(selection.keep_by_adaptive_k, 7), jnp.ones(2) / 2, losses=jnp.ones(2)).size == 2
    )
