//! The manual page and the completions, from the one definition of the command line.

use std::io::Write;

use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::Man;

use super::args::{Cli, Generate};
use crate::error::{Error, Result};

/// The text that `--generate` prints.
///
/// # Errors
/// When it cannot be rendered, which is a fault of ours.
pub fn generate(what: Generate) -> Result<Vec<u8>> {
    let mut command = Cli::command();
    let mut text = Vec::new();
    let shell = match what {
        Generate::Man => {
            return man(command, text)
                .map_err(|e| Error::failed("cannot write the manual page").because(e));
        }
        Generate::Bash => Shell::Bash,
        Generate::Zsh => Shell::Zsh,
        Generate::Fish => Shell::Fish,
    };
    clap_complete::generate(shell, &mut command, "lsyncd", &mut text);
    Ok(text)
}

/// One page for all: the commands that do something follow as sections of it.
fn man(mut command: clap::Command, mut text: Vec<u8>) -> std::io::Result<Vec<u8>> {
    command.build();
    let page = Man::new(command.clone()).section("8").manual("Lsyncd Manual");
    page.render_title(&mut text)?;
    page.render_name_section(&mut text)?;
    page.render_synopsis_section(&mut text)?;
    page.render_options_section(&mut text)?;
    writeln!(text, ".SH COMMANDS")?;
    for sub in command.get_subcommands() {
        let about = sub.get_about().map(ToString::to_string).unwrap_or_default();
        writeln!(text, ".TP\n\\fB{}\\fR\n{}", sub.get_name(), roff(&about))?;
    }
    for path in [&["push"][..], &["agent", "install"], &["agent", "check"]] {
        let mut sub = &command;
        for name in path {
            let found = sub.find_subcommand(name);
            sub = found.ok_or_else(|| std::io::Error::other(format!("no command {name}")))?;
        }
        let page = Man::new(sub.clone());
        let mut sections = Vec::new();
        page.render_synopsis_section(&mut sections)?;
        page.render_options_section(&mut sections)?;
        writeln!(text, ".SH \"LSYNCD {}\"", path.join(" ").to_uppercase())?;
        for line in String::from_utf8_lossy(&sections).lines() {
            match line.strip_prefix(".SH ") {
                Some(heading) => writeln!(text, ".SS {heading}")?,
                None => writeln!(text, "{line}")?,
            }
        }
        if let Some(notes) = sub.get_after_help() {
            writeln!(text, ".SS NOTES\n.nf")?;
            for line in notes.to_string().lines() {
                writeln!(text, "{}", roff(line))?;
            }
            writeln!(text, ".fi")?;
        }
    }
    writeln!(text, ".SH \"SEE ALSO\"\n\\fBssh_config\\fR(5), \\fBrsync\\fR(1)")?;
    Ok(text)
}

/// A line of text that roff takes as text.
fn roff(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('-', "\\-");
    // A line that begins with one of these would be a command.
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(what: Generate) -> String {
        String::from_utf8(generate(what).unwrap()).unwrap()
    }

    #[test]
    fn the_manual_page_knows_every_option_of_push() {
        let page = text(Generate::Man);
        assert!(page.contains(".TH lsyncd 8"), "{page}");
        let command = Cli::command();
        for arg in command.find_subcommand("push").unwrap().get_arguments() {
            if let Some(long) = arg.get_long() {
                let name = format!("\\-\\-{}", long.replace('-', "\\-"));
                assert!(page.contains(&name), "{name}");
            }
        }
        assert!(page.contains("Exit codes: 0 done") && !page.contains("EXTRA"));
        for section in [".SH COMMANDS", ".SH \"LSYNCD PUSH\"", ".SH \"LSYNCD AGENT CHECK\""] {
            assert!(page.contains(section), "{section}");
        }
    }

    #[test]
    fn every_shell_gets_completions() {
        assert!(text(Generate::Bash).contains("--max-delete"));
        assert!(text(Generate::Zsh).contains("#compdef lsyncd"));
        assert!(text(Generate::Fish).contains("complete -c lsyncd"));
    }
}
