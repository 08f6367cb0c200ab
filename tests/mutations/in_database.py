"""Mutations of the database's edge: locks, checks under the lock, limits of time."""

from __future__ import annotations

from tests.mutations.mutation import Mutation, Promise

_CONNECTION = "docora_ops/database/postgres.py"
_DRIFT = "docora_ops/database/unfinished.py"
_LINKS = "docora_ops/database/link_rows.py"
_SELECTION = "docora_ops/database/selection.py"
_SNAPSHOTS = "docora_ops/database/snapshots.py"

MUTATIONS = (
    Mutation(
        "no-row-lock",
        Promise.NEVER_LOST,
        _LINKS,
        (
            (
                "repository_id = %(repository_id)s FOR UPDATE\n",
                "repository_id = %(repository_id)s\n",
            ),
        ),
        ("test_one_link_cannot_change_between_the_check_and_the_reset",),
    ),
    Mutation(
        "no-row-lock-in-bulk",
        Promise.ONLY_WHAT_QUALIFIES,
        _LINKS,
        ((" FOR UPDATE SKIP LOCKED\n", "\n"),),
        ("test_a_link_cannot_change_between_the_check_and_the_push",),
    ),
    Mutation(
        "locked-rows-waited-for",
        Promise.NOTHING_HANGS,
        _LINKS,
        (("FOR UPDATE SKIP LOCKED", "FOR UPDATE"),),
        ("test_a_row_that_is_locked_for_a_while_is_queued_at_the_end",),
    ),
    Mutation(
        "status-not-looked-at-under-the-lock",
        Promise.ONLY_WHAT_QUALIFIES,
        _LINKS,
        (("if not qualifies:", "if False:"),),
        ("test_a_link_whose_status_changes_before_its_turn_is_skipped",),
    ),
    Mutation(
        "running-worker-not-seen-in-bulk",
        Promise.RUNNING_IS_LEFT,
        _LINKS,
        (("Verdict.RUNNING if payload.job_id in held else Verdict.CLAIMED", "Verdict.CLAIMED"),),
        ("test_a_bulk_retry_leaves_a_running_job_and_its_link_alone",),
    ),
    Mutation(
        "workers-looked-for-before-the-lock",
        Promise.RUNNING_IS_LEFT,
        _LINKS,
        (
            (
                "    locked = [id_ for",
                "    job_ids = database.rows(\"SELECT app_id || '-' || repository_id\"\n"
                '        " FROM app_repositories WHERE id = ANY (%(ids)s::uuid[])",\n'
                '        {"ids": list(ids)})\n'
                "    held = held_job_ids(database, [job_id for (job_id,) in job_ids])\n"
                "    locked = [id_ for",
            ),
            (
                "held = held_job_ids(database, [payload.job_id for payload in payloads.values()])",
                "",
            ),
        ),
        ("test_a_worker_that_begins_while_a_batch_is_being_locked_is_seen",),
    ),
    Mutation(
        "link-read-by-the-statement-that-waits-for-it",
        Promise.ONLY_WHAT_QUALIFIES,
        _LINKS,
        (
            (
                "    if database.row(LOCK_LINK, ",
                '    return _link(database.row(READ_LINK + "FOR UPDATE OF l",\n'
                '        {"app_id": app_id, "repository_id": repository_id}))\n'
                "    if database.row(LOCK_LINK, ",
            ),
        ),
        ("test_a_change_of_one_link", "test_a_job_that_waits_for_its_link"),
    ),
    Mutation(
        "match-not-looked-at-under-the-lock",
        Promise.ONLY_WHAT_QUALIFIES,
        _LINKS,
        (
            (
                'qualifies=f"{FAILED} AND {NOT_HELD_BACK}"',
                "qualifies=\"l.status = 'failed'\"",
            ),
        ),
        ("test_a_link_that_does_not_match_any_more_when_its_turn_comes_is_skipped",),
    ),
    Mutation(
        "running-worker-not-seen",
        Promise.RUNNING_IS_LEFT,
        _LINKS,
        (("(job_id, 0) IN (SELECT key FROM held)", "(job_id, 0) IS NULL"),),
        ("test_a_retry_leaves_a_running_job_and_its_link_alone",),
    ),
    Mutation(
        "half-of-the-lock-compared",
        Promise.RUNNING_IS_LEFT,
        _LINKS,
        (("(classid::bigint << 32) | objid::bigint AS key", "objid::bigint AS key"),),
        ("test_a_retry_leaves_a_running_job_and_its_link_alone",),
    ),
    Mutation(
        "selection-cut-short",
        Promise.CRASH_ONLY,
        _SELECTION,
        (("repository_id in rows]", "repository_id in rows][:50]"),),
        ("test_jobs_stand_in_the_queue_by_app_id_then_repository_id",),
    ),
    Mutation(
        "link-made-while-its-old-job-is-removed",
        Promise.NEVER_LOST,
        _DRIFT,
        (("ORDER BY repository_id FOR UPDATE\n", "ORDER BY repository_id FOR KEY SHARE\n"),),
        ("test_no_link_is_made_while_its_old_job_is_removed",),
    ),
    Mutation(
        "repair-takes-what-is-in-sync",
        Promise.ONLY_WHAT_QUALIFIES,
        _LINKS,
        (("qualifies=\"l.status IN ('pending_snapshot', 'scanning')\"", 'qualifies="true"'),),
        ("test_what_changes_before_it_is_mended_is_left_alone",),
    ),
    # Limits of time
    Mutation(
        "no-statement-timeout",
        Promise.NOTHING_HANGS,
        _CONNECTION,
        (("SET LOCAL statement_timeout = '{statement}s';\n", ""),),
        ("test_a_statement_that_takes_too_long_is_given_up",),
    ),
    Mutation(
        "no-lock-timeout",
        Promise.NOTHING_HANGS,
        _CONNECTION,
        (("SET LOCAL lock_timeout = '{lock}s';\n", ""),),
        ("test_a_row_that_somebody_else_has_locked_is_left_alone",),
    ),
    Mutation(
        "no-idle-in-transaction-timeout",
        Promise.NOTHING_HANGS,
        _CONNECTION,
        (("SET LOCAL idle_in_transaction_session_timeout = '{idle}s'", ""),),
        ("test_postgres_sees_who_we_are_and_all_timeouts_on_every_connection",),
    ),
    Mutation(
        "silent-postgres-waited-for",
        Promise.NOTHING_HANGS,
        _CONNECTION,
        (
            (
                "connection.reply_timeout = self._reply_timeout",
                "connection.reply_timeout = None",
            ),
        ),
        ("test_a_postgres_that_hangs_midway_is_given_up",),
    ),
    Mutation(
        "nameless-connection",
        Promise.CODES_HOLD,
        _CONNECTION,
        (('                "application_name": "docora-ops",\n', ""),),
        ("test_postgres_sees_who_we_are_and_all_timeouts_on_every_connection",),
    ),
    Mutation(
        "driver-shows-a-malformed-url",
        Promise.SECRETS_STAY,
        _CONNECTION,
        (
            ("except (psycopg.Error, ValueError):", "except (psycopg.Error, ValueError) as error:"),
            (
                '"DATABASE_URL is not a URL that Postgres understands"',
                'f"DATABASE_URL is not a URL that Postgres understands: {error}"',
            ),
        ),
        ("test_an_unusable_database_url_is_refused_without_showing_it",),
    ),
    Mutation(
        "password-in-what-postgres-says",
        Promise.SECRETS_STAY,
        _CONNECTION,
        (("return mask(text, [self._secret, *secrets])", "return text"),),
        ("test_a_password_in_what_postgres_says_is_cut_out",),
    ),
    # Behind a proxy that pools transactions
    Mutation(
        "settings-left-in-the-pool",
        Promise.OTHERS_ARE_LEFT_ALONE,
        _CONNECTION,
        (("SET LOCAL lock_timeout", "SET lock_timeout"),),
        ("test_commands_leave_nothing_in_the_pool",),
    ),
    Mutation(
        "links-of-another-app-resynced",
        Promise.ONLY_WHAT_QUALIFIES,
        _LINKS,
        (('qualifies="l.app_id = %(app_id)s"', "qualifies=\"'' <> %(app_id)s\""),),
        ("test_a_resync_of_an_app_refuses_links_of_another",),
    ),
    Mutation(
        "worker-on-pooled-transactions",
        Promise.NEVER_TWICE,
        "docora_ops/database/pooling.py",
        (("    if find_pooling(settings) is Pooling.TRANSACTIONS:", "    if not settings:"),),
        ("test_a_worker_refuses_to_start_where_transactions_or_statements_are_pooled",),
    ),
    Mutation(
        "job-without-its-lock",
        Promise.NEVER_TWICE,
        "docora_ops/worker/snapshot_job.py",
        (("        if not keeps_link(", "        if False and not keeps_link("),),
        ("test_a_job_that_loses_its_lock_sends_nothing",),
    ),
    # The worker's side
    Mutation(
        "no-advisory-lock",
        Promise.NEVER_TWICE,
        _SNAPSHOTS,
        (("SELECT pg_try_advisory_lock({_KEY})", "SELECT {_KEY} IS NOT NULL"),),
        ("test_a_second_job_for_a_link_at_work_ends_without_a_word",),
    ),
    Mutation(
        "advisory-lock-until-the-first-commit",
        Promise.NEVER_TWICE,
        _SNAPSHOTS,
        (("SELECT pg_try_advisory_lock({_KEY})", "SELECT pg_try_advisory_xact_lock({_KEY})"),),
        ("test_a_second_job_for_a_link_at_work_ends_without_a_word",),
    ),
    Mutation(
        "verdict-without-owning-the-link",
        Promise.NEVER_TWICE,
        _SNAPSHOTS,
        ((" OR pg_try_advisory_xact_lock({_KEY})", " OR true"),),
        ("test_a_job_that_has_lost_its_link_to_another_writes_no_verdict",),
    ),
    Mutation(
        "last-try-leaves-a-pending-link",
        Promise.NEVER_LOST,
        _SNAPSHOTS,
        (
            (
                "retry_count + 1 >= %(max_attempts)s OR %(tries_left)s <= 0",
                "retry_count + 1 >= %(max_attempts)s OR %(tries_left)s < 0",
            ),
        ),
        ("test_a_job_without_tries_left_makes_its_link_failed_at_once",),
    ),
    Mutation(
        "failures-not-limited",
        Promise.NEVER_LOST,
        _SNAPSHOTS,
        (("retry_count + 1 >= %(max_attempts)s OR", "%(max_attempts)s < 0 OR"),),
        ("test_a_link_that_has_failed_too_often_ends_its_job_though_it_has_tries_left",),
    ),
    Mutation(
        "killed-job-judged-while-its-session-lives",
        Promise.NEVER_TWICE,
        _SNAPSHOTS,
        (('        database.execute(AWAIT_LINK, {"job_id": f"{app_id}-{repository_id}"})\n', ""),),
        ("test_a_killed_job_is_judged_once_its_session_has_ended",),
    ),
    Mutation(
        "snapshots-of-one-repository-mixed",
        Promise.DELIVERED_IS_RECORDED,
        _SNAPSHOTS,
        (("        database.row(LOCK_SNAPSHOT, values)\n", ""),),
        ("test_of_two_snapshots_of_one_repository_the_last_is_stored_with_its_own_files",),
    ),
    Mutation(
        "deliveries-relaxed-to-the-end",
        Promise.DELIVERED_IS_RECORDED,
        _SNAPSHOTS,
        (("        self._session.execute(STRICT_COMMITS)\n", ""),),
        ("test_the_verdict_waits_for_the_disk_though_deliveries_do_not",),
    ),
    Mutation(
        "verdict-of-any-session-that-has-the-link",
        Promise.NEVER_TWICE,
        _SNAPSHOTS,
        ((" AND pid = %(session_id)s\n", " AND %(session_id)s IS NOT NULL\n"),),
        ("test_only_the_session_that_has_the_link_writes_a_verdict",),
    ),
    Mutation(
        "snapshot-stored-in-pieces",
        Promise.DELIVERED_IS_RECORDED,
        _SNAPSHOTS,
        (
            (
                '    with database.transaction():\n        values = {"repository_id"',
                '    if repository_id:\n        values = {"repository_id"',
            ),
        ),
        ("test_a_snapshot_that_can_not_be_stored_leaves_the_one_before",),
    ),
    Mutation(
        "locks-of-another-database-count",
        Promise.ONLY_WHAT_QUALIFIES,
        _LINKS,
        (("= 1\n      AND database =", "= 1\n      OR database IS NULL AND database ="),),
        ("test_a_lock_in_another_database_is_none_of_a_worker",),
    ),
    Mutation(
        "circuit-of-now-ignored",
        Promise.ONLY_WHAT_QUALIFIES,
        _LINKS,
        (("    AND (r.circuit_open_until IS NULL OR r.circuit_open_until <= now())\n)", ")"),),
        ("test_a_circuit_that_opens_before_the_turn_of_its_links_holds_them_back",),
    ),
    Mutation(
        "cut-secret-shown",
        Promise.SECRETS_STAY,
        "docora_ops/masking.py",
        (("return _CUT_SECRET.sub(MASK, mask(text), count=1)", "return mask(text)"),),
        ("test_a_long_error_is_cut_where_it_is_read_and_no_secret_with_it",),
    ),
)
