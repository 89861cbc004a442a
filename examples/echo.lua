-- Says what happens, and changes nothing: a command for each kind of event (layer 3).
-- A command that begins with a slash is run as it is, without a shell.

settings { nodaemon = true }

sync {
	source = '/srv/in',
	delay = 1,
	maxProcesses = 4,
	onStartup = '/bin/echo the source is ^source',
	onCreate = '/bin/echo new ^pathname',
	onModify = '/bin/echo written ^pathname',
	onAttrib = '/bin/echo attributes ^pathname',
	onDelete = '/bin/echo gone ^pathname',
	onMove = '/bin/echo moved ^o.pathname ^d.pathname',
}
