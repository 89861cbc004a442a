//! What might keep it from ending, or from going on.

use std::fs;

use rustix::process::Signal;

use super::super::push::{Stage, Way};
use super::super::world::wait_until;
use super::{DIRECT, Two, runs, write};

#[test]
fn hup_that_waits_for_a_child_still_hears_the_end_and_the_child_does_so_too() {
    let stage = Stage::new(Way::Local);
    let pid = stage.path("pid");
    let config = format!(
        "sync {{ source = SRC, delay = 0, onCreate = function(event)
           spawnShell(event, 'echo $$ > {0}.new; mv {0}.new {0}; exec sleep 600') end }}",
        pid.display()
    );
    let mut two = Two::with(&stage, &config);
    two.wait_for("finished.");
    fs::write(stage.s("file"), "1").unwrap();
    wait_until("the child", || pid.exists());
    two.signal(Signal::HUP);
    two.wait_for("--- HUP signal, resetting ---");
    two.signal(Signal::TERM);
    two.wait_for("--- TERM signal, fading ---");
    let (code, said) = two.stop(Signal::TERM);
    assert_eq!(code, Some(143), "{said}");
    assert!(said.contains("Normal: ending 1 child processes."), "{said}");
    let child = fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
    wait_until("the child has ended", || !runs(child));
}

#[test]
fn hup_with_a_crontab_that_cannot_be_changes_nothing() {
    let stage = Stage::new(Way::Local);
    let direct = "default.direct, source = SRC, target = TRG, delay = 0";
    let mut two = Two::with(&stage, &format!("sync {{ {direct} }}"));
    two.wait_for("finished.");
    write(&stage, &format!("sync {{ {direct}, crontab = {{ 'never' }} }}"));
    two.signal(Signal::HUP);
    two.wait_for("going on as before");
    fs::write(stage.s("live"), "1").unwrap();
    wait_until("the change", || stage.t("live").exists());
    let (code, said) = two.stop(Signal::TERM);
    assert_eq!(code, Some(143), "{said}");
}

#[test]
fn a_configuration_that_is_never_through_at_hup_still_lets_it_end() {
    let stage = Stage::new(Way::Local);
    let mut two = Two::with(&stage, DIRECT);
    two.wait_for("finished.");
    write(&stage, "log('Normal', 'loading for ever') while true do end");
    two.signal(Signal::HUP);
    two.wait_for("loading for ever");
    let (code, said) = two.stop(Signal::TERM);
    assert_eq!(code, Some(143), "{said}");
}

#[test]
fn sources_that_go_while_hup_loads_are_waited_for_and_others_go_on() {
    let stage = Stage::new(Way::Local);
    let (more, gone) = (stage.path("more"), stage.path("gone"));
    for name in ["a", "b", "c"] {
        fs::create_dir_all(more.join(name)).unwrap();
        fs::write(more.join(name).join("first"), "1").unwrap();
    }
    let mut two = Two::with(&stage, DIRECT);
    two.wait_for("finished.");
    let (one, other, made) = (stage.path("ta"), stage.path("tb"), stage.path("made"));
    let status = stage.path("status");
    let config = format!(
        "settings {{ statusFile = {status:?}, statusInterval = 1 }}
         {DIRECT}
         sync {{ default.direct, name = 'A', source = '{0}/a', target = {one:?}, delay = 0 }}
         sync {{ default.rsync, name = 'B', source = '{0}/b', target = {other:?}, delay = 0,
                crontab = {{ '* * * * * *' }} }}
         sync {{ name = 'C', source = '{0}/c', onStartup = 'touch {1}' }}
         os.rename('{0}', {gone:?})",
        more.display(),
        made.display(),
    );
    write(&stage, &config);
    two.signal(Signal::HUP);
    two.wait_times("finished.", 2);
    let said = two.said();
    for name in ["A", "B", "C"] {
        let line = format!("Error: {name}: cannot open the source {}", more.display());
        assert_eq!(said.matches(&line).count(), 1, "{said}");
    }
    assert!(said.contains("no such file or directory; it is tried again\n"), "{said}");
    fs::write(stage.s("live"), "1").unwrap();
    wait_until("the sync that can goes on", || stage.t("live").exists());
    wait_until("those that wait are in the status", || {
        let said = fs::read_to_string(&status).unwrap_or_default();
        said.matches("There are 1 delays\nactive Init ").count() == 3
    });
    fs::rename(&gone, &more).unwrap();
    wait_until("all have begun", || {
        one.join("first").exists() && other.join("first").exists() && made.exists()
    });
    fs::write(more.join("a/live"), "1").unwrap();
    fs::write(more.join("b/live"), "1").unwrap();
    wait_until("they are live", || one.join("live").exists() && other.join("live").exists());
    // A second time, and the end comes while they are waited for.
    two.signal(Signal::HUP);
    two.wait_times("it is tried again", 6);
    let (code, said) = two.stop(Signal::TERM);
    assert_eq!(code, Some(143), "{said}");
}
