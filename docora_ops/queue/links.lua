-- Judges and queues the jobs of links, id by id. Redis runs a script as one step, so nobody can
-- come between the look and the push.
--
-- ARGV[1]  "look" (writes nothing) or "push"
-- ARGV[2]  JSON: names of keys, `cutoff`, `front`, `detailed`, and for a push the constant `fields`,
--          and `audit`, if an entry of the audit trail is to be written: which one by the first
--          answer that has one
-- then per link, look: id, hint; push: id, hint, seen, data, description
--   hint  index at which the id stood when the caller read the queue's list;
--         -1: it was not in that list; -2: the list has not been read; -3: it stood there twice
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

-- How often each id stands in our list, once LPOS has had to walk it too often.
local WALKS_BEFORE_SCAN = 16
local walks = 0
local scanned = nil
local function scan_main_list()
  scanned = {}
  local length = redis.call('LLEN', main_list)
  for start = 0, length - 1, 5000 do
    for _, id in ipairs(redis.call('LRANGE', main_list, start, start + 4999)) do
      scanned[id] = (scanned[id] or 0) + 1
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

-- Leaves the place that is nearest to the head.
local function keep_one_place(id, places)
  if places > 1 then
    local count = #redis.call('LPOS', main_list, id, 'COUNT', 0)
    redis.call('LREM', main_list, 1 - count, id)
  end
end

local function move_to_front(id)
  redis.call('LREM', main_list, 0, id)
  redis.call('LPUSH', main_list, id)
end

-- What is unreadable about one job must not cost the others.
local function judge_alone(id, hint, seen)
  local ok, answer, queue, places = pcall(judge, id, hint, seen)
  if ok then
    return answer, queue, places
  end
  return 'unreadable:' .. (type(answer) == 'table' and answer.err or tostring(answer))
end

local fields = config.fields or {}
local data_slot, description_slot = #fields + 2, #fields + 4
fields[data_slot - 1] = 'data'
fields[description_slot - 1] = 'description'

local to_push = {}
local function push(id, hint, seen, data, description)
  local answer, queue, places = judge_alone(id, hint, seen)
  if answer == 'waiting' then
    -- A time to live left over from an earlier run would take the job away from its place.
    redis.call('PERSIST', config.job_prefix .. id)
    if places > 0 and queue ~= config.queue then
      redis.call('LREM', main_list, 0, id)
      places = 0
    end
  elseif answer ~= 'none' then
    return answer
  elseif data == '' then
    return 'doubtful:never' -- no longer live, and we have no payload at hand
  else
    local removed = leftovers(id, queue, true) + places
    fields[data_slot] = data
    fields[description_slot] = description
    redis.call('HSET', config.job_prefix .. id, unpack(fields))
    if places == 0 and config.front then
      redis.call('LPUSH', main_list, id)
    elseif places == 0 then
      to_push[#to_push + 1] = id
    end
    answer = removed > 0 and 'replaced' or 'queued'
  end
  if places > 0 and config.front then
    move_to_front(id)
  else
    keep_one_place(id, places)
  end
  return answer
end

-- A list or registry that is something else is no fault of a single job.
redis.call('LLEN', main_list)
executions_of(config.queue, '')
if config.audit then
  redis.call('XLEN', config.audit.key)
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
  for _, answer in ipairs(config.audit and answers or {}) do
    local entry = config.audit.entries[answer]
    if entry then
      redis.call('XADD', config.audit.key, 'MAXLEN', '~', config.audit.kept, '*', unpack(entry))
      break
    end
  end
else
  for i = 3, #ARGV, 2 do
    local id = ARGV[i]
    local answer, queue, places = judge_alone(id, tonumber(ARGV[i + 1]), nil)
    if config.detailed and answer == 'none' and (places > 0 or leftovers(id, queue, false) > 0) then
      answer = 'stale'
    end
    answers[#answers + 1] = answer
  end
end
return answers
