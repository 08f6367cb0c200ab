-- Looks at the jobs of links in Docora's own queue (BullMQ 5). With `push`, removes what an ended
-- job has left, so that Docora's scheduler can queue a new one. Queues nothing.
--
-- ARGV[1]  "look" (writes nothing), or "push"
-- ARGV[2]  prefix of the queue's keys
-- then the job ids
--
-- Returns what was found per link, before any change: none, finished, stale, waiting, running, or
-- unreadable:REASON. Running includes a job that a killed worker has left active, which BullMQ will
-- run again or give up.

local is_push, prefix = ARGV[1] == 'push', ARGV[2]

local is_active = {}
for _, id in ipairs(redis.call('LRANGE', prefix .. 'active', 0, -1)) do
  is_active[id] = true
end

-- Avoids searching long lists: a job that exists and is in no other place waits in a list.
local function judge(id)
  local made_at = redis.pcall('HGET', prefix .. id, 'timestamp')
  if type(made_at) == 'table' then
    if not string.find(made_at.err, 'WRONGTYPE') then
      error(made_at.err, 0)
    end
    return 'unreadable:its key in Redis is not that of a job'
  elseif not made_at and redis.call('EXISTS', prefix .. id) == 0 then
    return 'none'
  elseif redis.call('ZSCORE', prefix .. 'completed', id) then
    return 'finished'
  elseif redis.call('ZSCORE', prefix .. 'failed', id) then
    return 'stale'
  elseif is_active[id] then
    return 'running'
  end
  return 'waiting'
end

local states = {}
for i = 3, #ARGV do
  local id = ARGV[i]
  local state = judge(id)
  table.insert(states, state)
  if is_push and (state == 'finished' or state == 'stale') then
    local key = prefix .. id
    redis.call('DEL', key, key .. ':logs', key .. ':dependencies', key .. ':processed',
      key .. ':failed', key .. ':unsuccessful')
    redis.call('ZREM', prefix .. (state == 'stale' and 'failed' or 'completed'), id)
  end
end
return states
