//! What the host's login shell is given: constant texts, without a quote, `!` or newline inside,
//! so that sh, csh and fish pass them alike to `/bin/sh`. What varies comes on standard input, by
//! `read`, which takes a line and not a byte more: the rest is the agent's.
//!
//! The first line is a key of this start. The answer is one line: the key, a word, what it is
//! about. All before it is a shell's noise. An agent that is started by a fixed command of
//! `authorized_keys` hears the same lines, whatever they are, and answers the first: `KEY run fixed
//! VERSION`.

/// Defines a text for the login shell. The cache directory is `$d`, the key is `$k`.
macro_rules! script {
    ($($text:tt)*) => {
        concat!("exec /bin/sh -c '", $($text)* "'")
    };
}

macro_rules! cache {
    () => {
        r#"d="${XDG_CACHE_HOME:-$HOME/.cache}/lsyncd"; "#
    };
}

/// `~/` of a path that came as a line.
macro_rules! home {
    () => {
        r#"case "$p" in "~/"*) p="$HOME/${p#??}";; esac; "#
    };
}

/// Input: key, name. Runs the agent of that name; else says `missing SYSTEM MACHINE`. Touched at
/// every start, so that the old ones are known by their age.
pub const START: &str = script!(
    r#"read -r k; read -r n; "#,
    cache!(),
    r#"if [ -x "$d/$n" ]; then touch -c "$d/$n" 2>/dev/null; echo "$k run"; exec "$d/$n"; fi; "#,
    r#"echo "$k missing $(uname -s -m)""#,
);

/// Input: key, path. Runs the agent at that path, which may begin with `~/` or be looked for in
/// PATH; else says `noexec` or `missing`.
pub const RUN_PATH: &str = script!(
    r#"read -r k; read -r p; "#,
    home!(),
    // Not all shells look whether what `command -v` is given as a path can be executed.
    r#"case "$p" in */*) ;; *) p=$(command -v "$p" 2>/dev/null);; esac; "#,
    r#"if [ -f "$p" ] && [ -x "$p" ]; then echo "$k run"; exec "$p"; fi; "#,
    r#"if [ -e "$p" ]; then echo "$k noexec"; else echo "$k missing"; fi"#,
);

/// Input: key. Says `kind SYSTEM MACHINE`.
pub const KIND: &str = script!(r#"read -r k; echo "$k kind $(uname -s -m)""#,);

/// Input: key, name. Says `found VERSION<tab>PATH` or `missing PATH`.
pub const CHECK: &str = script!(
    r#"read -r k; read -r n; "#,
    cache!(),
    r#"if v=$("$d/$n" --version 2>/dev/null </dev/null); then printf "%s found %s\t%s\n" "$k" "$v" "$d/$n"; "#,
    r#"else echo "$k missing $d/$n"; fi"#,
);

/// Input: key, path. As [`CHECK`].
pub const CHECK_PATH: &str = script!(
    r#"read -r k; read -r p; "#,
    home!(),
    r#"if v=$("$p" --version 2>/dev/null </dev/null); then printf "%s found %s\t%s\n" "$k" "$v" "$p"; "#,
    r#"else echo "$k missing $p"; fi"#,
);

/// Input: key, name, hash, size, then the agent itself to end of file. Written beside its place
/// under a name that ends in a process id, compared, tried, renamed; what nobody has started for
/// 30 days goes.
pub const COPY: &str = script!(
    r#"umask 077; read -r k; read -r n; read -r h; read -r s; "#,
    cache!(),
    r#"t="$d/$n.$$"; "#,
    r#"fail() { rm -f "$t"; echo "$k $1 $d"; exit 1; }; "#,
    r#"mkdir -p "$d" || fail mkdir; "#,
    r#"cat >"$t" || fail write; "#,
    r#"[ $(wc -c <"$t") -eq "$s" ] || fail short; "#,
    r#"chmod 700 "$t" || fail write; "#,
    r#"x=$("$t" --hash </dev/null) || fail run; "#,
    r#"[ "$x" = "$h" ] || fail hash; "#,
    r#"mv -f "$t" "$d/$n" || fail move; "#,
    r#"find "$d" -type f -name "lsync-agent-*" -mtime +30 -exec rm -f "{}" + 2>/dev/null; "#,
    r#"echo "$k done $d/$n""#,
);

/// Input: key, name. Gives the agent of that name a second one, which later versions take over: what
/// `authorized_keys` names has to last.
pub const KEEP: &str = script!(
    r#"umask 077; read -r k; read -r n; "#,
    cache!(),
    r#"t="$d/lsync-agent.$$"; "#,
    r#"if { ln -f "$d/$n" "$t" || cp -p "$d/$n" "$t"; } 2>/dev/null && mv -f "$t" "$d/lsync-agent"; "#,
    r#"then echo "$k done $d/lsync-agent"; else echo "$k failed $d/lsync-agent"; fi; rm -f "$t""#,
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_takes_the_texts_as_one_word() {
        for text in [START, RUN_PATH, KIND, CHECK, CHECK_PATH, COPY, KEEP] {
            let inner = text.strip_prefix("exec /bin/sh -c '").and_then(|t| t.strip_suffix('\''));
            let inner = inner.unwrap_or_else(|| panic!("{text}"));
            assert!(!inner.contains(['\'', '!', '\n']), "{text}");
            // fish reads a backslash before a quote or a backslash, csh none before a newline.
            assert!(!inner.contains("\\\\") && !inner.contains("\\'"), "{text}");
        }
    }
}
