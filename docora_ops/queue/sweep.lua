-- Finds and removes what stands in the queue's list and registries and should not. judge.lua comes
-- before this.
--
-- ARGV[1]  "check" (writes nothing) or "mend"
-- ARGV[2]  JSON: what judge.lua needs, and for a check the `place`: list, intermediate, wip,
--          scheduled, deferred, failed, finished or canceled; `exact`: of the list, count the ids
--          there, which otherwise have been read from it a moment ago; `audit`, if an entry of the
--          audit trail is to be written should anything be removed
-- then, check: id; mend: action (orphan, duplicate or stale), id
--
-- Returns one answer per id. check: absent, running, ok, gone (the entry is there, its job is not),
-- contradicts:STATUS (the job is in a state that does not belong there), and of the list also
-- elsewhere (the job is of another queue), twice, scheduled (it stands there too). mend: removed,
-- absent (there is nothing to remove any more), running, or unreadable:REASON.

local mending = ARGV[1] == 'mend'

-- What a job may say of itself where it stands.
local BELONGS = {
  deferred = {deferred = true},
  failed = {failed = true, stopped = true},
  finished = {finished = true},
  canceled = {canceled = true},
}
-- Of these RQ itself removes what has had its time; a score below 0 means for ever.
local EXPIRES = {failed = true, finished = true}

local function is_running(id)
  return (judge(id, mending and -2 or -1, nil)) == 'running'
end

local function check_list(id)
  local status, origin =
    unpack(redis.call('HMGET', config.job_prefix .. id, 'status', 'origin'))
  if status and origin and origin ~= '' and origin ~= config.queue then
    return 'elsewhere'
  end
  if mending or config.exact then
    local answer, _, places = judge(id, -2, nil)
    if answer == 'running' then
      return 'running'
    end
    if places == 0 then
      return 'absent'
    end
    if status and places > 1 then
      return 'twice'
    end
  elseif not status and is_running(id) then
    return 'running'
  end
  if not status then
    return 'gone'
  end
  local scheduled = config.scheduled_prefix .. config.queue
  if key_exists(scheduled) and redis.call('ZSCORE', scheduled, id) then
    return is_running(id) and 'running' or 'scheduled'
  end
  return 'ok'
end

local function check_wip(id)
  local executions = executions_of(config.queue, id)
  if #executions == 0 then
    return 'absent'
  end
  local status = redis.call('HGET', config.job_prefix .. id, 'status')
  if is_running(id) then
    return 'running'
  end
  if not status then
    return 'gone'
  end
  -- Dead ones that say so are for RQ's own cleanup, which tries them again or lets them fail.
  return status == 'started' and 'ok' or 'contradicts:' .. status
end

local function check_registry(place, id)
  local score = redis.call('ZSCORE', config[place .. '_prefix'] .. config.queue, id)
  if not score then
    return 'absent'
  end
  if EXPIRES[place] and tonumber(score) >= 0 and tonumber(score) <= now then
    return 'absent'
  end
  local status = redis.call('HGET', config.job_prefix .. id, 'status')
  if status and (not BELONGS[place] or BELONGS[place][status]) then
    return 'ok'
  end
  if is_running(id) then
    return 'running'
  end
  return status and 'contradicts:' .. status or 'gone'
end

local function check_intermediate(id)
  if not stands_in_intermediate(config.queue, id) then
    return 'absent'
  end
  if redis.call('EXISTS', config.job_prefix .. id) == 1 then
    return 'ok' -- in a worker's hand, or for RQ's own cleanup
  end
  return is_running(id) and 'running' or 'gone'
end

local function check(place, id)
  if place == 'list' then
    return check_list(id)
  elseif place == 'wip' then
    return check_wip(id)
  elseif place == 'intermediate' then
    return check_intermediate(id)
  end
  return check_registry(place, id)
end

if config.audit then
  redis.call('XLEN', config.audit.key)
end
local answers = {}

local step = mending and 2 or 1
if mending or config.exact and #ARGV > WALKS_BEFORE_SCAN then
  local wanted = {}
  for i = 2 + step, #ARGV, step do
    wanted[ARGV[i]] = true
  end
  scan_main_list(wanted)
end

if not mending then
  for i = 3, #ARGV do
    answers[#answers + 1] = alone(check, config.place, ARGV[i])
  end
  return answers
end

local places_to_keep = {} -- by id, of those that lose some

local function decide_orphan(id)
  local answer, _, places = judge(id, -2, nil)
  if answer == 'running' or string.find(answer, '^doubtful')
    or (places == 0 and stands_in_intermediate(config.queue, id))
  then
    return 'running'
  end
  if places > 0 then
    places_to_keep[id] = 0
  end
  return 'orphan'
end

local function decide_duplicate(id)
  local answer = check_list(id)
  if answer == 'twice' then
    places_to_keep[id] = 1
  elseif answer ~= 'scheduled' then
    return answer == 'running' and 'running' or 'absent'
  end
  return 'duplicate'
end

local STALE_PLACES =
  {'list', 'intermediate', 'wip', 'scheduled', 'deferred', 'failed', 'finished', 'canceled'}

local function decide_stale(id)
  local found = {}
  for _, place in ipairs(STALE_PLACES) do
    local answer = check(place, id)
    if answer == 'running' then
      return 'running'
    end
    if answer == 'gone' or string.find(answer, '^contradicts') then
      found[#found + 1] = place
    end
    if place == 'list' and answer == 'gone' then
      places_to_keep[id] = 0
    end
  end
  return #found > 0 and found or 'absent'
end

local DECIDE = {orphan = decide_orphan, duplicate = decide_duplicate, stale = decide_stale}

-- One walk for all: a walk for each id would be quadratic.
local REMOVED = 'docora-ops:removed' -- no id, since it has a colon
local function thin_out_list()
  if not next(places_to_keep) then
    return
  end
  local seen = {}
  local found = false
  local length = redis.call('LLEN', main_list)
  for start = 0, length - 1, 5000 do
    for offset, id in ipairs(redis.call('LRANGE', main_list, start, start + 4999)) do
      if places_to_keep[id] then
        seen[id] = (seen[id] or 0) + 1
        if seen[id] > places_to_keep[id] then
          redis.call('LSET', main_list, start + offset - 1, REMOVED)
          found = true
        end
      end
    end
  end
  if found then
    redis.call('LREM', main_list, 0, REMOVED)
  end
end

local function remove_entry(place, id)
  if place == 'wip' then
    for _, execution in ipairs(executions_of(config.queue, id)) do
      redis.call('ZREM', config.wip_prefix .. config.queue, execution[1])
      redis.call('DEL', config.execution_prefix .. id .. ':' .. execution[2])
    end
  elseif place == 'intermediate' then
    redis.call('LREM', main_list .. ':intermediate', 0, id)
    redis.call('DEL', main_list .. ':intermediate:first_seen:' .. id)
  elseif place ~= 'list' then
    redis.call('ZREM', config[place .. '_prefix'] .. config.queue, id)
  end
end

local function carry_out(id, decision)
  if decision == 'orphan' then
    remains(id, config.queue, true)
  elseif decision == 'duplicate' then
    redis.call('ZREM', config.scheduled_prefix .. config.queue, id)
  elseif type(decision) == 'table' then
    for _, place in ipairs(decision) do
      remove_entry(place, id)
    end
  else
    return decision
  end
  return 'removed'
end

-- First all that is to be decided, then the list: when Redis is out of memory it refuses that, and
-- nothing has been removed. Then the rest, which it takes.
local removed = false
local decisions = {}
for i = 3, #ARGV, 2 do
  decisions[#decisions + 1] = alone(DECIDE[ARGV[i]], ARGV[i + 1])
end
local begins_with_list = next(places_to_keep)
try_writes({begins_with_list and 'LSET' or 'LREM', 'LREM', 'DEL', 'XADD', 'ZREM'})
thin_out_list()
for i = 3, #ARGV, 2 do
  local decision = decisions[#answers + 1]
  answers[#answers + 1] = alone(carry_out, ARGV[i + 1], decision)
  removed = removed or answers[#answers] == 'removed'
end
if removed and config.audit then
  redis.call('XADD', config.audit.key, 'MAXLEN', '~', config.audit.kept, '*',
    unpack(config.audit.entry))
end
return answers
