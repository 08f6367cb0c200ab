"""The settings and connections that all jobs of a process share."""

from redis import Redis

from docora_ops.database import scans
from docora_ops.database.connection import Database
from docora_ops.errors import ConfigurationError, DocoraOpsError
from docora_ops.links import ids_of_job
from docora_ops.settings import Settings
from docora_ops.worker.lease import Lease
from docora_ops.worker.webhook import Webhook

DELIVERY_TIMEOUT = 30  # seconds for the POST of a file, or of a chunk
_STATEMENT_TIMEOUT = 300  # seconds, at least: one statement lists the files of a large repository
_MOST_WEBHOOKS = 16  # apps to which a connection stays open


class Resources:
    """The settings and connections of a process.

    fault: the fault of the host that the last job has met; None if there was none.
    lease: the lease of the last job.
    """

    def __init__(self, settings: Settings, client: Redis) -> None:
        timeout = max(settings.statement_timeout, _STATEMENT_TIMEOUT)
        self.settings = settings.model_copy(update={"statement_timeout": timeout})
        self.client = client
        self.database = Database(self.settings)
        self.fault: DocoraOpsError | None = None
        self.lease: Lease | None = None
        self._webhooks: dict[tuple[str, str, str], Webhook] = {}

    def new_lease(self, job_id: str) -> Lease:
        """Returns the lease for a job, which the job has not acquired yet."""

        def give_back() -> None:
            ids, database = ids_of_job(job_id), Database(self.settings)  # another thread may ask
            if ids:
                scans.give_back(database, *ids)

        self.lease = Lease(self.client, job_id, give_back)
        return self.lease

    def webhook(self, *app: *tuple[str, str, str]) -> Webhook:
        """Returns the webhook of an app. Reuses a connection that an earlier job has left open.

        Raises DeliveryError for an unusable base_url or proxy.

        app: base_url, id and auth key.
        """
        if app not in self._webhooks:
            if len(self._webhooks) >= _MOST_WEBHOOKS:
                self.close_webhooks()
            self._webhooks[app] = Webhook(*app, DELIVERY_TIMEOUT)
        return self._webhooks[app]

    def close_webhooks(self) -> None:
        """Closes the connections to apps."""
        while self._webhooks:
            self._webhooks.popitem()[1].close()

    def close(self) -> None:
        """Closes all connections but that to Redis."""
        self.close_webhooks()
        self.database.close()


_resources: Resources | None = None


def use_settings(settings: Settings, client: Redis) -> Resources:
    """Makes all jobs of this process share these settings and connections."""
    global _resources  # noqa: PLW0603 - RQ calls a plain function
    _resources = Resources(settings, client)
    return _resources


def current_resources() -> Resources:
    """Returns the resources of this process. Raises ConfigurationError if it has none."""
    if _resources is None:
        raise ConfigurationError(
            "only docora-ops worker runs the jobs of this queue",
            hint="start docora-ops worker in place of rq worker",
        )
    return _resources
