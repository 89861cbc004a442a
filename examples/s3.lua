-- Brings files to an object store (layer 3): every command is tried again when it fails.

settings { nodaemon = true }

local s3 = 's3cmd'
local bucket = 's3://bucket/in'

local exitcodes = { [0] = 'ok' }
for code = 1, 125 do
	exitcodes[code] = 'again'
end

sync {
	source = '/srv/in',
	target = bucket,
	delay = 5,
	maxProcesses = 4,
	exitcodes = exitcodes,
	onStartup = s3 .. ' sync --delete-removed ^source ^target',
	onCreate = function(event)
		if not event.isdir then
			spawn(event, s3, 'put', '--', event.sourcePath, event.targetPath)
		end
	end,
	onModify = s3 .. ' put -- ^sourcePath ^targetPath',
	onDelete = s3 .. ' del --recursive -- ^targetPath',
	onMove = s3 .. ' mv -- ^o.targetPath ^d.targetPath',
}
