"""Retry, resync and schedule of many links."""
