//! The filter rules of a command line, in the order in which they stand there.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::ArgMatches;

use super::shown;
use crate::error::{Error, Result};
use crate::filter::{BadRule, Filter, Why};

/// No file of rules is larger: a list of names was meant for something else.
const MAX_FILE: u64 = 64 * 1024 * 1024;

enum Rule<'a> {
    Exclude(&'a OsString),
    Include(&'a OsString),
    Filter(&'a OsString),
    File(&'a PathBuf, bool),
}

/// Reads `--exclude`, `--include`, `--filter`, `--exclude-from` and `--include-from`.
pub(super) fn filter(matches: &ArgMatches, cwd: &Path) -> Result<Filter> {
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
    for (_, rule) in rules {
        match rule {
            Rule::Exclude(text) => filter.add_exclude(text.as_bytes()).map_err(|e| bad(&e, ""))?,
            Rule::Include(text) => filter.add_include(text.as_bytes()).map_err(|e| bad(&e, ""))?,
            Rule::Filter(text) => filter.add_rule(text.as_bytes()).map_err(|e| bad(&e, ""))?,
            Rule::File(path, include) => {
                let place = format!(" in {}", shown(path.as_os_str()));
                filter.add_file(&read(path, cwd)?, include).map_err(|e| bad(&e, &place))?;
            }
        }
    }
    Ok(filter)
}

fn bad(error: &BadRule, place: &str) -> Error {
    let hint = match error.why {
        Why::MergeNotYet => "use --exclude-from FILE or --include-from FILE",
        Why::CvsNotYet => "exclude them by name",
        Why::Unknown | Why::NoSpace => "such as --filter '- *.o', or shorter: --exclude '*.o'",
        _ => "rsync's manual describes these rules under FILTER RULES",
    };
    Error::usage(format!("{error}{place}")).hint(hint)
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
