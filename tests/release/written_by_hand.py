"""What a release needs that nobody can build: addresses, authors, the section of the changelog."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

ADDRESSES = ("Source", "Changelog", "Issues", "Documentation")


def lacking(metadata: Mapping[str, Any], changelog: str) -> Iterator[str]:
    """Yields what is missing for a release, one sentence each.

    metadata: as `hatchling metadata` prints it. changelog: the text of the topic.
    """
    version, urls = metadata["version"], metadata["urls"]
    for name in ADDRESSES:
        if not urls.get(name):
            yield f"pyproject.toml has no {name} under project.urls"
    if not metadata.get("authors"):
        yield "pyproject.toml names no authors"
    within = f"{urls['Source']}/" if urls.get("Source") else "https://"
    for target in targets(metadata["readme"]["text"]):
        if not target.startswith("https://"):
            yield f"README on PyPI has a relative link: {target}"
        elif f"/v{version}/" in target and not target.startswith(within):
            yield f"README on PyPI has a link that does not begin with Source: {target}"
    if not notes(changelog, version):
        yield f"the changelog does not begin with [{version}], its date, and its changes"


def targets(text: str) -> list[str]:
    """Returns where the links and pictures of a Markdown text lead."""
    return re.findall(r"\]\(([^)\s]+)\)", text)


def notes(changelog: str, version: str) -> str:
    """Returns what the changelog says of this version, or "" if it is not the first section."""
    section = re.search(r"^## ([^\n]*)\n(.*?)(?=^## |\Z)", changelog, re.MULTILINE | re.DOTALL)
    if section and re.fullmatch(rf"\[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d", section[1]):
        return section[2].strip()
    return ""
