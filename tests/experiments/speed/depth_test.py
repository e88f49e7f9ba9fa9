"""Case `depth`: counts of loops against numbers known beforehand, a small program's text, and the cells of a table."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from experiments.speed import depth as case
from experiments.speed._depth_cases import KINDS
from experiments.speed._depth_loops import loop_counts, with_names
from experiments.speed._tpu_program import Depth, depth, parse

pytestmark = pytest.mark.skipif(jax.__version_info__ >= case.TOO_NEW, reason="loops of this jax have another form")


def scanned(x):
    return lax.scan(lambda c, _: (jnp.sin(c), None), x, None, length=7)[0]


def halved(x):
    return lax.while_loop(lambda c: c[0] > 1, lambda c: (c[0] / 2, c[1] + 1), (x, 0))[0]


def triangle(x):
    """Outer loop of 4 steps, whose step i has an inner loop of i steps."""
    return lax.fori_loop(0, 4, lambda i, c: lax.fori_loop(0, i, lambda _, d: d + 1, c), x)


def branched(x):
    """Of 9 steps every third takes the second branch, which has a loop of 2 steps."""

    def step(c, i):
        return lax.cond(i % 3 == 0, lambda c: lax.fori_loop(0, 2, lambda _, d: d + 1, c), lambda c: c, c), None

    return lax.scan(step, x, jnp.arange(9))[0]


def called(x):
    return jax.jit(scanned)(x) + jax.checkpoint(scanned)(2 * x)


@jax.custom_vjp
def with_rule(x):
    return scanned(x)


with_rule.defvjp(lambda x: (scanned(x), None), lambda _, g: (g,))


def without_kernel(x):
    return lax.platform_dependent(x, tpu=scanned, default=halved)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (scanned, [7]),
        (halved, [5]),
        (triangle, [4, 6]),
        (branched, [9, 6, 3, 6]),
        (called, [7, 7]),
        (with_rule, [7]),
        (lambda x: jax.vmap(halved)(jnp.stack([x, x / 4])), [5]),
    ],
    ids=["scan", "while", "nested", "cond", "twice", "custom_vjp", "vmap"],
)
def test_loops_and_branches_are_counted(function, expected):
    assert sorted(loop_counts(function, jnp.float32(32)).values()) == sorted(expected)


def test_the_branch_of_a_tpu_is_counted():
    assert 7 in loop_counts(without_kernel, jnp.float32(32)).values()


@pytest.mark.parametrize("function", [scanned, halved, triangle, branched, called, with_rule])
def test_names_change_no_result_and_are_those_of_the_counts(function):
    x = jnp.float32(32)
    named, leaves = with_names(function, x)
    assert named(*leaves)[0] == function(x)
    text = jax.jit(named).lower(*leaves).as_text(debug_info=True)
    loops = [name for name in loop_counts(function, x) if "_b" not in name]
    assert any(f"{name}/while" in text for name in loops)


COST = '"used_scoped_memory_configs":[{"memory_space":"1"}]'
LOOP, FORK = 'op_name="jit(named)/at_3/while" stack_frame_id=8', 'op_name="jit(named)/at_3/while/body/at_3_1/cond"'
TEXT = f"""
HloModule jit_named, is_scheduled=true

%fused (param: f32[8]) -> f32[8] {{
  ROOT %inner = f32[8]{{0}} add(%param, %param), backend_config={{"estimated_cycles":"9"}}
}}

%body (state: (s32[], f32[8])) -> (s32[], f32[8]) {{
  %state = (s32[]{{:T(128)}}, /*index=1*/f32[8]{{0:T(256)S(1)}}) parameter(0)
  %i = s32[] add(%a, %b), backend_config={{"used_scoped_memory_configs":[]}}
  %one = f32[8]{{0:T(256)}} fusion(%x), kind=kLoop, calls=%fused, backend_config={{"estimated_cycles":"1826"}}
  %two = f32[8]{{0}} copy(%one), backend_config={{{COST}}}
  %fork = (f32[8]) conditional(%p, %t, %t), branch_computations={{%short, %long}}, metadata={{{FORK}}}
  ROOT %out = (s32[], f32[8]) tuple(%i, %two)
}}

%condition (state: (s32[], f32[8])) -> pred[] {{
  ROOT %less = pred[]{{:T(512)}} compare(%i, %n), direction=LT
}}

%short (t: f32[8]) -> f32[8] {{
  ROOT %same = f32[8] parameter(0)
}}

%long (t: f32[8]) -> f32[8] {{
  %own = (s32[], f32[8]) while(%t), condition=%fixed, body=%tiny
  ROOT %sorted = f32[8] sort(%t), dimensions={{0}}, to_apply=%less, backend_config={{{COST}}}
}}

%fixed (state: (s32[], f32[8])) -> pred[] {{
  %n = s32[]{{:T(128)}} constant(5)
  ROOT %less = pred[] compare(%i, %n), direction=LT
}}

%tiny (state: (s32[], f32[8])) -> (s32[], f32[8]) {{
  ROOT %slice = f32[1] dynamic-slice(%x, %i), dynamic_slice_sizes={{1}}, backend_config={{"estimated_cycles":"7"}}
}}

ENTRY %main (x: f32[8]) -> f32[8] {{
  %x = f32[8]{{0}} parameter(0), metadata={{op_name="x"}}
  %start = (f32[8], f32[8], u32[]) copy-start(%x), backend_config={{"used_scoped_memory_configs":[]}}
  %first = f32[8]{{0}} fusion(%x), kind=kCustom, calls=%fused, backend_config={{"estimated_cycles":"3"}}
  %loop = (s32[], f32[8]{{0:T(256)S(1)}}) while(%first), condition=%condition, body=%body, metadata={{{LOOP}}}
  ROOT %kernel = f32[8] custom-call(%loop), custom_call_target="tpu_custom_call", backend_config={{{COST}}}
}}
"""


def test_depth_of_a_text_counted_by_hand():
    counts = {"at_3": 10, "at_3_1_b0": 6, "at_3_1_b1": 4}
    # outside: fusion and kernel; in the loop two operations in 10 steps, and 4 times a sort and 5 slices
    assert depth(parse(TEXT), counts) == Depth(steps=10 + 4 * 5, in_steps=10 * 2 + 4 * (1 + 5), once=2, unknown=0)


def test_the_longest_branch_is_taken_where_none_was_counted():
    assert depth(parse(TEXT), {"at_3": 10}).in_steps == 10 * (2 + 1 + 5)


def test_a_loop_of_unknown_length_is_said_to_be_unknown():
    assert depth(parse(TEXT), {}) == Depth(steps=1 + 5, in_steps=2 + 1 + 5, once=2, unknown=1)


def test_rows_of_a_table():
    entry = {"compiled": 256, "kernels": True, "steps": 1000, "in_steps": 4500, "once": 3, "unknown": 0}
    found = [entry | {"size": 256}, entry | {"size": 512}, entry | {"size": 512, "compiled": 512, "once": 500}]
    found += [entry | {"size": 1024, "unknown": 1}, entry | {"size": 256, "kernels": False}]
    assert case.rows("solve, quickly", found, (256, 512, 1024)) == [
        "| `solve`, quickly | 1,000 | 1,000 | 1,000 | 4.5 | 4,503 | 5,000 | > ≈4,503 |",
        "| `solve`, quickly, without its kernel | 1,000 | ? | ? | 4.5 | 4,503 | ? | ? |",
    ]


def test_names_of_cases_are_unique():
    names = [name for functions in KINDS.values() for name in functions]
    assert len(set(names)) == len(names)
