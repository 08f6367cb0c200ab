-- What RQ's and BullMQ's scripts for changes share. Tells which jobs a push refuses, and writes
-- what accompanies a change of jobs: the caller's commands, and the mark that names the database of
-- this Redis.

local function waits(state)
  return state == 'waiting' or state == 'delayed'
end

-- Tells whether a push refuses a job with this state.
-- `refuses_waiting`: also refuse waiting jobs
local function refuses(state, refuses_waiting)
  return state == 'running' or string.find(state, '^unreadable') or refuses_waiting and waits(state)
end

-- Reads `count` commands from ARGV, each preceded by its length. Returns them, and the index of the
-- next argument.
local function read_commands(place, count)
  local commands = {}
  for _ = 1, count do
    local length = tonumber(ARGV[place])
    table.insert(commands, {unpack(ARGV, place + 1, place + length)})
    place = place + 1 + length
  end
  return commands, place
end

-- mark: `key`; `text`; `was`: the text that it may replace, "" if there was none; `entry`: the
-- command that writes the audit entry, if the mark names another database than before
local function leave_mark(mark)
  if (redis.call('HGET', mark.key, 'mark') or '') ~= mark.was or mark.text == mark.was then
    return
  end
  if mark.entry then
    redis.call(unpack(mark.entry))
  end
  redis.call('HSET', mark.key, 'mark', mark.text, 'left_at', redis.call('TIME')[1])
end

-- Called before any other write, because a command on a key of another type fails.
local function write_with_change(commands, mark)
  for _, command in ipairs(commands) do
    redis.call(unpack(command))
  end
  if mark then
    -- A user created for a version without marks may not write one, which is no reason to fail.
    pcall(leave_mark, mark)
  end
end

