"""Mutations of what sees drift and mends it."""

from __future__ import annotations

from tests.mutations.mutation import Mutation, Promise

_ABANDONED = "docora_ops/actions/repair/abandoned.py"
_DRIFT = "docora_ops/actions/repair/find.py"
_REPAIR = "docora_ops/actions/repair/fix.py"
_WRITER = "docora_ops/actions/bulk/execute.py"

MUTATIONS = (
    Mutation(
        "first-look-believed",
        Promise.DOUBT_IS_WAITED_OUT,
        _DRIFT,
        (("            if first.confirms(suspect):\n", "            if first:\n"),),
        ("test_what_changes_between_the_looks_is_not_counted",),
    ),
    Mutation(
        "no-grace-between-the-looks",
        Promise.DOUBT_IS_WAITED_OUT,
        _DRIFT,
        (
            (
                "time.sleep(min(grace_seconds, SECOND_LOOK_DELAY) if ref else grace_seconds)",
                "time.sleep(0)",
            ),
        ),
        ("test_the_second_look_for_drift_comes_after_the_grace_and_nothing_is_held_meanwhile",),
    ),
    Mutation(
        "held-link-is-lost",
        Promise.RUNNING_IS_LEFT,
        _DRIFT,
        (("            if job_id in held:\n                continue\n", ""),),
        ("test_nothing_is_wrong_with_a_busy_queue_and_jobs_of_others",),
    ),
    Mutation(
        "job-of-a-new-link-removed",
        Promise.NEVER_LOST,
        _REPAIR,
        (("finding.kind is DriftKind.ORPHAN and finding.job_id in linked", "finding is None"),),
        ("test_what_changes_before_it_is_mended_is_left_alone",),
    ),
    Mutation(
        "entries-of-a-held-link-removed",
        Promise.RUNNING_IS_LEFT,
        _REPAIR,
        (("alive = finding.job_id in in_hand or (", "alive = ("),),
        ("test_what_changes_before_it_is_mended_is_left_alone",),
    ),
    Mutation(
        "repair-takes-a-live-job-for-its-own",
        Promise.CODES_HOLD,
        _WRITER,
        (
            (
                "if answer.state is JobState.WAITING and self._operation is Operation.REPAIR:",
                "if answer.state is JobState.WAITING and self._operation is None:",
            ),
        ),
        ("test_what_changes_before_it_is_mended_is_left_alone",),
    ),
    Mutation(
        "jobs-of-another-docora-removed",
        Promise.ONLY_WHAT_QUALIFIES,
        _REPAIR,
        (("if self._found and not self.remove_unknown_jobs:", "if False:"),),
        ("test_the_jobs_of_another_docora_are_neither_removed_nor_joined",),
    ),
    # Links that a killed worker has left
    Mutation(
        "abandoned-link-taken-from-a-worker",
        Promise.RUNNING_IS_LEFT,
        _ABANDONED,
        (
            ("if ref.job_id not in held and answer.state in", "if answer.state in"),
            ("        if held_job_ids(database, [ref.job_id]):\n            return None\n", ""),
        ),
        ("test_a_link_that_is_being_scanned_is_left_alone_even_without_a_trace_in_redis",),
    ),
    Mutation(
        "abandoned-link-reset-without-its-job",
        Promise.NEVER_LOST,
        _ABANDONED,
        (("            [answer] = queue.push([request], expired=expired)\n", ""),),
        ("test_a_link_whose_job_was_lost_is_queued_again",),
    ),
    Mutation(
        "abandoned-link-taken-though-its-job-is-new",
        Promise.DOUBT_IS_WAITED_OUT,
        _ABANDONED,
        (
            (
                "answer.state is JobState.DOUBTFUL and answer.detail == doubtful_since",
                "answer.state is JobState.DOUBTFUL",
            ),
        ),
        ("test_what_happens_between_the_looks_saves_the_link_from_a_verdict",),
    ),
    Mutation(
        "repair-forgets-retries",
        Promise.ONLY_WHAT_QUALIFIES,
        "docora_ops/database/link_rows.py",
        (
            (
                "SET status = 'pending_snapshot' WHERE id",
                "SET status = 'pending_snapshot', retry_count = 0 WHERE id",
            ),
        ),
        ("test_drift_of_every_kind_is_seen_and_mended_and_gone",),
    ),
)
