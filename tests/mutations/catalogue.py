"""All mutations there are, by the promise that they break."""

from __future__ import annotations

from tests.mutations import in_actions, in_commands, in_database, in_queue, in_repair, in_worker
from tests.mutations.mutation import Promise

_FOUND = (
    *in_queue.MUTATIONS,
    *in_database.MUTATIONS,
    *in_actions.MUTATIONS,
    *in_repair.MUTATIONS,
    *in_worker.MUTATIONS,
    *in_commands.MUTATIONS,
)
MUTATIONS = tuple(sorted(_FOUND, key=lambda mutation: list(Promise).index(mutation.promise)))
