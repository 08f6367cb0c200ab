"""The table of keys and commands in the topic says what the lines that create the users permit."""

import re
from fnmatch import fnmatchcase

import pytest
import redis

from tests.help.documents import topic
from tests.support.docora import Docora
from tests.support.privileges import USERS, block, rules

NO = "\N{EN DASH}"


def table() -> dict[str, dict[str, str]]:
    """Returns the cell of each user by key, channel, command or class of commands."""
    section = topic("privileges").partition("## Keys and commands by user\n")[2]
    heads, _, *rows = (
        [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in section.partition("\n## ")[0].splitlines()
        if line.startswith("|")
    )
    users = [user for head in heads[2:] for user in USERS if user.startswith(f"docora-{head}")]
    return {
        name: dict(zip(users, cells, strict=True))
        for names, _, *cells in rows
        for name in re.findall(r"`([^`]+)`", names)
    }


def permitted_commands(user: str, client: redis.Redis) -> set[str]:
    """Returns the commands that the line of the topic permits this user, and their classes."""
    found: set[str] = set()
    for rule in block(f"ACL SETUSER {user} on").split():
        names = {rule[1:]}
        if rule[1:2] == "@" and rule != "-@all":
            names.update(map(str, client.acl_cat(rule[2:])))
        if rule[0] == "+":
            found |= names
        elif rule[0] == "-":
            found -= names
    return found


def access(user: str, key: str) -> str:
    """Returns what the line of the topic permits this user for the keys of a pattern."""
    words = {"~": "rw", "%": "r", "&": "yes"}
    for rule in rules(user):
        if rule[0] in words and fnmatchcase(key, rule.rpartition("~")[2]):
            return words[rule[0]]
    return NO


def test_the_table_has_each_key_and_command_of_each_user_and_no_other(docora: Docora) -> None:
    if str(docora.redis.info("server")["redis_version"]).startswith("6."):
        pytest.skip("its classes have no subcommands, and no pattern is read-only")
    names = {re.sub(r"^(\+|(%R)?~)", "", rule) for user in USERS for rule in rules(user)}
    found = table()
    assert found.keys() == names
    for user in USERS:
        permitted = permitted_commands(user, docora.redis)
        expected = {
            name: access(user, name) if ":" in name else "yes" if name in permitted else NO
            for name in names
        }
        assert {name: cells[user] for name, cells in found.items()} == expected, user
