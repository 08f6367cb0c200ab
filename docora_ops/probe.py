"""Probing what a worker would meet at an app and at a git server; changing an app's base_url."""

from collections.abc import Sequence
from dataclasses import dataclass

from docora_ops.diagnosis import CheckState
from docora_ops.links import App


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


@dataclass(frozen=True)
class UrlChange(App):
    """The change of an app's base_url. The URLs are without secrets.

    changed: False if the app has had this URL before, or if the probe has failed.
    jobs_with_old_url: waiting and delayed jobs of BullMQ that carry another URL than the new one,
    as counted after the change, or before the question; None if they were not or can't be counted.
    probe: of the new URL, before the change.
    """

    old_url: str
    new_url: str
    changed: bool
    dry_run: bool
    jobs_with_old_url: int | None
    probe: Probe | None = None
