-- Tells a channel what is uploaded. ii, the file based client of irc, holds the connection: what is
-- written into its `in` is said, what is said there comes out of its `out`.

settings { nodaemon = true }

local channel = '/srv/irc/in'

-- One line, whatever stands in the name.
local function line(text)
	return (text:gsub('%c', '?')) .. '\n'
end

local function say(event, what)
	if event.isdir then
		return
	end
	spawn(event, 'sh', '<', line(what .. ': ' .. event.name), '-c', 'cat >> "$1"', 'sh', channel)
end

sync {
	source = '/srv/in',
	delay = 1,
	onCreate = function(event)
		say(event, 'uploaded')
	end,
	onMove = function(_, to)
		say(to, 'moved')
	end,
}
