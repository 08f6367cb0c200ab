"""Mutations of the queue's edge: what is live, and the one step that looks and pushes."""

from __future__ import annotations

from tests.mutations.mutation import Mutation, Promise

_JUDGE = "docora_ops/queue/judge.lua"
_LINKS = "docora_ops/queue/links.lua"
_SWEEP = "docora_ops/queue/sweep.lua"
_PROGRESS = "docora_ops/queue/progress.py"

_IN_MAIN_LIST = "local places = places_in_main_list(id, hint, enqueued_at, seen)"

MUTATIONS = (
    # The look and the push are one step
    Mutation(
        "push-without-a-look-at-the-list",
        Promise.NEVER_TWICE,
        _JUDGE,
        ((_IN_MAIN_LIST, _IN_MAIN_LIST.replace("= ", "= pushing and 0 or ")),),
        ("test_links_that_are_all_queued_by_somebody_else_meanwhile_are_not_doubled",),
    ),
    Mutation(
        "hint-believed-without-a-look",
        Promise.NEVER_TWICE,
        _JUDGE,
        (("if index >= 0 and redis.call('LINDEX', main_list, index) == id then", "if true then"),),
        ("test_a_waiting_job_that_a_worker_takes_after_the_look_is_not_doubled",),
    ),
    Mutation(
        "absence-believed-though-enqueued-since",
        Promise.NEVER_TWICE,
        _JUDGE,
        (
            (
                "(not pushing or not enqueued_at or enqueued_at < config.cutoff"
                " or enqueued_at == seen)",
                "true",
            ),
        ),
        ("test_an_id_that_was_enqueued_after_the_list_was_read_is_found_by_a_push",),
    ),
    Mutation(
        "doubled-place-kept",
        Promise.NEVER_TWICE,
        _LINKS,
        (("redis.call('LREM', main_list, 1 - count, id)", ""),),
        ("test_a_hash_that_is_gone_is_not_revived_in_two_places",),
    ),
    Mutation(
        "front-leaves-the-old-place",
        Promise.NEVER_TWICE,
        _LINKS,
        (
            (
                "  redis.call('LREM', main_list, 0, id)\n  redis.call('LPUSH', main_list, id)",
                "  redis.call('LPUSH', main_list, id)",
            ),
        ),
        ("test_front_moves_a_waiting_job_to_the_head",),
    ),
    # What is live
    Mutation(
        "time-to-live-left-on-a-kept-job",
        Promise.NEVER_LOST,
        _LINKS,
        (("redis.call('PERSIST', config.job_prefix .. id)", ""),),
        ("test_a_retry_keeps_a_waiting_job_for_good",),
    ),
    Mutation(
        "intermediate-list-forgotten",
        Promise.LIVE_IS_KEPT,
        _JUDGE,
        (("if not DEAD[status] and stands_in_intermediate(queue, id) then", "if false then"),),
        ("test_a_retry_keeps_a_waiting_job_for_good",),
    ),
    Mutation(
        "dead-job-in-the-intermediate-list-is-live",
        Promise.NEVER_LOST,
        _JUDGE,
        (("if not DEAD[status] and stands_in", "if stands_in"),),
        ("test_a_retry_replaces_it",),
    ),
    Mutation(
        "scheduled-forgotten",
        Promise.LIVE_IS_KEPT,
        _JUDGE,
        (("if redis.call('ZSCORE', config.scheduled_prefix .. queue, id)\n", "if false\n"),),
        ("test_a_retry_keeps_a_waiting_job_for_good",),
    ),
    Mutation(
        "deferred-forgotten",
        Promise.LIVE_IS_KEPT,
        _JUDGE,
        (("(status == 'deferred' and ", "(false and "),),
        ("test_a_retry_keeps_a_waiting_job_for_good",),
    ),
    Mutation(
        "ready-forgotten",
        Promise.LIVE_IS_KEPT,
        _JUDGE,
        (("(status == 'ready_to_enqueue' and ", "(false and "),),
        ("test_a_retry_keeps_a_waiting_job_for_good",),
    ),
    Mutation(
        "rate-limited-forgotten",
        Promise.LIVE_IS_KEPT,
        _JUDGE,
        (("(status == 'rate_limited' and ", "(false and "),),
        ("test_a_retry_keeps_a_waiting_job_for_good",),
    ),
    Mutation(
        "other-queue-forgotten",
        Promise.LIVE_IS_KEPT,
        _JUDGE,
        (
            (
                "or queue ~= config.queue and redis.call('LPOS', config.queue_prefix .. queue, id)",
                "or false",
            ),
        ),
        ("test_a_retry_keeps_a_waiting_job_for_good",),
    ),
    Mutation(
        "expired-heartbeat-counts",
        Promise.NEVER_LOST,
        _JUDGE,
        (("execution_id_of(member), expires_at > now})", "execution_id_of(member), true})"),),
        ("test_a_retry_replaces_it",),
    ),
    Mutation(
        "heartbeat-forgotten",
        Promise.RUNNING_IS_LEFT,
        _JUDGE,
        (
            ("execution_id_of(member), expires_at > now})", "execution_id_of(member), false})"),
            ("== 1 then\n      return 'running', queue, 0", "== 2 then\n      return 'running'"),
        ),
        ("test_a_retry_leaves_a_running_job_and_its_link_alone",),
    ),
    Mutation(
        "execution-outside-the-registry-forgotten",
        Promise.RUNNING_IS_LEFT,
        _JUDGE,
        (("== 1 then\n      return 'running', queue, 0", "== 2 then\n      return 'running'"),),
        ("test_a_retry_leaves_a_running_job_and_its_link_alone",),
    ),
    Mutation(
        "doubtful-is-dead",
        Promise.DOUBT_IS_WAITED_OUT,
        _JUDGE,
        (("if status == 'queued' and (enqueued_at or 'never') ~= seen then", "if false then"),),
        ("test_a_retry_believes_its_second_look",),
    ),
    Mutation(
        "doubtful-for-ever",
        Promise.NEVER_LOST,
        _JUDGE,
        (("if status == 'queued' and (enqueued_at or 'never') ~= seen", "if status == 'queued'"),),
        ("test_a_retry_believes_its_second_look",),
    ),
    # What a dead job has left
    Mutation(
        "registries-not-cleared",
        Promise.DEAD_IS_CLEARED,
        _JUDGE,
        (("redis.call('ZREM', registry, id)", ""),),
        ("test_a_retry_replaces_it",),
    ),
    Mutation(
        "old-hash-not-deleted",
        Promise.DEAD_IS_CLEARED,
        _JUDGE,
        (
            (
                "'EXISTS', job_key, job_key .. ':dependencies'",
                "'EXISTS', job_key .. ':dependencies'",
            ),
        ),
        ("test_a_retry_replaces_it",),
    ),
    Mutation(
        "old-results-not-deleted",
        Promise.DEAD_IS_CLEARED,
        _JUDGE,
        (("    config.results_prefix .. id, config.executions_prefix .. id,\n", ""),),
        ("test_a_retry_replaces_it",),
    ),
    Mutation(
        "old-executions-not-removed",
        Promise.DEAD_IS_CLEARED,
        _JUDGE,
        (("redis.call('ZREM', config.wip_prefix .. name, execution[1])", ""),),
        ("test_a_retry_replaces_it",),
    ),
    Mutation(
        "intermediate-list-not-cleared",
        Promise.DEAD_IS_CLEARED,
        _JUDGE,
        (("redis.call('LREM', config.queue_prefix .. name .. ':intermediate', 0, id)", ""),),
        ("test_a_retry_replaces_it",),
    ),
    Mutation(
        "first-seen-not-cleared",
        Promise.DEAD_IS_CLEARED,
        _JUDGE,
        (("main_list .. ':intermediate:first_seen:' .. id)\n  for", "job_key)\n  for"),),
        ("test_a_retry_replaces_it",),
    ),
    Mutation(
        "no-write-before-the-first-removal",
        Promise.CRASH_ONLY,
        _LINKS,
        (("redis.call('SADD', config.queues_key, main_list)", ""),),
        ("test_a_redis_that_refuses_writes_changes_nothing",),
    ),
    Mutation(
        "one-job-that-is-none-costs-all",
        Promise.POISON_IS_ALONE,
        _JUDGE,
        (("{pcall(action, ...)}", "{true, action(...)}"),),
        ("test_a_job_key_of_the_wrong_type_fails_alone",),
    ),
    Mutation(
        "list-walked-for-each-job",
        Promise.NOTHING_HANGS,
        _JUDGE,
        (("local WALKS_BEFORE_SCAN = 16", "local WALKS_BEFORE_SCAN = math.huge"),),
        ("test_redis_does_not_walk_its_list_for_each_job",),
    ),
    # What only looks
    Mutation(
        "look-adds-the-queue",
        Promise.READING_IS_READING,
        _LINKS,
        (("if pushing then\n  -- Refused", "if true then\n  -- Refused"),),
        ("test_what_only_reads_changes_nothing",),
    ),
    Mutation(
        "cleanup-left-on-in-a-look",
        Promise.READING_IS_READING,
        _LINKS,
        (("leftovers(id, queue, false)", "leftovers(id, queue, true)"),),
        ("test_a_dry_run_says_so_and_changes_nothing",),
    ),
    # Repair
    Mutation(
        "orphan-removed-from-under-a-worker",
        Promise.RUNNING_IS_LEFT,
        _SWEEP,
        (("if answer == 'running' or string.find(answer, '^doubtful')", "if false"),),
        ("test_what_changes_before_it_is_mended_is_left_alone",),
    ),
    Mutation(
        "stale-entry-removed-unseen",
        Promise.LIVE_IS_KEPT,
        _SWEEP,
        (("return #found > 0 and found or 'absent'", "return STALE_PLACES"),),
        ("test_what_changes_before_it_is_mended_is_left_alone",),
    ),
    Mutation(
        "list-thinned-out-last-and-nothing-tried-first",
        Promise.CRASH_ONLY,
        _SWEEP,
        (
            (
                "try_writes({begins_with_list and 'LSET' or 'LREM', "
                "'LREM', 'DEL', 'XADD', 'ZREM'})\nthin_out_list()\n",
                "",
            ),
            ("if removed and config.audit", "thin_out_list()\nif removed and config.audit"),
        ),
        ("test_where_redis_is_out_of_memory_it_breaks_off_and_nothing_is_half_done",),
    ),
    # Progress
    Mutation(
        "progress-without-an-end",
        Promise.PROGRESS_IS_SHARED,
        _PROGRESS,
        (("redis.pcall('EXPIRE', KEYS[1], ARGV[1])", "0"),),
        ("test_each_batch_renews_the_life_of_the_progress",),
    ),
    Mutation(
        "failures-without-an-end",
        Promise.PROGRESS_IS_SHARED,
        _PROGRESS,
        (("redis.call('EXPIRE', KEYS[2], ARGV[1])", ""),),
        ("test_each_step_renews_both_lives_and_a_killed_run_keeps_what_it_had_found",),
    ),
    Mutation(
        "cancel-creates-what-is-unknown",
        Promise.PROGRESS_IS_SHARED,
        _PROGRESS,
        (
            ("if not counts[1] then", "if false then"),
            (">= (tonumber(counts[1]) or 0) then", ">= (tonumber(counts[1]) or 1) then"),
        ),
        ("test_an_unknown_operation_is_not_found_and_not_created",),
    ),
    Mutation(
        "report-takes-a-cancellation-back",
        Promise.PROGRESS_IS_SHARED,
        _PROGRESS,
        (("'HSETNX', KEYS[1], 'cancelled'", "'HSET', KEYS[1], 'cancelled'"),),
        ("test_an_operation_cancelled_in_redis_stops_before_its_next_batch",),
    ),
    # Waiting
    Mutation(
        "redis-told-again-by-the-client",
        Promise.NOTHING_HANGS,
        "docora_ops/queue/redis_client.py",
        (("retry=Retry(NoBackoff(), 0),", "retry=Retry(NoBackoff(), 3),"),),
        ("test_a_reply_that_is_lost_after_the_push_leaves_one_job_and_the_next_try_keeps_it",),
    ),
    Mutation(
        "redis-waited-for-without-end",
        Promise.NOTHING_HANGS,
        "docora_ops/queue/redis_client.py",
        (("            socket_timeout=settings.statement_timeout,\n", ""),),
        ("test_redis_is_waited_for_as_long_as_the_settings_say",),
    ),
    Mutation(
        "redis-repeats-a-password",
        Promise.SECRETS_STAY,
        "docora_ops/queue/redis_client.py",
        (('text.partition(", with args beginning with")[0]', "text"),),
        ("test_arguments_that_redis_repeats_are_not_shown",),
    ),
    # The audit trail
    Mutation(
        "trail-not-looked-at-before-the-push",
        Promise.CRASH_ONLY,
        _LINKS,
        (("if config.audit then\n  redis.call('XLEN', config.audit.key)\nend\n", ""),),
        ("test_a_change_that_is_refused_in_redis_leaves_neither_job_nor_entry",),
    ),
    Mutation(
        "trail-not-looked-at-before-a-removal",
        Promise.CRASH_ONLY,
        _SWEEP,
        (("if config.audit then\n  redis.call('XLEN', config.audit.key)\nend\n", ""),),
        ("test_a_change_that_is_refused_in_redis_leaves_neither_job_nor_entry",),
    ),
    Mutation(
        "trail-without-an-end",
        Promise.PROGRESS_IS_SHARED,
        _LINKS,
        (("'MAXLEN', '~', config.audit.kept, '*'", "'*'"),),
        ("test_every_script_caps_the_stream",),
    ),
    Mutation(
        "locked-rows-wait-for-redis",
        Promise.NOTHING_HANGS,
        "docora_ops/queue/scripts.py",
        (("self.client_with_rows_locked if rows_locked else self._client", "self._client"),),
        ("test_a_redis_that_hangs_has_a_few_seconds_while_rows_are_locked",),
    ),
    Mutation(
        "reset-told-before-its-commit",
        Promise.CRASH_ONLY,
        "docora_ops/queue/audit_stream.py",
        (
            (
                "for outcome in (Outcome.QUEUED, Outcome.REPLACED_STALE)\n",
                "for outcome in (Outcome.QUEUED, Outcome.REPLACED_STALE, Outcome.ALREADY_QUEUED)\n",
            ),
            (
                "return entries | {Outcome.ALREADY_QUEUED: start_entry(note, run, None, 1)}",
                "return entries",
            ),
        ),
        ("test_a_reset_whose_commit_fails_is_never_told_as_done",),
    ),
    Mutation(
        "list-walked-for-each-batch",
        Promise.NOTHING_HANGS,
        "docora_ops/queue/waiting_list.py",
        (("_WALKS = 100\n", "_WALKS = 1_000_000\n"),),
        ("test_jobs_of_a_host_that_is_an_hour_ahead_do_not_make_each_batch_walk_over_the_list",),
    ),
    Mutation(
        "expired-executions-read-by-each-script",
        Promise.NOTHING_HANGS,
        "docora_ops/queue/link_queue.py",
        (("            expired = waiting.expired\n", ""),),
        ("test_executions_that_have_expired_are_read_once_in_a_run_and_cleaned_away",),
    ),
)
