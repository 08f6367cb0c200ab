"""The optional worker, for installations whose snapshot queue is RQ."""


def snapshot(**arguments: str) -> None:
    """Brings one link up to date: see `snapshot_job.snapshot`. RQ calls it by this name."""
    from docora_ops.worker import snapshot_job  # `worker --check` does not need it

    snapshot_job.snapshot(**arguments)
