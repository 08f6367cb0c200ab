"""`probe` and `set-url`."""

from collections.abc import Iterator, Sequence

from docora_ops.probe import Probe, ProbeStep, UrlChange
from docora_ops.render.columns import Column, Listing, Pairs, cell, style_of, words
from docora_ops.text import amount

_MOST_NAMED = 5  # links in a sentence
_STEPS: Sequence[Column[ProbeStep]] = (
    Column("Step", lambda step: step.name),
    Column("State", lambda step: words(step.state), lambda step: style_of(step.state)),
    Column(
        "Found",
        lambda step: (step.finding, *([f"→ {step.hint}"] if step.hint else [])),
        folds=True,
    ),
    Column("Seconds", lambda step: f"{step.seconds:.2f}", is_number=True),
)


def probe_screens(probe: Probe) -> Iterator[object]:
    """Shows what was probed, and the steps."""
    names = {
        "App": probe.app_name and f"{probe.app_name} ({probe.app_id})",
        "URL": probe.base_url,
        "Repository": probe.repository_name and f"{probe.repository_name} ({probe.repository_id})",
        "GitHub URL": probe.github_url,
    }
    yield Pairs([(name, cell(text)) for name, text in names.items() if text])
    yield from step_screen(probe)


def step_screen(probe: Probe) -> Iterator[object]:
    """Shows the steps, below a blank line."""
    yield from ("", Listing(_STEPS, probe.steps))


def change_screen(change: UrlChange) -> Iterator[object]:
    """Shows the app, and its URL before and after the change."""
    names = {
        "App": f"{change.app_name} ({change.app_id})",
        "Old URL": change.old_url,
        "New URL": change.new_url,
    }
    yield Pairs([(name, cell(text)) for name, text in names.items()])


def left_behind_in_words(change: UrlChange) -> str:
    """Says which links still send files to the old URL; empty if none is known to."""
    links, count = change.links_to_resync, change.jobs_with_old_url
    if not links:
        return ""
    names = ", ".join(link.repository_name for link in links[:_MOST_NAMED])
    if (more := len(links) - _MOST_NAMED) > 0:
        names += f" and {amount(more, 'other')}"
    jobs = f" ({amount(count, 'BullMQ job keeps', 'BullMQ jobs keep')} that URL)" if count else ""
    if len(links) == 1:
        return (
            f"1 link needs a resync, because its job sends files to the old URL{jobs}, after which "
            f"the link reads synced: {names}"
        )
    return (
        f"{len(links)} links need a resync, because their jobs send files to the old URL{jobs}, "
        f"after which the links read synced: {names}"
    )


def next_steps(change: UrlChange) -> Iterator[str]:
    """Names the commands that are to follow."""
    if change.resync_command:
        yield f"Next, once these jobs have ended: {change.resync_command}"
    if change.retry_command:
        yield f"{'Then' if change.resync_command else 'Next'}: {change.retry_command}"
