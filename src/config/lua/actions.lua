-- What the three ready ways do where a configuration puts one of their functions to its own use:
-- layer 1, by rsync. Entries that leave them alone never come here: the program has its own.
-- Called with a table of what the program does for it.

local native = ...

-- In a pattern with wildcards rsync takes a backslash for an escape, in any other for itself.
local function literal(path)
	if path:find('[%*%?%[]') then
		return (path:gsub('[%*%?%[%]\\]', '\\%0'))
	end
	return path
end

-- The paths and all directories above them, as rsync's --include-from wants them.
local function include_list(paths)
	local seen, list = {}, {}
	local function add(path)
		if seen[path] then
			return false
		end
		seen[path] = true
		list[#list + 1] = path
		return true
	end
	for _, path in ipairs(paths) do
		add(path)
		local above = path:gsub('/%*%*%*$', '/')
		if above ~= path then
			add(above)
		end
		above = above:match('^(.*/)[^/]+/?$')
		while above and add(above) do
			above = above:match('^(.*/)[^/]+/$')
		end
	end
	return list
end

local function deletes(config, when)
	return config.delete == true or config.delete == when
end

local function action(inlet)
	local config = inlet.getConfig()
	local events = inlet.getEvents(function(event)
		return event.etype ~= 'Init' and event.etype ~= 'Full' and event.etype ~= 'Blanket'
	end)
	local paths = events.getPaths(function(etype, path, path2)
		path = literal(path)
		if etype == 'Delete' and path:sub(-1) == '/' then
			path = path .. '***'
		elseif etype == 'Move' and path:sub(-1) == '/' then
			-- Both are whole trees: the old name has gone, all of the new one is new.
			return path .. '***', literal(path2) .. '***'
		end
		return path, path2 and literal(path2)
	end)
	local list = include_list(paths)
	log('Normal', 'Calling rsync with filter-list of new/modified files/dirs\n' .. table.concat(list, '\n'))
	local delete = deletes(config, 'running') and { '--delete', '--ignore-errors', '--force' } or {}
	spawn(
		events, config.rsync.binary, '<', table.concat(list, '\0') .. '\0',
		config.rsync._computed, '-r', delete, '--from0', '--include-from=-', '--exclude=*',
		config.source, config.target)
end

local function init(event)
	local config = event.config
	local inlet = event.inlet
	local delete = deletes(config, 'startup') and { '--delete', '--ignore-errors' } or {}
	log('Normal', 'recursive full rsync: ' .. config.source .. ' -> ' .. config.target)
	local rules = {}
	for _, rule in ipairs(native.rules(config)) do
		rules[#rules + 1] = rule
	end
	for _, pattern in ipairs(inlet.getExcludes()) do
		rules[#rules + 1] = '- ' .. pattern
	end
	if #rules == 0 then
		spawn(event, config.rsync.binary, delete, config.rsync._computed, '-r', config.source, config.target)
	else
		spawn(
			event, config.rsync.binary, '<', table.concat(rules, '\n') .. '\n', '--filter=. -', delete,
			config.rsync._computed, '-r', config.source, config.target)
	end
end

-- Each way has functions of its own, so that it is seen which of them an entry has left alone.
for _, way in ipairs { 'rsync', 'rsyncssh', 'direct' } do
	default[way].action = function(inlet) return action(inlet) end
	default[way].init = function(event) return init(event) end
	default[way].full = function(event) return init(event) end
end
