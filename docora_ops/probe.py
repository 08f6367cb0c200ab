"""Probing what a worker would meet at an app and at a git server; changing an app's base_url."""

from collections.abc import Sequence
from dataclasses import dataclass

from docora_ops.actions.checks import CheckState
from docora_ops.links import App, LinkIds


@dataclass(frozen=True)
class ProbeStep:
    """One step of a probe.

    name: `url`, `dns`, `tcp`, `tls`, `http` or `git`.
    app_ids: of `git`, the apps whose links have the token that was used; otherwise empty.
    """

    name: str
    state: CheckState
    finding: str
    hint: str | None
    seconds: float
    app_ids: Sequence[str] = ()


@dataclass(frozen=True)
class Probe:
    """What a worker on this host would meet. An app or a repository that was not probed is None."""

    host: str
    steps: Sequence[ProbeStep]
    app_id: str | None = None
    app_name: str | None = None
    base_url: str | None = None
    repository_id: str | None = None
    repository_name: str | None = None
    github_url: str | None = None

    @property
    def found_problems(self) -> bool:
        """Tells whether a step has failed, or there was no time for it."""
        bad = {CheckState.CRITICAL, CheckState.NOT_CHECKED}
        return any(step.state in bad for step in self.steps)


@dataclass(frozen=True, slots=True)
class LinkToResync(LinkIds):
    """A link whose job sends files to the old URL, after which it reads `synced`."""

    app_id: str
    repository_id: str
    repository_name: str


@dataclass(frozen=True)
class UrlChange(App):
    """The change of an app's base_url. The URLs are without secrets.

    changed: False if the app has had this URL before, or if the probe has failed.
    jobs_with_old_url: waiting, delayed and running jobs of BullMQ that carry another URL than the
    new one; None if they were not or can't be counted.
    links_to_resync: the links of these jobs, and those that are scanned meanwhile by a job that has
    begun with the old URL.
    resync_command: sends the files of these links again, to the new URL, once the jobs have ended;
    None before the change, and if there are no such links.
    retry_command: retries the failed links of the app; None before the change, and if none is.
    probe: of the new URL, before the change.
    """

    old_url: str
    new_url: str
    changed: bool
    dry_run: bool
    jobs_with_old_url: int | None
    links_to_resync: Sequence[LinkToResync] = ()
    resync_command: str | None = None
    retry_command: str | None = None
    probe: Probe | None = None
