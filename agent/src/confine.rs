//! Confinement of the whole process, as a second wall behind the resolving of paths: no new
//! privileges, and Landlock, so that nothing outside the root can be opened at all.

use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetStatus,
};

use crate::root::Root;

/// Confines this process, all its threads to come and its children to a root. What the kernel
/// does not know is left out. Reading of `/proc`, `/etc` and the like stays possible: names of
/// users are read there. Landlock before Linux 5.19 lets no name move between directories: where
/// that is needed (`moves`), it is left out as a whole.
///
/// Returns whether Landlock is in force.
///
/// # Errors
/// In words, when the kernel knows it and refuses.
pub fn confine(root: &Root, cache: Option<&Path>, moves: bool) -> Result<bool, String> {
    rustix::thread::set_no_new_privs(true).map_err(|error| error.to_string())?;
    if moves && !can_allow_moves() {
        return Ok(false);
    }
    let writes = all() & !AccessFs::Execute;
    restrict(root, writes, cache).map_err(|error| error.to_string())
}

/// Confines this process as [`confine`] does, and lets it write nowhere.
///
/// Returns whether Landlock is in force.
///
/// # Errors
/// In words, when the kernel knows it and refuses.
pub fn read_only(root: &Root) -> Result<bool, String> {
    rustix::thread::set_no_new_privs(true).map_err(|error| error.to_string())?;
    let reads = AccessFs::from_read(ABI_USED) & !AccessFs::Execute;
    restrict(root, reads, None).map_err(|error| error.to_string())
}

/// The newest rights that are asked for.
const ABI_USED: ABI = ABI::V5;

fn all() -> BitFlags<AccessFs> {
    AccessFs::from_all(ABI_USED)
}

/// Does the kernel know the right to move names between directories? If not, nobody has it.
pub(crate) fn can_allow_moves() -> bool {
    let ruleset = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    ruleset.handle_access(AccessFs::Refer).is_ok()
}

/// Beneath the root these rights are kept. Programs are never run, so there is nothing to execute.
fn restrict(
    root: &Root,
    rights: BitFlags<AccessFs>,
    cache: Option<&Path>,
) -> Result<bool, landlock::RulesetError> {
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all())?
        .create()?
        .add_rule(PathBeneath::new(root, rights))?;
    if let Some(cache) = cache
        && let Ok(cache) = PathFd::new(cache)
    {
        rules = rules.add_rule(PathBeneath::new(cache, rights))?;
    }
    // NSS reads its databases, and may load its modules while we run.
    let reads = AccessFs::from_read(ABI_USED);
    for dir in ["/etc", "/usr", "/lib", "/lib64", "/proc", "/run", "/var/lib"] {
        if let Ok(dir) = PathFd::new(dir) {
            rules = rules.add_rule(PathBeneath::new(dir, reads))?;
        }
    }
    Ok(rules.restrict_self()?.ruleset != RulesetStatus::NotEnforced)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::fs;

    #[test]
    fn nothing_outside_can_be_opened() {
        let dir = tempfile::tempdir().unwrap();
        let (inside, outside) = (dir.path().join("inside"), dir.path().join("outside"));
        for dir in [&inside, &outside] {
            fs::create_dir(dir).unwrap();
            fs::write(dir.join("f"), b"x").unwrap();
        }
        // It holds for this thread only, and for those it starts.
        let confined = std::thread::spawn(move || {
            let root = Root::open(&inside).unwrap();
            let enforced = confine(&root, None, true).unwrap();
            assert!(rustix::thread::no_new_privs().unwrap());
            fs::write(inside.join("g"), b"y").unwrap();
            fs::create_dir(inside.join("d")).unwrap();
            fs::rename(inside.join("g"), inside.join("d/g")).unwrap();
            fs::read_dir("/etc").unwrap();
            let denied = |done: std::io::Result<()>| {
                done.is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
            };
            if enforced {
                assert!(denied(fs::read(outside.join("f")).map(|_| ())));
                assert!(denied(fs::write(outside.join("f"), b"z")));
                assert!(denied(fs::rename(inside.join("f"), outside.join("g"))));
                assert!(denied(fs::write("/etc/lsync-confined", b"z")));
            }
            enforced
        });
        // The kernel these tests run on decides; without Landlock only the first half is shown.
        let _ = confined.join().unwrap();
    }

    #[test]
    fn what_may_only_be_read_cannot_be_written() {
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().join("inside");
        fs::create_dir(&inside).unwrap();
        fs::write(inside.join("f"), b"x").unwrap();
        let confined = std::thread::spawn(move || {
            let root = Root::open(&inside).unwrap();
            let enforced = read_only(&root).unwrap();
            assert_eq!(fs::read(inside.join("f")).unwrap(), b"x");
            assert_eq!(fs::read_dir(&inside).unwrap().count(), 1);
            if enforced {
                assert!(fs::write(inside.join("f"), b"y").is_err());
                assert!(fs::write(inside.join("g"), b"y").is_err());
                assert!(fs::remove_file(inside.join("f")).is_err());
            }
        });
        confined.join().unwrap();
    }
}
