//! The command line to an exit code. All that is decided, is decided in the library.

use std::ffi::OsStr;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use lsyncd::carrier::action::ActionLog;
use lsyncd::cli::legacy::CommandLine;
use lsyncd::cli::run::{ManyMirrors, check, is_toml, load};
use lsyncd::cli::{
    self, AgentVisit, Asked, Authorized, Invocation, Output, Question, Steering, World, two,
};
use lsyncd::config::settings::Settings;
use lsyncd::config::toml::Settings as FileSettings;
use lsyncd::config::{AnyMirror, Verify};
use lsyncd::control::server::Roll;
use lsyncd::control::{Places, Request, client};
use lsyncd::daemon::detach::{Detached, Report, detach};
use lsyncd::daemon::pidfile::PidFile;
use lsyncd::daemon::service::Service;
use lsyncd::daemon::two::{Reload, Setup, Told};
use lsyncd::daemon::{self, PushOptions, many};
use lsyncd::error::{Error, Exit, Result};
use lsyncd::source::Source;
use lsyncd::view::status::Said;
use lsyncd::view::two::{LogOptions, Traces, TwoLog};
use lsyncd::view::web::{self, Web};
use lsyncd::view::{self, LogFormat, Screen, Style, View};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    if called_as_agent() {
        return ExitCode::from(lsync_agent::run(std::env::args_os().skip(1)));
    }
    let screen = Screen::new(wants_times());
    match run(&screen) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            // The last words are an answer to whoever called, not an event in a log.
            view::show_error(&Screen::new(false), &error);
            ExitCode::from(error.exit() as u8)
        }
    }
}

/// Under the name `lsync-agent…` this file is the agent: that is how it is put on hosts of the
/// same kind.
fn called_as_agent() -> bool {
    let name = std::env::args_os().next().unwrap_or_default();
    let base = name.as_bytes().rsplit(|&b| b == b'/').next().unwrap_or_default();
    base.starts_with(b"lsync-agent")
}

/// Lines carry the time where nobody else adds it: not on a terminal, not in systemd's journal.
fn wants_times() -> bool {
    use std::io::IsTerminal;
    let stderr = std::io::stderr();
    if stderr.is_terminal() {
        return false;
    }
    let Some(journal) = std::env::var_os("JOURNAL_STREAM") else { return true };
    // Inherited by children whose standard error goes elsewhere: the stream must be this one.
    let Ok(stat) = rustix::fs::fstat(&stderr) else { return true };
    journal.as_os_str() != OsStr::new(&format!("{}:{}", stat.st_dev, stat.st_ino))
}

fn run(screen: &Screen) -> Result<u8> {
    let world = World::of_this_process();
    let exit = match cli::parse(std::env::args_os(), &world)? {
        Invocation::Two(line) => return run_two(&line, &world),
        Invocation::Print { text, exit } => print(text.as_bytes(), exit),
        Invocation::Generate(what) => print(&cli::generate(what)?, Exit::Done),
        Invocation::Push { mirrors, once, dry_run, verify, control, metrics, output } => {
            let seen = Seen { control, metrics, output };
            push(screen, mirrors, PushOptions { once, dry_run, verify }, &seen, &world)
        }
        Invocation::Run(many) => run_many(*many, &world),
        Invocation::Ask(asked) => ask(&asked),
        Invocation::Why(question) => why(&question),
        Invocation::Agent(visit) => agent(screen, &visit),
        Invocation::Authorize(asked) => {
            let Authorized { line, hints } = asked.line()?;
            let done = print(&line, Exit::Done);
            // Beside the line and not in it: it is meant to be appended to a file.
            hints.iter().for_each(|hint| Screen::new(false).hint(hint));
            done
        }
        Invocation::Check(config) if is_toml(&config) => {
            print(check(&config, &world)?.as_bytes(), Exit::Done)
        }
        Invocation::Check(config) => {
            print(two::check(&two::load_file(&config, &world)?).as_bytes(), Exit::Done)
        }
        Invocation::Migrate(config) => {
            print(two::migrate(&two::load_file(&config, &world)?).as_bytes(), Exit::Done)
        }
    };
    exit.map(|exit| exit as u8)
}

/// Where running mirrors are seen.
struct Seen {
    control: Places,
    metrics: Option<SocketAddr>,
    output: Output,
}

impl Seen {
    fn web(&self, world: &World) -> Result<Option<Web>> {
        self.metrics.map(|address| Web::bind(address, &world.host)).transpose()
    }
}

fn push(
    screen: &Screen,
    mirrors: Vec<AnyMirror>,
    how: PushOptions,
    seen: &Seen,
    world: &World,
) -> Result<Exit> {
    let Seen { control, output, .. } = seen;
    let output = *output;
    let verify = how.verify != Verify::No;
    let style = Style { verify, ..style(output, how.dry_run, mirrors.len() > 1) };
    start_log(screen, output);
    let view = Arc::new(View::new(style, screen.clone()));
    let metrics = Arc::clone(&view);
    let (web, roll) = (seen.web(world)?, Roll::default());
    let result = on_runtime(async {
        tokio::select! {
            result = daemon::push(mirrors, how, control, Arc::clone(&roll), metrics) => result,
            () = web::serve(web, roll, Arc::clone(&view)) => Ok(Exit::Failed),
            () = screen.nobody_reads() => Ok(Exit::Done),
        }
    });
    view.close();
    result
}

/// Keeps the mirrors of a file going.
fn run_many(many: ManyMirrors, world: &World) -> Result<Exit> {
    let ManyMirrors { config, settings, mirrors, daemon, control, metrics, output } = many;
    let seen = Seen { control, metrics, output };
    let mut report = match daemon {
        false => None,
        true => match detach()? {
            Detached::Launcher(exit) => return Ok(exit),
            Detached::Daemon(report) => Some(report),
        },
    };
    let result = keep_many(config, &settings, mirrors, world, &seen, || {
        if let Some(report) = report.take() {
            report.started()?;
            // It has left all that it was started with, and its log.
            settings.logfile.as_deref().map_or(Ok(()), view::log_to)?;
        }
        Ok(())
    });
    match (result, report) {
        // Whoever launched it still waits, and hears of it.
        (Err(error), Some(report)) => {
            report.failed(&error);
            Ok(Exit::Failed)
        }
        (result, _) => result,
    }
}

/// Keeps the mirrors of a file going, in the process that stays.
fn keep_many(
    config: PathBuf,
    settings: &FileSettings,
    mirrors: Vec<AnyMirror>,
    world: &World,
    seen: &Seen,
    started: impl FnOnce() -> Result<()>,
) -> Result<Exit> {
    // Held, and locked, until the end.
    let _pidfile = settings.pidfile.as_deref().map(PidFile::create).transpose()?;
    settings.logfile.as_deref().map_or(Ok(()), view::log_to)?;
    let screen = Screen::new(settings.logfile.is_some() || wants_times());
    start_log(&screen, seen.output);
    let (web, roll, control) = (seen.web(world)?, Roll::default(), &seen.control);
    let view = Arc::new(View::new(style(seen.output, false, true), screen.clone()));
    let (metrics, service) = (Arc::clone(&view), Service::new(world.notify));
    let (world, logfile) = (world.clone(), settings.logfile.clone());
    let reload: many::Reload = Arc::new(move || {
        if let Some(logfile) = &logfile {
            view::log_to(logfile)?;
        }
        load(&config, &world).map(|(_, mirrors)| mirrors)
    });
    let result = on_runtime(async {
        tokio::select! {
            result = many::run(
                mirrors, reload, metrics, control, Arc::clone(&roll), service, started,
            ) => result,
            () = web::serve(web, roll, Arc::clone(&view)) => Ok(Exit::Failed),
            () = screen.nobody_reads() => Ok(Exit::Done),
        }
    });
    view.close();
    result
}

/// Asks a running lsyncd.
fn ask(asked: &Asked) -> Result<Exit> {
    if asked.what == Steering::Monitor {
        return view::monitor::run(&asked.places, &asked.which).map(|()| Exit::Done);
    }
    let processes = client::processes(&asked.places)?;
    if asked.what == Steering::Status {
        let processes = client::of(processes, &asked.which)?;
        if asked.json {
            return print(view::status::json(&processes).as_bytes(), Exit::Done);
        }
        // What is on its way is seen by looking twice.
        let again = view::status::moves(&processes).then(|| {
            std::thread::sleep(view::status::APART);
            client::processes(&asked.places)
        });
        let text = view::status::text(&processes, again.and_then(Result::ok).as_deref());
        return print(text.as_bytes(), Exit::Done);
    }
    let mut exit = Exit::Done;
    for (process, mirrors) in client::meant(processes, &asked.which)? {
        let (request, patience) = match asked.what {
            Steering::Status | Steering::Monitor | Steering::Pause => {
                (Request::Pause { mirrors }, Some(Duration::ZERO))
            }
            Steering::Resume { confirm } => {
                (Request::Resume { mirrors, confirm }, Some(Duration::ZERO))
            }
            Steering::Flush(timeout) => {
                let timeout_seconds = timeout.map(|timeout| timeout.as_secs_f64());
                (Request::Flush { mirrors, timeout_seconds }, timeout)
            }
        };
        for steered in client::steer(&process, &request, patience)? {
            let (code, said) = view::status::steered(&steered);
            exit = exit.max(code);
            let screen = Screen::new(false);
            for line in said {
                match line {
                    Said::Out(line) => screen.out(&line),
                    Said::Err(line) => screen.err(&line),
                    Said::Hint(line) => screen.hint(&line),
                }
            }
        }
    }
    Ok(exit)
}

fn why(question: &Question) -> Result<Exit> {
    let source = Source::open(&question.source, question.scope.clone())?;
    let fates = question.paths.iter().map(|(path, dir)| source.fate(path, *dir));
    let fates = fates.collect::<Result<Vec<_>>>()?;
    let text = if question.json { view::why::json(&fates) } else { view::why::text(&fates) };
    print(text.as_bytes(), Exit::Done)
}

/// What Lsyncd 2 would do: load, become a daemon unless told otherwise, and run.
fn run_two(line: &CommandLine, world: &World) -> Result<u8> {
    // What is said while it loads, people see, wherever the log goes then.
    let loading = LogOptions { daemon: false, ..LogOptions::new(&Settings::default(), &line.log) };
    let early = Arc::new(TwoLog::new(&loading)?);
    let setup = two::load(line, world, early).map_err(Error::as_failed)?;
    let log = Arc::new(TwoLog::new(&LogOptions::new(&setup.settings, &line.log))?);
    let mut report = match setup.settings.nodaemon {
        true => None,
        false => match detach()? {
            Detached::Launcher(exit) => return Ok(exit as u8),
            Detached::Daemon(report) => Some(report),
        },
    };
    let started = || report.take().map_or(Ok(()), Report::started);
    let result = keep_two(line, world, setup, &log, started);
    result.or_else(|error| {
        log.error(&error);
        // Whoever launched it still waits, and hears of it too.
        if let Some(report) = report {
            report.failed(&error);
        }
        Ok(Exit::Failed as u8)
    })
}

/// Runs what was loaded, in the process that stays.
fn keep_two(
    line: &CommandLine,
    world: &World,
    setup: Setup,
    log: &Arc<TwoLog>,
    started: impl FnOnce() -> Result<()>,
) -> Result<u8> {
    log.startup();
    tracing_subscriber::fmt()
        .with_max_level(if log.wants("Debug") {
            tracing::Level::DEBUG
        } else {
            tracing::Level::WARN
        })
        .with_ansi(false)
        .without_time()
        .with_level(false)
        .with_target(false)
        .with_writer(Traces(Arc::clone(log)))
        .init();
    for warning in &setup.settings.warnings {
        log.line("Warn", warning);
    }
    // Held, and locked, until the end.
    let _pidfile = setup.settings.pidfile.as_deref().map(PidFile::create).transpose()?;
    let (line, world, heard) = (line.clone(), world.clone(), Arc::clone(log));
    let running = setup.settings.clone();
    let places = world.places(None);
    let reload: Reload = Arc::new(move || {
        let mut setup = two::load(&line, &world, Arc::clone(&heard) as Arc<dyn ActionLog>)?;
        setup.settings.keep_of(&running);
        let log = TwoLog::new(&LogOptions::new(&setup.settings, &line.log))?.running();
        Ok((setup, Arc::new(log) as Arc<dyn Told>))
    });
    let told = Arc::clone(log) as Arc<dyn Told>;
    on_runtime(daemon::two::run(setup, reload, told, &places, started))
}

fn agent(screen: &Screen, visit: &AgentVisit) -> Result<Exit> {
    start_log(screen, visit.output);
    let view = Arc::new(View::new(style(visit.output, false, false), screen.clone()));
    let metrics = Arc::clone(&view);
    let facts = on_runtime(async {
        daemon::agent(visit.install, &visit.host, &visit.ssh, &visit.agent, metrics).await
    });
    view.close();
    let facts = facts?;
    let text = if visit.output.json {
        let object: serde_json::Map<String, serde_json::Value> =
            facts.into_iter().map(|(name, fact)| (name.to_owned(), fact.into())).collect();
        format!("{}\n", serde_json::Value::Object(object))
    } else {
        facts.iter().map(|(name, fact)| format!("{name}: {fact}\n")).collect()
    };
    print(text.as_bytes(), Exit::Done)
}

fn style(output: Output, dry_run: bool, several: bool) -> Style {
    Style {
        json: output.json,
        verbose: output.verbose > 0,
        quiet: output.quiet,
        progress: output.progress,
        dry_run,
        verify: false,
        several,
    }
}

/// How long the end waits for what still runs to be taken down: programs we started (tunnels,
/// `ProxyCommand`s, rsync) are ended as the tasks that keep them are dropped, and only by that.
const TAKEN_DOWN: Duration = Duration::from_millis(300);

/// Runs a future to its end. What then still blocks a thread (a question on a terminal, a stuck
/// disk) does not keep the process for longer than [`TAKEN_DOWN`].
fn on_runtime<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::failed("cannot start threads").because(e))?;
    let result = runtime.block_on(work);
    runtime.shutdown_timeout(TAKEN_DOWN);
    result
}

/// Warnings by default; `-vv` and `-vvv` say what happens inside; `LSYNCD_LOG` decides for itself.
fn start_log(screen: &Screen, output: Output) {
    let level = match output.verbose {
        _ if output.quiet => "error",
        0 => "warn",
        1 => "info",
        2 => "lsyncd=debug,info",
        _ => "lsyncd=trace,debug",
    };
    let filter = EnvFilter::try_from_env("LSYNCD_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .event_format(LogFormat(screen.clone()))
        .with_writer(screen.clone())
        .init();
}

/// Prints what was asked for. A reader that has seen enough is no error.
fn print(text: &[u8], exit: Exit) -> Result<Exit> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Ok(()) => Ok(exit),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(Exit::Done),
        Err(error) => Err(Error::failed("cannot write to standard output").because(error)),
    }
}
