//! `lsyncd monitor`: the mirrors of running processes on the whole screen, with keys to steer them.
//!
//! What is shown is asked by a thread of its own, twice a second, and what keys ask for is done by
//! another: a process that does not answer never holds up the keys.

use std::collections::{BTreeMap, VecDeque};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use lsync_protocol::path::Escaped;
use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{
    Block, Borders, Clear, Paragraph, RenderDirection, Row, Sparkline, Table, TableState, Wrap,
};

use super::status::{Said, steered};
use super::words::{bytes, safe, seconds};
use crate::control::client::{Process, Which, of, processes, steer};
use crate::control::status::{MirrorStatus, State};
use crate::control::{Places, Request};
use crate::error::{Error, Result};

/// How often it is asked how all stand.
const EVERY: Duration = Duration::from_millis(500);
/// How long a key is waited for before what came is shown.
const KEYS: Duration = Duration::from_millis(100);
/// So many rates are remembered.
const RATES: usize = 240;

/// What the threads beside the screen tell.
enum Told {
    /// How all stand.
    Stand(Result<Vec<Process>>),
    /// What a key led to.
    Done(String),
}

/// What is seen.
#[derive(Default)]
struct Screen {
    /// Each mirror, and where its process is found.
    rows: Vec<(usize, MirrorStatus)>,
    processes: Vec<Process>,
    table: TableState,
    /// Bytes a second, the latest last, by process and name.
    rates: BTreeMap<(u32, String), VecDeque<u64>>,
    looked: Option<Instant>,
    trouble: Option<String>,
    said: String,
    help: bool,
    /// It is asked whether the deletes of the chosen mirror are meant.
    confirms: bool,
}

/// What a key asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Nothing,
    Quit,
    Pause,
    Flush,
    Confirm,
}

/// Shows the mirrors that are meant until somebody has seen enough. Standard output has to be a
/// terminal.
///
/// # Errors
/// No process answers at first, or the terminal cannot be drawn on.
pub fn run(places: &Places, which: &Which) -> Result<()> {
    let first = of(processes(places)?, which)?;
    let (tell, told) = channel();
    let (asked_places, asked_which, teller) = (places.clone(), which.clone(), tell.clone());
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(EVERY);
            let stand = processes(&asked_places).and_then(|all| of(all, &asked_which));
            // Nobody looks any more.
            if teller.send(Told::Stand(stand)).is_err() {
                return;
            }
        }
    });
    let mut screen = Screen::default();
    screen.learn(first, Instant::now());
    let mut terminal = ratatui::try_init()
        .map_err(|error| Error::failed("cannot draw on the terminal").because(error))?;
    let shown = show(&mut terminal, &mut screen, &tell, &told);
    ratatui::restore();
    shown.map_err(|error| Error::failed("cannot draw on the terminal").because(error))
}

fn show(
    terminal: &mut ratatui::DefaultTerminal,
    screen: &mut Screen,
    tell: &Sender<Told>,
    told: &Receiver<Told>,
) -> std::io::Result<()> {
    loop {
        while let Ok(told) = told.try_recv() {
            match told {
                Told::Stand(Ok(all)) => screen.learn(all, Instant::now()),
                Told::Stand(Err(error)) => screen.trouble = Some(safe(&error.to_string())),
                Told::Done(said) => screen.said = said,
            }
        }
        terminal.draw(|frame| screen.draw(frame))?;
        if !event::poll(KEYS)? {
            continue;
        }
        let Event::Key(key) = event::read()? else { continue };
        if key.kind == KeyEventKind::Release {
            continue;
        }
        let ends = key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c');
        match screen.key(key.code) {
            _ if ends => return Ok(()),
            Wish::Quit => return Ok(()),
            Wish::Nothing => {}
            wish => screen.ask(wish, tell),
        }
    }
}

impl Screen {
    /// All stand so now.
    fn learn(&mut self, all: Vec<Process>, now: Instant) {
        let passed = self.looked.map_or(0.0, |looked| (now - looked).as_secs_f64());
        let before: BTreeMap<(u32, String), u64> = self
            .rows
            .iter()
            .map(|(at, mirror)| {
                ((self.processes[*at].status.pid, mirror.name.clone()), mirror.sent_bytes)
            })
            .collect();
        self.rows.clear();
        for (at, process) in all.iter().enumerate() {
            for mirror in &process.status.mirrors {
                let key = (process.status.pid, mirror.name.clone());
                if passed > 0.0
                    && let Some(sent) = before.get(&key)
                {
                    let rate = mirror.sent_bytes.saturating_sub(*sent) as f64 / passed;
                    let rates = self.rates.entry(key).or_default();
                    rates.push_back(rate as u64);
                    if rates.len() > RATES {
                        rates.pop_front();
                    }
                }
                self.rows.push((at, mirror.clone()));
            }
        }
        self.processes = all;
        let pids: Vec<u32> = self.processes.iter().map(|process| process.status.pid).collect();
        self.rates.retain(|(pid, _), _| pids.contains(pid));
        self.looked = Some(now);
        self.trouble = None;
        let last = self.rows.len().saturating_sub(1);
        self.table.select(Some(self.table.selected().unwrap_or(0).min(last)));
    }

    fn chosen(&self) -> Option<&(usize, MirrorStatus)> {
        self.rows.get(self.table.selected()?)
    }

    fn rates(&self, row: &(usize, MirrorStatus)) -> Vec<u64> {
        let key = (self.processes[row.0].status.pid, row.1.name.clone());
        self.rates.get(&key).map(|rates| rates.iter().copied().collect()).unwrap_or_default()
    }

    /// A key was pressed.
    fn key(&mut self, key: KeyCode) -> Wish {
        if self.confirms {
            self.confirms = false;
            return if key == KeyCode::Char('y') { Wish::Confirm } else { Wish::Nothing };
        }
        if self.help {
            self.help = false;
            return Wish::Nothing;
        }
        match key {
            KeyCode::Char('q') | KeyCode::Esc => return Wish::Quit,
            KeyCode::Char('?' | 'h') => self.help = true,
            KeyCode::Down | KeyCode::Char('j') => self.step(1),
            KeyCode::Up | KeyCode::Char('k') => self.step(-1),
            KeyCode::Char('p') => return Wish::Pause,
            KeyCode::Char('f') => return Wish::Flush,
            KeyCode::Char('c') => match self.chosen() {
                Some((_, mirror)) if mirror.state == State::Halted => self.confirms = true,
                _ => self.said = "its deletes are not stopped".to_owned(),
            },
            _ => {}
        }
        Wish::Nothing
    }

    fn step(&mut self, by: isize) {
        let last = self.rows.len().saturating_sub(1);
        let at = self.table.selected().unwrap_or(0).saturating_add_signed(by).min(last);
        self.table.select(Some(at));
    }

    /// Has the chosen mirror's process do something, beside the screen.
    fn ask(&mut self, wish: Wish, tell: &Sender<Told>) {
        let Some((at, mirror)) = self.chosen().cloned() else { return };
        let mirrors = vec![mirror.name.clone()];
        let (request, doing) = match wish {
            Wish::Pause if mirror.state == State::Paused => {
                (Request::Resume { mirrors, confirm: false }, "going on")
            }
            Wish::Pause => (Request::Pause { mirrors }, "paused"),
            Wish::Confirm => (Request::Resume { mirrors, confirm: true }, "deletes happen"),
            Wish::Flush => (Request::Flush { mirrors, timeout_seconds: None }, "all has arrived"),
            Wish::Nothing | Wish::Quit => return,
        };
        let name = Escaped(mirror.name.as_bytes()).to_string();
        if wish == Wish::Flush {
            self.said = format!("{name}: waiting until all has arrived …");
        }
        let (process, tell) = (self.processes[at].clone(), tell.clone());
        let patience = (wish != Wish::Flush).then_some(Duration::ZERO);
        std::thread::spawn(move || {
            let said = match steer(&process, &request, patience) {
                Err(error) => safe(&error.to_string()),
                Ok(all) => {
                    let lines = all.iter().flat_map(|one| steered(one).1);
                    let first = lines.into_iter().find_map(|line| match line {
                        Said::Out(text) | Said::Err(text) => Some(text),
                        Said::Hint(_) => None,
                    });
                    first.unwrap_or_else(|| format!("{name}: {doing}"))
                }
            };
            let _ = tell.send(Told::Done(said));
        });
    }

    fn draw(&mut self, frame: &mut Frame<'_>) {
        let rows = u16::try_from(self.rows.len()).unwrap_or(u16::MAX).saturating_add(1);
        let room = frame.area().height.saturating_sub(2);
        let [head, table, detail, foot] = Layout::vertical([
            Constraint::Length(1),
            Constraint::Length(rows.min((room / 2).max(3))),
            Constraint::Min(0),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        frame.render_widget(self.head(), head);
        self.draw_table(frame, table);
        self.draw_detail(frame, detail);
        let said = match (&self.trouble, self.confirms) {
            (_, true) => "let the deletes that were stopped happen? y or n".to_owned(),
            (Some(trouble), _) => trouble.clone(),
            _ if !self.said.is_empty() => self.said.clone(),
            _ => "↑ ↓ choose   p pause, go on   f flush   c confirm deletes   ? help   q quit"
                .to_owned(),
        };
        let soft = Style::default().add_modifier(Modifier::DIM);
        frame.render_widget(Paragraph::new(said).style(soft), foot);
        if self.help {
            draw_help(frame);
        }
    }

    fn head(&self) -> Line<'static> {
        let live = self.rows.iter().filter(|(_, mirror)| mirror.state == State::Live).count();
        let title = Span::styled("lsyncd", Style::default().add_modifier(Modifier::BOLD));
        Line::from(vec![title, format!("  {live} of {} live", self.rows.len()).into()])
    }

    fn draw_table(&mut self, frame: &mut Frame<'_>, area: Rect) {
        let rows: Vec<Row<'_>> = self
            .rows
            .iter()
            .map(|row| {
                let mirror = &row.1;
                let rate = self.rates(row).last().copied().unwrap_or(0);
                let lag = Duration::try_from_secs_f64(mirror.lag_seconds).unwrap_or_default();
                let word = Span::styled(mirror.state.word(), color(mirror.state));
                Row::new(vec![
                    Line::from(Escaped(mirror.name.as_bytes()).to_string()),
                    Line::from(word),
                    Line::from(if lag.is_zero() { "-".to_owned() } else { seconds(lag) }),
                    Line::from(mirror.dirty.to_string()),
                    Line::from(format!("{}/s", bytes(rate))),
                    Line::from(mirror.problem_count.to_string()),
                ])
            })
            .collect();
        let widths = [
            Constraint::Fill(1),
            Constraint::Length(10),
            Constraint::Length(10),
            Constraint::Length(8),
            Constraint::Length(10),
            Constraint::Length(8),
        ];
        let head = Row::new(["NAME", "STATE", "LAG", "QUEUE", "RATE", "PROBLEMS"])
            .style(Style::default().add_modifier(Modifier::DIM));
        let table = Table::new(rows, widths)
            .header(head)
            .row_highlight_style(Style::default().add_modifier(Modifier::REVERSED));
        frame.render_stateful_widget(table, area, &mut self.table);
    }

    fn draw_detail(&self, frame: &mut Frame<'_>, area: Rect) {
        let Some(row) = self.chosen() else { return };
        let mirror = &row.1;
        let title = format!(" {} ", Escaped(mirror.name.as_bytes()));
        let block = Block::default().borders(Borders::TOP).title(title);
        let inner = block.inner(area);
        frame.render_widget(block, area);
        let [facts, line, list] =
            Layout::vertical([Constraint::Length(4), Constraint::Length(4), Constraint::Min(0)])
                .areas(inner);
        let mut lines = vec![Line::from(format!(
            "{} -> {}",
            mirror.source.shown(),
            Escaped(mirror.target.as_bytes())
        ))];
        if let Some(reason) = &mirror.reason {
            lines.push(Line::styled(safe(reason), color(mirror.state)));
        }
        lines.push(Line::from(format!(
            "on its way: {} operations, {}   sent: {}   files: {} ({})   reconnects: {}",
            mirror.in_flight,
            bytes(mirror.in_flight_bytes),
            bytes(mirror.sent_bytes),
            mirror.totals.files,
            bytes(mirror.totals.bytes),
            mirror.reconnects
        )));
        if let Some(walk) = &mirror.walk {
            let of = walk.to_send_bytes.map(|all| format!(" of {}", bytes(all)));
            lines.push(Line::from(format!(
                "comparing: {} files in {} directories, {}{} sent",
                walk.files,
                walk.directories,
                bytes(walk.sent_bytes),
                of.unwrap_or_default()
            )));
        }
        frame.render_widget(Paragraph::new(lines), facts);
        let rates = self.rates(row);
        let most = rates.iter().copied().max().unwrap_or(0);
        let room = usize::from(line.width);
        // The latest stands at the right.
        let shown: Vec<u64> = rates.iter().rev().take(room).copied().collect();
        let title = format!("bytes a second, at most {}/s", bytes(most));
        let sparkline = Sparkline::default()
            .block(Block::default().title(title))
            .data(&shown)
            .direction(RenderDirection::RightToLeft)
            .style(Style::default().fg(Color::Blue));
        frame.render_widget(sparkline, line);
        let mut lines: Vec<Line<'_>> = Vec::new();
        for problem in &mirror.problems {
            let path = Span::styled(problem.path.shown(), Style::default().fg(Color::Red));
            lines.push(Line::from(vec![path, format!(": {}", safe(&problem.cause)).into()]));
        }
        if lines.is_empty() {
            let soft = Style::default().add_modifier(Modifier::DIM);
            lines.push(Line::styled("no problems", soft));
        }
        frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: false }), list);
    }
}

fn draw_help(frame: &mut Frame<'_>) {
    let text = "\
↑ ↓  k j   choose a mirror
p          pause it, or have it go on
f          wait until all that has changed so far has arrived
c          let the deletes happen that a guard has stopped
q  Esc     leave; the mirrors go on

LAG is the age of the oldest change that has not arrived,
QUEUE how many paths are dirty or on their way.";
    let area = frame.area();
    let (width, height) = (64.min(area.width), 11.min(area.height));
    let place = Rect { x: (area.width - width) / 2, y: (area.height - height) / 2, width, height };
    frame.render_widget(Clear, place);
    let block = Block::default().borders(Borders::ALL).title(" keys ");
    frame.render_widget(Paragraph::new(text).block(block), place);
}

fn color(state: State) -> Style {
    Style::default().fg(match state {
        State::Live => Color::Green,
        State::Mirroring | State::Connecting => Color::Blue,
        State::Paused | State::Waiting => Color::Yellow,
        State::Halted | State::Silent => Color::Red,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::status::{CarrierName, ProblemStatus, Status};
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn process(sent: u64) -> Process {
        let mirror = |name: &str, state| MirrorStatus {
            state,
            sent_bytes: sent,
            ..MirrorStatus::silent(name, b"/srv/w\x1b", "h:/t", CarrierName::Agent)
        };
        let halted = MirrorStatus {
            reason: Some("too many names".to_owned()),
            problem_count: 1,
            problems: vec![ProblemStatus {
                path: b"a\nb".as_slice().into(),
                cause: "denied".to_owned(),
                tries: 1,
            }],
            ..mirror("db", State::Halted)
        };
        let status = Status {
            version: "0".to_owned(),
            pid: 9,
            uptime_seconds: 1.0,
            mirrors: vec![mirror("web", State::Live), halted],
        };
        Process::known("/x".into(), status)
    }

    fn drawn(screen: &mut Screen) -> String {
        let mut terminal = Terminal::new(TestBackend::new(90, 20)).unwrap();
        terminal.draw(|frame| screen.draw(frame)).unwrap();
        let buffer = terminal.backend().buffer().clone();
        let cells: Vec<&str> = buffer.content().iter().map(|cell| cell.symbol()).collect();
        cells.chunks(90).map(|line| line.concat().trim_end().to_owned() + "\n").collect()
    }

    #[test]
    fn it_shows_what_matters_and_keys_do_what_they_say() {
        let now = Instant::now();
        let mut screen = Screen::default();
        screen.learn(vec![process(0)], now);
        screen.learn(vec![process(1_000_000)], now + Duration::from_millis(500));
        let text = drawn(&mut screen);
        assert!(text.starts_with("lsyncd  1 of 2 live\nNAME "), "{text}");
        for part in ["web", "live", "2.0 MB/s", "/srv/w\\x1b -> h:/t", "no problems", "q quit"] {
            assert!(text.contains(part), "{part}:\n{text}");
        }
        assert_eq!(screen.key(KeyCode::Down), Wish::Nothing);
        let text = drawn(&mut screen);
        for part in ["too many names", "a\\nb: denied", "halted"] {
            assert!(text.contains(part), "{part}:\n{text}");
        }
        // Deletes are not confirmed by a slip.
        assert_eq!(screen.key(KeyCode::Char('c')), Wish::Nothing);
        assert!(drawn(&mut screen).contains("y or n"));
        assert_eq!(screen.key(KeyCode::Char('x')), Wish::Nothing);
        assert_eq!(screen.key(KeyCode::Char('c')), Wish::Nothing);
        assert_eq!(screen.key(KeyCode::Char('y')), Wish::Confirm);
        assert_eq!(screen.key(KeyCode::Up), Wish::Nothing);
        assert_eq!(screen.key(KeyCode::Char('c')), Wish::Nothing);
        assert!(drawn(&mut screen).contains("its deletes are not stopped"));
        assert_eq!(screen.key(KeyCode::Char('?')), Wish::Nothing);
        assert!(drawn(&mut screen).contains("leave; the mirrors go on"));
        assert_eq!(screen.key(KeyCode::Char('q')), Wish::Nothing, "it closes the help");
        assert_eq!(screen.key(KeyCode::Char('p')), Wish::Pause);
        assert_eq!(screen.key(KeyCode::Char('f')), Wish::Flush);
        assert_eq!(screen.key(KeyCode::Char('q')), Wish::Quit);
        // However small it is.
        for (width, height) in [(1, 1), (20, 3), (10, 40)] {
            let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
            screen.help = true;
            terminal.draw(|frame| screen.draw(frame)).unwrap();
        }
        screen.learn(Vec::new(), now + Duration::from_secs(1));
        drawn(&mut screen);
    }
}
