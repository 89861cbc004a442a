-- Every picture is there in all formats (layer 2). What belongs together is decided by the name
-- without its ending, and what the conversion writes does not set off another one.

settings { nodaemon = true }

local formats = { gif = true, jpg = true, png = true }

-- The converter; ImageMagick's takes a source and a destination.
local convert = '/usr/bin/convert'

-- Names that a conversion of ours is writing, so that it is not answered by another.
local ours = {}

local function split(path)
	return path:match('^(.+)%.(%w+)$')
end

local function to_all(event)
	local stem, ending = split(event.pathname)
	if event.isdir or not stem or not formats[ending] then
		return
	end
	if ours[event.pathname] then
		ours[event.pathname] = nil
		return
	end
	local words = {}
	for format in pairs(formats) do
		if format ~= ending then
			ours[stem .. '.' .. format] = true
			words[#words + 1] = event.source .. stem .. '.' .. format
		end
	end
	spawnShell(
		event, 'convert=$1; from=$2; shift 2; for to; do "$convert" "$from" "$to" || exit; done',
		convert, event.source .. event.pathname, words)
end

sync {
	delay = 1,
	maxProcesses = 2,
	source = '/srv/in',
	onCreate = to_all,
	onModify = to_all,
	onDelete = function(event)
		local stem, ending = split(event.pathname)
		if event.isdir or not stem or not formats[ending] then
			return
		end
		local words = {}
		for format in pairs(formats) do
			words[#words + 1] = event.source .. stem .. '.' .. format
		end
		spawn(event, '/bin/rm', '-f', '--', words)
	end,
}
