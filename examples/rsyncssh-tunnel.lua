-- Mirrors by an rsync daemon that is reached through an ssh tunnel: lsyncd keeps the tunnel, and
-- waits with what happens until it is there.

settings { nodaemon = true }

sync {
	default.rsync,
	tunnel = tunnel {
		name = 'to-backup',
		command = { 'ssh', '-N', '-L', '^localport:127.0.0.1:873', 'backup' },
		readyDelay = 1,
	},
	source = '/srv/in',
	target = 'rsync://^localhost:^localport/module/in',
	delay = 5,
	rsync = { archive = true },
}
