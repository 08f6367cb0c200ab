from docora_ops.cli.exit_codes import ExitCode, gravest


def test_the_codes_are_those_of_the_design_and_an_interrupt_comes_first() -> None:
    """That of each error: tests/help/test_topics.py."""
    assert [int(code) for code in ExitCode] == [*range(9), 129, 130]
    codes = {ExitCode(code) for code in (0, 6, 7, 8, 129, 130)}
    ordered = []
    while codes:
        ordered.append(int(gravest(codes)))
        codes.remove(gravest(codes))
    assert ordered == [129, 130, 7, 6, 8, 0]
