"""`verify`."""

from collections.abc import Iterator, Sequence

from docora_ops.links import only_app
from docora_ops.render.columns import Column, Listing, cell, words
from docora_ops.render.link_view import ROWS_SHOWN, link_name
from docora_ops.text import amount
from docora_ops.verification import DifferingLink, FileDifference, Verification

LIMITS = "This compares Docora's records; it does not prove what the app has on its disk."

_COLUMNS: Sequence[Column[DifferingLink]] = (
    Column("Link", link_name, narrowest=16),
    Column(
        "Result",
        lambda link: f"uncertain: {words(link.doubt)}" if link.doubt else "differs",
        lambda link: "yellow" if link.doubt else "bold red",
        narrowest=16,  # `uncertain:` above the doubt
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
        if found.uncertain:
            uncertain = "Uncertain: the next good scan sends what is missing. Then:"
            yield cell(f"{uncertain} docora-ops verify {_which(found.uncertain_links)}".rstrip())
        yield cell(_how_to_resync(found.differing_links or links))
    doubtful = "yellow" if found.uncertain else "green" * bool(found.proven)
    yield cell(summary(found), "bold red" if found.differing else doubtful)


def _how_to_resync(links: Sequence[DifferingLink]) -> str:
    whose, which = link_name(links[0]), _which(links)
    if not which:
        whose, which = "a link", "APP REPO"
    elif len(links) > 1:
        whose, which = links[0].app_name or links[0].app_id, f"{which} --all"
    update = " --update" if any(link.extra for link in links) else ""
    return f"To send all files of {whose} again: docora-ops resync {which}{update}"


def _which(links: Sequence[DifferingLink]) -> str:
    """Returns the ids of the only link, or of the only app, as arguments of a command, or ''."""
    return links[0].words if len(links) == 1 else only_app({link.app_id for link in links})


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
