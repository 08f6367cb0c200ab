-- What "live" means: where the job of a link stands, and what traces a dead one has left. Each
-- script that looks at jobs begins with this, so that there is one rule.
--
-- ARGV[1]  what to do: links.lua and sweep.lua tell
-- ARGV[2]  JSON: names of keys. Where the caller has read the queue's list also `cutoff`, and
--          `walks`, how often the script may still walk over the list for ids that were not in it
--          then. Where the caller has read the expired executions of the queue also `expired_at`,
--          the moment of that, and `expired`, the executions of these jobs
--
-- hint  index at which an id stood when the caller read the queue's list;
--       -1: it was not in that list; -2: the list has not been read; -3: it stood there twice
-- seen  `enqueued_at` of a job that was doubtful before that list was read; otherwise empty

local config = cjson.decode(ARGV[2])
local pushing = ARGV[1] == 'push'
local main_list = config.queue_prefix .. config.queue

local time = redis.call('TIME')
local now = tonumber(time[1])

local function execution_id_of(member)
  return string.match(member, ':(.*)$') or ''
end

-- Executions of a queue whose heartbeat expires after the moment, by job id:
-- {{member, execution id, heartbeat is alive}, ...}. They stand at the end of the registry, so the
-- expired ones, of which there may be a hundred thousand, are not read.
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

-- All executions of the job, expired ones too: those that the caller has read and those since,
-- otherwise all that stand in the registry.
local all_by_queue = {}
local known = {} -- by job id: a registry may name one job thousands of times
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

-- How often each id stands in our list, once LPOS has had to walk it too often.
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

-- How often the id stands in our list: 0, 1, or 2 and more; nil if that can't be told without a
-- walk over the list, and there have been enough.
local function places_in_main_list(id, hint, enqueued_at, seen)
  if hint >= 0 then
    local index = hint - shift
    if index >= 0 and redis.call('LINDEX', main_list, index) == id then
      return 1
    end
  elseif hint == -1
    and (not pushing or not enqueued_at or enqueued_at < config.cutoff or enqueued_at == seen)
  then
    -- Every enqueue writes enqueued_at: it was not in the list then and was not put there since.
    -- A mere look is content with how it was then.
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

-- Returns an answer, the queue of the job, in how many places the id stands in our list, and of a
-- waiting job that is in no list `delayed`; of one that is not live its `enqueued_at` if it may
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
  -- A worker that was paused and woke up again is in no wip registry, but its execution beats.
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
    -- Workers drop an id without a job: its place in the list is there, the job is not.
    return 'none', queue, places
  end
  -- Where its own queue is another one, a place in our list is a leftover.
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

-- Counts the traces of a dead job, but for its place in the list, and removes them if told to.
local function leftovers(id, queue, remove)
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

-- What is not permitted to our user is no fault of a single job.
local function fails_for_all(text)
  return string.find(text, 'NOPERM') or string.find(text, 'ACL failure')
end

-- Calls the action, and makes an answer of what is wrong with one job: it must not cost the others.
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

-- A script that breaks off undoes nothing. So what our user is not permitted shows before anything
-- is removed. Out of memory, Redis refuses only what a script writes first.
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

-- A list or registry that is something else is no fault of a single job.
redis.call('LLEN', main_list)
recent_executions_of(config.queue, '')
