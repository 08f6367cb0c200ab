-- Looks at the jobs of links in Docora's own queue (BullMQ 5), atomically. Writes only what comes
-- with a change, never to BullMQ's keys. Appended to with_change.lua.
--
-- ARGV[1]  "look" (writes nothing), or "push"
-- ARGV[2]  JSON: `prefix` of the queue's keys, and for a push
--          `refuses_waiting`: also refuse jobs that wait
--          `commands`: number of commands to run with the change
-- then per command: number of its words, and the words
-- then per link, look: id; push: id, and "queue", or "" if the job must not be live
--
-- Returns the state of each job: none, finished, stale, waiting, delayed, running, or
-- unreadable:REASON. Running includes a job that a killed worker has left active, which BullMQ will
-- run again or give up. If a push refuses any job, it writes nothing, and the states of the refused
-- jobs begin with "refused ".

local is_push, config = ARGV[1] == 'push', cjson.decode(ARGV[2])
local prefix = config.prefix
local commands, first = {}, 3
if is_push then
  commands, first = read_commands(first, config.commands)
end
local stride = is_push and 2 or 1

local is_active = {}
for _, id in ipairs(redis.call('LRANGE', prefix .. 'active', 0, -1)) do
  is_active[id] = true
end

local function stands_in(name, id)
  return redis.call('ZSCORE', prefix .. name, id)
end

-- Avoids searching long lists: a job that exists and is in no other place waits in a list.
local function look(id)
  local made_at = redis.pcall('HGET', prefix .. id, 'timestamp')
  if type(made_at) == 'table' then
    if not string.find(made_at.err, 'WRONGTYPE') then
      error(made_at.err, 0)
    end
    return 'unreadable:it is no hash'
  elseif not made_at and redis.call('EXISTS', prefix .. id) == 0 then
    return 'none'
  elseif stands_in('completed', id) then
    return 'finished'
  elseif stands_in('failed', id) then
    return 'stale'
  elseif stands_in('delayed', id) then
    return 'delayed'
  elseif is_active[id] then
    return 'running'
  end
  return 'waiting'
end

local states, is_refused = {}, false
for i = first, #ARGV, stride do
  local state = look(ARGV[i])
  if is_push and refuses(state, config.refuses_waiting or ARGV[i + 1] == '') then
    state, is_refused = 'refused ' .. state, true
  end
  table.insert(states, state)
end
if is_push and not is_refused then
  run_commands(commands)
end
return states
