-- What scripts hold in their hands: events, lists of events, and inlets. They are tables that stand
-- for delays of the queue; `core` is the way to the queue. An event is the same table for as long
-- as its delay is queued, so what a script writes into it is kept.
--
-- What of the library is used here is kept in locals: a script may replace the globals.

local core = ...
local error, ipairs, pairs, select, setmetatable = error, ipairs, pairs, select, setmetatable
local rawset, tostring, type = rawset, tostring, type
local gsub, match, byte = string.gsub, string.match, string.byte

local M = {}

-- By number: config, inlet, source, target, and events by their delays' numbers.
local syncs = {}
-- What an event or a list stands for.
local handles = setmetatable({}, { __mode = 'k' })

---------------------------------------------------------------------------------------------------
-- Events

-- The delay as it is now; once it is gone, as it was last seen.
local function refresh(handle)
	local etype, status, path, path2 = core.delay(handle.sync, handle.id)
	if etype then
		handle.etype, handle.status = etype, status
		handle.path, handle.path2 = path, path2 or handle.path2
	end
	return handle
end

-- The path as the queue has it: with a slash before it, and one behind a directory.
local function raw(handle)
	if handle.move == 'To' then return handle.path2 end
	return handle.path
end

local function without_slash(path) return (gsub(path, '/$', '')) end
local function bare(path) return (gsub(path, '^/', '')) end
local function directory(path) return match(path, '^(.*/)[^/]+/?$') or '' end

local function target(handle)
	local target = syncs[handle.sync].target
	if target == nil then error('this sync has no target', 4) end
	return target
end

local fields = {
	etype = function(h) return h.etype end,
	status = function(h) return h.status end,
	isdir = function(h) return byte(raw(h), -1) == 47 end,
	isList = function() return false end,
	move = function(h) return h.move end,
	config = function(h) return syncs[h.sync].config end,
	inlet = function(h) return syncs[h.sync].inlet end,
	name = function(h) return match(raw(h), '[^/]+/?$') end,
	basename = function(h) return match(raw(h), '([^/]+)/?$') end,
	path = function(h) return bare(raw(h)) end,
	pathname = function(h) return bare(without_slash(raw(h))) end,
	pathdir = function(h) return bare(directory(raw(h))) end,
	source = function(h) return syncs[h.sync].source end,
	sourcePath = function(h) return syncs[h.sync].source .. raw(h) end,
	sourcePathname = function(h) return syncs[h.sync].source .. without_slash(raw(h)) end,
	sourcePathdir = function(h) return syncs[h.sync].source .. directory(raw(h)) end,
	target = function(h) return syncs[h.sync].target end,
	targetPath = function(h) return target(h) .. raw(h) end,
	targetPathname = function(h) return target(h) .. without_slash(raw(h)) end,
	targetPathdir = function(h) return target(h) .. directory(raw(h)) end,
}

local event_meta = {
	__index = function(event, field)
		local get = fields[field]
		if not get then
			error('event does not have field "' .. tostring(field) .. '"', 2)
		end
		return get(refresh(handles[event]))
	end,
}

-- The event of a delay; of a move both, origin and destination.
local function event_of(number, id)
	local known = syncs[number].events[id]
	if not known then
		local function new(move)
			local event = setmetatable({}, event_meta)
			handles[event] = refresh { sync = number, id = id, move = move }
			return event
		end
		local _, _, _, path2 = core.delay(number, id)
		known = { new(path2 and 'Fr'), path2 and new('To') }
		syncs[number].events[id] = known
	end
	-- A move that became a deletion since has no destination any more.
	local etype = core.delay(number, id)
	if known[2] and etype == 'Move' then return known[1], known[2] end
	return known[1]
end
M.event = event_of

-- A delay is no longer queued.
function M.forget(number, id)
	local sync = syncs[number]
	if sync then sync.events[id] = nil end
end

---------------------------------------------------------------------------------------------------
-- Lists

local lists = {}

-- Raw paths: with a slash before them. A mutator is asked what to make of each.
function lists.getPaths(handle)
	return function(mutator)
		local paths, n = {}, 0
		for _, id in ipairs(handle.ids) do
			local etype, _, path, path2 = core.delay(handle.sync, id)
			if etype then
				if mutator then
					path, path2 = mutator(etype, path, path2)
				end
				if path ~= nil then n = n + 1; paths[n] = path end
				if path2 ~= nil then n = n + 1; paths[n] = path2 end
			end
		end
		return paths
	end
end

function lists.size(handle)
	return function() return #handle.ids end
end

function lists.getList(handle)
	return function()
		local events = {}
		for at, id in ipairs(handle.ids) do events[at] = event_of(handle.sync, id) end
		return events
	end
end

function lists.isList() return true end
function lists.config(handle) return syncs[handle.sync].config end
function lists.inlet(handle) return syncs[handle.sync].inlet end

local list_meta = {
	__index = function(list, field)
		local get = lists[field]
		if not get then
			error('event list does not have field "' .. tostring(field) .. '"', 2)
		end
		return get(handles[list])
	end,
}

local function list_of(number, ids)
	local list = setmetatable({}, list_meta)
	handles[list] = { sync = number, ids = ids, list = true }
	return list
end

---------------------------------------------------------------------------------------------------
-- Inlets

local function inlet_of(number)
	local inlet = {}

	-- The first event whose time has come.
	function inlet.getEvent()
		local id = core.next(number)
		if id then return event_of(number, id) end
	end

	-- All that one child may do: whatever does not wait for what is being done or was left out.
	function inlet.getEvents(test)
		local ids, gather = {}, core.gather(number)
		for _, id in ipairs(core.idle(number)) do
			local take = true
			if test then
				take = test(event_of(number, id))
				if take == 'break' then break end
			end
			if gather(id, take and true or false) then ids[#ids + 1] = id end
		end
		return list_of(number, ids)
	end

	function inlet.discardEvent(event)
		local handle = handles[event]
		if not handle or handle.list then
			error('discardEvent() needs an event', 2)
		end
		refresh(handle)
		if not core.discard(handle.sync, handle.id) then
			core.log('Error', 'an event of type ' .. handle.etype .. ' that is not waiting cannot be discarded')
		end
	end

	function inlet.createBlanketEvent()
		return (event_of(number, core.barrier(number)))
	end

	function inlet.createFullEvent(path)
		return (event_of(number, core.full(number, path)))
	end

	function inlet.getConfig() return syncs[number].config end
	function inlet.getSync() return syncs[number].sync end
	-- There is no tunnel whose ends would be put in.
	function inlet.getSubstitutionData() return {} end

	function inlet.addExclude(pattern) core.rule(number, '- ' .. pattern) end
	function inlet.rmExclude(pattern) core.unrule(number, '- ' .. pattern) end
	function inlet.getExcludes()
		local patterns = {}
		for _, rule in ipairs(core.rules(number)) do
			if rule[1] == '-' then patterns[#patterns + 1] = rule[2] end
		end
		return patterns
	end
	function inlet.getFilters()
		local filters = {}
		for at, rule in ipairs(core.rules(number)) do
			filters[at] = { rule = rule[1], pattern = rule[2] }
		end
		return filters
	end
	function inlet.hasFilters() return #core.rules(number) > 0 end
	function inlet.appendFilter(rule, pattern) core.rule(number, rule .. ' ' .. pattern) end

	return inlet
end

-- A sync is there. `source` ends in a slash.
function M.register(number, name, config, source, target)
	syncs[number] = {
		config = config,
		source = source,
		target = target,
		events = {},
		inlet = inlet_of(number),
		sync = { name = name, config = config, source = source, target = target },
	}
	syncs[number].sync.inlet = syncs[number].inlet
	return syncs[number].inlet
end

-- The sync that an event or a list belongs to.
function M.number(agent)
	local handle = handles[agent]
	return handle and handle.sync
end

---------------------------------------------------------------------------------------------------
-- Children

-- Arguments as a program gets them: nil vanishes, tables are put in place.
local function splice(into, value, level)
	if value == nil then return end
	if type(value) == 'table' then
		for _, inner in ipairs(value) do splice(into, inner, level + 1) end
	elseif type(value) == 'string' or type(value) == 'number' then
		into[#into + 1] = tostring(value)
	else
		error('spawn() cannot make an argument of a ' .. type(value), level)
	end
end

function M.spawn(agent, binary, ...)
	local handle = handles[agent]
	if not handle then
		error('spawn() needs an event or a list of events as its first argument', 2)
	end
	if type(binary) ~= 'string' then
		error('spawn() needs the name of a program as its second argument', 2)
	end
	if core.fading() then
		core.log('Normal', 'ignored process spawning while fading')
		return
	end
	local ids = handle.ids or { handle.id }
	if #ids == 0 then
		-- Everything was left out: there is nothing to be done, and nothing would come of a child.
		core.log('Debug', 'spawn() called on an empty list of events: nothing is done')
		return
	end
	for _, id in ipairs(ids) do
		local _, status = core.delay(handle.sync, id)
		if status ~= 'wait' and not (handle.list and status == 'block') then
			error('spawn() called on an non-waiting event', 2)
		end
	end
	local args, first, text = {}, 1, nil
	if select('#', ...) >= 1 and (...) == '<' then
		text = select(2, ...)
		if text ~= nil then text = tostring(text) end
		first = 3
	end
	for at = first, select('#', ...) do
		splice(args, (select(at, ...)), 3)
	end
	return core.spawn(handle.sync, ids, agent, binary, args, text)
end

function M.spawnShell(agent, command, ...)
	return M.spawn(agent, '/bin/sh', '-c', command, '/bin/sh', ...)
end

---------------------------------------------------------------------------------------------------
-- The globals, once everything is loaded

-- A misspelt name in a function that runs days later should not be nil.
function M.lock(globals)
	setmetatable(globals, {
		__index = function(_, name)
			error('Access of non-existing global "' .. tostring(name) .. '"', 2)
		end,
		__newindex = function(globals, name, value)
			-- Modules that are loaded late declare what they are.
			if name == '_' or name == 'arg' then return rawset(globals, name, value) end
			error('Lsyncd does not allow GLOBALS to be created on the fly. Declare "'
				.. tostring(name) .. '" local or declare global on load.', 2)
		end,
	})
end

return M
