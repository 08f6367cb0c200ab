-- Judges the jobs of links and queues them, id by id, atomically. Follows judge.lua.
--
-- ARGV[1]  "look" (writes nothing) or "push"
-- ARGV[2]  JSON: what judge.lua needs, `front`, `detailed`, and for a push the constant `fields`,
--          and `links_key` with `links_expiry`: where an operation keeps the links that it claims
-- then per link, look: id, hint; push: id, hint, seen, data, description, row id in 16 bytes
--   data  empty: the push only confirms a live job
-- `front`: pushes each job to the head, before the one that was pushed last, and moves a job there
-- that waits in our list; without it, a waiting job keeps its place and others go to the tail
--
-- Returns one answer per link: none, waiting, running, doubtful (nothing was done) or unreadable.
-- Instead of none, a push returns queued, replaced_finished or replaced_stale, and a detailed look
-- none, finished or stale: `remains` finds finished and stale jobs. The detail that `judge` returns,
-- or the reason of unreadable, follows a colon.

if mode == 'push' then
  -- Redis refuses this if it is out of memory or read-only, before anything is removed.
  redis.call('SADD', config.queues_key, main_list)
  try_commands({
    'DEL', 'HSET', 'APPEND', 'EXPIRE', 'GETRANGE', 'LPUSH', 'LREM', 'LSET', 'PERSIST', 'RPUSH',
    'XADD', 'ZREM'})
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

-- A place in the list is no part of a finished job.
local function with_place(found, places)
  return places > 0 and 'stale' or found
end

local REPLACED = {none = 'queued', finished = 'replaced_finished', stale = 'replaced_stale'}

-- Ids to push, and indexes in our list to remove. All at the end: until then no index shifts.
local to_push, to_remove = {}, {}
local claimed = {} -- row ids
local function push(id, hint, seen, data, description, row_id)
  local answer, queue, places, detail, status = alone(judge, id, hint, seen)
  if answer == 'waiting' then
    -- A TTL of an earlier run would delete the job while it waits.
    redis.call('PERSIST', config.job_prefix .. id)
  elseif answer ~= 'none' then
    return answer, detail
  elseif data == '' then
    return answer -- nothing is done, either, for a job that was to be confirmed
  else
    answer = REPLACED[with_place(remains(id, queue, true, status), places)]
    write_job(id, data, description)
  end
  table.insert(claimed, row_id)
  local waits_elsewhere = answer == 'waiting' and (places == 0 or queue ~= config.queue)
  local indexes = indexes_of[id] or {}
  local moves = config.front and #indexes > 0
  local keeps_place = places > 0 and not waits_elsewhere and not moves
  if not waits_elsewhere and not keeps_place then
    table.insert(to_push, id)
  end
  -- Of several places, the one nearest to the head is kept.
  for i = keeps_place and 2 or 1, #indexes do
    table.insert(to_remove, indexes[i])
  end
  return answer, detail
end

local function look(id, hint)
  local answer, queue, places, detail, status = alone(judge, id, hint, nil)
  if config.detailed and answer == 'none' then
    answer = with_place(remains(id, queue, false, status), places)
  end
  return answer, detail
end

local answers = {}
local stride = mode == 'push' and 6 or 2
for i = 3, #ARGV, stride do
  local act = mode == 'push' and push or look
  local answer, detail = act(unpack(ARGV, i, i + stride - 1))
  answers[#answers + 1] = joined(answer, nil, nil, detail)
end
remove_from_main_list(to_remove)
if #to_push > 0 then
  redis.call(config.front and 'LPUSH' or 'RPUSH', main_list, unpack(to_push))
end
if config.links_key and #claimed > 0 then
  redis.call('APPEND', config.links_key, table.concat(claimed))
  redis.call('EXPIRE', config.links_key, config.links_expiry)
end
write_audit_entry(answers)
return answers
