-- Judges the state of a job, and finds and removes what a stale job has left. look_and_push.lua and
-- sweep.lua begin with this script, so that there is one rule for what "live" means.
--
-- ARGV[1]  mode of the script
-- ARGV[2]  JSON: names of keys. If the caller has read the queue's list: `cutoff`, and `walks`, the
--          number of walks over the list that are left for ids that were not in it. If the caller
--          has read the expired executions of the queue: `expired_at`, when it did, and `expired`,
--          the executions of these jobs
--
-- hint  index of an id when the caller read the queue's list;
--       -1: it was not in the list; -2: the list has not been read; -3: it stood there twice
-- seen  `enqueued_at` of a job that was doubtful before the list was read; otherwise empty

local config = cjson.decode(ARGV[2])
local pushing = ARGV[1] == 'push'
local main_list = config.queue_prefix .. config.queue

local time = redis.call('TIME')
local now = tonumber(time[1])

local function execution_id_of(member)
  return string.match(member, ':(.*)$') or ''
end

-- Executions of a queue whose heartbeat expires after the moment, by job id:
-- {{member, execution id, heartbeat is alive}, ...}. They stand at the end of the registry: a
-- hundred thousand expired executions need not be read.
local function executions_after(queue, moment)
  local by_job = {}
  local last = -1
  local found_older = false
  repeat
    local entries =
      redis.call('ZRANGE', config.wip_prefix .. queue, last - 499, last, 'WITHSCORES')
    for i = 1, #entries, 2 do
      local member, expires_at = entries[i], tonumber(entries[i + 1])
      if expires_at > moment then
        local job_id = string.match(member, '^(.-):') or member
        by_job[job_id] = by_job[job_id] or {}
        table.insert(by_job[job_id], {member, execution_id_of(member), expires_at > now})
      else
        found_older = true
      end
    end
    last = last - 500
  until found_older or #entries == 0
  return by_job
end

local recent_by_queue = {}
local function recent_executions_of(queue, id)
  if not recent_by_queue[queue] then
    local moment = now
    if config.expired and queue == config.queue then
      moment = math.min(config.expired_at, now)
    end
    recent_by_queue[queue] = executions_after(queue, moment)
  end
  return recent_by_queue[queue][id] or {}
end

local function has_live_execution(queue, id)
  for _, execution in ipairs(recent_executions_of(queue, id)) do
    if execution[3] then
      return true
    end
  end
  return false
end

-- All executions of the job, expired or not. Uses the expired ones that the caller has read, or
-- reads the whole registry.
local all_by_queue = {}
local known = {} -- by job id: a registry may hold thousands of executions of one job
local function executions_of(queue, id)
  if not config.expired or queue ~= config.queue then
    all_by_queue[queue] = all_by_queue[queue] or executions_after(queue, -math.huge)
    return all_by_queue[queue][id] or {}
  end
  if known[id] then
    return known[id]
  end
  local found = {unpack(recent_executions_of(queue, id))}
  for _, member in ipairs(config.expired[id] or {}) do
    local expires_at = tonumber(redis.call('ZSCORE', config.wip_prefix .. queue, member) or nil)
    if expires_at and expires_at <= math.min(config.expired_at, now) then
      table.insert(found, {member, execution_id_of(member), false})
    end
  end
  known[id] = found
  return found
end

-- How often each id stands in our list. Read once LPOS has walked over the list too often.
local WALKS_BEFORE_SCAN = 16
local walks = 0
local SCAN_COSTS = 30
local charged = 0 -- walks for ids that were not in the list when the caller read it
local scanned = nil
local function scan_main_list(wanted) -- nil: every id
  scanned = {}
  local length = redis.call('LLEN', main_list)
  for start = 0, length - 1, 5000 do
    for _, id in ipairs(redis.call('LRANGE', main_list, start, start + 4999)) do
      if not wanted or wanted[id] then
        scanned[id] = (scanned[id] or 0) + 1
      end
    end
  end
end

local shift = 0 -- how far the list has moved since the caller read it

-- How often the id stands in our list: 0, 1, or 2 and more; nil if no walk is left to find out.
local function places_in_main_list(id, hint, enqueued_at, seen)
  if hint >= 0 then
    local index = hint - shift
    if index >= 0 and redis.call('LINDEX', main_list, index) == id then
      return 1
    end
  elseif hint == -1
    and (not pushing or not enqueued_at or enqueued_at < config.cutoff or enqueued_at == seen)
  then
    -- Every enqueue writes enqueued_at: the id was not in the list and was not added since. Without
    -- a push, the state when the list was read is good enough.
    return 0
  end
  if scanned then
    return scanned[id] or 0
  end
  if hint == -1 and config.walks then
    if charged >= config.walks then
      return nil
    end
    charged = charged + (walks < WALKS_BEFORE_SCAN and 1 or SCAN_COSTS)
  end
  walks = walks + 1
  if walks > WALKS_BEFORE_SCAN then
    scan_main_list()
    return scanned[id] or 0
  end
  local indexes = redis.call('LPOS', main_list, id, 'COUNT', 2)
  if hint >= 0 and indexes[1] then
    shift = hint - indexes[1]
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

-- Returns the answer, the queue of the job, how often the id stands in our list, and a detail:
-- `delayed` for a waiting job that is in no list; `enqueued_at` for a job that is not live, if it may
-- have been queued since the list was read.
local function judge(id, hint, seen)
  local status, origin, enqueued_at, rate_limit_key = unpack(redis.call(
    'HMGET', config.job_prefix .. id, 'status', 'origin', 'enqueued_at', 'rate_limit_key'))
  local queue = config.queue
  if origin and origin ~= '' then
    queue = origin
  end
  for _, name in ipairs(queue == config.queue and {queue} or {queue, config.queue}) do
    if has_live_execution(name, id) then
      return 'running', queue, 0
    end
  end
  -- The execution of a worker that was paused has left the registry; its heartbeat goes on.
  for _, execution_id in ipairs(redis.call('ZRANGE', config.executions_prefix .. id, 0, -1)) do
    if redis.call('EXISTS', config.execution_prefix .. id .. ':' .. execution_id) == 1 then
      return 'running', queue, 0
    end
  end
  local places = places_in_main_list(id, hint, enqueued_at, seen)
  if not places then
    return 'doubtful:' .. (enqueued_at or 'never'), queue, 0
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
  if status == 'queued' and (enqueued_at or 'never') ~= seen then
    return 'doubtful:' .. (enqueued_at or 'never'), queue, 0
  end
  local is_uncertain = hint == -1 and enqueued_at and enqueued_at >= config.cutoff
  return 'none', queue, places, is_uncertain and enqueued_at or nil
end

local present = {}
local function key_exists(key)
  if present[key] == nil then
    present[key] = redis.call('EXISTS', key) == 1
  end
  return present[key]
end

-- Counts the keys and entries of a stale job, but for its place in the list. Removes them if told.
local function remains(id, queue, remove)
  local job_key = config.job_prefix .. id
  local count = redis.call(remove and 'DEL' or 'EXISTS', job_key, job_key .. ':dependencies',
    config.results_prefix .. id, config.executions_prefix .. id,
    main_list .. ':intermediate:first_seen:' .. id)
  for _, name in ipairs(queue == config.queue and {queue} or {queue, config.queue}) do
    for _, prefix in ipairs(config.registry_prefixes) do
      local registry = prefix .. name
      if key_exists(registry) and redis.call('ZSCORE', registry, id) then
        count = count + 1
        if remove then
          redis.call('ZREM', registry, id)
        end
      end
    end
    for _, execution in ipairs(executions_of(name, id)) do
      count = count + 1
      if remove then
        redis.call('ZREM', config.wip_prefix .. name, execution[1])
        redis.call('DEL', config.execution_prefix .. id .. ':' .. execution[2])
      end
    end
    if name ~= config.queue and remove then
      redis.call('DEL', config.queue_prefix .. name .. ':intermediate:first_seen:' .. id)
    end
    if stands_in_intermediate(name, id) then
      count = count + 1
      if remove then
        redis.call('LREM', config.queue_prefix .. name .. ':intermediate', 0, id)
      end
    end
  end
  return count
end

-- Missing permissions fail every job, not a single one.
local function fails_for_all(text)
  return string.find(text, 'NOPERM') or string.find(text, 'ACL failure')
end

-- Calls the action. Turns an error into an answer, so that one bad job does not cost the others.
local function alone(action, ...)
  local results = {pcall(action, ...)}
  if results[1] then
    return unpack(results, 2)
  end
  local text = type(results[2]) == 'table' and results[2].err or tostring(results[2])
  if fails_for_all(text) then
    error(text, 0)
  end
  return 'unreadable:' .. text
end

local function judge_alone(...)
  return alone(judge, ...)
end

local TRIALS = {
  DEL = {}, HSET = {'x', 'x'}, LPUSH = {'x'}, LREM = {0, 'x'}, LSET = {0, 'x'}, PERSIST = {},
  RPUSH = {'x'}, XADD = {'*', 'x', 'x'}, ZREM = {'x'},
}

-- Redis does not roll back a script that fails. So missing permissions must show before anything is
-- removed. When it is out of memory, Redis refuses only the first write of a script.
local function try_writes(commands)
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

-- A list or registry of the wrong type fails every job, not a single one.
redis.call('LLEN', main_list)
recent_executions_of(config.queue, '')
