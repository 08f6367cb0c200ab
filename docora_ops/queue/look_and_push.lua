-- Judges the jobs of links, and queues either all of them or none, atomically. Appended to
-- with_change.lua and judge.lua.
--
-- ARGV[1]  "look" (writes nothing), or "push"
-- ARGV[2]  JSON: what judge.lua needs, and for a push
--          `fields`: fields and values that all jobs share
--          `front`: push each new job to the head, which reverses their order
--          `refuses_waiting`: also refuse jobs that wait
--          `changes_links`: run the commands even if no job is pushed
--          `retries_left`: give each waiting job this number of further tries
--          `holds`: key of the holds, if the jobs are to be exempted from the holds
--          `commands`: number of commands to run with the change
-- then per command: number of its words, and the words
-- then per link, look: id; push: id, disproved, data, description, was_failed
--   data        if empty, the push only confirms that no job is live
--   was_failed  `created_at` of the job if the link was failed before the push, otherwise empty.
--               The worker reads this field, and ignores it in a later job with the same id.
--
-- Returns the state of each job, before any change: none, finished, stale, waiting, delayed
-- (waiting, but not in a list), running, or unreadable:REASON. If a push refuses any job, it writes
-- nothing, and the states of the refused jobs begin with "refused ".

local is_push = mode == 'push'
local commands, first = {}, 3
if is_push then
  commands, first = read_commands(first, config.commands)
end
local stride = is_push and 5 or 1

-- Limits the searches for all suspects together to some 10 ms, however long the list is. Entries
-- beyond this limit do not matter: queueing a job after the two looks also changes its enqueued_at.
local COMPARED = 1000000
local suspects = 0
for i = first + 1, is_push and #ARGV or 0, stride do
  suspects = suspects + (ARGV[i] ~= '' and 1 or 0)
end

local function state_of(id, disproved)
  local state, status = judge(id, disproved, math.ceil(COMPARED / suspects))
  return state == 'waiting' and status ~= 'queued' and 'delayed' or state
end

local states, is_refused, pushes_any = {}, false, false
for i = first, #ARGV, stride do
  local state, data = alone(state_of, ARGV[i], is_push and ARGV[i + 1] or ''), ARGV[i + 2]
  pushes_any = pushes_any or data ~= '' and not waits(state)
  if is_push and refuses(state, config.refuses_waiting or data == '') then
    state, is_refused = 'refused ' .. state, true
  end
  table.insert(states, state)
end
if not is_push or is_refused then
  return states
end

-- Redis refuses this if it is out of memory or read-only, before anything is removed.
redis.call('SADD', config.queues, config.list)
try_commands({'DEL', 'HSET', 'APPEND', 'EXPIRE', 'LPUSH', 'LREM', 'PERSIST', 'RPUSH', 'XADD', 'ZREM'})
redis.call('LLEN', config.intermediate)
if config.holds then
  redis.call('HGET', config.holds, '')
end
for _, registry in ipairs(config.registries) do
  redis.call('ZCARD', registry)
end
if pushes_any or config.changes_links then
  run_commands(commands)
end

local to_push = {}
for i, state in ipairs(states) do
  local place = first + (i - 1) * stride
  local id, data, description = ARGV[place], ARGV[place + 2], ARGV[place + 3]
  if waits(state) then
    -- A TTL left from an earlier execution would delete the job while it waits.
    local key = config.job_prefix .. id
    redis.call('PERSIST', key)
    if config.retries_left and redis.call('HGET', key, 'retries_left') then
      redis.call('HSET', key, 'retries_left', config.retries_left)
    end
  elseif data ~= '' then
    remove_remains(id)
    redis.call('HSET', config.job_prefix .. id, 'data', data, 'description', description,
      'was_failed', ARGV[place + 4], unpack(config.fields))
    table.insert(to_push, id)
  end
end
if #to_push > 0 then
  redis.call(config.front and 'LPUSH' or 'RPUSH', config.list, unpack(to_push))
end
for i = first, config.holds and #ARGV or 0, stride do
  local id = ARGV[i]
  if redis.call('HGET', config.holds, string.match(id, '^[^-]*')) then
    -- Exempts only this job: a later one with the same id has another creation time.
    local created_at = redis.call('HGET', config.job_prefix .. id, 'created_at')
    redis.call('HSET', config.holds, 'now:' .. id, created_at or '')
  end
end
return states
