"""What bulk retries say."""

from __future__ import annotations

import re
from typing import Any

OPERATION_ID = re.compile(r"bulk_[0-9a-f]{16}")


def counts(**changed: int) -> dict[str, Any]:
    """The counts of a document, 0 unless given."""
    names = ("queued", "replaced_stale", "already_queued", "already_running", "skipped", "failed")
    values = {name: changed.get(name, 0) for name in names}
    done = sum(values.values())
    succeeded = values["queued"] + values["replaced_stale"] + values["already_queued"]
    return {"total": done, "completed": done, "succeeded": succeeded, **values}
