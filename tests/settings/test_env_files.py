"""Env files are read as Docora's dotenv reads them, and a warning says who else can read them."""

import os
from pathlib import Path
from shlex import quote

import pytest

from docora_ops.errors import ConfigurationError
from docora_ops.settings import load_settings
from tests.support.docora import Docora

NAME = "NODE_EXTRA_CA_CERTS"
READ_BY_DOTENV: dict[str, str | None] = {
    "N=a": "a",
    "N = a b ": "a b",
    "\tN=a\t": "a",
    "export N=a": "a",
    "export N": None,
    "N=": "",
    "N=a\nN=": "",
    "N=a\nn=b": "a",
    "n=a": None,
    "N=a\r\nM=b": "a",
    "\ufeffN=a": "a",
    "N=a#b": "a",
    'N="a#b" # c': "a#b",
    "#N=a": None,
    'N="a#b': '"a',
    'N="a"': "a",
    "N=`a`": "a",
    'N=" a "': " a ",
    'N="a': '"a',
    'N="a" b': '"a" b',
    'N="a" "b"': 'a" "b',
    "N=`\"a\" 'b'`": "\"a\" 'b'",
    r'N="a\nb"': "a\nb",
    r'N="a\tb"': r"a\tb",
    r'N="a\"b"': r"a\"b",
    r"N='a\'b'": r"a\'b",
    r"N=a\nb": r"a\nb",
    r'N="a\nb': '"a\nb',
    'N="a\nb"': "a\nb",
    'N="a\nM=b"': "a\nM=b",
    'N=\n"a"': "a",
    "M='\nN=a\n'\n": None,
    "N=${HOME}": "${HOME}",
    "N=a\\\nM=b": "a\\",
}
"""Recorded from dotenv 17.2.3, which Docora locks; N and n stand for the name in both cases."""


def text_of(short: str) -> str:
    return short.replace("N", NAME).replace("n=", f"{NAME.lower()}=")


@pytest.mark.parametrize("short", READ_BY_DOTENV)
def test_a_file_means_what_it_means_to_docora(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short: str
) -> None:
    monkeypatch.delenv(NAME, raising=False)
    file = tmp_path / "docora.env"
    file.write_bytes(text_of(short).encode())
    # To Docora, too, an empty value is none.
    assert load_settings(file).node_extra_ca_certs == (READ_BY_DOTENV[short] or None)


@pytest.mark.parametrize(
    "bad", ["REDIS_URL redis://elsewhere", "REDIS_URL:redis://elsewhere", "unset A", "=a", "A B=c"]
)
def test_a_line_that_dotenv_would_pass_over_is_refused(tmp_path: Path, bad: str) -> None:
    """A default in its place could make a command change other servers."""
    file = tmp_path / "docora.env"
    file.write_text(f"# Docora\nA='\n'\n{bad}\nMAX_RETRY_ATTEMPTS=2\n", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="can't be used: line 4 is not NAME=VALUE"):
        load_settings(file)


# Who else can read the file

WARNING = "the mode of the env file lets others read its secrets: chmod o-r "


def test_a_file_with_a_secret_that_others_can_read_is_a_warning(
    docora: Docora, tmp_path: Path
) -> None:
    file = tmp_path / "docora's.env"
    file.write_text("NODE_EXTRA_CA_CERTS=/ca.pem\n")
    file.chmod(0o644)
    assert load_settings(file).warnings == ()
    file.write_text(f"REDIS_URL='{docora.redis_url}'\n")
    result = docora.run("queue", "--env-file", str(file))
    assert (result.code, result.stderr.count(f"Warning: {WARNING}{quote(str(file))}")) == (0, 1)
    file.chmod(0o640)
    assert load_settings(file).warnings == ()


def test_a_pipe_is_nobody_elses(docora: Docora) -> None:
    reader, writer = os.pipe()
    os.fchmod(reader, 0o666)
    os.write(writer, f"REDIS_URL={docora.redis_url}\n".encode())
    os.close(writer)
    result = docora.run("queue", "--env-file", f"/dev/fd/{reader}", pass_fds=[reader])
    os.close(reader)
    assert (result.code, WARNING in result.stderr) == (0, False)
