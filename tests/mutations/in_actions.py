"""Mutations of the actions: what happens in which order, and what is undone."""

from __future__ import annotations

from tests.mutations.mutation import Mutation, Promise

_BATCH = "docora_ops/actions/bulk/batch.py"
_BULK = "docora_ops/actions/bulk/run.py"
_JOB_IDS = "docora_ops/actions/job_ids.py"
_SINGLE = "docora_ops/actions/link_change.py"
_WRITER = "docora_ops/actions/bulk/execute.py"

MUTATIONS = (
    # One link
    Mutation(
        "push-after-commit",
        Promise.NEVER_LOST,
        _SINGLE,
        (
            (
                "            [answer] = self.queue.push(",
                '            self.database.execute("COMMIT")\n'
                "            [answer] = self.queue.push(",
            ),
        ),
        ("test_a_redis_that_hangs_at_the_push_is_given_up_and_the_link_rolled_back",),
    ),
    Mutation(
        "status-not-looked-at",
        Promise.ONLY_WHAT_QUALIFIES,
        _SINGLE,
        (
            (
                "if self.operation is Operation.RESYNC or link.status == LinkStatus.FAILED:\n"
                "            return",
                "if link:\n            return",
            ),
        ),
        ("test_any_status_but_failed_is_refused_and_the_hint_names_what_helps",),
    ),
    Mutation(
        "reset-though-the-job-runs",
        Promise.RUNNING_IS_LEFT,
        _SINGLE,
        (
            ("                raise Rollback\n", "                pass\n"),
            (
                "            return self._result(link, answer.outcome, cleared)\n",
                "            if answer.outcome:\n"
                "                return self._result(link, answer.outcome, cleared)\n",
            ),
        ),
        ("test_a_retry_leaves_a_running_job_and_its_link_alone",),
    ),
    Mutation(
        "resync-forgets-deliveries-under-a-running-job",
        Promise.RUNNING_IS_LEFT,
        _SINGLE,
        (
            (
                "        with self.database.transaction():\n            link = self._existing(lock",
                "        if self.operation is Operation.RESYNC:\n"
                "            delete_deliveries(self.database, [self.ref])\n"
                "        with self.database.transaction():\n            link = self._existing(lock",
            ),
        ),
        ("test_a_resync_refuses_while_a_job_runs_and_keeps_the_deliveries",),
    ),
    Mutation(
        "lock-held-while-looking-again",
        Promise.DOUBT_IS_WAITED_OUT,
        _SINGLE,
        (
            (
                "                raise Rollback\n",
                "                time.sleep(SECOND_LOOK_DELAY)\n                raise Rollback\n",
            ),
        ),
        ("test_no_lock_is_held_while_a_retry_waits_to_look_again",),
    ),
    Mutation(
        "no-second-look",
        Promise.DOUBT_IS_WAITED_OUT,
        _SINGLE,
        (
            (
                "        second = attempt(first, expired)\n        if isinstance",
                "        second: LinkResult | _Live = first\n        if isinstance",
            ),
        ),
        ("test_a_retry_believes_its_second_look",),
    ),
    Mutation(
        "dry-run-is-real",
        Promise.READING_IS_READING,
        _SINGLE,
        (("self._plan if self.dry_run else self._attempt", "self._attempt"),),
        ("test_a_dry_run_of_one_link_says_what_the_real_one_then_does",),
    ),
    Mutation(
        "unreadable-job-reset",
        Promise.POISON_IS_ALONE,
        _SINGLE,
        (("            _require_readable(answer)\n            if", "            if"),),
        ("test_a_key_that_holds_no_job_is_left_as_it_was",),
    ),
    Mutation(
        "any-job-id-will-do",
        Promise.POISON_IS_ALONE,
        _JOB_IDS,
        (("if not is_valid_job_id(ref.job_id):", "if not ref.job_id:"),),
        ("test_a_link_whose_ids_cannot_form_a_job_id_is_left_as_it_was",),
    ),
    Mutation(
        "job-of-another-link-taken-for-ones-own",
        Promise.NEVER_LOST,
        _JOB_IDS,
        (("if queue.is_made_for(ref.job_id, ref.app_id):", "if ref.job_id:"),),
        ("test_a_link_whose_job_id_a_live_job_of_another_has_is_left_as_it_is",),
    ),
    # Many links
    Mutation(
        "bulk-push-after-commit",
        Promise.NEVER_LOST,
        _WRITER,
        (
            (
                "                for answer in self._push(",
                '                self._database.execute("COMMIT")\n'
                "                for answer in self._push(",
            ),
        ),
        ("test_a_redis_that_refuses_writes_midway_stops_a_bulk_retry",),
    ),
    Mutation(
        "refused-links-stay-reset",
        Promise.RUNNING_IS_LEFT,
        _WRITER,
        (("                    raise Rollback\n", "                    pass\n"),),
        ("test_a_job_that_comes_to_life_after_the_look_undoes_only_its_own_link",),
    ),
    Mutation(
        "bulk-resync-forgets-deliveries-under-a-running-job",
        Promise.RUNNING_IS_LEFT,
        _WRITER,
        (
            (
                "for claim in claimed]\n                    cleared",
                "for claim in found]\n                    cleared",
            ),
        ),
        ("test_a_bulk_resync_lists_a_link_whose_job_runs_and_keeps_its_deliveries",),
    ),
    Mutation(
        "poison-fails-its-batch",
        Promise.POISON_IS_ALONE,
        _WRITER,
        (
            (
                "                for ref in refs:\n                    self._write([ref], batch, "
                "wait=wait)",
                "                for ref in refs:\n                    self._fail_alone(ref, error,"
                " batch)",
            ),
        ),
        ("test_a_row_that_postgres_refuses_to_change_fails_alone",),
    ),
    Mutation(
        "locked-rows-waited-for-one-by-one",
        Promise.NOTHING_HANGS,
        _WRITER,
        (("self._lock_wait_spent |= isinstance(error, LinkLockedError)", ""),),
        ("test_many_locked_rows_cost_one_wait_only",),
    ),
    Mutation(
        "slow-server-taken-for-slow-links",
        Promise.NOTHING_HANGS,
        _WRITER,
        (("_SLOW_LINKS_IN_A_ROW = 2", "_SLOW_LINKS_IN_A_ROW = 1_000"),),
        ("test_links_that_are_all_slow_end_the_run",),
    ),
    Mutation(
        "what-was-queued-anew-counts-as-dead",
        Promise.DOUBT_IS_WAITED_OUT,
        _BATCH,
        (("            and self.seen[ref.id] == fingerprint(answer)\n", ""),),
        ("test_a_bulk_retry_believes_its_second_look",),
    ),
    Mutation(
        "doubtful-left-for-good-in-bulk",
        Promise.NEVER_LOST,
        _BULK,
        (("if not put_off or self._must_stop():", "if put_off or self._must_stop():"),),
        ("test_a_bulk_retry_believes_its_second_look",),
    ),
    Mutation(
        "cancelling-not-heard",
        Promise.PROGRESS_IS_SHARED,
        _BULK,
        (("self.cancelled = self.cancelled or was_cancelled", ""),),
        ("test_an_operation_cancelled_in_redis_stops_before_its_next_batch",),
    ),
    Mutation(
        "done-work-not-counted-when-a-server-is-lost",
        Promise.CODES_HOLD,
        _BULK,
        (("                for batch, _ in in_hand:\n", "                for batch, _ in ():\n"),),
        ("test_links_that_a_bulk_retry_did_one_by_one_are_counted_when_redis_is_lost",),
    ),
    Mutation(
        "dry-bulk-run-is-real",
        Promise.READING_IS_READING,
        _BULK,
        (
            (
                "        self._work([self._planner])\n",
                "        self._work([BatchWriter(self.database.sibling(), self.queue,"
                " self.operation, self.selection.claim)])\n",
            ),
        ),
        ("test_a_dry_run_foretells_the_real_run_and_changes_nothing",),
    ),
    # Links that share their job id
    Mutation(
        "job-taken-by-another-link-after-the-check",
        Promise.NEVER_LOST,
        _WRITER,
        (("if sharing and answer.outcome is Outcome.ALREADY_QUEUED:", "if answer is None:"),),
        ("test_a_job_id_that_the_other_link_takes_during_a_bulk_retry_loses_none",),
    ),
    Mutation(
        "job-taken-by-another-link-after-the-look",
        Promise.NEVER_LOST,
        _SINGLE,
        (
            (
                "            if answer.outcome is Outcome.ALREADY_QUEUED:\n"
                "                self._require_own_job()\n",
                "",
            ),
        ),
        ("test_a_link_whose_job_id_another_takes_after_the_check_is_not_lost",),
    ),
    # Waiting for results
    Mutation(
        "old-failure-taken-for-the-result",
        Promise.CODES_HOLD,
        "docora_ops/actions/waiting/follow.py",
        (
            (
                "if verdict.status != LinkStatus.FAILED or verdict.job_id in over",
                "if verdict.status",
            ),
        ),
        ("test_a_running_job_that_has_not_said_so_yet_is_waited_for",),
    ),
    Mutation(
        "doubtful-job-is-over",
        Promise.CODES_HOLD,
        "docora_ops/actions/waiting/follow.py",
        (("                and not self._is_newly_doubtful(answer)\n", ""),),
        ("test_what_failed_before_is_no_result_while_a_worker_may_have_the_job",),
    ),
    # While a run goes on
    Mutation(
        "no-third-look",
        Promise.DOUBT_IS_WAITED_OUT,
        _SINGLE,
        (("and second.doubtful_since and not first.doubtful_since:", "and second is first:"),),
        ("test_what_is_doubtful_only_at_the_second_look_is_looked_at_a_third_time",),
    ),
    Mutation(
        "second-look-refuses-what-has-moved-on",
        Promise.CODES_HOLD,
        _SINGLE,
        (
            (
                "return self.operation is Operation.RETRY and link.status != LinkStatus.FAILED",
                "return False",
            ),
        ),
        ("test_a_retry_believes_its_second_look",),
    ),
    Mutation(
        "runner-silent-in-a-long-batch",
        Promise.PROGRESS_IS_SHARED,
        _BULK,
        (
            (
                "if time.monotonic() - self._reported_at > HEARTBEAT:",
                "if not handlers:",
            ),
        ),
        ("test_a_runner_makes_itself_heard_while_a_batch_takes_long",),
    ),
    Mutation(
        "stop-told-to-nobody",
        Promise.PROGRESS_IS_SHARED,
        _BULK,
        (("            self.store.cancel(self.operation_id)\n", ""),),
        ("test_a_stop_finishes_what_is_in_hand_and_marks_the_operation_cancelled",),
    ),
    Mutation(
        "lost-run-not-marked",
        Promise.PROGRESS_IS_SHARED,
        _BULK,
        (("        self.cancel()\n        self._end_trail()", "        self._end_trail()"),),
        ("test_a_postgres_that_is_lost_midway_stops_a_bulk_retry_which_says_what_was_done",),
    ),
    Mutation(
        "locked-rows-given-up",
        Promise.CRASH_ONLY,
        _WRITER,
        (("            elif self._lock_wait_spent:\n", "            elif ref:\n"),),
        ("test_a_row_whose_holder_commits_while_the_run_waits_for_it_is_queued",),
    ),
    Mutation(
        "hint-not-quoted-for-a-shell",
        Promise.TEXT_IS_INERT,
        "docora_ops/actions/lookup.py",
        (("(quote(by_folded[name]) for", "(repr(by_folded[name]) for"),),
        ("test_what_a_hint_has_to_paste_runs_nothing_in_a_shell",),
    ),
    Mutation(
        "lost-jobs-waited-for",
        Promise.NOTHING_HANGS,
        "docora_ops/actions/waiting/follow.py",
        (("if has_looked and result.only_lost_left", "if False and result.only_lost_left"),),
        ("test_a_wait_for_nothing_but_lost_jobs_ends_and_names_repair",),
    ),
)
