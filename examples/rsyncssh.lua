-- Mirrors a directory to another host by ssh. What carries it is lsync-agent; rsync is needed on
-- neither side.

sync {
	default.rsyncssh,
	source = '/srv/in',
	host = 'backup',
	targetdir = '/srv/out',
}
