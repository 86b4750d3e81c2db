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
