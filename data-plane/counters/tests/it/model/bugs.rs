//! What can be done wrong: each bug takes one rule out of the protocol. A checker that does not find them proves nothing by finding no other.

/// A rule that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// The ledger forgets what an older open life was granted once a new life asks.
    OldLifeForgotten,
    /// A return reaches the ledger before the store has lowered its ceiling.
    ReturnedBeforeLowered,
    /// A node starts again under its old boot identity, remembers nothing, and closes it: "I wrote nothing".
    BootReused,
    /// A store applies every grant that it hears, in whatever order.
    NoGrantSerial,
    /// A claw-back makes no older answers void: only a later answer about the same counter does.
    NoFloor,
    /// A grant opens books that are vacant or lost, whatever their life.
    NoLifeCheck,
    /// A leave ends the membership even when it was renewed since.
    NoMemberSerial,
    /// Books are used on after their server came back with data of an earlier moment.
    NoFence,
    /// The fence is the server process's run id. A primary that became a replica and then a primary again has the same one.
    FenceIsRunId,
    /// A leave is accepted while records of the boot are not chained yet.
    ClosedUnchained,
    /// A reservation that the store knows is admitted again whatever epoch the asker has joined.
    KnownBeforeEpoch,
    /// A command that is repeated after a loss begins the life that it began the first time.
    LifeRepeated,
    /// A node holds its epoch open from the admission on, and not while it asks.
    PassAfterAdmission,
}

/// The protocol as it is, or with one rule left out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rules {
    left_out: Option<Bug>,
}

impl Rules {
    /// The protocol as it is.
    pub const ALL: Self = Self { left_out: None };

    /// The protocol without one of its rules.
    pub const fn without(bug: Bug) -> Self {
        Self { left_out: Some(bug) }
    }

    /// Whether this bug is in.
    pub fn has(self, bug: Bug) -> bool {
        self.left_out == Some(bug)
    }
}
