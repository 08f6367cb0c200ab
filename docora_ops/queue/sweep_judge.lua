-- Judges the state of a job for sweep.lua, by its place in the list.
--
-- ARGV[1]  mode of the script
-- ARGV[2]  JSON: names of keys; `expired`: executions of these jobs that had expired at the time
--          `expired_at`; `cutoff`: a job whose enqueued_at is earlier was queued before the caller
--          read the queue's list; `by_status`: a job that does not run waits if its status says so;
--          `audit`: by answer, the arguments of XADD for an audit entry
--
-- hint  indexes of an id, separated by commas, when the caller read the queue's list;
--       -1: it was not in the list; -2: the list has not been read
-- seen  `enqueued_at` of a job that was doubtful before the list was read; otherwise empty

local mode, config = ARGV[1], cjson.decode(ARGV[2])
local main_list = config.queue_prefix .. config.queue

local time = redis.call('TIME')
local now = tonumber(time[1])

-- Executions of a job as {member, expires_at}. A hundred thousand expired executions of our queue,
-- at the beginning of the registry, need not be read: the caller has read them.
local recent_by_queue = {}
local function recent_executions_of(queue, id)
  if not recent_by_queue[queue] then
    local since = queue == config.queue and math.min(config.expired_at, now) or '-inf'
    local by_job = {}
    local entries = redis.call(
      'ZRANGE', config.wip_prefix .. queue, since, '+inf', 'BYSCORE', 'WITHSCORES')
    for i = 1, #entries, 2 do
      local job_id = string.match(entries[i], '^(.-):') or entries[i]
      by_job[job_id] = by_job[job_id] or {}
      table.insert(by_job[job_id], {entries[i], tonumber(entries[i + 1])})
    end
    recent_by_queue[queue] = by_job
  end
  return recent_by_queue[queue][id] or {}
end

local function has_live_execution(queue, id)
  for _, execution in ipairs(recent_executions_of(queue, id)) do
    if execution[2] > now then
      return true
    end
  end
  return false
end

-- Returns the executions of the job, expired or not. Some may have left the registry meanwhile.
local function executions_of(queue, id)
  local members = {}
  for _, execution in ipairs(recent_executions_of(queue, id)) do
    table.insert(members, execution[1])
  end
  for _, member in ipairs(queue == config.queue and config.expired[id] or {}) do
    table.insert(members, member)
  end
  return members
end

local function has_execution(queue, id)
  for _, member in ipairs(executions_of(queue, id)) do
    if redis.call('ZSCORE', config.wip_prefix .. queue, member) then
      return true
    end
  end
  return false
end

-- Removes the executions of a job. Returns how many there were.
local function remove_executions(queue, id)
  local members = executions_of(queue, id)
  local count = 0
  for start = 1, #members, 1000 do -- a call takes only so many arguments
    local some = {unpack(members, start, math.min(start + 999, #members))}
    count = count + redis.call('ZREM', config.wip_prefix .. queue, unpack(some))
    for i, member in ipairs(some) do
      some[i] = config.execution_prefix .. member
    end
    redis.call('DEL', unpack(some))
  end
  return count
end

local REMOVED = 'docora-ops:removed' -- no job id, since it has a colon

-- Removes the entries at these indexes from our list, in one walk: one for each would be quadratic.
-- LREM ends at the last of them, so it begins at the end of the list that is nearer to all.
local function remove_from_main_list(indexes)
  if #indexes == 0 then
    return
  end
  table.sort(indexes)
  for _, index in ipairs(indexes) do
    redis.call('LSET', main_list, index, REMOVED)
  end
  local from_tail = redis.call('LLEN', main_list) - indexes[1] < indexes[#indexes]
  redis.call('LREM', main_list, from_tail and -#indexes or #indexes, REMOVED)
end

-- Entries that LPOS may visit in one script: it takes 25 ms for a million.
local MOST_VISITED = 500000
local visited = 0
local shift = 0 -- how far the list has moved since the caller read it

-- Where each id stands in our list, as places_in_main_list has found it; nil: not searched.
local indexes_of = {}

-- How often the id stands in our list, nil if it is in doubt. Once too many entries were visited, the
-- status tells.
local function places_in_main_list(id, hint, is_recent, is_queued)
  local changes = mode == 'push' or mode == 'remove'
  local indexes = {}
  for index in string.gmatch(hint, '%f[%d-]%d+') do
    table.insert(indexes, tonumber(index))
  end
  local first = indexes[1]
  indexes_of[id] = indexes
  -- Without a change, the state when the list was read is good enough, unless the job has run since.
  -- LINDEX walks from an end of the list, which takes quadratic time for many jobs.
  if hint == '-1' and not (is_recent and changes) or first and is_queued and not changes then
    return #indexes
  end
  local is_right = first and first >= shift
  for i, index in ipairs(indexes) do
    indexes[i] = index - shift
    is_right = is_right and redis.call('LINDEX', main_list, indexes[i]) == id
  end
  if is_right then
    return #indexes
  end
  local length = redis.call('LLEN', main_list)
  if visited > 0 and visited + length > MOST_VISITED then
    indexes_of[id] = nil
    if is_queued and hint == '-1' then
      return nil -- another producer may have queued it since
    end
    return is_queued and 1 or 0
  end
  visited = visited + length
  indexes = redis.call('LPOS', main_list, id, 'COUNT', 0)
  indexes_of[id] = indexes
  if first and indexes[1] then
    shift = first - indexes[1]
  end
  return #indexes
end

local intermediate_lengths = {}
local function stands_in_intermediate(queue, id)
  local key = config.queue_prefix .. queue .. ':intermediate'
  if not intermediate_lengths[queue] then
    intermediate_lengths[queue] = redis.call('LLEN', key)
  end
  return intermediate_lengths[queue] > 0 and redis.call('LPOS', key, id) ~= false
end

local DEAD = {finished = true, failed = true, stopped = true, canceled = true}
local WAITING = {
  queued = true, scheduled = true, deferred = true, ready_to_enqueue = true, rate_limited = true,
}

-- Returns the state, the queue of the job, how often the id stands in our list, a detail, and the
-- status of a job that is not live. The detail is `delayed` for a waiting job that is in no list; the
-- evidence, `enqueued_at`, of a doubtful job and of one that may have been queued since the list was
-- read.
local function judge(id, hint, seen)
  local status, origin, enqueued_at, rate_limit_key = unpack(redis.call(
    'HMGET', config.job_prefix .. id, 'status', 'origin', 'enqueued_at', 'rate_limit_key'))
  local queue = config.queue
  if origin and origin ~= '' then
    queue = origin
  end
  if has_live_execution(queue, id) or has_live_execution(config.queue, id) then
    return 'running', queue, 0
  end
  -- The execution of a worker that was paused has left the registry; its heartbeat goes on.
  for _, execution_id in ipairs(redis.call('ZRANGE', config.executions_prefix .. id, 0, -1)) do
    if redis.call('EXISTS', config.execution_prefix .. id .. ':' .. execution_id) == 1 then
      return 'running', queue, 0
    end
  end
  if config.by_status then
    return WAITING[status] and 'waiting' or 'none', queue, 0, nil, status
  end
  -- Every enqueue writes enqueued_at: other jobs were not added since the list was read.
  local is_recent = hint == '-1' and enqueued_at and enqueued_at >= config.cutoff
    and enqueued_at ~= seen
  local places = places_in_main_list(id, hint, is_recent, status == 'queued')
  if not places then
    return 'doubtful', queue, 0, enqueued_at
  end
  if not status then
    -- Workers drop an id whose job is gone.
    return 'none', queue, places
  end
  -- If the job belongs to another queue, its place in our list is stale.
  if queue == config.queue and places > 0
    or queue ~= config.queue and redis.call('LPOS', config.queue_prefix .. queue, id)
  then
    return 'waiting', queue, places
  end
  if not DEAD[status] and stands_in_intermediate(queue, id) then
    return 'waiting', queue, 0
  end
  if redis.call('ZSCORE', config.scheduled_prefix .. queue, id)
    or (status == 'deferred' and redis.call('ZSCORE', config.deferred_prefix .. queue, id))
    or (status == 'ready_to_enqueue' and redis.call('ZSCORE', config.ready_prefix .. queue, id))
    or (status == 'rate_limited' and rate_limit_key
      and redis.call('ZSCORE', config.rate_limit_prefix .. rate_limit_key .. ':rate_limited', id))
  then
    return 'waiting', queue, 0, 'delayed'
  end
  enqueued_at = enqueued_at or 'never'
  if status == 'queued' and enqueued_at ~= seen then
    return 'doubtful', queue, 0, enqueued_at
  end
  return 'none', queue, places, is_recent and enqueued_at or nil, status
end

local present = {}
local function key_exists(key)
  if present[key] == nil then
    present[key] = redis.call('EXISTS', key) == 1
  end
  return present[key]
end

-- Finds the keys and entries of a job that is not live, but for its place in the list. Removes them
-- if told. `status`: as `judge` has returned it.
--
-- Returns none if there are none; finished if they are no more than RQ keeps of a finished job: its
-- keys, or without them its entry in the registry of finished jobs; otherwise stale. So a finished
-- job with an execution, or with an entry elsewhere, is stale.
local function remains(id, queue, remove, status)
  local job_key, executions_key = config.job_prefix .. id, config.executions_prefix .. id
  -- Only finished jobs take the second call.
  local is_stale = status == 'finished' and redis.call('EXISTS', executions_key) == 1
  local keys = redis.call(remove and 'DEL' or 'EXISTS', job_key, job_key .. ':dependencies',
    config.results_prefix .. id, executions_key,
    main_list .. ':intermediate:first_seen:' .. id)
  local is_finished = false
  for _, name in ipairs(queue == config.queue and {queue} or {queue, config.queue}) do
    for _, prefix in ipairs(config.registry_prefixes) do
      local registry = prefix .. name
      if key_exists(registry) and redis.call('ZSCORE', registry, id) then
        if prefix == config.finished_prefix then
          is_finished = true
        else
          is_stale = true
        end
        if remove then
          redis.call('ZREM', registry, id)
        end
      end
    end
    if remove and remove_executions(name, id) > 0 or not remove and has_execution(name, id) then
      is_stale = true
    end
    if name ~= config.queue and remove then
      redis.call('DEL', config.queue_prefix .. name .. ':intermediate:first_seen:' .. id)
    end
    if stands_in_intermediate(name, id) then
      is_stale = true
      if remove then
        redis.call('LREM', config.queue_prefix .. name .. ':intermediate', 0, id)
      end
    end
  end
  if is_stale or keys > 0 and status ~= 'finished' then
    return 'stale'
  end
  return (keys > 0 or is_finished) and 'finished' or 'none'
end

-- Missing permissions fail every job, not a single one.
local function fails_for_all(text)
  return string.find(text, 'NOPERM') or string.find(text, 'ACL failure')
end

-- Calls the action. Turns an error into an answer, so that one bad job does not cost the others.
local function alone(action, ...)
  local results = {pcall(action, ...)}
  if results[1] then
    return unpack(results, 2, 6)
  end
  local text = type(results[2]) == 'table' and results[2].err or tostring(results[2])
  if fails_for_all(text) then
    error(text, 0)
  end
  return 'unreadable', nil, 0, text
end

local TRIALS = {
  APPEND = {'x'}, DEL = {}, EXPIRE = {1}, GETRANGE = {0, 0}, HSET = {'x', 'x'}, LPUSH = {'x'},
  LREM = {0, 'x'}, LSET = {0, 'x'}, PERSIST = {}, RPUSH = {'x'}, XADD = {'*', 'x', 'x'},
  ZREM = {'x'},
}

-- Redis does not roll back a script that fails. So missing permissions must show before anything is
-- removed. When it is out of memory, Redis refuses only the first write of a script.
local function try_commands(commands)
  local key = config.queue_prefix .. 'docora-ops:trial'
  for _, command in ipairs(commands) do
    local reply = redis.pcall(command, key, unpack(TRIALS[command]))
    if type(reply) == 'table' and reply.err
      and (fails_for_all(reply.err) or string.find(reply.err, '^-?OOM'))
    then
      redis.pcall('DEL', key)
      error(reply.err, 0)
    end
  end
  redis.call('DEL', key)
end

local function joined(answer, _, _, detail)
  return detail and answer .. ':' .. detail or answer
end

-- Writes the audit entry of the first answer that has one.
local function write_audit_entry(answers)
  for _, answer in ipairs(config.audit and answers or {}) do
    local entry = config.audit[string.match(answer, '^[^:]*')]
    if entry then
      return redis.call('XADD', unpack(entry))
    end
  end
end

-- A list, registry or stream of the wrong type fails every job, not a single one.
redis.call('LLEN', main_list)
recent_executions_of(config.queue, '')
for _, xadd in pairs(config.audit or {}) do
  redis.call('XLEN', xadd[1])
end
