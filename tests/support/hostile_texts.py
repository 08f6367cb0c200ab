"""What strangers may have put where Docora keeps texts, and how a person has to see it."""

TRICKS = {
    # escape sequences, in seven bits and in eight
    "\x1b[5;35mX\x1b[2J": r"\x1b[5;35mX\x1b[2J",
    "\x1b]0;PWNED\x07": r"\x1b]0;PWNED\x07",
    "\x1b]52;c;cm0gLXJm\x07": r"\x1b]52;c;cm0gLXJm\x07",
    "\x1b]8;;https://evil.example\x1b\\go\x1b]8;;\x1b\\": (
        r"\x1b]8;;https://evil.example\x1b\go\x1b]8;;\x1b" + "\\"
    ),
    "\x1bP+q544e\x1b\\\x1b^pm\x1b\\\x1bc": r"\x1bP+q544e\x1b\\x1b^pm\x1b\\x1bc",
    "\x9b5;35mY\x9d0;t\x9c\x90q": r"\x9b5;35mY\x9d0;t\x9c\x90q",
    "\u00c2\u009b5mZ": "\u00c2\\x9b5mZ",  # as Latin-1 the bytes of a C1 control in UTF-8
    # markup, and the placeholders of whatever formats a text
    "[red]x[/] [/] [link=https://evil.example]y[/link]": (
        "[red]x[/] [/] [link=https://evil.example]y[/link]"
    ),
    ":boom: {0} {where} %s %(x)s ${HOME} $(id) `id` \\n \\x1b[1m": (
        ":boom: {0} {where} %s %(x)s ${HOME} $(id) `id` \\n \\x1b[1m"
    ),
    # ends of lines
    "a\nb\r\nc\rd\te\vf\fg\x1ch\x1di\x1ej": r"a\nb\r\nc\rd\te\x0bf\x0cg\x1ch\x1di\x1ej",
    "n\x85o\u2028p\u2029q": r"n\x85o\u2028p\u2029q",
    "b\b\b\x7f\x01\x1f": r"b\x08\x08\x7f\x01\x1f",
    # what is not seen, and what turns the order of letters
    "\u202egnp\u202c\u2066i\u2069\u200e\u061c": r"\u202egnp\u202c\u2066i\u2069\u200e\u061c",
    "z\u200bw\u200cj\u200d\u2060\ufeff\u00ad": r"z\u200bw\u200cj\u200d\u2060\ufeff\xad",
    "t\u180e\U000e0041\U000e007f": r"t\u180e\U000e0041\U000e007f",
    "p\ue000\U0010fffd\ufffe\u0378": r"p\ue000\U0010fffd\ufffe\u0378",
    # what has a width of its own
    "⚠\ufe0f i\u034fv\u3164\U000e0100": "⚠\ufe0f i\u034fv\u3164\U000e0100",
    "😀 👨\u200d👩\u200d👧 🇩🇪 👍🏽": r"😀 👨\u200d👩\u200d👧 🇩🇪 👍🏽",
    "漢字 ﾊﾝｶｸ 한국어\u3000x": "漢字 ﾊﾝｶｸ 한국어\u3000x",
    "Café Cafe\u0301 Å A\u030a": "Café Cafe\u0301 Å A\u030a",
    "Z\u0335\u0321\u0322a\u0327\u0328": "Z\u0335\u0321\u0322a\u0327\u0328",
    "עברית العربية ไทย": "עברית العربية ไทย",
    # what means something to a table, a shell or a parser
    "a,b;\"c\"|'d'\\,=1+1,@SUM(A1),-1": "a,b;\"c\"|'d'\\,=1+1,@SUM(A1),-1",
    '{"data": null, "error": "x"}, []': '{"data": null, "error": "x"}, []',
    "  at both ends  ": "  at both ends  ",
    "--yes": "--yes",
    "'; DROP TABLE apps; --": "'; DROP TABLE apps; --",
    "../../etc/passwd": "../../etc/passwd",
    "n" * 90: "n" * 90,
}
"""Each fits into every column of Docora's, and no two of them are the same app's name."""

EVIL = " ".join(TRICKS)
