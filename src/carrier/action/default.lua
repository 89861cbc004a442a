-- What a sync gets that says nothing else: Lsyncd 2's `default`.

local core, objects = ...
local error, ipairs, pairs, tostring, type = error, ipairs, pairs, tostring, type

local default = { maxDelays = 1000, maxProcesses = 1 }

-- Calls the function for an event's type. What nobody takes up is dropped.
function default.action(inlet)
	local event, event2 = inlet.getEvent()
	if not event then return end
	local func = inlet.getConfig()['on' .. event.etype]
	if type(func) == 'function' then func(event, event2) end
	if event.status == 'wait' then inlet.discardEvent(event) end
end

-- A sync and where it leads, in lines of the log.
local function ends(agent)
	return agent.target and agent.source .. ' -> ' .. agent.target or agent.source
end

-- onStartup, which all else waits for. Where it runs nothing the start is over at once.
function default.init(event)
	local config = event.config
	if type(config.onStartup) == 'function' then config.onStartup(event) end
	if event.status == 'wait' then
		core.log('Normal', 'Startup of ' .. ends(event) .. ' finished.')
		event.inlet.discardEvent(event)
	end
end

-- What an exit code means. Without a table of exit codes only a failing startup is a failure; what
-- fails later is told of and done. A child that was killed did not do its work.
function default.collect(agent, exitcode, signal)
	local what, startup
	if agent.isList then
		what = 'a list'
	elseif agent.etype == 'Init' then
		startup = 'of ' .. ends(agent)
	else
		what = agent.etype .. ' on ' .. agent.sourcePath
	end

	local number = objects.number(agent)
	local rc, told = core.verdict(number, exitcode), tostring(exitcode)
	if signal then
		rc, told = 'again', 'killed by signal ' .. signal
	elseif rc == 'none' then
		-- No table.
		rc = not startup and 'failed' or core.insist(number) and 'again' or 'die'
	end

	if startup then
		if rc == 'ok' then
			core.log('Normal', 'Startup ' .. startup .. ' finished.')
		elseif rc == 'again' and core.insist(number) then
			core.log('Normal', 'Retrying startup ' .. startup .. ': ' .. told)
		elseif rc == 'again' then
			core.log('Error', 'Temporary or permanent failure on startup ' .. startup .. ': '
				.. told .. '. Terminating since "insist" is not set.')
			return 'die'
		elseif rc == 'die' then
			core.log('Error', 'Failure on startup ' .. startup .. ': ' .. told)
		else
			core.log('Error', 'Unknown exitcode on startup ' .. startup .. ': ' .. told)
			return 'die'
		end
		return rc
	end

	if rc == 'ok' then
		core.log('Normal', 'Finished ' .. what .. ' = ' .. told)
	elseif rc == 'again' then
		core.log('Normal', 'Retrying ' .. what .. ' = ' .. told)
	elseif rc == 'failed' then
		core.log('Warn', 'Failure with ' .. what .. ' = ' .. told .. ', not tried again: there are no exitcodes')
		return 'ok'
	elseif rc == 'die' then
		core.log('Error', 'Failure with ' .. what .. ' = ' .. told)
	else
		core.log('Error', 'Unknown exitcode with ' .. what .. ' = ' .. told)
		return 'die'
	end
	return rc
end

return default
