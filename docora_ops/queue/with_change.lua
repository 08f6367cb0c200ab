-- What RQ's and BullMQ's scripts for changes share: which jobs a push refuses, and the commands of
-- the caller that accompany a change of jobs.

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

-- Called before any other write, because a command on a key of another type fails.
local function run_commands(commands)
  for _, command in ipairs(commands) do
    redis.call(unpack(command))
  end
end

