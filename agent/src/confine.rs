//! Confinement of the whole process, as a second wall behind the resolving of paths: no new
//! privileges, and Landlock, so that nothing outside the root can be opened at all.

use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr,
};

use crate::root::Root;

/// Confines this process, all its threads to come and its children to a root. What the kernel
/// does not know is left out. Reading of `/proc`, `/etc` and the like stays possible: names of
/// users are read there.
///
/// # Errors
/// In words, when the kernel knows it and refuses.
pub fn confine(root: &Root, cache: Option<&Path>) -> Result<(), String> {
    rustix::thread::set_no_new_privs(true).map_err(|error| error.to_string())?;
    restrict(root, cache).map_err(|error| error.to_string())
}

fn restrict(root: &Root, cache: Option<&Path>) -> Result<(), landlock::RulesetError> {
    let abi = ABI::V5;
    let all = AccessFs::from_all(abi);
    // Programs are never run, so there is nothing beneath the root to execute either.
    let writes = all & !AccessFs::Execute;
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)?
        .create()?
        .add_rule(PathBeneath::new(root, writes))?;
    if let Some(cache) = cache
        && let Ok(cache) = PathFd::new(cache)
    {
        rules = rules.add_rule(PathBeneath::new(cache, writes))?;
    }
    // NSS reads its databases, and may load its modules while we run.
    let reads = AccessFs::from_read(abi);
    for dir in ["/etc", "/usr", "/lib", "/lib64", "/proc", "/run", "/var/lib"] {
        if let Ok(dir) = PathFd::new(dir) {
            rules = rules.add_rule(PathBeneath::new(dir, reads))?;
        }
    }
    rules.restrict_self()?;
    Ok(())
}
