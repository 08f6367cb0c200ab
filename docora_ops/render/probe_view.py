"""`probe` and `set-url`."""

from collections.abc import Iterator, Sequence

from docora_ops.probe import Probe, ProbeStep, UrlChange
from docora_ops.render.columns import Column, Listing, Pairs, cell, style_of, words
from docora_ops.text import amount

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


def jobs_in_words(change: UrlChange) -> str:
    """Says how many jobs keep another URL; empty if none is known to."""
    count = change.jobs_with_old_url
    if not count:
        return ""
    jobs = amount(count, "BullMQ job keeps", "BullMQ jobs keep")
    return f"{jobs} the old URL: Docora's own worker would send files there"
