//! `keyforge key pause`, `resume`, `zero` and `revoke`: what stops a key or lets it go on.
//!
//! Each prints a receipt: which nodes have done it, and from when on no node does otherwise.

use clap::Args;
use keyforge_proto::admin::v1 as proto;

use super::receipt::ReceiptView;
use crate::client::AdminClient;
use crate::commands::key_id;
use crate::errors::Failure;

/// Which key, and how long to wait for its nodes.
#[derive(Args, Debug)]
pub(super) struct StandingArgs {
    /// The key's id: vk_ and 12 characters
    id: String,
    /// Wait so long for nodes that do not answer, in milliseconds, at most 30000
    #[arg(long, value_name = "MS", default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(0..=30_000))]
    wait: u32,
}

/// What is to become of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Pause,
    Resume,
    Zero,
    Revoke,
}

/// What is to become of which key, and how many milliseconds to wait for nodes that do not answer.
#[derive(Debug)]
pub(super) struct StandingChange {
    standing: Standing,
    id: String,
    wait_ms: u32,
}

impl StandingArgs {
    /// What to ask the server for.
    pub(super) fn change(self, standing: Standing) -> Result<StandingChange, Failure> {
        Ok(StandingChange { standing, id: key_id(&self.id)?, wait_ms: self.wait })
    }
}

impl StandingChange {
    /// Asks the server for it.
    pub(super) async fn carry_out(self, client: &AdminClient) -> Result<ReceiptView, Failure> {
        let (mut keys, id, wait_ms) = (client.keys(), self.id, Some(self.wait_ms));
        let answer = match self.standing {
            Standing::Pause => keys.pause_key(proto::PauseKeyRequest { id, wait_ms }).await?,
            Standing::Resume => keys.resume_key(proto::ResumeKeyRequest { id, wait_ms }).await?,
            Standing::Zero => keys.zero_key(proto::ZeroKeyRequest { id, wait_ms }).await?,
            Standing::Revoke => keys.revoke_key(proto::RevokeKeyRequest { id, wait_ms }).await?,
        };
        Ok(ReceiptView::of(answer.into_inner()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Call;
    use super::super::tests::call;
    use super::*;

    #[test]
    fn what_stops_a_key_waits_for_nodes_as_long_as_it_is_told() {
        for (word, expected) in [
            ("pause", Standing::Pause),
            ("freeze", Standing::Pause),
            ("resume", Standing::Resume),
            ("unfreeze", Standing::Resume),
            ("zero", Standing::Zero),
            ("revoke", Standing::Revoke),
        ] {
            for (words, millis) in [("", 2_000), (" --wait 50", 50)] {
                let found = call(&format!("{word} vk_0123456789ab{words}")).unwrap();
                let Call::Standing(StandingChange { standing, id, wait_ms }) = found else { panic!("{word}") };
                assert_eq!((standing, id.as_str(), wait_ms), (expected, "vk_0123456789ab", millis));
            }
        }
        assert!(call("revoke vk_0123456789ab --wait 30001").is_err());
    }
}
