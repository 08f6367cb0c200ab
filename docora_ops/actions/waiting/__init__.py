"""Waiting for the results of snapshots."""
