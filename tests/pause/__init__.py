"""Tests of `pause` and `resume`."""
