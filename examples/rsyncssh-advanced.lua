-- Several directories to several hosts, with what they have in common written once. A configuration
-- is a program: tables, loops and functions are all there.

settings {
	logfile = '/var/log/lsyncd.log',
	statusFile = '/run/lsyncd.status',
	statusInterval = 20,
	insist = true,
}

local common = {
	default.rsyncssh,
	delay = 3,
	delete = 'running',
	rsync = {
		archive = true,
		bwlimit = 20000,
	},
	ssh = {
		port = 22,
		identityFile = '~/.ssh/id_ed25519',
	},
}

for _, host in ipairs { 'backup-a', 'backup-b' } do
	for source, targetdir in pairs { ['/srv/in'] = '/srv/out' } do
		sync {
			common,
			name = source .. ' to ' .. host,
			source = source,
			host = host,
			targetdir = targetdir,
		}
	end
end
