-- Leaves the mark that names the database of this Redis.
--
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

-- A user made for a version without marks may not write one, and goes on without.
local function try_to_leave_mark(mark)
  if mark then
    pcall(leave_mark, mark)
  end
end

