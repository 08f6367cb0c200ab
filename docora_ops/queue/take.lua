-- Takes the first waiting job that may run now, in place of RQ's LMOVE. Appended to denials.lua.
--
-- A job may run if its app has part of its share of the slots left, and if the app is not held or
-- the job is exempted from the hold. Jobs of other programs, whose ids are not APP-REPOSITORY, may
-- always run.
--
-- Jobs that must wait may fill the list, so each call reads only the head and one page. It returns
-- a look, with which the next call goes on where this call has stopped.
--
-- ARGV[1]  JSON: names of keys, `holds` among them, and
--          `workers`: for each slot, the key of its worker's executions
--          `reserves`: an app that is alone leaves one slot free
--          `apps`: apps that had waiting jobs when the list was last counted
--          `page`: the maximum number of ids to read from where the last call stopped
-- ARGV[2]  the look that the last call returned; empty: a new look
--
-- Returns an answer, a look, and the id of the job that was taken, if any. The answers:
--   taken
--   more: the look is not at the end of the list
--   full: all waiting jobs must wait, not only because their apps are held
--   held: all waiting jobs must wait, because their apps are held
--   empty: the list is empty

local config = cjson.decode(ARGV[1])
local HEAD = 500 -- ids to read from the head each time

local length = redis.call('LLEN', config.list)
if length == 0 then
  return {'empty', '', ''}
end

local function app_of(id)
  return string.match(id, '^([^-]+)%-[^-]+$')
end

local held, exempt = {}, {}
local fields, now = redis.pcall('HGETALL', config.holds), tonumber(redis.call('TIME')[1])
if fields.err and not is_denial(fields.err) then
  error(fields.err .. ' (' .. config.holds .. ')', 0)
end
for i = 1, #fields, 2 do
  local job_id = string.match(fields[i], '^now:(.*)')
  if job_id then
    -- Only this job: a later one with the same id was created later.
    exempt[job_id] = redis.pcall('HGET', config.job_prefix .. job_id, 'created_at') == fields[i + 1]
  else
    local ends = string.match(fields[i + 1], '"until": (%d+)[,}]') -- as in holds.py
    held[fields[i]] = not ends or tonumber(ends) > now
  end
end
local holds = redis.sha1hex(table.concat(fields, ' '))

-- Running jobs by app. A worker that is known to be dead has no slot, so its job does not count.
local running, apps, counted = {}, 0, {}

local function add(id)
  local app = app_of(id)
  if app and not counted[id] then
    counted[id] = true
    apps = apps + (running[app] and 0 or 1)
    running[app] = (running[app] or 0) + 1
  end
end

local slots = #config.workers
if slots > 1 then
  for first = 1, slots, 1000 do -- Lua passes no more than about 8,000 arguments
    local last = math.min(first + 999, slots)
    for _, run in ipairs(redis.call('SUNION', unpack(config.workers, first, last))) do
      if redis.call('EXISTS', config.execution_prefix .. run) == 1 then
        add(string.match(run, '^(.*):'))
      end
    end
  end
  for _, id in ipairs(redis.call('LRANGE', config.intermediate, 0, -1)) do
    -- If RQ's maintenance has seen the id before, its worker was killed before the job began.
    if redis.call('EXISTS', config.intermediate .. ':first_seen:' .. id) == 0 then
      add(id)
    end
  end
end
for _, app in ipairs(config.apps) do
  apps = apps + ((running[app] or held[app]) and 0 or 1)
end

local share = slots - (config.reserves and 1 or 0)
if apps > 1 then
  share = math.max(1, math.floor(slots / apps))
end

local function has_share(app)
  return not running[app] or running[app] < share
end

-- A look goes through the list once, in as many calls as that takes:
-- `passed`: apps whose jobs it has passed over, and whether one of these jobs is exempt
-- `holds`: digest of the holds that it has obeyed
-- `at`, `id`: position and id of the last job that it has passed over
local look

-- Returns the look of the last call; a new look if a job that was passed over may run now, or if
-- the last job that was passed over can't be found.
local function continued(text)
  local new = {passed = {}, holds = holds, at = -1, id = ''}
  local last = text == '' and new or cjson.decode(text)
  if last.holds ~= holds or last.at < 0 then
    return new
  end
  for app, has_exempt in pairs(last.passed) do
    if has_share(app) and (has_exempt or not held[app]) then
      return new
    end
  end
  if redis.call('LINDEX', config.list, last.at) == last.id then
    return last
  end
  local first = math.max(0, last.at - config.page) -- jobs before it may have been taken
  local ids = redis.call('LRANGE', config.list, first, last.at)
  for i = #ids, 1, -1 do
    if ids[i] == last.id then
      last.at = first + i - 1
      return last
    end
  end
  return new
end

-- Returns the first job from `first` to `last` that may run, and its position.
local function search(first, last)
  local size = 10
  while first <= last do
    local ids = redis.call('LRANGE', config.list, first, math.min(first + size - 1, last))
    for i, id in ipairs(ids) do
      local app, at = app_of(id), first + i - 1
      if not app or has_share(app) and (exempt[id] or not held[app]) then
        return id, at
      end
      look.passed[app] = look.passed[app] or exempt[id] or false
      if at > look.at then
        look.at, look.id = at, id
      end
    end
    first, size = first + size, size * 4
  end
end

look = continued(ARGV[2])
-- Each call searches the head, where `--front` puts jobs.
local taken, at = search(0, math.min(HEAD, length) - 1)
if not taken then
  taken, at = search(look.at + 1, math.min(look.at + config.page, length - 1))
end
local answer = 'held'
if taken then
  redis.call('RPUSH', config.intermediate, taken) -- first: refused if out of memory
  redis.call('LREM', config.list, at > length / 2 and -1 or 1, taken)
  answer = 'taken'
elseif look.at + 1 < length then
  answer = 'more'
else
  for app in pairs(look.passed) do
    answer = held[app] and answer or 'full'
  end
end
return {answer, cjson.encode(look), taken or ''}
