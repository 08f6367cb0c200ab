-- Judges the jobs of links and queues them, id by id, atomically. Follows judge.lua.
--
-- ARGV[1]  "look" (writes nothing) or "push"
-- ARGV[2]  JSON: what judge.lua needs, `front`, `detailed`, and for a push the constant `fields` and
--          `audit`: audit entries by answer; the first answer that has one writes it
-- then per link, look: id, hint; push: id, hint, seen, data, description
--   data  empty: the push only confirms a live job
--
-- Returns one answer per link: none, waiting, running, doubtful:ENQUEUED_AT (nothing was done),
-- queued, replaced, or unreadable:REASON; a detailed look also answers stale: not live, but
-- something is left of the job. A look adds :delayed to a waiting job that is in no list, and
-- :ENQUEUED_AT to none and stale if the job may have been queued since the list was read. The last
-- answer is the number of `walks` that were used.

if pushing then
  -- Redis refuses this if it is out of memory or read-only, before anything is removed.
  redis.call('SADD', config.queues_key, main_list)
  try_writes({'DEL', 'HSET', 'LPUSH', 'LREM', 'PERSIST', 'RPUSH', 'XADD', 'ZREM'})
end

-- Keeps the place nearest to the head.
local function keep_one_place(id, places)
  if places > 1 then
    local count = #redis.call('LPOS', main_list, id, 'COUNT', 0)
    redis.call('LREM', main_list, 1 - count, id)
  end
end

local function move_to_front(id)
  redis.call('LREM', main_list, 0, id)
  redis.call('LPUSH', main_list, id)
end

-- Formats the present time as RQ does. Redis's clock is the only one that all processes share.
local function moment()
  local days, second = math.floor(now / 86400), now % 86400
  local year = 1970
  local function is_leap()
    return year % 4 == 0 and (year % 100 ~= 0 or year % 400 == 0)
  end
  while days >= (is_leap() and 366 or 365) do
    days = days - (is_leap() and 366 or 365)
    year = year + 1
  end
  local lengths = {31, is_leap() and 29 or 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31}
  local month = 1
  while days >= lengths[month] do
    days = days - lengths[month]
    month = month + 1
  end
  return string.format('%04d-%02d-%02dT%02d:%02d:%02d.%06dZ', year, month, days + 1,
    math.floor(second / 3600), math.floor(second / 60) % 60, second % 60, tonumber(time[2]))
end

local fields = config.fields or {}
for _, name in ipairs({'created_at', 'enqueued_at'}) do
  fields[#fields + 1] = name
  fields[#fields + 1] = moment()
end
local data_slot, description_slot = #fields + 2, #fields + 4
fields[data_slot - 1] = 'data'
fields[description_slot - 1] = 'description'

local to_push = {}
local function push(id, hint, seen, data, description)
  local answer, queue, places = judge_alone(id, hint, seen)
  if answer == 'waiting' then
    -- A TTL of an earlier run would delete the job while it waits.
    redis.call('PERSIST', config.job_prefix .. id)
    if places > 0 and queue ~= config.queue then
      redis.call('LREM', main_list, 0, id)
      places = 0
    end
  elseif answer ~= 'none' then
    return answer
  elseif data == '' then
    return answer -- not live any more, and there is no payload to push
  else
    local removed = remains(id, queue, true) + places
    fields[data_slot] = data
    fields[description_slot] = description
    redis.call('HSET', config.job_prefix .. id, unpack(fields))
    if places == 0 and config.front then
      redis.call('LPUSH', main_list, id)
    elseif places == 0 then
      to_push[#to_push + 1] = id
    end
    answer = removed > 0 and 'replaced' or 'queued'
  end
  if places > 0 and config.front then
    move_to_front(id)
  else
    keep_one_place(id, places)
  end
  return answer
end

if config.audit then
  redis.call('XLEN', config.audit.key)
end

local answers = {}
if pushing then
  for i = 3, #ARGV, 5 do
    answers[#answers + 1] =
      push(ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2], ARGV[i + 3], ARGV[i + 4])
  end
  if #to_push > 0 then
    redis.call('RPUSH', main_list, unpack(to_push))
  end
  for _, answer in ipairs(config.audit and answers or {}) do
    local entry = config.audit.entries[answer]
    if entry then
      redis.call('XADD', config.audit.key, 'MAXLEN', '~', config.audit.kept, '*', unpack(entry))
      break
    end
  end
else
  for i = 3, #ARGV, 2 do
    local id = ARGV[i]
    local answer, queue, places, detail = judge_alone(id, tonumber(ARGV[i + 1]), nil)
    if config.detailed and answer == 'none' and (places > 0 or remains(id, queue, false) > 0) then
      answer = 'stale'
    end
    answers[#answers + 1] = detail and answer .. ':' .. detail or answer
  end
end
answers[#answers + 1] = tostring(charged)
return answers
