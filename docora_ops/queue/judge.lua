-- Judges a job by its own keys, and removes the remains of a job that is not live. All scripts on
-- RQ's jobs include this one, so that there is only one definition of "live". Appended to
-- denials.lua.
--
-- ARGV[1]  mode of the script
-- ARGV[2]  JSON: names of keys

local mode, config = ARGV[1], cjson.decode(ARGV[2])

local WAITING = {
  queued = true, scheduled = true, deferred = true, ready_to_enqueue = true, rate_limited = true,
}

-- An execution is live while its key exists: each heartbeat renews the key's TTL. Entries in
-- registries may outlive the execution.
local function is_running(id)
  for _, execution_id in ipairs(redis.call('ZRANGE', config.executions_prefix .. id, 0, -1)) do
    if redis.call('EXISTS', config.execution_prefix .. id .. ':' .. execution_id) == 1 then
      return true
    end
  end
  return false
end

-- Tells whether a waiting job with this status is in no place from which a worker would take it.
-- `most`: how many entries of the list to compare, from its tail, where new jobs are added
local function is_nowhere(id, status, most)
  local registry = config.registry_of_status[status]
  return not (
    redis.call('ZSCORE', config.registry_of_status.scheduled, id)
    or registry and redis.call('ZSCORE', registry, id)
    or redis.call('LPOS', config.list, id, 'RANK', -1, 'MAXLEN', most)
    or redis.call('LPOS', config.intermediate, id))
end

-- Returns running, waiting, finished, stale or none, and the status of the job.
-- `disproved`: "STATUS ENQUEUED_AT" if two looks have found that this waiting job is misplaced;
-- otherwise empty. If the job is unchanged and still misplaced, it is stale.
-- `most`: see `is_nowhere`
local function judge(id, disproved, most)
  local status, enqueued_at = unpack(
    redis.call('HMGET', config.job_prefix .. id, 'status', 'enqueued_at'))
  if is_running(id) then
    return 'running', status
  elseif WAITING[status]
    and not (status .. ' ' .. (enqueued_at or '') == disproved and is_nowhere(id, status, most))
  then
    return 'waiting', status
  elseif status == 'finished' then
    return 'finished', status
  end
  local is_none = not status and redis.call('EXISTS', config.job_prefix .. id) == 0
  return is_none and 'none' or 'stale', status
end

-- Returns the entries of a job in the registry of running jobs. Killed workers leave some behind:
-- while a new job with this id runs, RQ would mistake an old entry for one of the new job, and
-- queue the new job again.
local executions
local function executions_of(id)
  if not executions then
    executions = {}
    for _, member in ipairs(redis.call('ZRANGE', config.wip, 0, -1)) do
      local job_id = string.match(member, '^(.-):') or member
      executions[job_id] = executions[job_id] or {}
      table.insert(executions[job_id], member)
    end
  end
  return executions[id] or {}
end

local present = {}
local function key_exists(key)
  if present[key] == nil then
    present[key] = redis.call('EXISTS', key) == 1
  end
  return present[key]
end

-- Removes the keys and the entries of a job that is not live. Leaves entries in the queue's list,
-- which would have to be searched: workers drop ids whose job is gone.
local function remove_remains(id)
  for _, registry in ipairs(config.registries) do
    if key_exists(registry) then
      redis.call('ZREM', registry, id)
    end
  end
  for _, member in ipairs(executions_of(id)) do
    redis.call('ZREM', config.wip, member)
  end
  if key_exists(config.intermediate) then -- holds at most one id per worker
    redis.call('LREM', config.intermediate, 0, id)
  end
  local job_key = config.job_prefix .. id
  redis.call('DEL', job_key, job_key .. ':dependencies', config.results_prefix .. id,
    config.executions_prefix .. id, config.intermediate .. ':first_seen:' .. id)
end

-- Calls the action. Turns an error into an answer, so that one bad job does not affect the others.
local function alone(action, ...)
  local results = {pcall(action, ...)}
  if results[1] then
    return results[2]
  end
  local text = type(results[2]) == 'table' and results[2].err or tostring(results[2])
  if is_denial(text) then  -- which affects every job, not just one
    error(text, 0)
  end
  return 'unreadable:' .. text
end

local TRIALS = {
  APPEND = {'x'}, DEL = {}, EXPIRE = {1}, HSET = {'x', 'x'}, LPUSH = {'x'}, LREM = {0, 'x'},
  LSET = {0, 'x'}, PERSIST = {}, RPUSH = {'x'}, XADD = {'*', 'x', 'x'}, ZREM = {'x'},
}

-- Tries each command on a trial key, because Redis does not roll back a script that fails:
-- missing permissions must show before anything is removed. When out of memory, Redis refuses only
-- the first write of a script. Redis 6.2 prefixes the error with the line of the script.
local function try_commands(commands)
  local key = config.list .. ':docora-ops:trial'
  for _, command in ipairs(commands) do
    local reply = redis.pcall(command, key, unpack(TRIALS[command]))
    if type(reply) == 'table' and reply.err
      and (is_denial(reply.err) or string.find(reply.err, 'OOM command not allowed'))
    then
      redis.pcall('DEL', key)
      error(reply.err, 0)
    end
  end
  redis.call('DEL', key)
end

-- A list or registry of the wrong type affects every job, not just one.
redis.call('LLEN', config.list)
redis.call('ZCARD', config.wip)
