"""Mutations of what a user meets: texts, codes, signals, documents."""

from __future__ import annotations

from tests.mutations.mutation import Mutation, Promise

_APP = "docora_ops/cli/app.py"
_CONTEXT = "docora_ops/cli/context.py"
_TEXT = "docora_ops/render/cells.py"

MUTATIONS = (
    Mutation(
        "secrets-in-the-jobs-description",
        Promise.SECRETS_STAY,
        "docora_ops/models.py",
        (
            (
                'return f"{self.repository} → {self.app_name}"',
                'return f"{self.repository} → {self.app_name} {self.github_token_encrypted}"',
            ),
        ),
        ("test_the_description_names_repository_and_app_and_nothing_but_data_holds_a_secret",),
    ),
    Mutation(
        "nothing-masked",
        Promise.SECRETS_STAY,
        "docora_ops/masking.py",
        (("return _SECRETS.sub(MASK, text)", "return text"),),
        ("test_secrets_in_a_text",),
    ),
    Mutation(
        "unpickled-what-is-read",
        Promise.READING_IS_READING,
        "docora_ops/queue/job_template.py",
        (
            (
                "    if _text(function) not in call:",
                "    pickle.loads(call)\n    if _text(function) not in call:",
            ),
        ),
        ("test_a_look_for_drift_unpickles_nothing",),
    ),
    Mutation(
        "control-characters-shown",
        Promise.TEXT_IS_INERT,
        _TEXT,
        (("if text.isascii() and text.isprintable():", "if text:"),),
        ("test_in_a_pipe_all_is_inert_whole_and_in_columns",),
    ),
    Mutation(
        "bidi-controls-shown",
        Promise.TEXT_IS_INERT,
        _TEXT,
        (('_UNSAFE = {"Cc", "Cf",', '_UNSAFE = {"Cc",'),),
        ("test_in_a_pipe_all_is_inert_whole_and_in_columns",),
    ),
    Mutation(
        "markup-read",
        Promise.TEXT_IS_INERT,
        _TEXT,
        (
            (
                'return _Cell(inert(value), style=style, overflow="fold")',
                "return Text.from_markup(inert(value), style=style)",
            ),
        ),
        ("test_a_cell_reads_no_markup",),
    ),
    Mutation(
        "cells-cut-off",
        Promise.TEXT_IS_INERT,
        _TEXT,
        (('overflow="fold")', 'overflow="ellipsis", no_wrap=True)'),),
        ("test_at_a_terminal_nothing_acts_overflows_or_is_missing",),
    ),
    Mutation(
        "said-without-being-inert",
        Promise.TEXT_IS_INERT,
        _CONTEXT,
        (("text.format(*map(inert, values))", "text.format(*values)"),),
        ("test_json_is_one_ascii_line_that_gives_back_what_is_stored",),
    ),
    Mutation(
        "conversation-on-stdout",
        Promise.CODES_HOLD,
        _CONTEXT,
        (("self.err.print(text.format(", "self.out.print(text.format("),),
        ("test_usage_errors_are_one_sentence_or_one_document_and_load_no_driver",),
    ),
    Mutation(
        "two-documents",
        Promise.CODES_HOLD,
        _APP,
        (
            (
                "        context.show_document(error_document(error))\n",
                "        context.show_document(error_document(error))\n" * 2,
            ),
        ),
        ("test_usage_errors_are_one_sentence_or_one_document_and_load_no_driver",),
    ),
    Mutation(
        "interruption-after-the-document",
        Promise.CODES_HOLD,
        _CONTEXT,
        (("                Context.document_has_begun = True\n", ""),),
        ("test_a_signal_after_the_document_adds_no_second_one",),
    ),
    Mutation(
        "no-document-for-usage-errors",
        Promise.CODES_HOLD,
        _APP,
        (
            (
                "hint=_usage_hint(message)), as_json=as_json)",
                "hint=_usage_hint(message)), as_json=False)",
            ),
        ),
        ("test_usage_errors_are_one_sentence_or_one_document_and_load_no_driver",),
    ),
    Mutation(
        "bug-shows-its-text",
        Promise.SECRETS_STAY,
        _APP,
        (
            (
                "traceback.format_tb(error.__traceback__)",
                "traceback.format_exception(error)",
            ),
        ),
        ("test_a_bug_is_told_with_its_place_and_without_its_text",),
    ),
    Mutation(
        "lost-server-is-success",
        Promise.CODES_HOLD,
        "docora_ops/cli/exit_codes.py",
        (("(errors.ServerError, ExitCode.SERVER)", "(errors.ServerError, ExitCode.OK)"),),
        ("test_an_error_keeps_its_promise",),
    ),
    Mutation(
        "failed-links-are-success",
        Promise.CODES_HOLD,
        "docora_ops/cli/bulk_command.py",
        (("if result.cancelled or result.failed or missed else", "if result.cancelled else"),),
        ("test_poison_links_cost_only_themselves_and_are_listed_with_reasons",),
    ),
    Mutation(
        "second-signal-not-heard",
        Promise.NOTHING_HANGS,
        "docora_ops/cli/signals.py",
        (("            stop_at_once()\n", "            pass\n"),),
        ("test_a_second_signal_ends_a_bulk_retry_at_once_while_postgres_holds_a_lock",),
    ),
    Mutation(
        "first-signal-at-once",
        Promise.CRASH_ONLY,
        "docora_ops/cli/signals.py",
        (("        if stop.requested:\n            stop_at_once()", "        stop_at_once()"),),
        ("test_one_signal_ends_a_bulk_retry_after_the_batch_in_hand",),
    ),
    Mutation(
        "repair-dry-run-is-real",
        Promise.READING_IS_READING,
        "docora_ops/cli/repair.py",
        (("_finish(context, found.plan(), as_json", "_finish(context, found.run(), as_json"),),
        ("test_what_only_reads_changes_nothing",),
    ),
    Mutation(
        "log-of-the-worker-is-not-inert",
        Promise.TEXT_IS_INERT,
        "docora_ops/cli/worker.py",
        (("{inert(super().format(record))}", "{super().format(record)}"),),
        ("test_a_traceback_is_one_line_of_the_log",),
    ),
    Mutation(
        "asked-where-nobody-is",
        Promise.CODES_HOLD,
        "docora_ops/cli/resync.py",
        (("if not (yes or dry_run or terminal):", "if not (yes or dry_run or all_links):"),),
        ("test_all_without_a_terminal_needs_yes",),
    ),
    Mutation(
        "asked-only-where-stderr-is",
        Promise.CODES_HOLD,
        "docora_ops/cli/terminal.py",
        (("    if skip:", "    if skip or not sys.stderr.isatty():"),),
        ("test_a_terminal_is_asked_whatever_is_redirected",),
    ),
    Mutation(
        "refusal-without-status-and-job",
        Promise.CODES_HOLD,
        "docora_ops/actions/link_change.py",
        (('            details={"status": link.status, "job": job},\n', ""),),
        ("test_any_status_but_failed_is_refused_and_the_hint_names_what_helps",),
    ),
    Mutation(
        "claimed-name-taken-for-true",
        Promise.CODES_HOLD,
        "docora_ops/cli/audit_note.py",
        (("return known if claim in {None, login, user} else", "return claim or"),),
        ("test_a_name_from_the_environment_is_a_claim_beside_the_login",),
    ),
)
