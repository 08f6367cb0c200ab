"""`verify`."""

from collections.abc import Iterator, Sequence

from docora_ops.render.columns import Column, Listing, cell, words
from docora_ops.render.link_view import ROWS_SHOWN, link_name
from docora_ops.text import amount
from docora_ops.verification import DifferingLink, FileDifference, Verification

LIMITS = "This compares Docora's records; it does not prove what the app has on its disk."

_COLUMNS: Sequence[Column[DifferingLink]] = (
    Column("Link", link_name),
    Column(
        "Result",
        lambda link: f"uncertain: {words(link.doubt)}" if link.doubt else "differs",
        lambda link: "yellow" if link.doubt else "bold red",
    ),
    Column("Missing", lambda link: link.missing, is_number=True, left_out=2),
    Column("Outdated", lambda link: link.outdated, is_number=True, left_out=2),
    Column("Extra", lambda link: link.extra, is_number=True, left_out=2),
    Column("Files", lambda link: "; ".join(_files(link)), folds=True),
    Column("Job id", lambda link: link.job_id, left_out=1),
)


def _files(link: DifferingLink) -> Iterator[str]:
    counts = (link.missing, link.outdated, link.extra)
    for difference, count in zip(FileDifference, counts, strict=True):
        paths = [each.path for each in link.examples if each.difference is difference]
        shown = [*paths, *(["…"] if count > len(paths) else [])]
        if count:
            yield f"{count} {difference}: {', '.join(shown)}"


def verify_screens(found: Verification) -> Iterator[object]:
    """Shows the links that differ or may differ, what to do about it, and the counts."""
    if links := [*found.differing_links, *found.uncertain_links]:
        yield from (Listing(_COLUMNS, links, ROWS_SHOWN), "")
        several = len(links) > 1
        which = "APP REPO" if several else links[0].words
        again = "To send all files of a link" if several else "To send all its files"
        update = " --update" if any(link.extra for link in links) else ""
        if found.uncertain:
            yield cell("Where it is uncertain, verify again after the link's next scan.")
        yield cell(f"{again} again: docora-ops resync {which}{update}")
    doubtful = "yellow" if found.uncertain else "green" * bool(found.proven)
    yield cell(summary(found), "bold red" if found.differing else doubtful)


def summary(found: Verification) -> str:
    """Counts the links by result, in a sentence."""
    if not found.links:
        return "No links."
    skipped = {
        "not synced": found.not_synced,
        "while their repository is scanned": found.scanning,
        "changing": found.changing,
    }
    total = sum(skipped.values())
    reasons = ", ".join(f"{count} {why}" for why, count in skipped.items() if count)
    parts = {
        amount(found.differing, "link differs", "links differ"): found.differing,
        f"{amount(found.proven, 'link')} proven": True,
        f"{found.uncertain} uncertain": found.uncertain,
        f"{found.not_comparable} without a stored commit": found.not_comparable,
        f"{total} skipped ({reasons})": total,
    }
    return ", ".join(part for part, is_said in parts.items() if is_said) + "."
