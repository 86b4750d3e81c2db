"""Which sample stands where in training: a function of the seed and the sample's global position alone.

N workers with b images each therefore see exactly what one worker with N x b sees.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from strategies.base import Shard


def sample_order(size: int, seed: int, count: int) -> npt.NDArray[np.int32]:
    """[count] indices into a data set of `size` samples: one seeded permutation after another."""
    epochs = -(-count // size)
    permutations = [np.random.default_rng((seed, epoch)).permutation(size) for epoch in range(epochs)]
    return np.concatenate(permutations).astype(np.int32)[:count]


def shard_batches(order: npt.NDArray[np.int32], shard: Shard, batch: int) -> npt.NDArray[np.int32]:
    """[steps * shard.count, batch]: the shard's rows of every global batch, replicas in order within a step."""
    steps = order.reshape(-1, shard.total, batch)
    return steps[:, shard.first : shard.first + shard.count].reshape(-1, batch)
