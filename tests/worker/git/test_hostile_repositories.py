"""What strangers put into their repositories does nothing to us, nor through us to the apps."""

from pathlib import Path

import pytest

from tests.support.delivery_checks import events, link_row
from tests.support.git_over_http import GitSite
from tests.support.snapshots import Snapshots


@pytest.mark.parametrize("path", [".GIT/hooks/x", "../up", "./here", "a/.git/x"])
def test_paths_that_git_itself_would_not_make_are_not_sent(
    snapshots: Snapshots, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    link, upstream = snapshots.add_link({"ok": "1"})

    def make(what: str, text: str) -> str:
        hashing = ("hash-object", "-w", "-t", what, "--literally", "--stdin")
        command = ("mktree",) if what == "tree" else hashing
        return upstream.git_of_bytes(*command, stdin=text.encode()).decode().strip()

    blob = make("blob", "evil")
    first, *rest = reversed(path.split("/"))
    tree = make("tree", f"100644 blob {blob}\t{first}\n")
    for part in rest[:-1]:
        tree = make("tree", f"040000 tree {tree}\t{part}\n")
    tree = make("tree", f"040000 tree {tree}\t{rest[-1]}\n100644 blob {blob}\tok\n")
    commit = upstream.git("commit-tree", tree, "-m", "crafted").strip()
    upstream.git("update-ref", "refs/heads/main", commit)
    snapshots.run_job(link)
    assert events(snapshots) == [("create", "ok")]
    assert "its path is not safe" in caplog.text
    assert link_row(snapshots, link) == ("synced", 0, None)


@pytest.mark.parametrize("token", [None, "another-token"])
def test_what_the_operator_logs_in_with_is_not_used_for_apps(
    snapshots: Snapshots, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str | None
) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login operator password secret\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    upstream = snapshots.add_upstream()
    upstream.commit({"a": "1"})
    with GitSite(snapshots.folder / "upstream", token="operator").serving() as site:
        repository_id = snapshots.docora.add_repository("octo/api", url=f"{site.url}/octo/api/.git")
        link = snapshots.link(snapshots.add_app(), repository_id)
        snapshots.set_token(link, token)
        with pytest.raises(Exception, match=r"Authentication failed|could not read Username"):
            snapshots.run_job(link)
        assert not any("b3BlcmF0b3I6c2VjcmV0" in login for login in site.logins)
