"""Which sample stands where in training: a function of the seed and the sample's global position alone.

N workers with b images each therefore see exactly what one worker with N x b sees.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def sample_order(size: int, seed: int, count: int) -> npt.NDArray[np.int32]:
    """[count] indices into a data set of `size` samples: one seeded permutation after another."""
    epochs = -(-count // size)
    permutations = [np.random.default_rng((seed, epoch)).permutation(size) for epoch in range(epochs)]
    return np.concatenate(permutations).astype(np.int32)[:count]


def global_batches(size: int, seed: int, steps: int, replicas: int, batch: int) -> npt.NDArray[np.int32]:
    """[steps, replicas, batch]: the samples of every step, each replica's in a row."""
    return sample_order(size, seed, steps * replicas * batch).reshape(steps, replicas, batch)


def evaluation_batches(size: int, replicas: int, batch: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """(samples, weights), both [steps, replicas, batch]: every sample once, in order, with weight 1. The last batches
    are filled up with sample 0 of weight 0, so that all replicas have the same number of whole batches."""
    steps = -(-size // (replicas * batch))
    weights = np.zeros(steps * replicas * batch, np.float32)
    weights[:size] = 1.0
    samples = np.zeros(len(weights), np.int32)
    samples[:size] = np.arange(size)
    return samples.reshape(steps, replicas, batch), weights.reshape(steps, replicas, batch)
