//! The filter rules of a command line, in the order in which they stand there.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use clap::ArgMatches;

use super::{World, shown};
use crate::error::{Error, Result};
use crate::filter::{Above, BadRule, CvsIgnore, Filter, Origin, Outside, Why};

/// No file of rules is larger: a list of names was meant for something else.
const MAX_FILE: u64 = 64 * 1024 * 1024;

enum Rule<'a> {
    Exclude(&'a OsString),
    Include(&'a OsString),
    Filter(&'a OsString),
    File(&'a PathBuf, bool),
}

/// Reads `--exclude`, `--include`, `--filter`, `--exclude-from`, `--include-from` and
/// `--cvs-exclude`, and the files that they name.
pub(super) fn filter(matches: &ArgMatches, source: &Path, world: &World) -> Result<Filter> {
    let mut rules: Vec<(usize, Rule<'_>)> = Vec::new();
    let mut texts = |id: &str, kind: fn(&OsString) -> Rule<'_>| {
        let values = matches.get_many::<OsString>(id).into_iter().flatten();
        rules.extend(matches.indices_of(id).into_iter().flatten().zip(values.map(kind)));
    };
    texts("exclude", |text| Rule::Exclude(text));
    texts("include", |text| Rule::Include(text));
    texts("filter", |text| Rule::Filter(text));
    for (id, include) in [("exclude_from", false), ("include_from", true)] {
        let values = matches.get_many::<PathBuf>(id).into_iter().flatten();
        let values = values.map(|path| Rule::File(path, include));
        rules.extend(matches.indices_of(id).into_iter().flatten().zip(values));
    }
    rules.sort_by_key(|(index, _)| *index);

    let mut filter = Filter::default();
    let mut files = Files { source, world };
    for (_, rule) in rules {
        match rule {
            Rule::Exclude(text) => filter.add_exclude(text.as_bytes(), &Origin::given("--exclude")),
            Rule::Include(text) => filter.add_include(text.as_bytes(), &Origin::given("--include")),
            Rule::Filter(text) => {
                filter.read_rule(text.as_bytes(), &Origin::given("--filter"), &mut files)
            }
            Rule::File(path, include) => {
                let name = path.as_os_str().as_bytes();
                let origin = Origin::File { name: name.into(), line: 0 };
                filter.add_file(&read(path, &world.cwd)?, include, &origin)
            }
        }
        .map_err(|error| bad(&error))?;
    }
    if matches.get_flag("cvs_exclude") {
        filter.add_cvs(&mut files).map_err(|error| bad(&error))?;
    }
    Ok(filter)
}

fn bad(error: &BadRule) -> Error {
    let hint = match error.why {
        Why::Unknown | Why::NoSpace => "such as --filter '- *.o', or shorter: --exclude '*.o'",
        Why::Unread(_) => return Error::failed(error.to_string()),
        _ => "rsync's manual describes these rules under FILTER RULES",
    };
    Error::usage(error.to_string()).hint(hint)
}

/// Files that rules name, and what is in the environment for them.
pub(super) struct Files<'a> {
    /// The source's root, absolute.
    pub(super) source: &'a Path,
    pub(super) world: &'a World,
}

impl Outside for Files<'_> {
    fn file(&mut self, name: &[u8]) -> std::result::Result<Vec<u8>, String> {
        let path = Path::new(OsStr::from_bytes(name));
        read(path, &self.world.cwd).map_err(|error| error.to_string())
    }

    fn cvs(&mut self) -> std::result::Result<CvsIgnore, String> {
        let home = match &self.world.home {
            Some(home) => {
                let path = home.join(".cvsignore");
                read_if_there(&path)?.map(|text| (path.into_os_string().into_vec(), text))
            }
            None => None,
        };
        let variable = self.world.cvsignore.as_ref().map(|text| text.as_bytes().to_vec());
        Ok(CvsIgnore { home, variable })
    }

    fn above(&mut self, name: &[u8]) -> std::result::Result<Vec<Above>, String> {
        let mut found = Vec::new();
        for dir in self.source.ancestors().skip(1) {
            let path = dir.join(OsStr::from_bytes(name));
            if let Some(content) = read_if_there(&path)? {
                // Without the first slash and with one at its end, unless it is the root.
                let end = match dir.as_os_str().len() {
                    0 | 1 => 0,
                    length => length,
                };
                found.push(Above { name: path.into_os_string().into_vec(), end, content });
            }
        }
        Ok(found)
    }
}

/// A file that need not be there.
fn read_if_there(path: &Path) -> std::result::Result<Option<Vec<u8>>, String> {
    match std::fs::metadata(path) {
        // rsync, too, finds no rules in what is no file.
        Ok(stat) if stat.is_dir() => Ok(None),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        _ => read(path, Path::new("/")).map(Some).map_err(|error| error.to_string()),
    }
}

fn read(path: &Path, cwd: &Path) -> Result<Vec<u8>> {
    use std::io::Read;
    let cannot = |e: std::io::Error| {
        Error::failed(format!("cannot read the rules in {}", shown(path.as_os_str()))).because(e)
    };
    let mut content = Vec::new();
    let size = if path == Path::new("-") {
        std::io::stdin().lock().take(MAX_FILE + 1).read_to_end(&mut content)
    } else {
        let file = std::fs::File::open(cwd.join(path)).map_err(cannot)?;
        file.take(MAX_FILE + 1).read_to_end(&mut content)
    };
    match size.map_err(cannot)? as u64 {
        size if size > MAX_FILE => Err(cannot(std::io::Error::other("it is over 64 MiB"))),
        _ => Ok(content),
    }
}
