"""The optional worker, for installations whose snapshot queue is RQ."""

from docora_ops.worker.snapshot_job import snapshot

__all__ = ["snapshot"]
