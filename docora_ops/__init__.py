"""Operates Docora: retries failed links between apps and repositories, and runs their jobs."""

__version__ = "0.1.0"
