-- Takes the first waiting job that may run now, in place of RQ's LMOVE, or counts the apps with
-- live jobs. A job may run if its app uses less than its share of the slots, and if the app is not
-- held or the job is exempted from the hold. Jobs of other programs, whose ids are not
-- APP-REPOSITORY, may always run. Appended to denials.lua.
--
-- ARGV[1]  "take" or "count"
-- ARGV[2]  JSON: names of keys, `holds` among them, and
--          `workers`: for each slot, the key of its worker's executions
--          `reserves`: an app that is alone leaves one slot free
--          `apps`: how many apps have live jobs; null if unknown
--          `page`: how many ids to read at most from where the last call stopped
-- ARGV[3]  take: the look that the last call returned; empty: a new look
--          count: position of the first id to count
--
-- Returns an answer, then
--   taken: look, id
--   more, full, held: look, number of apps with running jobs; full, held: the look is at its end
--   uncounted: nothing; count the apps, then call again
--   counted: position of the next page, or -1; the apps of this page and those with running jobs
--   empty: nothing

local mode, config = ARGV[1], cjson.decode(ARGV[2])
local HEAD = 500 -- ids to read from the head each time

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
local digest = redis.sha1hex(table.concat(fields, ' '))
local length = redis.call('LLEN', config.list)
if length == 0 and mode == 'take' then
  return {'empty'}
end

-- Running jobs by app. A worker that is known to be dead has no slot, so its job does not count.
local running, running_apps, counted = {}, 0, {}

local function add(id)
  local app = app_of(id)
  if app and not counted[id] then
    counted[id] = true
    running_apps = running_apps + (running[app] and 0 or 1)
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

if mode == 'count' then
  local apps, first = {}, tonumber(ARGV[3])
  for app in pairs(running) do
    apps[app] = true
  end
  for _, id in ipairs(redis.call('LRANGE', config.list, first, first + config.page - 1)) do
    local app = app_of(id)
    if app and not held[app] then
      apps[app] = true
    end
  end
  first = first + config.page
  local answer = {'counted', first < length and first or -1}
  for app in pairs(apps) do
    table.insert(answer, app)
  end
  return answer
end

local function share(apps)
  if apps > 1 then
    return math.max(1, math.floor(slots / apps))
  end
  return slots - (config.reserves and 1 or 0)
end

local is_counted = config.apps ~= cjson.null
local least = share(math.max(running_apps, is_counted and config.apps or 0))
local most = share(running_apps)

local function has_share(app)
  return not running[app] or running[app] < least
end

-- A look goes through the list once, in as many calls as that takes. Returns the look of the last
-- call, or nil if a new one is needed.
-- `passed`: apps whose jobs the look has passed over, and whether one of these jobs is exempt
-- `at`, `id`: position and id of the last job that the look has passed over
local function renewed(text)
  local look = text ~= '' and cjson.decode(text)
  if not look or look.digest ~= digest then
    return
  end
  for app, has_exempt in pairs(look.passed) do
    if has_share(app) and (has_exempt or not held[app]) then
      return -- a job that was passed over may run now
    end
  end
  if redis.call('LINDEX', config.list, look.at) == look.id then
    return look
  end
  local first = math.max(0, look.at - config.page)
  local ids = redis.call('LRANGE', config.list, first, look.at)
  for i = #ids, 1, -1 do
    if ids[i] == look.id then
      look.at = first + i - 1 -- jobs before it may have been taken
      return look
    end
  end
end

local look = renewed(ARGV[3]) or {passed = {}, digest = digest, at = -1, id = ''}
local begins_at = look.at
local taken, taken_at, is_uncounted

local function must_wait(app, id)
  if not app or exempt[id] and has_share(app) then
    return false
  elseif look.passed[app] == nil and not held[app] then
    if not is_counted and running[app] and running[app] < most then
      is_uncounted = true
      return false
    elseif has_share(app) then
      return false
    end
  end
  look.passed[app] = look.passed[app] or exempt[id] or false
  return true
end

-- Searches the positions `first` to `last` for a job that may run.
local function search(first, last)
  local chunk = 10
  while first <= last do
    local ids = redis.call('LRANGE', config.list, first, math.min(first + chunk - 1, last))
    for i, id in ipairs(ids) do
      if not must_wait(app_of(id), id) then
        taken, taken_at = id, first + i - 1
        return
      elseif first + i - 1 > look.at then
        look.at, look.id = first + i - 1, id
      end
    end
    first, chunk = first + chunk, chunk * 4
  end
end

-- Each call searches the head, where `--front` puts jobs.
search(0, math.min(HEAD, length) - 1)
if not taken and look.at + 1 < length then
  search(look.at + 1, math.min(look.at + config.page, length - 1))
end
if is_uncounted then
  return {'uncounted'}
elseif taken then
  redis.call('RPUSH', config.intermediate, taken) -- first: refused if out of memory
  redis.call('LREM', config.list, taken_at > length / 2 and -1 or 1, taken)
  if taken_at <= begins_at then
    look.at = look.at - 1
  end
  return {'taken', look.at >= 0 and cjson.encode(look) or '', taken}
end
local answer = 'held'
if look.at + 1 < length then
  answer = 'more'
else
  for app in pairs(look.passed) do
    answer = held[app] and answer or 'full'
  end
end
return {answer, cjson.encode(look), running_apps}
