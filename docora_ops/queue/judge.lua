-- What "live" means: where the job of a link stands, and what traces a dead one has left. Each
-- script that looks at jobs begins with this, so that there is one rule.
--
-- ARGV[1]  what to do: links.lua and sweep.lua tell
-- ARGV[2]  JSON: names of keys, `cutoff`
--
-- hint  index at which an id stood when the caller read the queue's list;
--       -1: it was not in that list; -2: the list has not been read; -3: it stood there twice
-- seen  `enqueued_at` of a job that was doubtful before that list was read; otherwise empty

local config = cjson.decode(ARGV[2])
local pushing = ARGV[1] == 'push'
local main_list = config.queue_prefix .. config.queue

local now = tonumber(redis.call('TIME')[1])

-- Executions of a queue by job id: {{member, execution id, heartbeat is alive}, ...}
local executions_by_queue = {}
local function executions_of(queue, id)
  local by_job = executions_by_queue[queue]
  if not by_job then
    by_job = {}
    local entries = redis.call('ZRANGE', config.wip_prefix .. queue, 0, -1, 'WITHSCORES')
    for i = 1, #entries, 2 do
      local member = entries[i]
      local job_id, execution_id = string.match(member, '^(.-):(.*)$')
      job_id = job_id or member
      by_job[job_id] = by_job[job_id] or {}
      table.insert(by_job[job_id], {member, execution_id or '', tonumber(entries[i + 1]) > now})
    end
    executions_by_queue[queue] = by_job
  end
  return by_job[id] or {}
end

-- How often each id stands in our list, once LPOS has had to walk it too often.
local WALKS_BEFORE_SCAN = 16
local walks = 0
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

-- How often the id stands in our list: 0, 1, or 2 and more.
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
  walks = walks + 1
  if walks > WALKS_BEFORE_SCAN and not scanned then
    scan_main_list()
  end
  if scanned then
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

-- Returns an answer, the queue of the job, and in how many places the id stands in our list.
local function judge(id, hint, seen)
  local status, origin, enqueued_at, rate_limit_key = unpack(redis.call(
    'HMGET', config.job_prefix .. id, 'status', 'origin', 'enqueued_at', 'rate_limit_key'))
  local queue = config.queue
  if origin and origin ~= '' then
    queue = origin
  end
  for _, name in ipairs(queue == config.queue and {queue} or {queue, config.queue}) do
    for _, execution in ipairs(executions_of(name, id)) do
      if execution[3] then
        return 'running', queue, 0
      end
    end
  end
  -- A worker that was paused and woke up again is in no wip registry, but its execution beats.
  for _, execution_id in ipairs(redis.call('ZRANGE', config.executions_prefix .. id, 0, -1)) do
    if redis.call('EXISTS', config.execution_prefix .. id .. ':' .. execution_id) == 1 then
      return 'running', queue, 0
    end
  end
  local places = places_in_main_list(id, hint, enqueued_at, seen)
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
    return 'waiting', queue, 0
  end
  if status == 'queued' and (enqueued_at or 'never') ~= seen then
    return 'doubtful:' .. (enqueued_at or 'never'), queue, 0
  end
  return 'none', queue, places
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
executions_of(config.queue, '')
