"""What is raised where a package is missing that only a part of the library needs."""


def missing(package: str, extra: str, part: str) -> ImportError:
    """Return the error that says what needs the package and which command installs it.

    Args:
      package: name of the package, such as "flax".
      extra: extra of `minibatch_jax` that holds it.
      part: what needs it, such as "minibatch_jax.modules".

    Returns:
      The error, to raise from the one of the import.
    """
    return ImportError(f"{package} is missing, wanted by {part}: pip install 'minibatch_jax[{extra}]'", name=package)
