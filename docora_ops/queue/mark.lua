-- Leaves the mark that names the database of this Redis, once.
--
-- mark: `key`, `text`; and `entry` if the mark is to replace another one: the command that writes the
-- audit entry
local function leave_mark(mark)
  if mark.entry then
    if redis.call('HGET', mark.key, 'mark') == mark.text then
      return
    end
    redis.call('HSET', mark.key, 'mark', mark.text)
    redis.call(unpack(mark.entry))
  elseif redis.call('HSETNX', mark.key, 'mark', mark.text) == 0 then
    return
  end
  redis.call('HSET', mark.key, 'left_at', redis.call('TIME')[1])
end

-- A user made for a version without marks may not write one, and goes on without.
local function try_to_leave_mark(mark)
  if mark then
    pcall(leave_mark, mark)
  end
end

