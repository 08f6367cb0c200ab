-- Judges and queues the jobs of links, id by id. Redis runs a script as one step, so nobody can
-- come between the look and the push.
--
-- ARGV[1]  "look" (writes nothing) or "push"
-- ARGV[2]  JSON: names of keys, `cutoff`, `front`, `detailed`, and for a push the constant `fields`
-- then per link, look: id, hint; push: id, hint, seen, data, description
--   hint  index at which the id stood when the caller read the queue's list;
--         -1: it was not in that list; -2: the list has not been read
--   seen  `enqueued_at` of a job that was doubtful before that list was read; otherwise empty
--   data  empty: only confirm a live job, never push
--
-- Returns one answer per link: none, waiting, running, doubtful:ENQUEUED_AT (nothing was done),
-- queued, replaced, or unreadable:REASON; to a detailed look also stale: none, but there are
-- traces of a dead job.

local config = cjson.decode(ARGV[2])
local pushing = ARGV[1] == 'push'
local main_list = config.queue_prefix .. config.queue

if pushing then
  -- Refused when Redis is out of memory or read-only: before anything is removed.
  redis.call('SADD', config.queues_key, main_list)
end

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

-- The whole list as a set, once LPOS has had to walk it too often.
local WALKS_BEFORE_SCAN = 16
local walks = 0
local scanned = nil
local function scan_main_list()
  scanned = {}
  local length = redis.call('LLEN', main_list)
  for start = 0, length - 1, 5000 do
    for _, id in ipairs(redis.call('LRANGE', main_list, start, start + 4999)) do
      scanned[id] = true
    end
  end
end

local shift = 0 -- how far the list has moved since the caller read it
local function stands_in_list(queue, id, hint, enqueued_at, seen)
  if queue ~= config.queue then
    return redis.call('LPOS', config.queue_prefix .. queue, id) ~= false
  end
  if hint >= 0 then
    local index = hint - shift
    if index >= 0 and redis.call('LINDEX', main_list, index) == id then
      return true
    end
  elseif hint == -1
    and (not pushing or not enqueued_at or enqueued_at < config.cutoff or enqueued_at == seen)
  then
    -- Every enqueue writes enqueued_at: it was not in the list then and was not put there since.
    -- A mere look is content with how it was then.
    return false
  end
  if scanned then
    return scanned[id] ~= nil
  end
  walks = walks + 1
  if walks > WALKS_BEFORE_SCAN then
    scan_main_list()
    return scanned[id] ~= nil
  end
  local index = redis.call('LPOS', main_list, id)
  if index and hint >= 0 then
    shift = hint - index
  end
  return index ~= false
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

-- Returns an answer, the queue of the job, and whether the id stands in that queue's list.
local function judge(id, hint, seen)
  local job_key = config.job_prefix .. id
  local hash = redis.pcall('HMGET', job_key, 'status', 'origin', 'enqueued_at', 'rate_limit_key')
  if hash.err then
    return 'unreadable:' .. hash.err, config.queue, false
  end
  local status, enqueued_at, rate_limit_key = hash[1], hash[3], hash[4]
  local queue = config.queue
  if hash[2] and hash[2] ~= '' then
    queue = hash[2]
  end
  for _, execution in ipairs(executions_of(queue, id)) do
    if execution[3] then
      return 'running', queue, false
    end
  end
  -- A worker that was paused and woke up again is in no wip registry, but its execution beats.
  for _, execution_id in ipairs(redis.call('ZRANGE', config.executions_prefix .. id, 0, -1)) do
    if redis.call('EXISTS', config.execution_prefix .. id .. ':' .. execution_id) == 1 then
      return 'running', queue, false
    end
  end
  if stands_in_list(queue, id, hint, enqueued_at, seen) then
    -- Workers drop an id without a hash: the place in the list is there, the job is not.
    return status and 'waiting' or 'none', queue, true
  end
  if not status then
    return 'none', queue, false
  end
  if not DEAD[status] and stands_in_intermediate(queue, id) then
    return 'waiting', queue, false
  end
  if redis.call('ZSCORE', config.scheduled_prefix .. queue, id)
    or (status == 'deferred' and redis.call('ZSCORE', config.deferred_prefix .. queue, id))
    or (status == 'ready_to_enqueue' and redis.call('ZSCORE', config.ready_prefix .. queue, id))
    or (status == 'rate_limited' and rate_limit_key
      and redis.call('ZSCORE', config.rate_limit_prefix .. rate_limit_key .. ':rate_limited', id))
  then
    return 'waiting', queue, false
  end
  if status == 'queued' and (enqueued_at or 'never') ~= seen then
    return 'doubtful:' .. (enqueued_at or 'never'), queue, false
  end
  return 'none', queue, false
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
    config.queue_prefix .. queue .. ':intermediate:first_seen:' .. id)
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
    if stands_in_intermediate(name, id) then
      count = count + 1
      if remove then
        redis.call('LREM', config.queue_prefix .. name .. ':intermediate', 0, id)
      end
    end
  end
  return count
end

local function move_to_front(id)
  redis.call('LREM', main_list, 0, id)
  redis.call('LPUSH', main_list, id)
end

local fields = config.fields or {}
local data_slot, description_slot = #fields + 2, #fields + 4
fields[data_slot - 1] = 'data'
fields[description_slot - 1] = 'description'

local to_push = {}
local function push(id, hint, seen, data, description)
  local answer, queue, in_list = judge(id, hint, seen)
  if answer == 'waiting' then
    -- A time to live left over from an earlier run would take the job away from its place.
    redis.call('PERSIST', config.job_prefix .. id)
    if config.front and in_list and queue == config.queue then
      move_to_front(id)
    end
  end
  if answer ~= 'none' then
    return answer
  end
  if data == '' then
    return 'doubtful:never' -- no longer live, and we have no payload at hand
  end
  local removed = leftovers(id, queue, true)
  fields[data_slot] = data
  fields[description_slot] = description
  redis.call('HSET', config.job_prefix .. id, unpack(fields))
  if in_list and queue ~= config.queue then
    redis.call('LREM', config.queue_prefix .. queue, 0, id)
    in_list = false
    removed = removed + 1
  end
  if in_list then
    removed = removed + 1
    if config.front then
      move_to_front(id)
    end
  elseif config.front then
    redis.call('LPUSH', main_list, id)
  else
    to_push[#to_push + 1] = id
  end
  return removed > 0 and 'replaced' or 'queued'
end

local answers = {}
if pushing then
  for i = 3, #ARGV, 5 do
    answers[#answers + 1] =
      push(ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2], ARGV[i + 3], ARGV[i + 4])
  end
  if #to_push > 0 then
    redis.call('RPUSH', main_list, unpack(to_push))
  end
else
  for i = 3, #ARGV, 2 do
    local answer, queue, in_list = judge(ARGV[i], tonumber(ARGV[i + 1]), nil)
    if config.detailed and answer == 'none' and (in_list or leftovers(ARGV[i], queue, false) > 0) then
      answer = 'stale'
    end
    answers[#answers + 1] = answer
  end
end
return answers
