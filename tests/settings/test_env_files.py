"""Env files are read as Docora's dotenv reads them."""

from pathlib import Path

import pytest

from docora_ops.settings import load_settings

NAME = "NODE_EXTRA_CA_CERTS"
READ_BY_DOTENV: dict[str, str | None] = {
    "N=a": "a",
    "N = a b ": "a b",
    "export N=a": "a",
    "export N": None,
    "N=a\nN=": "",
    "N=a\nn=b": "a",
    "n=a": None,
    "\ufeffN=a": "a",
    "N=a#b": "a",
    'N="a#b" # c': "a#b",
    "#N=a": None,
    "N=`a`": "a",
    'N=" a "': " a ",
    'N="a" b': '"a" b',
    'N="a" "b"': 'a" "b',
    r'N="a\nb"': "a\nb",
    r'N="a\tb"': r"a\tb",
    r'N="a\"b"': r"a\"b",
    r'N="a\nb': '"a\nb',
    'N="a\nb"': "a\nb",
    'N=\n"a"': "a",
    "M='\nN=a\n'\n": None,
    "N=${HOME}": "${HOME}",
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
