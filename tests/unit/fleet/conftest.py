"""Tests here run on both event loops."""

from tests.loops import run

__all__ = ["run"]
