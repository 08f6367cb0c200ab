-- Looks at the jobs of links in RQ's queue. With `push`, queues the job of each link that has no
-- live one, in place of what an earlier job has left.
--
-- ARGV[1]  "look" (writes nothing), or "push"
-- ARGV[2]  JSON: names of RQ's keys, as in rq.py, and for a push
--          `fields`: names and values that all new jobs share
--          `looked_at`: two looks since this moment have found none of these jobs in the list
-- then per link, look: job id; push: job id, data, description
--
-- Returns what was found per link, before any change: none, finished, stale, waiting, running, or
-- unreadable:REASON.

local is_push, config = ARGV[1] == 'push', cjson.decode(ARGV[2])
local stride = is_push and 3 or 1
local FEW = 30 -- searching the list for as many ids takes as long as reading it whole

-- A list or registry of another type affects every job: this fails before anything is written.
redis.call('LLEN', config.list)
redis.call('LLEN', config.intermediate)
local function non_empty(keys)
  local filled = {}
  for _, key in ipairs(keys) do
    if redis.call('ZCARD', key) > 0 then
      table.insert(filled, key)
    end
  end
  return filled
end
local registries = non_empty(config.registries)
local waiting_registries = non_empty(config.waiting_registries)
local wip_is_empty = redis.call('ZCARD', config.wip) == 0

-- An execution is live while its key exists: each heartbeat renews the key's time to live. Entries
-- in registries may outlive the execution.
local function is_running(id)
  for _, execution in ipairs(redis.call('ZRANGE', config.executions .. id, 0, -1)) do
    if redis.call('EXISTS', config.execution .. id .. ':' .. execution) == 1 then
      return true
    end
  end
  return false
end

local function is_delayed(id)
  for _, key in ipairs(waiting_registries) do
    if redis.call('ZSCORE', key, id) then
      return true
    end
  end
  return false
end

local members
-- Returns the executions of the job that are in the registry, live or not.
local function members_of(id)
  if not members then
    members = {}
    for _, member in ipairs(redis.call('ZRANGE', config.wip, 0, -1)) do
      local job_id = string.match(member, '^(.-):') or member
      members[job_id] = members[job_id] or {}
      table.insert(members[job_id], member)
    end
  end
  return members[id] or {}
end

-- A worker that cleans up after killed ones first reads what they have left, and queues all of it a
-- moment later: a job that was pushed in between would be queued twice.
local is_cleaning = redis.call('EXISTS', config.cleaning) == 1
local function is_being_cleaned(id, status)
  return is_cleaning and (#members_of(id) > 0
    or status ~= 'queued' and redis.call('LPOS', config.intermediate, id))
end

-- Returns the state, or `queued` if the list must still be searched for the id.
local function judge(id)
  local status, enqueued_at = unpack(
    redis.call('HMGET', config.job .. id, 'status', 'enqueued_at'))
  if is_running(id) then
    return 'running'
  elseif is_delayed(id) then
    return 'waiting'
  elseif is_being_cleaned(id, status) then
    return 'running'
  elseif status == 'queued' then
    local is_missing = config.looked_at and (enqueued_at or '') < config.looked_at
    return is_missing and 'stale' or 'queued'
  elseif status == 'finished' then
    return 'finished'
  end
  return status and 'stale' or 'none'
end

-- Turns a key of another type into an answer, so that one bad job does not affect the others.
local function judge_alone(id)
  local succeeded, result = pcall(judge, id)
  if succeeded then
    return result
  end
  local text = type(result) == 'table' and result.err or tostring(result)
  if string.find(text, 'WRONGTYPE') then
    return 'unreadable:its key in Redis is not that of a job'
  end
  error(text, 0)
end

local states, queued = {}, 0
for i = 3, #ARGV, stride do
  local state = judge_alone(ARGV[i])
  table.insert(states, state)
  queued = queued + (state == 'queued' and 1 or 0)
end

-- A status `queued` does not prove that the id stands in the list.
local listed
if queued > FEW then
  listed = {}
  for _, key in ipairs({config.list, config.intermediate}) do
    for _, id in ipairs(redis.call('LRANGE', key, 0, -1)) do
      listed[id] = true
    end
  end
end
local function is_listed(id)
  if listed then
    return listed[id]
  end
  return redis.call('LPOS', config.list, id) or redis.call('LPOS', config.intermediate, id)
end
for number, state in ipairs(states) do
  if state == 'queued' then
    states[number] = is_listed(ARGV[3 + (number - 1) * stride]) and 'waiting' or 'stale'
  end
end
if not is_push then
  return states
end

local function remove(id)
  for _, registry in ipairs(registries) do
    redis.call('ZREM', registry, id)
  end
  -- Killed workers leave entries behind: while a new job with this id runs, RQ would mistake such an
  -- entry for one of the new job, and queue the job again.
  if not wip_is_empty then
    for _, member in ipairs(members_of(id)) do
      redis.call('ZREM', config.wip, member)
    end
  end
  local key = config.job .. id
  redis.call('DEL', key, key .. ':dependencies', config.results .. id, config.executions .. id)
end

-- Decided before anything is written: Redis refuses the first write if it is out of memory.
local to_push = {}
for number, state in ipairs(states) do
  if state == 'none' or state == 'finished' or state == 'stale' then
    table.insert(to_push, number)
  end
end
if #to_push > 0 then
  redis.call('SADD', config.queues, config.list)
end
local pushed = {}
for _, number in ipairs(to_push) do
  local i = 3 + (number - 1) * stride
  local id, data, description = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  remove(id)
  redis.call('HSET', config.job .. id, 'data', data, 'description', description,
    unpack(config.fields))
  table.insert(pushed, id)
end
if #pushed > 0 then
  redis.call('RPUSH', config.list, unpack(pushed))
end
-- A time to live left from an earlier run would remove a job while it waits.
for number, state in ipairs(states) do
  if state == 'waiting' then
    redis.call('PERSIST', config.job .. ARGV[3 + (number - 1) * stride])
  end
end
return states
