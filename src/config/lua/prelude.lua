-- What a configuration of Lsyncd 2 finds when it starts: settings{}, sync{}, and `default` with the
-- three ready ways to mirror. Called with a table of what the program does for it; answers with a
-- table of what the program asks afterwards. Whatever is refused is told with the place in the
-- configuration that asked for it.

local native = ...

-- A table that holds itself would be walked for ever.
local DEEPEST = 64

-- These are keyed by exit codes, not lists: one's own codes are laid over the standard ones.
local BY_CODE = { exitcodes = true, rsyncExitCodes = true, sshExitCodes = true }

-- What an entry takes from `default`, when it has none itself.
local FROM_DEFAULT = {
	'action', 'checkgauge', 'collect', 'delay', 'init', 'maxDelays', 'maxProcesses', 'prepare',
}

local loaded = false
local syncs = {}

default = default or {}

-- Fills `into` with what it lacks: first the named values of `from`, then those of the tables in it,
-- so that whatever stands nearer to the entry wins. Tables are laid over each other key by key,
-- lists follow each other.
local function inherit(into, from, depth)
	if depth > DEEPEST then
		error('a table of the configuration holds itself', 0)
	end
	for key, value in pairs(from) do
		if type(key) == 'number' then
			if type(value) ~= 'table' then
				into[#into + 1] = value
			end
		elseif type(value) ~= 'table' or value._verbatim then
			if into[key] == nil then
				into[key] = value
			end
		elseif BY_CODE[key] then
			local codes = into[key] or {}
			for code, meaning in pairs(value) do
				if codes[code] == nil then
					codes[code] = meaning
				end
			end
			into[key] = codes
		elseif into[key] == nil then
			into[key] = {}
			inherit(into[key], value, depth + 1)
		elseif type(into[key]) == 'table' and value._merge ~= false and not into[key]._verbatim then
			inherit(into[key], value, depth + 1)
		end
	end
	for _, value in ipairs(from) do
		if type(value) == 'table' then
			inherit(into, value, depth + 1)
		end
	end
end

-- Answers what is wrong with the names in a table, or nil.
local function unknown(config, gauge, before, depth)
	if depth > DEEPEST then
		return 'a table of the configuration holds itself'
	end
	for key, value in pairs(config) do
		local known = gauge[key]
		if type(key) == 'number' or key == '_merge' or key == '_verbatim' then
			-- Lists, and how tables are laid over each other.
		elseif not known then
			return native.unknown_parameter(before .. tostring(key), tostring(key), gauge)
		elseif type(known) == 'table' then
			if type(value) ~= 'table' then
				return 'Parameter "' .. before .. key .. '" must be a table.'
			end
			local wrong = unknown(value, known, before .. key .. '.', depth + 1)
			if wrong then
				return wrong
			end
		end
	end
end

-- Checks the names in a configuration; own ones may call it in theirs.
function default.prepare(config, level)
	local wrong = config.checkgauge and unknown(config, config.checkgauge, '', 0)
	if wrong then
		error(wrong, (level or 1) + 1)
	end
end

-- The names that an entry has of its own, or of tables that are no ready way.
local function named(given, names, depth)
	for _, way in ipairs { 'rsync', 'rsyncssh', 'direct' } do
		if given == default[way] then
			return names
		end
	end
	for key, value in pairs(given) do
		if type(key) ~= 'number' then
			names[key] = true
		elseif type(value) == 'table' and depth < DEEPEST then
			named(value, names, depth + 1)
		end
	end
	return names
end

local function set(key, value)
	local wrong = native.set(tostring(key), value)
	if wrong then
		error(wrong, 3)
	end
end

function settings(given)
	if type(given) == 'string' then
		return native.setting(given)
	end
	if type(given) ~= 'table' then
		error('settings wants a table: settings { logfile = "/var/log/lsyncd.log" }', 2)
	end
	for key, value in pairs(given) do
		if type(key) == 'number' then
			set(value, true)
		else
			set(key, value)
		end
	end
end

local own_settings = settings

-- What an entry is while the configuration is read: its inlet comes with the events.
local function inlet_to_be(config)
	local early = {
		getConfig = function() return config end,
		addExclude = function(pattern)
			config.exclude = type(config.exclude) == 'table' and config.exclude or { config.exclude }
			table.insert(config.exclude, pattern)
		end,
	}
	return setmetatable(early, {
		__index = function(_, name)
			error('inlet.' .. tostring(name) .. ' is there once lsyncd runs', 2)
		end,
	})
end

function sync(given)
	if loaded then
		error('sync{} can only be called while the configuration is read', 2)
	end
	if type(given) ~= 'table' then
		error('sync wants a table: sync { default.rsync, source = "/src", target = "/dst" }', 2)
	end
	local config = {}
	inherit(config, given, 0)
	local standard = {}
	for _, key in ipairs(FROM_DEFAULT) do
		-- A way to mirror has its own; what it says no to stays no.
		if config[key] == nil or key == 'checkgauge' then
			standard[key] = default[key]
		end
		-- What is said of all syncs is for those that say nothing themselves.
		if config[key] == nil and (key == 'maxDelays' or key == 'maxProcesses') then
			standard[key] = native.setting(key) or default[key]
		end
	end
	inherit(config, standard, 0)
	local wrong = config.checkgauge and unknown(config, config.checkgauge, '', 0)
	if wrong then
		error(wrong, 2)
	end
	config._given = named(given, {}, 0)
	if config.source == nil then
		error('Parameter "source" missing.', 2)
	end
	local source, why = native.source(config.source)
	if not source then
		error(why, 2)
	end
	config.source = source
	-- What the standard one does is done.
	if type(config.prepare) == 'function' and config.prepare ~= default.prepare then
		config.prepare(config, 3)
	end
	syncs[#syncs + 1] = config
	config.name = config.name or ('Sync' .. #syncs)
	return inlet_to_be(config)
end

local tunnels = {}

local TUNNEL = {
	checkCommand = true, checkExitCodes = true, checkMaxFailed = true, command = true,
	distribution = true, localhost = true, mode = true, name = true, parallel = true,
	readyDelay = true, retryDelay = true,
}

-- A command that is kept running; the syncs that name it reach their targets through it.
function tunnel(given)
	if type(given) ~= 'table' then
		error('tunnel wants a table: tunnel { command = { "ssh", "-N", "-L", "^localport:...", "host" } }', 2)
	end
	local wrong = unknown(given, TUNNEL, 'tunnel.', 0)
	if wrong then
		error(wrong, 2)
	end
	local mode = given.mode or 'command'
	if mode ~= 'command' and mode ~= 'pool' then
		error("tunnel.mode must be 'command' or 'pool'", 2)
	end
	if given.distribution and given.distribution ~= 'rr' then
		error("tunnel.distribution can only be 'rr': those that are up take turns", 2)
	end
	if given.checkCommand then
		error('tunnel.checkCommand was never used by Lsyncd 2, and is not by us: leave it out', 2)
	end
	if not given.command then
		error('Parameter "tunnel.command" missing.', 2)
	end
	if mode == 'command' and (given.parallel or 1) ~= 1 then
		error("tunnel.parallel wants mode = 'pool'", 2)
	end
	local made = { _verbatim = true }
	for key, value in pairs(given) do
		made[key] = value
	end
	made.name = made.name or ('Tunnel' .. (#tunnels + 1))
	tunnels[#tunnels + 1] = made
	made._number = #tunnels
	return made
end

-- The keys that every entry may have.
default.checkgauge = {
	action = true, checkgauge = true, collect = true, crontab = true, delay = true, exclude = true,
	excludeFrom = true, exitcodes = true, filter = true, filterFrom = true, full = true, init = true,
	maxDelays = true, maxProcesses = true, name = true, onAttrib = true, onCreate = true,
	onDelete = true, onFull = true, onModify = true, onMove = true, onStartup = true,
	prepare = true, source = true, target = true,
}

-- Exit codes of rsync and of ssh, and what they mean.
default.rsyncExitCodes = native.rsync_exit_codes()
default.sshExitCodes = { [0] = 'ok', [255] = 'again' }

local function says(codes)
	return function(config)
		local meant = {}
		inherit(meant, { exitcodes = codes }, 0)
		return meant.exitcodes
	end
end

-- The slash behind a target that is a directory; `host:` means the login directory.
local function with_slash(target)
	if target:find('[/:]$') then
		return target
	end
	return target .. '/'
end

local rsync_keys = native.rsync_keys()
local ssh_keys = { binary = true, identityFile = true, options = true, port = true, _extra = true }

local family = {
	batchSizeLimit = true, delete = true, rsync = rsync_keys, rsyncExitCodes = true, tunnel = true,
	-- The ready ways decide themselves what an event means.
	onAttrib = false, onCreate = false, onModify = false, onDelete = false, onStartup = false,
}

local function must_be(config, key, kind, level)
	local value = config[key]
	if type(value) ~= kind then
		local what = value == nil and 'missing' or 'must be a ' .. kind
		error('Parameter "' .. key .. '" ' .. what .. '.', level)
	end
end

-- What ssh and rsync are handed must not look like an option of theirs.
local function no_option(config, key, level)
	local wrong = native.option_in(key, config[key])
	if wrong then
		error(wrong, level + 1)
	end
end

-- The words of its options, for who runs rsync by functions of one's own.
local function options(config, level)
	local words, wrong = native.rsync_words(config)
	if wrong then
		error(wrong, level + 1)
	end
	config.rsync._computed = words
end

local function prepare_rsync(config, level)
	must_be(config, 'target', 'string', level + 1)
	no_option(config, 'target', level + 1)
	config.target = with_slash(config.target)
	options(config, level)
end

default.rsync = {
	checkgauge = { ssh = ssh_keys, onMove = false },
	delay = 15,
	delete = true,
	exitcodes = default.rsyncExitCodes,
	rsync = { links = true, times = true, protect_args = true, binary = 'rsync' },
	prepare = function(config, level)
		prepare_rsync(config, level + 1)
	end,
}
for key, known in pairs(family) do
	default.rsync.checkgauge[key] = known
end

default.rsyncssh = {
	checkgauge = {
		ssh = ssh_keys, sshExitCodes = true, host = true, targetdir = true,
		target = false, onMove = true,
	},
	delay = 15,
	delete = true,
	maxProcesses = 1,
	onMove = true,
	rsyncExitCodes = default.rsyncExitCodes,
	sshExitCodes = default.sshExitCodes,
	rsync = { links = true, times = true, protect_args = true, binary = 'rsync' },
	ssh = { binary = 'ssh' },
	prepare = function(config, level)
		must_be(config, 'host', 'string', level + 1)
		must_be(config, 'targetdir', 'string', level + 1)
		no_option(config, 'host', level + 1)
		if config.maxProcesses ~= nil and config.maxProcesses ~= 1 then
			error('default.rsyncssh must have maxProcesses set to 1.', level)
		end
		config.targetdir = with_slash(config.targetdir)
		config.target = config.host .. ':' .. config.targetdir
		options(config, level)
	end,
}
for key, known in pairs(family) do
	default.rsyncssh.checkgauge[key] = known
end

default.direct = {
	checkgauge = { onMove = true },
	delay = 1,
	delete = true,
	onMove = true,
	rsyncExitCodes = default.rsyncExitCodes,
	rsync = { links = true, times = true, protect_args = true, binary = 'rsync' },
	prepare = function(config, level)
		prepare_rsync(config, level + 1)
	end,
}
for key, known in pairs(family) do
	default.direct.checkgauge[key] = known
end

local answer = { tunnels = tunnels }

-- The entries in their order, each with the way it is: 'rsync', 'rsyncssh' or 'direct' where what it
-- does is all the ready way's own, else 'own'.
function answer.entries()
	local all = {}
	for at, config in ipairs(syncs) do
		local way = 'own'
		for _, name in ipairs { 'rsync', 'rsyncssh', 'direct' } do
			local ready = default[name]
			if
				config.action == ready.action
				and config.collect == (ready.collect or default.collect)
				and (config.init == ready.init or config.init == false)
				and (config.full == nil or config.full == ready.full)
				and config.onFull == nil
			then
				way = name
			end
		end
		all[at] = { config = config, way = way }
	end
	return all
end

-- The configuration has been read.
function answer.finish()
	if settings ~= own_settings then
		error('settings is a function: write settings { ... }, without the equals sign', 0)
	end
	loaded = true
end

return answer
