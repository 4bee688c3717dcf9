//! How a command fails: what went wrong, what to do next, and the exit code. It goes to the standard error, in words for an operator.
//!
//! Every gRPC status becomes a [`Failure`] here and nowhere else.

use std::error::Error;
use std::fmt;
use std::io::{self, ErrorKind, Write as _};
use std::process::ExitCode;

use keyforge_data_plane::control::innermost;
use tonic::{Code, Status};

/// Why a command did not do what was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    kind: Kind,
    text: String,
    hint: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Exit code 1.
    Refused,
    /// Exit code 2.
    Usage,
    /// Exit code 1, and everything was said already.
    Said,
}

impl Failure {
    /// The command was understood, but refused or not possible: exit code 1.
    #[must_use]
    pub fn refused(text: impl fmt::Display) -> Self {
        Self { kind: Kind::Refused, text: text.to_string(), hint: None }
    }

    /// The command line does not make sense: exit code 2.
    #[must_use]
    pub fn usage(text: impl fmt::Display) -> Self {
        Self { kind: Kind::Usage, text: text.to_string(), hint: None }
    }

    /// The answer is bad news that the output has told already: exit code 1 and no message.
    #[must_use]
    pub const fn already_said() -> Self {
        Self { kind: Kind::Said, text: String::new(), hint: None }
    }

    /// Says what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }

    /// 1 or 2.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self.kind {
            Kind::Refused | Kind::Said => ExitCode::from(1),
            Kind::Usage => ExitCode::from(2),
        }
    }

    /// Writes it to the standard error.
    pub fn print(&self) {
        if self.kind != Kind::Said {
            // When nobody reads the standard error, there is nobody left to tell.
            drop(writeln!(std::io::stderr().lock(), "{self}"));
        }
    }
}

/// Letters and digits from which on a word of a command line is taken for a secret that was pasted in the wrong place: if it has both, and in any case.
const MIXED_SECRET: usize = 20;
const ANY_SECRET: usize = 32;

/// Writes what is wrong with a command line to the standard error, without repeating secrets that it holds by mistake.
pub fn print_usage(text: &str) {
    drop(std::io::stderr().lock().write_all(without_secrets(text).as_bytes()));
}

fn without_secrets(text: &str) -> String {
    let in_word = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-');
    let mut clean = String::with_capacity(text.len());
    for word in text.split_inclusive(|letter| !in_word(letter)) {
        let bare = word.trim_end_matches(|letter| !in_word(letter));
        let plain = bare.chars().filter(char::is_ascii_alphanumeric).count();
        let mixed = bare.contains(|letter: char| letter.is_ascii_digit());
        if plain >= ANY_SECRET || (mixed && plain >= MIXED_SECRET) {
            clean.push_str("[not shown]");
            clean.push_str(&word[bare.len()..]);
        } else {
            clean.push_str(word);
        }
    }
    clean
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Usage => write!(f, "error: {}", without_secrets(&self.text))?,
            Kind::Refused | Kind::Said => write!(f, "error: {}", self.text)?,
        }
        self.hint.as_ref().map_or(Ok(()), |hint| write!(f, "\nhint: {hint}"))
    }
}

const UNAVAILABLE_HINT: &str = "is the control plane still running? look at its log, then try again";
/// What to do when a control plane takes a connection and closes it.
pub const CLOSED_HINT: &str = "a control plane closes connections when it stops, and at once when one address holds too many: look at its log and its metric \
     keyforge.listener.connections_refused, and whether the change is there, then try again";

/// Whether the cause is that the other side closed the connection.
#[must_use]
pub fn is_closed(error: &(dyn Error + 'static)) -> bool {
    let closed = |error: &io::Error| {
        matches!(
            error.kind(),
            ErrorKind::UnexpectedEof
                | ErrorKind::ConnectionReset
                | ErrorKind::ConnectionAborted
                | ErrorKind::BrokenPipe
        )
    };
    // A call that was waiting when its connection ended.
    let ended = |error: &hyper::Error| error.is_canceled() || error.is_closed() || error.is_incomplete_message();
    let mut cause = error;
    loop {
        if cause.downcast_ref::<hyper::Error>().is_some_and(ended) {
            return true;
        }
        let of_io = cause.downcast_ref::<io::Error>();
        if of_io.is_some_and(closed) {
            return true;
        }
        // What an I/O error wraps is no source of it.
        let wrapped = of_io.and_then(io::Error::get_ref).map(|wrapped| wrapped as &(dyn Error + 'static));
        match wrapped.or_else(|| cause.source()) {
            Some(next) => cause = next,
            None => return false,
        }
    }
}

/// A call that got no answer because its connection broke.
fn broken(error: &(dyn Error + 'static)) -> Failure {
    let cause = innermost(error);
    if is_closed(error) {
        Failure::refused(format!("the control plane closed the connection: {cause}")).hint(CLOSED_HINT)
    } else {
        let failure = Failure::refused(format!("the connection to the control plane broke: {cause}"));
        failure.hint(UNAVAILABLE_HINT)
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        if let Some(error) = status.source().filter(|error| error.is::<tonic::transport::Error>()) {
            return broken(error);
        }
        let message = status.message();
        let text = if message.is_empty() { status.code().description() } else { message };
        let failure = Self::refused(text);
        match hint_for(status.code()) {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

const fn hint_for(code: Code) -> Option<&'static str> {
    match code {
        Code::Unauthenticated => Some(
            "the operator token was not accepted: use the one that the control plane wrote to operator.token in its data directory, \
             or the one that an owner gave you",
        ),
        Code::PermissionDenied => Some("use the token of an operator who may do this"),
        Code::NotFound => {
            Some("`keyforge key list`, `workspace list`, `credential list` and `model list` show what there is")
        }
        Code::Unavailable | Code::Cancelled => Some(UNAVAILABLE_HINT),
        Code::DeadlineExceeded => {
            Some("the control plane took too long: look whether the change is there, then try again")
        }
        Code::Unimplemented => Some("the server is of another version than this command: use the same for both"),
        Code::Unknown | Code::Internal | Code::DataLoss => Some("the log of the control plane says more"),
        Code::Ok
        | Code::InvalidArgument
        | Code::AlreadyExists
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_on_the_command_line_is_not_repeated_and_the_rest_is() {
        let token = "vk_abcdefghijkl_0123456789012345678901234567890123456789012345678";
        let text = format!("error: unrecognized subcommand '{token}'\n\nUsage: keyforge key <COMMAND>\n");
        let clean = without_secrets(&text);
        assert_eq!(clean, "error: unrecognized subcommand '[not shown]'\n\nUsage: keyforge key <COMMAND>\n");
        assert_eq!(without_secrets("--max-output-tokens"), "--max-output-tokens");
    }

    #[test]
    fn a_failure_says_what_is_wrong_and_what_to_do_next() {
        let failure = Failure::refused("no").hint("try yes");
        assert_eq!(failure.to_string(), "error: no\nhint: try yes");
        assert_eq!(Failure::usage("no").to_string(), "error: no");
    }

    #[test]
    fn a_status_keeps_the_servers_words_and_gets_a_hint_where_one_helps() {
        let failure = Failure::from(Status::not_found("there is no key vk_x"));
        assert!(failure.to_string().starts_with("error: there is no key vk_x\nhint: "), "{failure}");
        let failure = Failure::from(Status::invalid_argument("name: empty"));
        assert_eq!(failure.to_string(), "error: name: empty");
        let failure = Failure::from(Status::new(Code::Internal, ""));
        assert!(failure.to_string().starts_with("error: Internal error"), "{failure}");
    }
}
