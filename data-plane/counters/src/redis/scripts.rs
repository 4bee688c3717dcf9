//! The scripts: what Redis does for us in one step, and how a script is called.
//!
//! Each is one file under `lua/`, put behind what all share and the clock when it is compiled. They are called by their digest; a server that does
//! not know it (it was restarted, or its scripts were flushed) is given the text first.
//!
//! The first line of a text says whether the server runs it when it has no memory left: what takes something is then refused before it begins,
//! what gives something back is let through.

use redis::Cmd;

/// One script as it is sent.
pub(super) struct Script {
    text: &'static str,
    digest: String,
}

impl Script {
    fn new(text: &'static str) -> Self {
        Self { text, digest: redis::Script::new(text).get_hash().to_owned() }
    }

    /// The beginning of a call.
    pub(super) fn call(&self) -> Cmd {
        let mut command = redis::cmd("EVALSHA");
        command.arg(self.digest.as_str());
        command
    }

    /// Makes a server know the script.
    pub(super) fn load(&self) -> Cmd {
        let mut command = redis::cmd("SCRIPT");
        command.arg("LOAD").arg(self.text);
        command
    }
}

/// All scripts, with one clock.
pub(super) struct Scripts {
    pub(super) reserve: Script,
    pub(super) settle: Script,
    pub(super) shrink: Script,
    pub(super) renew: Script,
    pub(super) grant: Script,
    pub(super) claw_back: Script,
    pub(super) vacate: Script,
    pub(super) freeze: Script,
    pub(super) look: Script,
}

/// The first line of a script that is refused when memory is short, as a whole.
macro_rules! takes {
    () => {
        "#!lua\n"
    };
}

/// The first line of a script that runs when memory is short, to its end.
macro_rules! gives {
    () => {
        "#!lua flags=allow-oom\n"
    };
}

macro_rules! text {
    ($first_line:ident, $clock:literal, $($part:literal),+) => {
        concat!($first_line!(), include_str!("lua/prelude.lua"), include_str!($clock), $(include_str!($part)),+)
    };
}

macro_rules! scripts {
    ($clock:literal) => {
        Scripts {
            reserve: Script::new(text!(takes, $clock, "lua/life.lua", "lua/reserve.lua")),
            settle: Script::new(text!(gives, $clock, "lua/settle.lua")),
            shrink: Script::new(text!(gives, $clock, "lua/shrink.lua")),
            renew: Script::new(text!(takes, $clock, "lua/renew.lua")),
            grant: Script::new(text!(takes, $clock, "lua/life.lua", "lua/grant.lua")),
            claw_back: Script::new(text!(gives, $clock, "lua/claw_back.lua")),
            vacate: Script::new(text!(gives, $clock, "lua/life.lua", "lua/vacate.lua")),
            freeze: Script::new(text!(gives, $clock, "lua/freeze.lua")),
            look: Script::new(text!(gives, $clock, "lua/look.lua")),
        }
    };
}

impl Scripts {
    /// On the server's clock.
    pub(super) fn on_server_clock() -> Self {
        scripts!("lua/clock_server.lua")
    }

    /// On a clock that each call brings along as its last argument.
    #[cfg(feature = "given-clock")]
    pub(super) fn on_given_clock() -> Self {
        scripts!("lua/clock_given.lua")
    }

    pub(super) fn all(&self) -> [&Script; 9] {
        let Self { reserve, settle, shrink, renew, grant, claw_back, vacate, freeze, look } = self;
        [reserve, settle, shrink, renew, grant, claw_back, vacate, freeze, look]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_script_names_its_version_and_its_arguments() {
        for script in Scripts::on_server_clock().all() {
            let head = script.text.lines().find(|line| line.starts_with("-- ") && line.contains(" 1: ")).unwrap();
            let name = head.trim_start_matches("-- ").split(' ').next().unwrap();
            assert!(script.text.contains("-- ARGV: "), "{name} does not tell its arguments");
            assert!(script.text.contains("local function clock()"), "{name} has no clock");
        }
    }

    #[test]
    fn no_script_writes_a_number_by_concatenation() {
        for script in Scripts::on_server_clock().all() {
            let code = script.text.lines().filter(|line| !line.trim_start().starts_with("--"));
            for line in code.filter(|line| line.contains("..")) {
                assert!(line.contains("'(' .. NOW"), "{line}");
            }
        }
    }
}
