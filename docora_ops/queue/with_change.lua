-- What a change writes beside the jobs: the commands of its caller, and the mark that names the
-- database of this Redis.

-- Reads `count` commands from ARGV, each with its length before it. Returns them, and the place of
-- the next argument.
local function read_commands(place, count)
  local commands = {}
  for _ = 1, count do
    local length = tonumber(ARGV[place])
    table.insert(commands, {unpack(ARGV, place + 1, place + length)})
    place = place + 1 + length
  end
  return commands, place
end

-- mark: `key`, `text`, `was`: the text that it may replace, "" if there was none; and `entry` if the
-- database is another one: the command that writes the audit entry
local function leave_mark(mark)
  if (redis.call('HGET', mark.key, 'mark') or '') ~= mark.was or mark.text == mark.was then
    return
  end
  if mark.entry then
    redis.call(unpack(mark.entry))
  end
  redis.call('HSET', mark.key, 'mark', mark.text, 'left_at', redis.call('TIME')[1])
end

-- Called before anything is removed: a command on a key of another type fails, and Redis does not
-- undo what a script has written until then.
local function write_with_change(commands, mark)
  for _, command in ipairs(commands) do
    redis.call(unpack(command))
  end
  if mark then
    -- A user made for a version without marks may not write one, and goes on without.
    pcall(leave_mark, mark)
  end
end

