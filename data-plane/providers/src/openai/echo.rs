//! What a client wrote, as errors repeat it, and which names another name could be taken for.

/// Most characters of the body that an error repeats.
const MAX_ECHO_CHARS: usize = 40;

/// Whether a parser that ignores case takes `key` for `name`. Two letters outside ASCII fold into it.
pub(super) fn resembles(key: &str, name: &str) -> bool {
    let folded = key.chars().map(|letter| match letter {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    });
    folded.eq(name.chars())
}

/// The beginning of what the client wrote.
pub(super) fn echo(written: &str) -> String {
    let mut rest = written.chars();
    let mut shown: String = rest.by_ref().take(MAX_ECHO_CHARS).collect();
    if rest.next().is_some() {
        shown.push('…');
    }
    shown
}
