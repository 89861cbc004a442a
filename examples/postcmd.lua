-- default.rsync, and a command when a round of it is through (layer 1): the events of a round end
-- with one more that blocks what comes later until the command has ended.

settings { nodaemon = true }

local postcmd = {
	default.rsync,
	checkgauge = {
		default.rsync.checkgauge,
		postcmd = true,
	},

	-- The function of default.rsync does the work; ours puts a marker behind it.
	action = function(inlet)
		local event = inlet.getEvent()
		if event.etype == 'Blanket' then
			spawnShell(event, event.config.postcmd)
			return
		end
		inlet.createBlanketEvent()
		default.rsync.action(inlet)
	end,

	collect = function(agent, exitcode)
		if not agent.isList and agent.etype == 'Blanket' then
			if exitcode ~= 0 then
				log('Warn', 'the command after it ended with ' .. exitcode)
			end
			return
		end
		return default.collect(agent, exitcode)
	end,
}

sync {
	postcmd,
	source = '/srv/in',
	target = '/srv/out',
	delay = 1,
	postcmd = 'date > /srv/in.done',
}
