"""Tests that load TensorFlow into their own process, with two logical CPU devices; nothing here starts a run."""

from bench import frameworks

frameworks.load()

import tensorflow as tf  # noqa: E402

# Before anything is computed, which some modules do when they are imported: afterwards TensorFlow refuses.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
