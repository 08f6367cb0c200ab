-- Inspects jobs with all their entries in the queue's list and registries, and removes orphans,
-- duplicates and stale entries. Follows judge.lua.
--
-- ARGV[1]  "inspect" (writes nothing) or "remove"
-- ARGV[2]  JSON: what judge.lua needs
-- then     inspect: id, hint...; remove: id, hint, kind (orphan, duplicate or stale_entry)...
--
-- Returns one answer per id, unreadable:REASON or
-- inspect: "STATE ENTRIES STATUS", where STATE is none, waiting, doubtful or running; ENTRIES are
--          PLACE:PROBLEM, separated by commas; STATUS is that of the job, empty if there is none
-- remove:  removed, absent (nothing is left to remove) or running
--
-- PROBLEM is ok, gone (the entry exists, its job does not), contradicts (the job has a status that
-- does not belong there) or twice (the job stands in the list more than once).

-- The statuses that a job may have in each registry; any status in `scheduled`.
local BELONGS = {
  deferred = {deferred = true},
  failed = {failed = true, stopped = true},
  finished = {finished = true},
  canceled = {canceled = true},
}
local REGISTRIES = {'scheduled', 'deferred', 'failed', 'finished', 'canceled'}
-- RQ removes expired entries of these registries itself; a score below 0 never expires.
local EXPIRES = {failed = true, finished = true}

-- Returns the state of a job, the problems of its entries by place, and its status.
local function inspect(id, hint)
  local status, origin = unpack(redis.call('HMGET', config.job_prefix .. id, 'status', 'origin'))
  local state, _, places = judge(id, hint, nil)
  local problems = {}
  -- If the job belongs to another queue, its place in our list is none of our business.
  if places > 0 and not (status and origin and origin ~= '' and origin ~= config.queue) then
    problems.list = not status and 'gone' or places > 1 and 'twice' or 'ok'
  end
  if stands_in_intermediate(config.queue, id) then
    problems.intermediate = status and 'ok' or 'gone'
  end
  if has_execution(config.queue, id) then
    -- RQ's own cleanup retries or fails a `started` job whose executions have expired.
    problems.wip = not status and 'gone' or status == 'started' and 'ok' or 'contradicts'
  end
  for _, place in ipairs(REGISTRIES) do
    local key = config[place .. '_prefix'] .. config.queue
    local score = key_exists(key) and tonumber(redis.call('ZSCORE', key, id) or nil)
    if score and not (EXPIRES[place] and score >= 0 and score <= now) then
      local fits = status and (not BELONGS[place] or BELONGS[place][status])
      problems[place] = fits and 'ok' or status and 'contradicts' or 'gone'
    end
  end
  return state, problems, status
end

local function answer_inspection(id, hint)
  local state, problems, status = inspect(id, hint)
  local entries = {}
  for place, problem in pairs(problems) do
    entries[#entries + 1] = place .. ':' .. problem
  end
  return state .. ' ' .. table.concat(entries, ',') .. ' ' .. (status or '')
end

local answers = {}
if mode == 'inspect' then
  for i = 3, #ARGV, 2 do
    answers[#answers + 1] = joined(alone(answer_inspection, ARGV[i], ARGV[i + 1]))
  end
  return answers
end

-- From here on: remove.

local to_remove = {} -- indexes in the list

local function remove_from_list(id, kept)
  for i = kept + 1, #indexes_of[id] do
    table.insert(to_remove, indexes_of[id][i])
  end
end

-- Returns the places to remove the job from, `all`, or an answer if nothing is to be removed.
local function decide(id, hint, kind)
  local state, problems = inspect(id, hint)
  if state == 'running' or not indexes_of[id] then
    return 'running'
  elseif kind == 'orphan' then
    if state == 'doubtful' or problems.intermediate then
      return 'running' -- a worker may have just taken it
    end
    if problems.list then
      remove_from_list(id, 0)
    end
    return 'all'
  elseif kind == 'duplicate' then
    if problems.list == 'twice' then
      remove_from_list(id, 1)
    end
    if problems.list and problems.scheduled then
      return {'scheduled'}
    end
    return problems.list == 'twice' and {} or 'absent'
  end
  local stale = {}
  for place, problem in pairs(problems) do
    if problem == 'gone' or problem == 'contradicts' then
      stale[#stale + 1] = place
    end
  end
  if problems.list == 'gone' then
    remove_from_list(id, 0)
  end
  return #stale > 0 and stale or 'absent'
end

local function remove_entry(place, id)
  if place == 'wip' then
    remove_executions(config.queue, id)
  elseif place == 'intermediate' then
    redis.call('LREM', main_list .. ':intermediate', 0, id)
    redis.call('DEL', main_list .. ':intermediate:first_seen:' .. id)
  elseif place ~= 'list' then
    redis.call('ZREM', config[place .. '_prefix'] .. config.queue, id)
  end
end

local function carry_out(id, decision)
  if decision == 'all' then
    remains(id, config.queue, true)
  elseif type(decision) == 'table' then
    for _, place in ipairs(decision) do
      remove_entry(place, id)
    end
  else
    return decision
  end
  return 'removed'
end

local decisions = {}
for i = 3, #ARGV, 3 do
  decisions[#decisions + 1] = joined(alone(decide, ARGV[i], ARGV[i + 1], ARGV[i + 2]))
end
-- The first write is one that Redis refuses when it is out of memory, so nothing is removed then.
try_commands({#to_remove > 0 and 'LSET' or 'LREM', 'LREM', 'DEL', 'XADD', 'ZREM'})
remove_from_main_list(to_remove)
for i, decision in ipairs(decisions) do
  answers[i] = joined(alone(carry_out, ARGV[3 * i], decision))
end
write_audit_entry(answers)
return answers
