"""Redirects of a git server: which are followed."""

import pytest

from docora_ops.errors import GitError
from docora_ops.worker.redirects import target_on_same_server

URL = "https://github.com/octo/api"
REFS = "/info/refs?service=git-upload-pack"


@pytest.mark.parametrize(
    ("url", "location", "target"),
    [
        (URL, f"https://github.com/octo/new.git{REFS}", "https://github.com/octo/new.git"),
        (
            URL,
            f"https://GitHub.com:443/repositories/1{REFS}",
            "https://GitHub.com:443/repositories/1",
        ),
        (f"{URL}/", f"/octo/new{REFS}", "https://github.com/octo/new"),
        ("http://git.example/a", f"https://git.example/a{REFS}", "https://git.example/a"),
    ],
)
def test_redirects_on_the_same_server_are_followed(url: str, location: str, target: str) -> None:
    assert target_on_same_server(url, location) == target


@pytest.mark.parametrize(
    ("url", "location"),
    [
        (URL, f"https://internal.example/octo/api{REFS}"),
        (URL, f"https://api.github.com/octo/api{REFS}"),
        (URL, f"https://github.com@internal.example/octo/api{REFS}"),
        (URL, f"//internal.example/octo/api{REFS}"),
        (URL, f"https://github.com:8443/octo/api{REFS}"),
        (URL, f"http://github.com/octo/api{REFS}"),
        (URL, f"file:///octo/api{REFS}"),
        (URL, f"https://[internal.example{REFS}"),
        (URL, f"https://github.com:port{REFS}"),
        ("http://git.example:8080/a", f"https://git.example/a{REFS}"),
    ],
)
def test_redirects_to_another_server_are_refused_without_naming_it(url: str, location: str) -> None:
    with pytest.raises(GitError, match="redirects to another server") as caught:
        target_on_same_server(url, location)
    assert "internal" not in caught.value.message


@pytest.mark.parametrize("location", ["/login", f"https://user@github.com/octo/api{REFS}"])
def test_redirects_to_what_is_no_repository_are_refused(location: str) -> None:
    with pytest.raises(GitError, match="redirects to something that is not a repository"):
        target_on_same_server(URL, location)
