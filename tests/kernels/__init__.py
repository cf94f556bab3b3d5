"""Tests inside other kernels than the running one: `tests/run kernels`."""
