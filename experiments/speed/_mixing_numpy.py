"""The online rules of mixing as loops over NumPy arrays of K domains, as one writes them on the host: their peers."""

from collections.abc import Callable

import numpy as np

Signals = dict[str, np.ndarray]
Loop = Callable[[np.ndarray, Signals], np.ndarray]


def rate(domains: int, step: int, floor: float) -> float:
    if step == 0:
        return 1 / domains
    return min(1 / domains, max(np.sqrt(np.log(domains) / (domains * step)), floor))


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def odm(rewards: str, decay: float = 0.9, scale: float = 1.0, floor: float = 0.0) -> Loop:
    """ODM in its three forms; every loss of a domain without examples is left out."""

    def loop(prior: np.ndarray, signals: Signals) -> np.ndarray:
        mixture, estimates = prior, np.zeros(len(prior))
        steps = zip(signals["domain_losses"], signals["domain_counts"], strict=True)
        for step, (losses, counts) in enumerate(steps, start=1):
            if rewards == "perplexity":
                new = decay * estimates + (1 - decay) * np.exp(scale * losses)
            elif rewards == "averaged":
                new = decay * estimates + (1 - decay) * scale * losses / mixture
            else:
                new = estimates + scale * losses / mixture
            estimates = np.where((counts > 0) & np.isfinite(losses), new, estimates)
            now, before = rate(len(prior), step, floor), rate(len(prior), step - 1, floor)
            share = estimates / estimates.sum() if rewards == "perplexity" else softmax(before * estimates)
            mixture = (1 - len(prior) * now) * share + now
        return mixture

    return loop


def doremi(step_size: float, smoothing: float) -> Loop:
    """DoReMi, with the mean of the mixtures."""

    def loop(prior: np.ndarray, signals: Signals) -> np.ndarray:
        mixture, mean, excess = prior, np.zeros(len(prior)), np.zeros(len(prior))
        steps = zip(signals["domain_losses"], signals["domain_counts"], strict=True)
        for step, (losses, counts) in enumerate(steps, start=1):
            excess = np.where((counts > 0) & np.isfinite(losses), losses, excess)
            mixture = (1 - smoothing) * softmax(np.log(mixture) + step_size * excess) + smoothing / len(prior)
            mean = mean + (mixture - mean) / step
        return mixture

    return loop


def doge(step: float, smoothing: float) -> Loop:
    """DoGE, with the mean of the mixtures."""

    def loop(prior: np.ndarray, signals: Signals) -> np.ndarray:
        mixture, mean = prior, np.zeros(len(prior))
        for number, found in enumerate(signals["domain_alignments"], start=1):
            scores = step * np.where(np.isfinite(found), np.clip(found, 0, 5), 0)
            mixture = (1 - smoothing) * softmax(np.log(mixture) + scores) + smoothing / len(prior)
            mean = mean + (mixture - mean) / number
        return mixture

    return loop


def skills(graph: np.ndarray, step_size: float, window: int) -> Loop:
    """Skill-It over the losses of the domains themselves."""

    def loop(prior: np.ndarray, signals: Signals) -> np.ndarray:
        mixture, rows = prior, np.zeros((window, len(prior)))
        for losses, counts in zip(signals["domain_losses"], signals["domain_counts"], strict=True):
            usable = (counts > 0) & np.isfinite(losses)
            rows = np.where(usable, np.concatenate([losses[None], rows[:-1]]), rows)
            mixture = softmax(np.log(prior) + step_size * (graph @ rows.sum(axis=0)))
        return mixture

    return loop
