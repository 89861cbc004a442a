//! Layer 3: a command as a string becomes a function that spawns it.
//!
//! A command that begins with a slash is run as it is, word by word. Any other is for a shell, and
//! what its ^variables stand for is handed to that as arguments, `"${1}"`: whatever a name has in
//! it, the shell never reads it as code.

use lsync_protocol::path::Escaped;
use mlua::{Function, Lua, LuaString, Result, Table, Value, Variadic};

/// What a ^variable may be called, the longest first: of two that fit the longer is meant.
const VARIABLES: [(&str, Half, &str); 27] = [
    ("o.sourcePathname", Half::Origin, "sourcePathname"),
    ("d.sourcePathname", Half::Dest, "sourcePathname"),
    ("o.targetPathname", Half::Origin, "targetPathname"),
    ("d.targetPathname", Half::Dest, "targetPathname"),
    ("o.sourcePathdir", Half::Origin, "sourcePathdir"),
    ("d.sourcePathdir", Half::Dest, "sourcePathdir"),
    ("o.targetPathdir", Half::Origin, "targetPathdir"),
    ("d.targetPathdir", Half::Dest, "targetPathdir"),
    ("sourcePathname", Half::Origin, "sourcePathname"),
    ("targetPathname", Half::Origin, "targetPathname"),
    ("sourcePathdir", Half::Origin, "sourcePathdir"),
    ("targetPathdir", Half::Origin, "targetPathdir"),
    ("o.sourcePath", Half::Origin, "sourcePath"),
    ("d.sourcePath", Half::Dest, "sourcePath"),
    ("o.targetPath", Half::Origin, "targetPath"),
    ("d.targetPath", Half::Dest, "targetPath"),
    ("o.pathname", Half::Origin, "pathname"),
    ("d.pathname", Half::Dest, "pathname"),
    ("sourcePath", Half::Origin, "sourcePath"),
    ("targetPath", Half::Origin, "targetPath"),
    ("pathname", Half::Origin, "pathname"),
    ("pathdir", Half::Origin, "pathdir"),
    ("o.path", Half::Origin, "path"),
    ("d.path", Half::Dest, "path"),
    ("source", Half::Origin, "source"),
    ("target", Half::Origin, "target"),
    ("path", Half::Origin, "path"),
];

/// Which end of a move a variable is about; where there is no move there is one end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Half {
    Origin,
    Dest,
}

/// A variable.
type Variable = (Half, &'static str);

/// A part of a word.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(Vec<u8>),
    Variable(Variable),
}

/// A command, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Command {
    /// Words for a program.
    Direct(Vec<Vec<Piece>>),
    /// A text for a shell and its arguments; and the command in pieces, to be shown.
    Shell { text: Vec<u8>, arguments: Vec<Variable>, shown: Vec<Piece> },
}

/// The variable that a text begins with, behind its `^`, and the length of its name.
fn variable(text: &[u8]) -> Option<(Variable, usize)> {
    let text = text.strip_prefix(b"^")?;
    let found = VARIABLES.iter().find(|(name, ..)| text.starts_with(name.as_bytes()))?;
    Some(((found.1, found.2), found.0.len() + 1))
}

/// Text and variables.
fn pieces(text: &[u8]) -> Vec<Piece> {
    let (mut all, mut plain, mut at) = (Vec::new(), Vec::new(), 0);
    while at < text.len() {
        match variable(&text[at..]) {
            Some((variable, length)) => {
                if !plain.is_empty() {
                    all.push(Piece::Text(std::mem::take(&mut plain)));
                }
                all.push(Piece::Variable(variable));
                at += length;
            }
            None => {
                plain.push(text[at]);
                at += 1;
            }
        }
    }
    if !plain.is_empty() {
        all.push(Piece::Text(plain));
    }
    all
}

fn parse(command: &[u8]) -> Command {
    let command = command.trim_ascii();
    if command.starts_with(b"/") { direct(command) } else { shell(command) }
}

/// Words between blanks. Double quotes hold words together and stay in the argument, as they
/// always have.
fn direct(command: &[u8]) -> Command {
    let (mut words, mut word, mut quoted) = (Vec::new(), Vec::new(), false);
    for &byte in command {
        quoted ^= byte == b'"';
        if byte.is_ascii_whitespace() && !quoted {
            if !word.is_empty() {
                words.push(pieces(&std::mem::take(&mut word)));
            }
        } else {
            word.push(byte);
        }
    }
    if !word.is_empty() {
        words.push(pieces(&word));
    }
    Command::Direct(words)
}

/// Where in a shell's command we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quote {
    None,
    Single,
    Double,
    /// In a command substitution, which counts on its own.
    Paren,
    Backtick,
}

/// Variables become positional parameters, each in double quotes of its own; within double quotes
/// that are there it needs none, and more would end them.
fn shell(command: &[u8]) -> Command {
    // Quotes in a here-document are text; whether one is open is not known behind it.
    let here = command.windows(2).any(|pair| pair == b"<<");
    let (mut text, mut arguments) = (Vec::new(), Vec::new());
    let (mut quotes, mut at) = (vec![Quote::None], 0);
    while at < command.len() {
        let rest = &command[at..];
        let now = quotes.last().copied().unwrap_or(Quote::None);
        if let Some((variable, length)) = variable(rest) {
            arguments.push(variable);
            let parameter = format!("${{{}}}", arguments.len());
            if now == Quote::Double && !here {
                text.extend_from_slice(parameter.as_bytes());
            } else {
                text.extend_from_slice(format!("\"{parameter}\"").as_bytes());
            }
            at += length;
            continue;
        }
        let byte = rest[0];
        text.push(byte);
        at += 1;
        match (now, byte) {
            (Quote::Single, b'\'') => drop(quotes.pop()),
            (Quote::Single, _) => {}
            (_, b'\\') => {
                if let Some(&next) = rest.get(1).filter(|&&next| next != b'^') {
                    text.push(next);
                    at += 1;
                }
            }
            (Quote::Double, b'"') => drop(quotes.pop()),
            (_, b'"') => quotes.push(Quote::Double),
            (Quote::Backtick, b'`') => drop(quotes.pop()),
            (_, b'`') => quotes.push(Quote::Backtick),
            (_, b'$') if rest.get(1) == Some(&b'(') => {
                quotes.push(Quote::Paren);
                text.push(b'(');
                at += 1;
            }
            (Quote::Paren, b')') => drop(quotes.pop()),
            (Quote::None | Quote::Paren | Quote::Backtick, b'\'') => quotes.push(Quote::Single),
            (Quote::None | Quote::Paren, b'(') => quotes.push(Quote::Paren),
            (Quote::None | Quote::Paren, b'#') if starts_word(command, at - 1) => {
                let end = rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len());
                text.extend_from_slice(&rest[1..end]);
                at += end - 1;
            }
            _ => {}
        }
    }
    Command::Shell { text, arguments, shown: pieces(command) }
}

/// Is what stands here the begin of a word?
fn starts_word(command: &[u8], at: usize) -> bool {
    at == 0 || command[at - 1].is_ascii_whitespace() || b";&|(".contains(&command[at - 1])
}

/// The values of pieces, put together.
fn filled(pieces: &[Piece], event: &Table, event2: Option<&Table>) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for piece in pieces {
        match piece {
            Piece::Text(text) => bytes.extend_from_slice(text),
            Piece::Variable(variable) => {
                bytes.extend_from_slice(&value(*variable, event, event2)?.as_bytes());
            }
        }
    }
    Ok(bytes)
}

fn value((half, field): Variable, event: &Table, event2: Option<&Table>) -> Result<LuaString> {
    match (half, event2) {
        (Half::Dest, Some(event2)) => event2.get(field),
        _ => event.get(field),
    }
}

/// A function that spawns the command for an event.
fn function(lua: &Lua, source: &[u8], spawn: Function, log: Function) -> Result<Function> {
    let command = parse(source);
    let source = String::from_utf8_lossy(source).into_owned();
    lua.create_function(move |lua, (event, event2): (Table, Option<Table>)| {
        let etype: String = event.get("etype")?;
        let mut call = Variadic::new();
        call.push(Value::Table(event.clone()));
        let text = |bytes: &[u8]| lua.create_string(bytes).map(Value::String);
        match &command {
            Command::Direct(words) => {
                log.call::<()>(("Normal", format!("Event {etype} spawns action \"{source}\"")))?;
                for word in words {
                    call.push(text(&filled(word, &event, event2.as_ref())?)?);
                }
            }
            Command::Shell { text: code, arguments, shown } => {
                let mut line = String::new();
                for piece in shown {
                    match piece {
                        Piece::Text(text) => line.push_str(&String::from_utf8_lossy(text)),
                        Piece::Variable(variable) => {
                            let value = value(*variable, &event, event2.as_ref())?;
                            line.push_str(&Escaped(&value.as_bytes()).to_string());
                        }
                    }
                }
                log.call::<()>(("Normal", format!("Event {etype} spawns shell \"{line}\"")))?;
                for word in [&b"/bin/sh"[..], b"-c", code, b"/bin/sh"] {
                    call.push(text(word)?);
                }
                for argument in arguments {
                    call.push(Value::String(value(*argument, &event, event2.as_ref())?));
                }
            }
        }
        spawn.call::<()>(call)
    })
}

/// The keys whose strings are commands.
const COMMANDS: [&str; 7] =
    ["onAttrib", "onCreate", "onModify", "onDelete", "onMove", "onStartup", "onFull"];

/// Makes functions of the commands of a sync.
pub(super) fn compile(lua: &Lua, config: &Table, spawn: &Function, log: &Function) -> Result<()> {
    for key in COMMANDS {
        if let Value::String(text) = config.raw_get(key)? {
            let compiled = function(lua, &text.as_bytes(), spawn.clone(), log.clone())?;
            let shown = match parse(&text.as_bytes()) {
                Command::Direct(words) => format!("{} words to run as they are", words.len()),
                Command::Shell { text, .. } => {
                    format!("/bin/sh -c '{}'", String::from_utf8_lossy(&text))
                }
            };
            let line = format!("translated \"{}\" to {shown}", text.to_string_lossy());
            log.call::<()>(("FWrite", line))?;
            config.raw_set(key, compiled)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell_text(command: &str) -> (String, Vec<&'static str>) {
        match parse(command.as_bytes()) {
            Command::Shell { text, arguments, .. } => (
                String::from_utf8(text).unwrap(),
                arguments.iter().map(|(_, field)| *field).collect(),
            ),
            Command::Direct(words) => panic!("{words:?}"),
        }
    }

    #[test]
    fn of_two_names_that_fit_the_longer_is_meant() {
        for (at, (name, ..)) in VARIABLES.iter().enumerate() {
            for (earlier, ..) in &VARIABLES[..at] {
                assert!(!name.starts_with(earlier), "{name} would be read as {earlier}");
            }
        }
    }

    #[test]
    fn a_shell_gets_names_as_arguments() {
        for (command, text, fields) in [
            (
                "cp ^sourcePathname ^targetPathdir",
                r#"cp "${1}" "${2}""#,
                &["sourcePathname", "targetPathdir"][..],
            ),
            ("^path", r#""${1}""#, &["path"]),
            ("echo ^name ^pathfoo a^b", r#"echo ^name "${1}"foo a^b"#, &["path"]),
            (r#"echo "a ^path b" ^path"#, r#"echo "a ${1} b" "${2}""#, &["path", "path"]),
            (r#"echo "$(basename ^path)""#, r#"echo "$(basename "${1}")""#, &["path"]),
            (r#"echo "`basename ^path`""#, r#"echo "`basename "${1}"`""#, &["path"]),
            (r#"echo \"^path"#, r#"echo \""${1}""#, &["path"]),
            // As code of an inner shell it stays an unset parameter, never a name.
            ("sh -c 'rm ^path'", r#"sh -c 'rm "${1}"'"#, &["path"]),
            ("true # don't \"\necho ^path", "true # don't \"\necho \"${1}\"", &["path"]),
            ("cat <<E\n\"\nE\necho ^path", "cat <<E\n\"\nE\necho \"${1}\"", &["path"]),
            (
                "mv ^o.targetPathname ^d.targetPathname",
                r#"mv "${1}" "${2}""#,
                &["targetPathname", "targetPathname"],
            ),
            ("(echo ')' \"^path\")", "(echo ')' \"${1}\")", &["path"]),
        ] {
            assert_eq!(shell_text(command), (text.to_owned(), fields.to_vec()), "{command}");
        }
        let (text, _) = shell_text(&"^path ".repeat(11));
        assert!(text.ends_with("\"${11}\""), "not $1 and a 1: {text}");
    }

    #[test]
    fn a_program_gets_words() {
        let text = |text: &str| Piece::Text(text.as_bytes().to_vec());
        let path = || Piece::Variable((Half::Origin, "path"));
        let command = parse(b"/bin/echo \"a ^path b\"  p^d.path^path\n");
        let words = vec![
            vec![text("/bin/echo")],
            vec![text("\"a "), path(), text(" b\"")],
            vec![text("p"), Piece::Variable((Half::Dest, "path")), path()],
        ];
        assert_eq!(command, Command::Direct(words));
    }
}
