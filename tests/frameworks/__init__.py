"""Tests that load TensorFlow into their own process; nothing here starts a run."""
