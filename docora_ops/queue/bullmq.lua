-- Looks at the jobs of links in Docora's own queue, in the key layout of BullMQ 5, atomically.
-- Writes nothing there, only our own audit entry.
--
-- ARGV[1]  JSON: `prefix` of the queue's keys; `audit`: by answer, the command that writes an entry;
--          `mark`: see mark.lua; only for a change
-- then     ids
--
-- Returns one answer per link: none, waiting, delayed, running, finished, stale, or unreadable with
-- the reason after a colon. Running includes a job that a killed worker has left active: BullMQ runs
-- it again, or gives it up.

local config = cjson.decode(ARGV[1])
local prefix = config.prefix

local is_active = {}
for _, id in ipairs(redis.call('LRANGE', prefix .. 'active', 0, -1)) do
  is_active[id] = true
end

local function stands_in(name, id)
  return redis.call('ZSCORE', prefix .. name, id)
end

-- A job that exists and is in no other place waits in a list: nothing is searched in a long list.
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

local answers, entry = {}, nil
for i = 2, #ARGV do
  local answer = look(ARGV[i])
  entry = entry or (config.audit or {})[answer == 'delayed' and 'waiting' or answer]
  table.insert(answers, answer)
end
if entry then
  redis.call(unpack(entry))
end
try_to_leave_mark(config.mark)
return answers
