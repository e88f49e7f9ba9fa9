"""What a training step costs, by arithmetic of Python numbers: bytes of activations and states, operations of a token.

The constants of memory are those of a GPT block with dropout in 16 bits; other blocks differ, so they are arguments.

References:
  Korthikanti et al., Reducing activation recomputation in large transformer models, 2022 (arXiv 2205.05198).
  Chowdhery et al., PaLM: scaling language modeling with pathways, 2022 (arXiv 2204.02311).

Method: micro-batch planner
Paper: 2205.05198, 2204.02311
Experiment: speed planner
"""

from minibatch_jax._checks import check_choice, check_count, check_number


def activation_bytes(
    micro_batch: int,
    sequence_length: int,
    hidden: int,
    heads: int,
    *,
    tensor_parallel: int = 1,
    sequence_parallel: bool = False,
    recompute: str = "none",
    whole: float = 10.0,
    split: float = 24.0,
    attention: float = 5.0,
    inputs: float = 2.0,
) -> float:
    """Return the bytes that a transformer block keeps for the backward pass, on one device.

    With t devices for each layer it is `s b h (whole + split / t + attention a s / (h t))`. Sequence parallelism
    divides the first part by t, too.

    Args:
      micro_batch: b sequences.
      sequence_length: s tokens.
      hidden: h features.
      heads: a heads of attention.
      tensor_parallel: t devices.
      sequence_parallel: whether what is not multiplied by a matrix is split along the sequence.
      recompute: "none"; "selective" to compute the attention again, as FlashAttention does; "full" to keep the input
        of the block alone.
      whole: bytes for each feature of each token that every device keeps.
      split: those of which each device keeps a part.
      attention: those for each entry of each head's attention matrix.
      inputs: those of the block's input.

    Returns:
      Bytes of one block.

    Raises:
      TypeError: if a size is no int or a constant no number.
      ValueError: if a size is below 1, a constant negative or `recompute` unknown.

    References:
      Korthikanti et al., 2022 (arXiv 2205.05198).

    Examples:
      >>> activation_bytes(1, 2048, 4096, 32) / 2**20
      912.0
    """
    sizes = {"micro_batch": micro_batch, "sequence_length": sequence_length, "hidden": hidden, "heads": heads}
    for name, size in {**sizes, "tensor_parallel": tensor_parallel}.items():
        check_count(name, size)
    check_choice("recompute", recompute, ("none", "selective", "full"))
    for name, value in {"whole": whole, "split": split, "attention": attention, "inputs": inputs}.items():
        check_number(name, value, 0)
    features = sequence_length * micro_batch * hidden
    unsplit = 1 if not sequence_parallel else tensor_parallel
    if recompute == "full":
        return features * inputs / unsplit
    matrices = 0.0 if recompute == "selective" else attention * heads * sequence_length / hidden
    return features * (whole / unsplit + (split + matrices) / tensor_parallel)


def state_bytes(
    parameters: float,
    *,
    model_parallel: int = 1,
    data_parallel: int = 1,
    weights_and_gradients: float = 4.0,
    optimizer: float = 12.0,
) -> float:
    """Return the bytes of weights, gradients and optimizer state on one device.

    Args:
      parameters: of the model, > 0.
      model_parallel: devices over which the model is split, tensor times pipeline parallel.
      data_parallel: copies over which the optimizer's state is split (ZeRO-1); 1 if each copy has all of it.
      weights_and_gradients: bytes for each parameter; 4 for two numbers of 16 bits.
      optimizer: bytes for each parameter; 12 for float32 weights and the two moments of Adam.

    Returns:
      Bytes.

    Raises:
      TypeError: if a number is none.
      ValueError: if a number is out of range.

    Examples:
      >>> state_bytes(7e9, model_parallel=4) / 1e9
      28.0
    """
    check_number("parameters", parameters, 0, open_low=True)
    check_count("model_parallel", model_parallel)
    check_count("data_parallel", data_parallel)
    check_number("weights_and_gradients", weights_and_gradients, 0)
    check_number("optimizer", optimizer, 0)
    return parameters / model_parallel * (weights_and_gradients + optimizer / data_parallel)


def flops_per_token(
    parameters: float, layers: int, hidden: int, sequence_length: int, *, causal: bool = False
) -> float:
    """Return the operations that a transformer's forward and backward pass need for a token: 6 N + 12 L h s.

    What is computed again for the backward pass does not count.

    Args:
      parameters: N, > 0.
      layers: L.
      hidden: h, number of heads times their width.
      sequence_length: s.
      causal: True to count only the half of the attention matrix that a causal model needs. PaLM counts all.

    Returns:
      Operations.

    Raises:
      TypeError: if a number is none.
      ValueError: if a number is out of range.

    References:
      Chowdhery et al., 2022 (arXiv 2204.02311).

    Examples:
      >>> f"{flops_per_token(13e9, 40, 5120, 2048):.3e}"  # Llama 13B
      '8.303e+10'
    """
    check_number("parameters", parameters, 0, open_low=True)
    check_count("layers", layers)
    check_count("hidden", hidden)
    check_count("sequence_length", sequence_length)
    return 6 * parameters + (6 if causal else 12) * layers * hidden * sequence_length


def model_flops_utilization(
    tokens_per_second: float, token_flops: float, devices: int, peak_flops_per_second: float
) -> float:
    """Return the fraction of the devices' peak that the model's own operations use (MFU).

    Args:
      tokens_per_second: of all devices together, >= 0.
      token_flops: operations of a token, as `flops_per_token` counts them, > 0.
      devices: number of devices.
      peak_flops_per_second: of one device, > 0.

    Returns:
      A fraction.

    Raises:
      TypeError: if a number is none.
      ValueError: if a number is out of range.

    Examples:
      >>> round(model_flops_utilization(170_000, 8.303e10, 64, 312e12), 3)
      0.707
    """
    check_number("tokens_per_second", tokens_per_second, 0)
    check_number("token_flops", token_flops, 0, open_low=True)
    check_count("devices", devices)
    check_number("peak_flops_per_second", peak_flops_per_second, 0, open_low=True)
    return tokens_per_second * token_flops / (devices * peak_flops_per_second)
