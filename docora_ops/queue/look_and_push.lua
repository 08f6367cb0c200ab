-- Judges the jobs of links and queues them, id by id, atomically. Follows judge.lua.
--
-- ARGV[1]  "look" or "locate" (write nothing), or "push"
-- ARGV[2]  JSON: what judge.lua needs, and for a push `front`, the constant `fields`, and
--          `links_key` with `links_expiry`: where an operation keeps the links that it claims
-- then per link, look and locate: id; push: id, disproved, data, description, row id in 16 bytes
--   data  empty: the push only confirms a live job
-- `front`: pushes each new job to the head, before the one that was pushed last
--
-- Returns one answer per link. look: waiting, delayed (waiting, but not in a list), running,
-- finished, stale, none, or unreadable with the reason after a colon. push: the same, but instead of
-- finished, stale and none: replaced_finished, replaced_stale, queued, or none if the push was only
-- to confirm. locate: found, or missing if RQ would never take the job from where it stands.

if mode == 'push' then
  -- Redis refuses this if it is out of memory or read-only, before anything is removed.
  redis.call('SADD', config.queues_key, main_list)
  try_commands({
    'DEL', 'HSET', 'APPEND', 'EXPIRE', 'GETRANGE', 'LPUSH', 'LREM', 'PERSIST', 'RPUSH', 'XADD',
    'ZREM'})
  if config.links_key then
    redis.call('GETRANGE', config.links_key, 0, 0) -- refused if it is of another type
  end
end

-- Formats the present time as RQ does. Redis's clock is the only one that all processes share.
local function format_now()
  local year, month = 1970, 1
  local function days_in_month()
    if month == 2 then
      return year % 4 == 0 and (year % 100 ~= 0 or year % 400 == 0) and 29 or 28
    end
    return (month == 4 or month == 6 or month == 9 or month == 11) and 30 or 31
  end
  local days, second = math.floor(now / 86400), now % 86400
  while days >= days_in_month() do
    days = days - days_in_month()
    year, month = month == 12 and year + 1 or year, month % 12 + 1
  end
  return string.format('%04d-%02d-%02dT%02d:%02d:%02d.%06dZ', year, month, days + 1,
    math.floor(second / 3600), math.floor(second / 60) % 60, second % 60, tonumber(time[2]))
end

local function write_job(id, data, description)
  config.now = config.now or format_now()
  redis.call('HSET', config.job_prefix .. id, 'created_at', config.now, 'enqueued_at', config.now,
    'data', data, 'description', description, unpack(config.fields))
end

local function state(id, disproved)
  local answer, status, queue = judge(id, disproved)
  return answer == 'waiting' and status ~= 'queued' and 'delayed' or answer, queue
end

local REPLACED = {none = 'queued', finished = 'replaced_finished', stale = 'replaced_stale'}

local to_push, claimed = {}, {} -- job ids and row ids
local function push(id, disproved, data, description, row_id)
  local answer, queue = state(id, disproved)
  if answer == 'running' then
    return answer
  elseif answer == 'waiting' or answer == 'delayed' then
    -- A TTL of an earlier run would delete the job while it waits.
    redis.call('PERSIST', config.job_prefix .. id)
  elseif data == '' then
    return 'none'
  else
    remove_remains(id, queue)
    write_job(id, data, description)
    table.insert(to_push, id)
    answer = REPLACED[answer]
  end
  table.insert(claimed, row_id)
  return answer
end

local PLACES = {
  scheduled = config.scheduled_prefix, deferred = config.deferred_prefix,
  ready_to_enqueue = config.ready_prefix,
}

local function locate(id)
  local answer, status, queue = judge(id, '')
  local list = config.queue_prefix .. queue
  if answer ~= 'waiting' then
    return 'found'
  elseif status ~= 'queued' then
    local key = PLACES[status] and PLACES[status] .. queue or config.rate_limit_prefix
      .. (redis.call('HGET', config.job_prefix .. id, 'rate_limit_key') or '') .. ':rate_limited'
    if redis.call('ZSCORE', key, id) then
      return 'found'
    end
  end
  -- From these three a job is run whatever its status says.
  return (redis.call('LPOS', list, id) or redis.call('LPOS', list .. ':intermediate', id)
    or redis.call('ZSCORE', PLACES.scheduled .. queue, id)) and 'found' or 'missing'
end

local acts = {look = state, locate = locate, push = push}
local stride = mode == 'push' and 5 or 1
local answers = {}
for i = 3, #ARGV, stride do
  local answer, reason = alone(acts[mode], unpack(ARGV, i, i + stride - 1))
  answers[#answers + 1] = answer == 'unreadable' and answer .. ':' .. reason or answer
end
if #to_push > 0 then
  redis.call(config.front and 'LPUSH' or 'RPUSH', main_list, unpack(to_push))
end
if config.links_key and #claimed > 0 then
  redis.call('APPEND', config.links_key, table.concat(claimed))
  redis.call('EXPIRE', config.links_key, config.links_expiry)
end
write_audit_entry(answers)
return answers
