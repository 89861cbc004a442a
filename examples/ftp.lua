-- Brings changes to an ftp server by lftp (layer 1): all that waits becomes one script for one
-- session.

settings { nodaemon = true }

-- Quoted for lftp.
local function quoted(path)
	return '"' .. path:gsub('[\\"]', '\\%0') .. '"'
end

local lftp = {
	checkgauge = { host = true, lftp = true },
	delay = 2,
	maxProcesses = 1,
	exitcodes = { [0] = 'ok', [1] = 'again' },

	init = function(event)
		local config = event.config
		spawn(
			event, config.lftp or '/usr/bin/lftp', '<',
			'open ' .. config.host .. '\nmirror -R -e ' .. quoted(config.source) .. ' ' .. quoted(config.target) .. '\n')
	end,

	action = function(inlet)
		local config = inlet.getConfig()
		local events = inlet.getEvents(function(event)
			return event.etype ~= 'Init' and event.etype ~= 'Blanket'
		end)
		local script = { 'open ' .. config.host }
		local function add(line)
			script[#script + 1] = line
		end
		events.getPaths(function(etype, path, path2)
			local from, to = quoted(config.source .. path), quoted(config.target .. path)
			if etype == 'Delete' then
				add('rm -r -f ' .. to)
			elseif etype == 'Move' then
				add('mv ' .. to .. ' ' .. quoted(config.target .. path2))
			elseif path:sub(-1) == '/' then
				add('mkdir -p -f ' .. to)
			elseif etype ~= 'Attrib' then
				add('put ' .. from .. ' -o ' .. to)
			end
			return path, path2
		end)
		spawn(events, config.lftp or '/usr/bin/lftp', '<', table.concat(script, '\n') .. '\n')
	end,
}

sync {
	lftp,
	source = '/srv/in',
	target = '/upload',
	host = 'ftp.example.org',
}
