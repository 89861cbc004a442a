//! Confinement of the whole process, as a second wall behind the resolving of paths: no new
//! privileges, and Landlock, so that nothing outside the root can be opened at all.

use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus,
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
    restrict(root, cache).map_err(|error| error.to_string())
}

/// Does the kernel know the right to move names between directories? If not, nobody has it.
fn can_allow_moves() -> bool {
    let ruleset = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    ruleset.handle_access(AccessFs::Refer).is_ok()
}

fn restrict(root: &Root, cache: Option<&Path>) -> Result<bool, landlock::RulesetError> {
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
}
