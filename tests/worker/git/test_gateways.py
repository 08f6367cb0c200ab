"""Answers that are not git's: of a gateway, a proxy or a login page, with status 200."""

import subprocess
from collections.abc import Iterator

import pytest

from tests.support.delivery_checks import assert_in_sync, failure, git_failures, link_row
from tests.support.git_over_http import GitHandler, GitSite, rename_with_redirect
from tests.support.rows import TestLink
from tests.support.snapshots import TOKEN, Snapshots, Upstream

PAGE = b"<!DOCTYPE html><html><body>Please log in</body></html>"
HTML = {"Content-Type": "text/html; charset=utf-8"}
NOT_GIT = "not with git's list of branches: is a gateway or a login page in between?"


@pytest.fixture
def site(snapshots: Snapshots) -> Iterator[GitSite]:
    with GitSite(snapshots.folder / "upstream").serving() as site:
        yield site


@pytest.fixture
def upstream(snapshots: Snapshots) -> Upstream:
    return snapshots.add_upstream()


@pytest.fixture
def link(snapshots: Snapshots, site: GitSite, upstream: Upstream) -> TestLink:
    """Links an app to the upstream on that site, which has no commit yet."""
    assert upstream.path.exists()
    repository = snapshots.docora.add_repository("octo/api", url=f"{site.url}/octo/api")
    return snapshots.link(snapshots.add_app(), repository)


@pytest.mark.parametrize(
    ("status", "headers", "content", "error"),
    [
        pytest.param(200, HTML, PAGE, f"answers with text/html, {NOT_GIT}", id="a line of HTML"),
        pytest.param(200, HTML, b"", f"answers with text/html, {NOT_GIT}", id="no HTML"),
        pytest.param(200, {}, b"", f"answers with no content type, {NOT_GIT}", id="nothing"),
        pytest.param(204, {}, b"", f"answers with no content type, {NOT_GIT}", id="status 204"),
        pytest.param(200, HTML, PAGE + b"\n", "info/refs not valid", id="lines of HTML"),
    ],
)
@pytest.mark.parametrize("is_delivered", [False, True])
def test_an_answer_that_is_not_gits_is_a_git_failure_and_nothing_is_deleted(
    snapshots: Snapshots,
    site: GitSite,
    link: TestLink,
    upstream: Upstream,
    status: int,
    headers: dict[str, str],
    content: bytes,
    error: str,
    is_delivered: bool,
) -> None:
    def answer(handler: GitHandler) -> bool:
        handler.reply(status, headers, content)
        return False

    if is_delivered:
        upstream.commit({"a": "1\n"})
        snapshots.run_job(link)
    before = snapshots.docora.dump()[0]
    site.intercept = answer
    assert error in failure(snapshots, link)
    assert git_failures(snapshots, link) == 1
    assert snapshots.received().files == ({"a": b"1\n"} if is_delivered else {})
    after = snapshots.docora.dump()[0]
    for table in ("app_delivered_files", "repository_snapshots", "snapshot_files"):
        assert after[table] == before[table]
    site.intercept = lambda _handler: True
    upstream.commit({"a": "2\n"})
    snapshots.run_job(link)
    assert_in_sync(snapshots, link, upstream)


@pytest.mark.parametrize("token", [None, TOKEN])
def test_an_empty_repository_over_http_is_in_sync(
    snapshots: Snapshots, site: GitSite, link: TestLink, token: str | None
) -> None:
    """With a token the server answers with a page first, and then as git."""
    site.token = token
    snapshots.set_token(link, token)
    snapshots.run_job(link)
    assert link_row(snapshots, link) == ("synced", 0, None)
    assert git_failures(snapshots, link) == 0


def test_an_empty_repository_behind_a_redirect_is_in_sync(
    snapshots: Snapshots, site: GitSite, link: TestLink, upstream: Upstream
) -> None:
    rename_with_redirect(site, upstream)
    snapshots.run_job(link)
    assert link_row(snapshots, link) == ("synced", 0, None)


def test_files_on_a_plain_web_server_are_refused_by_git_itself(
    snapshots: Snapshots, site: GitSite, link: TestLink, upstream: Upstream
) -> None:
    upstream.commit({"a": "1\n"})
    subprocess.run(["git", "update-server-info"], cwd=upstream.path, check=True)

    def serve_files(handler: GitHandler) -> bool:
        path = upstream.path / ".git" / handler.path.partition("?")[0].removeprefix("/octo/api/")
        handler.reply(200, {"Content-Type": "text/plain"}, path.read_bytes())
        return False

    site.intercept = serve_files
    assert "dumb http transport does not support shallow" in failure(snapshots, link)


def test_a_page_instead_of_a_list_of_branches_is_a_git_failure(
    snapshots: Snapshots, site: GitSite, link: TestLink
) -> None:
    """The first request is answered by git."""

    def answer(handler: GitHandler) -> bool:
        if handler.command == "POST":
            handler.reply(200, HTML, PAGE)
        return handler.command == "GET"

    site.intercept = answer
    assert failure(snapshots, link).startswith("fatal: ")
    assert git_failures(snapshots, link) == 1
