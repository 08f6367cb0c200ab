-- Removes jobs, and entries of the queue's list and registries, that have not changed since they
-- were read. Follows judge.lua.
--
-- ARGV[1]  "remove"
-- ARGV[2]  JSON: what judge.lua needs
-- then     per job, status and enqueued_at as read, with a blank between them; and JSON: `job_id`;
--          `positions` in the list, counted from the tail, the one nearest to the head last;
--          `keeps_first`: that one stays; `entries`: {registry, member}...; `is_taken`: remove it
--          from the intermediate list; `is_orphan`: remove the job with all that belongs to it
--
-- Returns one answer per job: removed, changed (nothing was done), or unreadable:REASON.

-- Takes the place of entries until all are removed in one walk over the list: no position shifts
-- meanwhile. Workers drop an id without a job.
local REMOVED = 'docora-ops-removed'

local shift = 0 -- by how much the tail has grown since the list was read
local has_searched = false

local function stands_at(id, positions)
  for _, position in ipairs(positions) do
    if redis.call('LINDEX', main_list, -position - shift) ~= id then
      return false
    end
  end
  return true
end

-- Searches the list once at most: LPOS walks over it.
local function still_stands_at(id, positions)
  if stands_at(id, positions) then
    return true
  elseif has_searched then
    return false
  end
  has_searched = true
  local index = redis.call('LPOS', main_list, id, 'RANK', -1)
  shift = index and redis.call('LLEN', main_list) - index - positions[1] or 0
  if stands_at(id, positions) then
    return true
  end
  shift = 0
  return false
end

local function remove(evidence, text)
  local job = cjson.decode(text)
  local id, positions = job.job_id, job.positions
  local status, origin, enqueued_at = unpack(
    redis.call('HMGET', config.job_prefix .. id, 'status', 'origin', 'enqueued_at'))
  if is_running(id) or (status or '') .. ' ' .. (enqueued_at or '') ~= evidence
    or not still_stands_at(id, positions)
  then
    return 'changed'
  end
  local marked = #positions - (job.keeps_first and 1 or 0)
  for i = 1, marked do
    redis.call('LSET', main_list, -positions[i] - shift, REMOVED)
  end
  local removed = math.max(marked, 0)
  for _, entry in ipairs(job.entries) do
    removed = removed + redis.call('ZREM', entry[1], entry[2])
  end
  if job.is_taken then
    removed = removed + redis.call('LREM', main_list .. ':intermediate', 0, id)
    redis.call('DEL', main_list .. ':intermediate:first_seen:' .. id)
  end
  if job.is_orphan then
    removed = removed + 1
    remove_remains(id, origin and origin ~= '' and origin or config.queue)
  end
  return removed > 0 and 'removed' or 'changed'
end

-- The first write is one that Redis refuses when it is out of memory, so nothing is removed then.
try_commands({'LSET', 'LREM', 'DEL', 'XADD', 'ZREM'})
local answers = {}
for i = 3, #ARGV, 2 do
  local answer, reason = alone(remove, ARGV[i], ARGV[i + 1])
  answers[#answers + 1] = reason and answer .. ':' .. reason or answer
end
write_audit_entry(answers)
return answers
