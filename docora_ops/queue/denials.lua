-- Tells whether the text of an error says that our user lacks a permission. The last text is that
-- of Redis 6.2.
local function is_denial(text)
  return string.find(text, 'NOPERM') or string.find(text, 'ACL failure')
    or string.find(text, 'The user executing the script')
end

