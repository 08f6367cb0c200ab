-- Judges the jobs of links, and queues either all of them or none, atomically. Appended to
-- with_change.lua and judge.lua.
--
-- ARGV[1]  "look" (writes nothing), or "push"
-- ARGV[2]  JSON: what judge.lua needs, and for a push
--          `fields`: fields and values that all jobs share
--          `front`: push each new job to the head, which reverses their order
--          `leaves_waiting`: leave waiting jobs
--          `changes_links`: run the commands even if no job is pushed
--          `retries_left`: give each waiting job this number of further tries
--          `holds`: key of the holds, if the jobs are to be exempted from those of their apps
--          `commands`: number of commands to run with the change
--          `mark`: see with_change.lua
-- then per command: number of its words, and the words
-- then per link, look: id; push: id, disproved, data, description, was_failed
--   data        if empty, the push only confirms that no job is live
--   was_failed  1 if the link was failed before the push, otherwise 0: a field for the worker
--
-- Returns one answer per link. look: waiting, delayed (waiting, but not in a list), running,
-- finished, stale, none, or unreadable:REASON. push: replaced_finished, replaced_stale, queued,
-- waiting, delayed, or none if `data` is empty. If a push must leave any job, it writes nothing and
-- returns the answers of a look, with "left " before those of the jobs to leave.

local is_push = mode == 'push'
local commands, first = {}, 3
if is_push then
  commands, first = read_commands(first, config.commands)
end
local stride = is_push and 5 or 1

-- Limits the searches for all suspects together to some 10 ms, however long the list is. An entry
-- beyond this limit is not missed: queueing a job also changes its enqueued_at.
local COMPARED = 1000000
local suspects = 0
for i = first + 1, is_push and #ARGV or 0, stride do
  suspects = suspects + (ARGV[i] ~= '' and 1 or 0)
end

local function state(id, disproved)
  local answer, status = judge(id, disproved, math.ceil(COMPARED / suspects))
  return answer == 'waiting' and status ~= 'queued' and 'delayed' or answer
end

local function waits(answer)
  return answer == 'waiting' or answer == 'delayed'
end

local answers, is_refused, pushes_any = {}, false, false
for i = first, #ARGV, stride do
  local data = ARGV[i + 2]
  local answer = alone(state, ARGV[i], is_push and ARGV[i + 1] or '')
  if is_push then
    if answer == 'running' or string.find(answer, '^unreadable')
      or waits(answer) and (config.leaves_waiting or data == '')
    then
      answer, is_refused = 'left ' .. answer, true
    end
    pushes_any = pushes_any or data ~= '' and not waits(answer)
  end
  table.insert(answers, answer)
end
if not is_push or is_refused then
  return answers
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
  write_with_change(commands, config.mark)
end

local REPLACED = {none = 'queued', finished = 'replaced_finished', stale = 'replaced_stale'}
local to_push = {}
for i, answer in ipairs(answers) do
  local place = first + (i - 1) * stride
  local id, data, description = ARGV[place], ARGV[place + 2], ARGV[place + 3]
  if waits(answer) then
    -- A TTL left from an earlier execution would delete the job while it waits.
    local key = config.job_prefix .. id
    redis.call('PERSIST', key)
    if config.retries_left and redis.call('HGET', key, 'retries_left') then
      redis.call('HSET', key, 'retries_left', config.retries_left)
    end
  elseif data == '' then
    answers[i] = 'none'
  else
    remove_remains(id)
    redis.call('HSET', config.job_prefix .. id, 'data', data, 'description', description,
      'was_failed', ARGV[place + 4], unpack(config.fields))
    table.insert(to_push, id)
    answers[i] = REPLACED[answer]
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
return answers
