"""The optional worker, for installations whose snapshot queue is RQ."""


def snapshot(**arguments: str) -> None:
    """Runs `snapshot_job.snapshot`. RQ finds this function by the name that is in each job."""
    from docora_ops.worker import snapshot_job  # `worker --check` does not need it

    snapshot_job.snapshot(**arguments)
