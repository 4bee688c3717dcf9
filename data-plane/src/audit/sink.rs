//! Where audit records go. The contract is the control plane's: records are taken at least once and chained exactly once.

use std::future::Future;

use bytes::Bytes;
use keyforge_shared::id::{BootId, NodeId, RequestId};

/// Why a sink did not do what it was asked. Nothing is known about whether it did it all the same.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{message}")]
pub struct SinkError {
    /// Whether the same call can succeed later without anybody's help.
    pub retryable: bool,
    /// What went wrong, for the log.
    pub message: String,
}

/// Takes the records of a node's lives.
pub trait AuditSink: Send + Sync + 'static {
    /// Ships records of one life, the first of which has the number `first_seq`, in order and without gaps. Returns the
    /// number up to which every record of that life is chained and durable. Records that are known already are ignored;
    /// an empty batch only asks for that number.
    fn ship(
        &self,
        node: NodeId,
        boot: BootId,
        first_seq: u64,
        records: &[Bytes],
    ) -> impl Future<Output = Result<u64, SinkError>> + Send;

    /// Says that after `last_seq` records of that life are lost for good, and which requests may be concerned. Records
    /// that are shipped later go on at `last_seq + 1`. May be said more than once.
    fn report_gap(
        &self,
        node: NodeId,
        boot: BootId,
        last_seq: u64,
        requests: &[RequestId],
    ) -> impl Future<Output = Result<(), SinkError>> + Send;

    /// Says that the life `boot` is over and that `last_seq` is its last record: it leaves every epoch and joins none any
    /// more. May be said more than once.
    fn close_boot(&self, boot: BootId, last_seq: u64) -> impl Future<Output = Result<(), SinkError>> + Send;
}
