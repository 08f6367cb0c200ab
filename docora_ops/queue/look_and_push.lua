-- Judges the jobs of links and queues them, id by id, atomically. Follows judge.lua.
--
-- ARGV[1]  "look" (writes nothing), or "push"
-- ARGV[2]  JSON: what judge.lua needs, and for a push `front`, the constant `fields`, and
--          `links_key` with `links_expiry`: where an operation keeps the links that it claims
-- then per link, look: id; push: id, disproved, data, description, row id in 16 bytes
--   data  empty: the push only confirms a live job
-- `front`: pushes each new job to the head, before the one that was pushed last
--
-- Returns one answer per link. look: waiting, delayed (waiting, but not in a list), running,
-- finished, stale, none, or unreadable with the reason after a colon. push: the same, but instead of
-- finished, stale and none: replaced_finished, replaced_stale, queued, or none if the push was only
-- to confirm.

if mode == 'push' then
  -- Redis refuses this if it is out of memory or read-only, before anything is removed.
  redis.call('SADD', config.queues, config.list)
  try_commands({
    'DEL', 'HSET', 'APPEND', 'EXPIRE', 'GETRANGE', 'LPUSH', 'LREM', 'PERSIST', 'RPUSH', 'XADD',
    'ZREM'})
  if config.links_key then
    redis.call('GETRANGE', config.links_key, 0, 0) -- refused if it is of another type
  end
end

-- All searches for suspects together hold Redis for some 10 ms, however long the list is. An entry
-- that they do not reach is not missed: whoever puts a job there also writes its enqueued_at.
local COMPARED = 1000000
local suspects = 0
for i = 4, mode == 'push' and #ARGV or 0, 5 do
  suspects = suspects + (ARGV[i] ~= '' and 1 or 0)
end

local function state(id, disproved)
  local answer, status = judge(id, disproved, math.ceil(COMPARED / suspects))
  return answer == 'waiting' and status ~= 'queued' and 'delayed' or answer
end

local REPLACED = {none = 'queued', finished = 'replaced_finished', stale = 'replaced_stale'}

local to_push, claimed = {}, {} -- job ids and row ids
local function push(id, disproved, data, description, row_id)
  local answer = state(id, disproved)
  if answer == 'running' then
    return answer
  elseif answer == 'waiting' or answer == 'delayed' then
    -- A TTL of an earlier run would delete the job while it waits.
    redis.call('PERSIST', config.job_prefix .. id)
  elseif data == '' then
    return 'none'
  else
    remove_remains(id)
    redis.call('HSET', config.job_prefix .. id, 'data', data, 'description', description,
      unpack(config.fields))
    table.insert(to_push, id)
    answer = REPLACED[answer]
  end
  table.insert(claimed, row_id)
  return answer
end

local stride = mode == 'push' and 5 or 1
local answers = {}
for i = 3, #ARGV, stride do
  table.insert(answers, alone(mode == 'push' and push or state, unpack(ARGV, i, i + stride - 1)))
end
if #to_push > 0 then
  redis.call(config.front and 'LPUSH' or 'RPUSH', config.list, unpack(to_push))
end
if config.links_key and #claimed > 0 then
  redis.call('APPEND', config.links_key, table.concat(claimed))
  redis.call('EXPIRE', config.links_key, config.links_expiry)
end
if #claimed > 0 then
  try_to_leave_mark(config.mark)
end
write_audit_entry(answers)
return answers
