"""Mutations of the worker: verdicts, tries, deliveries, the token."""

from __future__ import annotations

from tests.mutations.mutation import Mutation, Promise

_DELIVERIES = "docora_ops/worker/deliveries.py"
_JOB = "docora_ops/worker/snapshot_job.py"
_PROCESS = "docora_ops/worker/process.py"
_QUEUE_WORKER = "docora_ops/worker/rq_worker.py"
_WEBHOOK = "docora_ops/worker/webhook.py"

MUTATIONS = (
    Mutation(
        "delivery-recorded-before-the-answer",
        Promise.DELIVERED_IS_RECORDED,
        _DELIVERIES,
        (
            (
                "            try:\n                for body in change.bodies:",
                "            acknowledged(change.event, change.path, change.sha)\n"
                "            try:\n                for body in change.bodies:",
            ),
            (
                "            acknowledged(change.event, change.path, change.sha)\n"
                "            if broken",
                "            if broken",
            ),
        ),
        ("test_a_failed_change_leaves_what_was_recorded_before",),
    ),
    Mutation(
        "redirect-taken-for-a-yes",
        Promise.DELIVERED_IS_RECORDED,
        _WEBHOOK,
        (("if not 200 <= answer.status < 300:", "if not 200 <= answer.status < 400:"),),
        ("test_any_answer_but_2xx_ends_the_job_at_once",),
    ),
    Mutation(
        "half-an-answer-taken-for-a-yes",
        Promise.DELIVERED_IS_RECORDED,
        _WEBHOOK,
        (("                    raise self._hung_up\n", "                    pass\n"),),
        ("test_an_app_that_says_yes_before_it_has_read_the_body_is_not_believed",),
    ),
    Mutation(
        "login-goes-to-another-host",
        Promise.SECRETS_STAY,
        "docora_ops/worker/endpoint.py",
        (
            (
                "authorization=self.authorization if is_same else None",
                "authorization=self.authorization",
            ),
        ),
        ("test_the_same_signed_request_goes_where_307_and_308_lead",),
    ),
    Mutation(
        "login-of-an-app-not-cut-out",
        Promise.SECRETS_STAY,
        _JOB,
        (("        self.cleaner.learn(secrets_of(payload.base_url))\n", ""),),
        ("test_what_an_app_repeats_of_its_login_is_not_shown",),
    ),
    Mutation(
        "each-redirect-has-its-own-time",
        Promise.NOTHING_HANGS,
        _WEBHOOK,
        (
            (
                "        self._hung_up = None\n        self._watch.guard",
                "        self._hung_up = None\n"
                "        self._deadline = time.monotonic() + self._timeout\n"
                "        self._watch.begin(self._deadline)\n"
                "        self._watch.guard",
            ),
        ),
        ("test_all_redirects_of_a_post_share_its_time",),
    ),
    Mutation(
        "rest-of-a-body-left-in-git",
        Promise.DELIVERED_IS_RECORDED,
        _WEBHOOK,
        (
            (
                "                for _ in self._unsent:\n                    pass\n",
                "",
            ),
        ),
        ("test_a_redirect_before_the_whole_body_was_read_is_followed",),
    ),
    Mutation(
        "tried-again-after-the-last-verdict",
        Promise.NEVER_TWICE,
        _JOB,
        (
            (
                "            if ending.is_final:\n                self.tries.end()\n",
                "",
            ),
        ),
        ("test_a_link_that_has_failed_too_often_ends_its_job_though_it_has_tries_left",),
    ),
    Mutation(
        "no-try-kept-without-a-verdict",
        Promise.NEVER_LOST,
        _JOB,
        (("            self.tries.keep()\n            counted", "            counted"),),
        ("test_a_job_that_loses_postgres_keeps_a_try_until_it_is_back",),
    ),
    Mutation(
        "no-try-kept-without-settings",
        Promise.NEVER_LOST,
        _JOB,
        (("        tries.keep()\n        raise", "        raise"),),
        ("test_a_job_without_settings_is_kept",),
    ),
    Mutation(
        "job-gives-up-while-another-ends",
        Promise.NEVER_LOST,
        _JOB,
        (("if begun is not Refusal.HELD or time.monotonic() > end:", "if begun:"),),
        ("test_a_job_waits_until_the_one_before_has_let_go_of_the_link",),
    ),
    Mutation(
        "killed-process-not-cared-for",
        Promise.NEVER_LOST,
        _QUEUE_WORKER,
        (
            (
                '        self._take_care(job, f"its process was killed (wait status {status})")\n',
                "        del job, status\n",
            ),
        ),
        ("test_every_order_of_failures_and_kills_ends_well",),
    ),
    Mutation(
        "abandoned-job-not-cared-for",
        Promise.NEVER_LOST,
        _QUEUE_WORKER,
        (("        if kind is AbandonedJobError:\n", "        if kind is None:\n"),),
        ("test_the_last_try_of_a_killed_worker_makes_the_link_failed",),
    ),
    Mutation(
        "stopped-job-not-cared-for",
        Promise.NEVER_LOST,
        _QUEUE_WORKER,
        (('        self._take_care(job, "it was stopped by an operator", stopped=True)\n', ""),),
        ("test_a_job_that_an_operator_stops_fails_for_good",),
    ),
    Mutation(
        "unbegun-job-not-cared-for",
        Promise.NEVER_LOST,
        _QUEUE_WORKER,
        (("        if execution is None:\n", "        if execution is job:\n"),),
        ("test_a_job_whose_worker_was_killed_before_it_began_is_not_lost",),
    ),
    Mutation(
        "no-tidying-while-busy",
        Promise.NEVER_LOST,
        _QUEUE_WORKER,
        (("            if self.should_run_maintenance_tasks:\n", "            if False:\n"),),
        ("test_a_busy_worker_looks_after_links_of_killed_ones",),
    ),
    Mutation(
        "lock-of-another-released",
        Promise.NEVER_TWICE,
        "docora_ops/worker/repository_lock.py",
        (
            (
                "if redis.call('GET', KEYS[1]) == ARGV[1] then\n  return redis.call('DEL'",
                "if true then\n  return redis.call('DEL'",
            ),
        ),
        ("test_only_its_owner_releases_and_renews_the_lock",),
    ),
    Mutation(
        "repository-not-locked",
        Promise.NEVER_TWICE,
        "docora_ops/worker/repository_lock.py",
        (("nx=True, px=LIFE", "px=LIFE"),),
        ("test_one_process_at_a_time_has_the_lock",),
    ),
    Mutation(
        "error-stored-with-its-secrets",
        Promise.SECRETS_STAY,
        "docora_ops/worker/secrets.py",
        (("        text = mask(text, self._secrets)\n", ""),),
        ("test_a_token_in_what_the_server_says_is_cut_out",),
    ),
    Mutation(
        "log-is-not-inert",
        Promise.TEXT_IS_INERT,
        _JOB,
        (
            (
                "self.name = inert(begun.payload.description)",
                "self.name = begun.payload.description",
            ),
        ),
        ("test_each_line_that_a_job_logs_is_inert",),
    ),
    Mutation(
        "killed-job-keeps-no-try",
        Promise.NEVER_LOST,
        "docora_ops/worker/caretaker.py",
        (("            tries.keep()\n", ""),),
        ("test_a_killed_job_whose_link_another_has_is_tried_again",),
    ),
    Mutation(
        "files-for-an-app-that-is-gone",
        Promise.ONLY_WHAT_QUALIFIES,
        _JOB,
        (
            (
                "            if not app_exists(self.session, self.app_id):\n",
                "            if not plan:\n",
            ),
        ),
        ("test_an_app_that_is_deleted_while_its_files_are_hashed_gets_nothing",),
    ),
    Mutation(
        "scheduler-outlives-its-worker",
        Promise.NEVER_LOST,
        "docora_ops/worker/scheduler.py",
        (("if os.getppid() != self._worker_pid:", "if self._worker_pid is None:"),),
        ("test_a_worker_that_is_killed_while_idle_takes_no_job_with_it",),
    ),
    Mutation(
        "killed-job-left-in-the-intermediate-list",
        Promise.DEAD_IS_CLEARED,
        _QUEUE_WORKER,
        (("        pipeline.lrem(self.queues[0].intermediate_queue_key, 1, job.id)\n", ""),),
        ("test_a_job_whose_process_was_killed_before_it_began_stands_somewhere_at_any_time",),
    ),
    Mutation(
        "token-in-the-url",
        Promise.SECRETS_STAY,
        "docora_ops/worker/clone.py",
        (
            (
                "        self._url = url\n",
                '        self._url = url.replace("://", f"://{token}@") if token else url\n',
            ),
        ),
        ("test_the_token_is_the_user_name_and_reaches_nothing_but_the_server",),
    ),
    Mutation(
        "empty-answer-taken-for-an-empty-repository",
        Promise.ABSENCE_DELETES_NOTHING,
        _JOB,
        (
            (
                "        if commit is None and had_commit(self.session, self.repository_id):\n",
                "        if commit is None and not self.repository_id:\n",
            ),
        ),
        (
            "test_an_empty_answer_of_a_gateway_is_a_git_failure_and_nothing_is_deleted",
            "test_a_repository_that_shows_no_branch_any_more_is_a_git_failure_and_nothing_is_deleted",
        ),
    ),
    Mutation(
        "redirects-followed-to-any-host",
        Promise.SECRETS_STAY,
        "docora_ops/worker/git.py",
        (('("http.followRedirects", "false")', '("http.followRedirects", "initial")'),),
        ("test_another_server_is_not_asked_where_a_redirect_leads_to_it",),
    ),
    Mutation(
        "clones-open-to-everybody",
        Promise.SECRETS_STAY,
        "docora_ops/worker/clone.py",
        (("_OWNER_ONLY = 0o700\n", "_OWNER_ONLY = 0o755\n"),),
        ("test_clones_and_scans_are_for_their_owner_alone_whatever_the_umask",),
    ),
    Mutation(
        "job-minds-the-status",
        Promise.NEVER_LOST,
        "docora_ops/database/snapshots.py",
        (
            (
                "            return Refusal.GONE\n        if session",
                "            return Refusal.GONE\n"
                '        if link.status == "failed":\n'
                "            return Refusal.GONE\n        if session",
            ),
        ),
        ("test_a_job_begins_whatever_the_status_of_its_link",),
    ),
    Mutation(
        "job-that-never-began-not-shown-while-given-up",
        Promise.NEVER_LOST,
        _QUEUE_WORKER,
        (("            execution = self._take_up(job)\n", ""),),
        ("test_who_retries_a_link_just_when_its_job_that_never_began_is_given_up_keeps_off",),
    ),
    Mutation(
        "held-link-taken-for-busy",
        Promise.NEVER_LOST,
        "docora_ops/database/snapshots.py",
        (
            (
                "return Refusal.BUSY if link.status == LinkStatus.SCANNING else Refusal.HELD",
                "return Refusal.BUSY",
            ),
        ),
        ("test_a_job_whose_link_is_held_by_a_session_that_outlives_its_own_job_is_tried_again",),
    ),
    Mutation(
        "own-session-not-known",
        Promise.NEVER_LOST,
        _JOB,
        (("            self.session_id = session_id(self.session)\n", ""),),
        ("test_a_job_that_has_the_lock_and_can_not_mark_its_link_writes_its_verdict",),
    ),
    Mutation(
        "idle-sessions-ended",
        Promise.NEVER_LOST,
        "docora_ops/database/session.py",
        (("       set_config('idle_session_timeout', '0', false),\n", ""),),
        ("test_a_database_that_ends_idle_sessions_leaves_a_slow_job_its_link",),
    ),
    Mutation(
        "verdict-written-while-the-error-is-handled",
        Promise.SECRETS_STAY,
        _JOB,
        (("            return error\n", "            self._fail(error)\n"),),
        ("test_a_job_whose_time_is_up_while_it_writes_its_verdict_shows_no_secret",),
    ),
    Mutation(
        "answer-not-awaited-where-the-next-file-is-broken",
        Promise.DELIVERED_IS_RECORDED,
        _DELIVERIES,
        (("                            broken = error\n", "                            raise\n"),),
        ("test_what_was_taken_is_recorded_though_the_next_file_can_not_be_read",),
    ),
    Mutation(
        "apps-told-only-with-a-verdict",
        Promise.CRASH_ONLY,
        _JOB,
        (
            (
                "        if circuit is not None and circuit.opened:\n",
                "        if circuit is not None and circuit.opened and ending is not None:\n",
            ),
        ),
        ("test_apps_are_told_though_the_verdict_can_not_be_written_at_once",),
    ),
    Mutation(
        "no-sign-of-life-while-cleaning",
        Promise.NEVER_TWICE,
        _QUEUE_WORKER,
        (("                self._show_life = beat\n", ""),),
        ("test_a_busy_worker_shows_life_before_each_link_that_it_sees_to",),
    ),
    Mutation(
        "orphans-taken-for-workers",
        Promise.POISON_IS_ALONE,
        _PROCESS,
        (("            if pid not in children:\n                continue\n", ""),),
        ("test_a_worker_that_is_pid_1_outlives_the_process_of_a_job_and_its_orphans",),
    ),
    Mutation(
        "workers-outlive-their-parent",
        Promise.NOTHING_HANGS,
        _PROCESS,
        (("                os.close(held_by_parent)\n", ""),),
        ("test_children_finish_their_job_and_end_when_their_parent_is_killed",),
    ),
    Mutation(
        "ending-workers-told-twice",
        Promise.RUNNING_IS_LEFT,
        _PROCESS,
        (("_worker is None or not _worker.stop_was_requested", "True"),),
        ("test_children_that_are_ending_finish_their_job_when_their_parent_is_killed",),
    ),
    Mutation(
        "nohup-overruled",
        Promise.CODES_HOLD,
        _PROCESS,
        (("signal.getsignal(number) is not signal.SIG_IGN", "True"),),
        ("test_under_nohup_workers_go_on_after_a_hang_up",),
    ),
    Mutation(
        "another-workers-name-deregistered",
        Promise.LIVE_IS_KEPT,
        _QUEUE_WORKER,
        (
            (
                '        self._is_registered = False\n        "',
                '        self._is_registered = True\n        "',
            ),
        ),
        ("test_a_worker_that_is_told_to_end_leaves_a_name_that_is_not_its_own",),
    ),
    Mutation(
        "interrupt-lost-in-a-destructor",
        Promise.NOTHING_HANGS,
        "docora_ops/interrupts.py",
        (("        signal.setitimer(signal.ITIMER_REAL, _SOON)\n", ""),),
        (
            "test_a_signal_that_comes_in_a_destructor_ends_an_idle_worker",
            "test_a_signal_that_comes_in_a_destructor_ends_a_command_all_the_same",
        ),
    ),
    Mutation(
        "wrong-clock-cleans-up",
        Promise.RUNNING_IS_LEFT,
        "docora_ops/worker/rq_worker.py",
        (("abs(ahead) > _WORST_CLOCK", "False"),),
        ("test_a_worker_whose_clock_is_ahead_takes_no_running_job_for_abandoned",),
    ),
)
