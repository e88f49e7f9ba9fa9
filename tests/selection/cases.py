from minibatch_jax import selection
from tests.case import Case, losses

CASES = {
    "keep_topk": Case(lambda: selection.keep_topk(5), losses),
    "keep_bottomk": Case(lambda: selection.keep_bottomk(5), losses),
}
