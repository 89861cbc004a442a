-- Does something at times, beside what it does for events: an alarm sets the next one.

settings { nodaemon = true }

local every = 2
local events = 0

local function report()
	log('Normal', events .. ' events in ' .. every .. ' seconds')
	events = 0
	alarm(now() + every, report)
end

alarm(now() + every, report)

sync {
	source = '/srv/in',
	delay = 1,
	action = function(inlet)
		local event = inlet.getEvent()
		events = events + 1
		inlet.discardEvent(event)
	end,
}
