-- Mirrors a directory by the system's rsync.

settings {
	logfile = '/var/log/lsyncd.log',
	statusFile = '/run/lsyncd.status',
}

sync {
	default.rsync,
	source = '/srv/in',
	target = 'backup::module/in',
	delay = 5,
	exclude = { '*.tmp', '/cache/' },
	rsync = {
		archive = true,
		compress = true,
	},
}
