"""The settings and connections that all jobs of a process share."""

from collections.abc import Callable
from contextlib import suppress

from docora_ops.database import Session
from docora_ops.errors import DocoraOpsError
from docora_ops.queue import Redis, connect
from docora_ops.settings import Settings, load_settings
from docora_ops.worker.webhook import Webhook

DELIVERY_TIMEOUT = 30  # seconds for the POST of a file, or of a chunk
LOCK_TIMEOUT = 60  # seconds to wait for another change of the link, and for the link's lock
_STATEMENT_TIMEOUT = 300  # seconds, at least: one statement lists the files of a large repository
_MOST_WEBHOOKS = 16  # apps to which a connection stays open


class Resources:
    """The settings and connections of a process.

    client: a client of Redis. None if the process runs a single job: `leave` then closes all
        connections.
    """

    def __init__(self, settings: Settings, client: Redis | None = None) -> None:
        self.settings = settings
        self.client = client or connect(settings)
        self._is_shared = client is not None
        # Asks the worker whether an error is the fault of the host. Only our own worker answers.
        self.is_hosts_fault: Callable[[], bool] = lambda: False
        self._session: Session | None = None
        self._webhooks: dict[tuple[str, str, str], Webhook] = {}

    def take_session(self) -> Session:
        """Returns the Postgres session of the last job if it is still open, or a new one."""
        session, self._session = self._session, None
        if session is not None:
            if session.is_open:  # Postgres may have been restarted since
                return session
            session.close()
        timeout = max(self.settings.statement_timeout, _STATEMENT_TIMEOUT)
        timeouts = {"lock_timeout": LOCK_TIMEOUT, "statement_timeout": timeout}
        return Session(self.settings.model_copy(update=timeouts))

    def webhook(self, *app: *tuple[str, str, str]) -> Webhook:
        """Returns the webhook of an app. Reuses a connection that an earlier job has left open.

        Raises DeliveryError for an unusable base_url or proxy.

        app: base_url, id and auth key.
        """
        if app not in self._webhooks:
            if len(self._webhooks) >= _MOST_WEBHOOKS:
                self._close_webhooks()
            self._webhooks[app] = Webhook(*app, DELIVERY_TIMEOUT)
        return self._webhooks[app]

    def leave(self, session: Session, *, succeeded: bool, has_locks: bool = True) -> None:
        """Releases a job's locks. Keeps its connections if it succeeded and others may use them."""
        if succeeded and self._is_shared:
            with suppress(DocoraOpsError):  # the link is synced, so the job has not failed
                if has_locks:
                    session.release()
                self._session = session
                return
        session.close()
        self._close_webhooks()

    def _close_webhooks(self) -> None:
        while self._webhooks:
            self._webhooks.popitem()[1].close()


_resources: Resources | None = None


def use_settings(settings: Settings, client: Redis | None = None) -> None:
    """Makes all jobs of this process share these settings and connections; see `Resources`."""
    global _resources  # noqa: PLW0603 - RQ calls a plain function
    _resources = Resources(settings, client)


def current_resources() -> Resources:
    """Returns the resources of this process; reads the settings if RQ's own worker runs the job."""
    return _resources or Resources(load_settings())
