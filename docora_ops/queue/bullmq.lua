-- Looks at the jobs of links in Docora's own queue, in the key layout of BullMQ 5, atomically.
-- Writes nothing there, only our own audit entry.
--
-- ARGV[1]  JSON: `prefix` of the queue's keys; `audit`: by answer, the arguments of XADD
-- then per link: id, hint
--   hint  -1: not in the list when the caller read it; -2: the list was not read; else its index
--
-- Returns one answer per link: none, waiting, waiting:delayed, running, doubtful (active, but no
-- worker renews its lock), finished, stale, or unreadable with the reason after a colon.

local config = cjson.decode(ARGV[1])
local prefix = config.prefix

local is_active = {}
for _, id in ipairs(redis.call('LRANGE', prefix .. 'active', 0, -1)) do
  is_active[id] = true
end

local function stands_in(name, id)
  return redis.call('ZSCORE', prefix .. name, id)
end

-- BullMQ adds jobs at the head, where LPOS begins. Many searches would take quadratic time.
local MOST_SEARCHES = 20
local searches, is_listed = 0, nil
local function is_in_list(id, hint)
  if tonumber(hint) >= 0 then
    return true
  end
  searches = searches + 1
  if searches <= MOST_SEARCHES then
    return redis.call('LPOS', prefix .. 'wait', id) or redis.call('LPOS', prefix .. 'paused', id)
  end
  if not is_listed then
    is_listed = {}
    for _, name in ipairs({'wait', 'paused'}) do
      for _, waiting in ipairs(redis.call('LRANGE', prefix .. name, 0, -1)) do
        is_listed[waiting] = true
      end
    end
  end
  return is_listed[id]
end

local function look(id, hint)
  local made_at = redis.pcall('HGET', prefix .. id, 'timestamp')
  if type(made_at) == 'table' then
    if not string.find(made_at.err, 'WRONGTYPE') then
      error(made_at.err, 0)
    end
    return 'unreadable', 'it is no hash'
  elseif not made_at and redis.call('EXISTS', prefix .. id) == 0 then
    return 'none'
  elseif stands_in('completed', id) then
    return 'finished'
  elseif stands_in('failed', id) then
    return 'stale'
  elseif stands_in('delayed', id) then
    return 'waiting', 'delayed'
  elseif is_active[id] then
    return redis.call('EXISTS', prefix .. id .. ':lock') == 1 and 'running' or 'doubtful'
  elseif stands_in('prioritized', id) or stands_in('waiting-children', id) or is_in_list(id, hint)
  then
    return 'waiting'
  end
  return 'stale'
end

local answers, entry = {}, nil
for i = 2, #ARGV, 2 do
  local answer, detail = look(ARGV[i], ARGV[i + 1])
  entry = entry or (config.audit or {})[answer]
  answers[#answers + 1] = detail and answer .. ':' .. detail or answer
end
if entry then
  redis.call('XADD', unpack(entry))
end
return answers
