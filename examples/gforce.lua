-- Keeps all that appears in a directory in the hands of one group (layer 2): functions decide what
-- is to be done, and spawn it.

settings { nodaemon = true }

local group = 'users'

local force = {
	maxProcesses = 20,
	delay = 1,
	exitcodes = { [0] = 'ok', [1] = 'ok' },

	onStartup = function(event)
		spawn(event, 'chgrp', '-R', '--', group, event.source)
	end,

	onCreate = function(event)
		local config = event.config
		log('Normal', 'group ' .. group .. ' for ' .. event.path)
		spawnShell(
			event, 'chgrp -h -- "$1" "$2" && { [ -L "$2" ] || chmod g+rwX -- "$2"; }',
			config.group or group, event.sourcePathname)
	end,

	onMove = function(_, to)
		spawn(to, 'chgrp', '-h', '--', group, to.sourcePathname)
	end,
}

sync {
	force,
	source = '/srv/in',
}
