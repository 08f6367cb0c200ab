"""Turns values into output for people and scripts."""
