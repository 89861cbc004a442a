-- Mirrors a directory of this host by commands of the shell (layer 3). Names reach a command as its
-- arguments, never as code, whatever stands in them.

settings { nodaemon = true }

local again = { [0] = 'ok', [1] = 'again' }

sync {
	source = '/srv/in',
	target = '/srv/out',
	delay = 1,
	maxProcesses = 3,
	exitcodes = again,
	onStartup = 'if [ -n "$(ls -A ^source)" ]; then cp -a ^source. ^target; fi',
	onCreate = '[ ! -e ^sourcePathname ] || cp -a -T -- ^sourcePathname ^targetPathname',
	onModify = '[ ! -e ^sourcePathname ] || cp -a -T -- ^sourcePathname ^targetPathname',
	onAttrib = '[ ! -d ^sourcePathname ] || chmod --reference=^sourcePathname -- ^targetPathname',
	onDelete = 'rm -rf -- ^targetPathname',
	onMove = 'mv -T -- ^o.targetPathname ^d.targetPathname',
}
