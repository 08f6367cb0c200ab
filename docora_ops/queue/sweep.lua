-- Removes jobs, or some of their entries, unless they have changed since they were read. Appended
-- to judge.lua.
--
-- ARGV[1]  "remove"
-- ARGV[2]  JSON: what judge.lua needs; `entry`: the command that writes the audit entry
-- then     per job, JSON: `job_id`; `evidence`: "STATUS ENQUEUED_AT" as read; `kept`: how many of
--          its first entries in the list to keep (null: all); `entries`: {key, member}... in
--          registries and the intermediate list; `is_orphan`: remove the job and all its keys
--
-- Returns one answer per job: removed, changed (nothing was done), or unreadable:REASON.

local REMOVED = 'docora-ops-removed' -- replaces entries until all are removed at once
local PAGE = 5000

local function read_jobs()
  local jobs, positions = {}, {} -- positions in the list, by id of a job to remove from it
  for i = 3, #ARGV do
    local job = cjson.decode(ARGV[i])
    if job.kept ~= cjson.null then
      positions[job.job_id] = {}
    end
    table.insert(jobs, job)
  end
  for start = 0, next(positions) and redis.call('LLEN', config.list) - 1 or -1, PAGE do
    for i, id in ipairs(redis.call('LRANGE', config.list, start, start + PAGE - 1)) do
      if positions[id] then
        table.insert(positions[id], start + i - 1)
      end
    end
  end
  return jobs, positions
end

local is_marked = false
local function remove(job, positions)
  local id = job.job_id
  local status, enqueued_at = unpack(
    redis.call('HMGET', config.job_prefix .. id, 'status', 'enqueued_at'))
  if is_running(id) or (status or '') .. ' ' .. (enqueued_at or '') ~= job.evidence
    or positions and #positions == 0 -- a worker has taken it
  then
    return 'changed'
  end
  local removed = 0
  for i = positions and job.kept + 1 or 1, #(positions or {}) do
    redis.call('LSET', config.list, positions[i], REMOVED)
    is_marked, removed = true, removed + 1
  end
  for _, entry in ipairs(job.entries) do
    if entry[1] == config.intermediate then
      removed = removed + redis.call('LREM', config.intermediate, 0, id)
      redis.call('DEL', config.intermediate .. ':first_seen:' .. id)
    else
      removed = removed + redis.call('ZREM', entry[1], entry[2])
    end
  end
  if job.is_orphan then
    removed = removed + 1
    remove_remains(id)
  end
  return removed > 0 and 'removed' or 'changed'
end

-- The first write is one that Redis refuses when out of memory, so that nothing is removed then.
try_commands({'LSET', 'LREM', 'DEL', 'XADD', 'ZREM'})
local jobs, positions = read_jobs()
local answers = {}
for i, job in ipairs(jobs) do
  answers[i] = alone(remove, job, job.kept ~= cjson.null and positions[job.job_id] or nil)
end
if is_marked then
  redis.call('LREM', config.list, 0, REMOVED)
end
for _, answer in ipairs(config.entry and answers or {}) do
  if answer == 'removed' then
    redis.call(unpack(config.entry))
    break
  end
end
return answers
