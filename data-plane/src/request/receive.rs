//! The request as it came: its head, and its body within limits of size, time and memory.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::request::Parts;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use keyforge_providers::dialect::Dialect;
use keyforge_shared::id::RequestId;
use tokio::sync::OwnedSemaphorePermit;

use super::join::Join;
use super::wanted::{Endpoint, Wanted};
use crate::plane::Plane;
use crate::rejection::Rejection;

/// Room is taken in no smaller steps, in bytes.
const SMALLEST_ROOM: usize = 64 * 1024;
/// So much of a body that is not wanted is read all the same, in bytes, and for so long: most clients look for an answer only when they have sent everything.
const DISCARDED: usize = 64 << 20;
const DISCARDING: Duration = Duration::from_secs(10);
/// Memory is reserved ahead for at most this much of an announced length, in bytes.
const LARGEST_RESERVE: usize = 1 << 20;

/// A request's head and what the node knows about it.
pub struct Head {
    /// Method, path and headers.
    pub parts: Parts,
    /// Who sent it.
    pub peer: SocketAddr,
    /// Its identity everywhere.
    pub id: RequestId,
    /// When it came, in nanoseconds of the monotonic clock.
    pub started: u64,
    /// What the client speaks.
    pub dialect: Dialect,
}

/// A request with its body.
pub struct Inbound {
    /// What it asks for.
    pub wanted: Wanted,
    /// Its bytes.
    pub body: Bytes,
    /// Its share of the room for bodies.
    pub room: Room,
}

/// Takes the body in and reads what it asks for.
///
/// # Errors
/// A rejection with status 400, 408, 413 or 503 that names what is wrong.
pub async fn receive(plane: &Plane, endpoint: Endpoint, head: &Head, body: Incoming) -> Result<Inbound, Rejection> {
    let limit = plane.limits.body_bytes;
    let announced = announced_length(head)?;
    if announced.is_some_and(|length| length > limit) || body.size_hint().lower() > limit {
        discard(plane, body);
        return Err(Rejection::BodyTooLarge(limit));
    }
    let late = |_| Rejection::BodyTimeout(plane.limits.body_time);
    let taken = tokio::time::timeout(plane.limits.body_time, collect(plane, body, announced.unwrap_or(0), limit));
    let (body, room) = taken.await.map_err(late)??;
    let wanted = Wanted::read(endpoint, &body)
        .map_err(|error| Rejection::BodyInvalid { field: error.field, message: error.message })?;
    Ok(Inbound { wanted, body, room })
}

/// Reads a body that is not wanted beside the answer that says so, and keeps none of it. Unread, it would make the connection end before its client
/// has seen the answer.
pub fn discard(plane: &Plane, mut body: Incoming) {
    if body.is_end_stream() {
        return;
    }
    let reading = async move {
        let mut read = 0;
        while let Some(Ok(frame)) = body.frame().await {
            read += frame.data_ref().map_or(0, Bytes::len);
            if read > DISCARDED {
                break;
            }
        }
    };
    drop(plane.shutdown.spawn("discard_body", async move { drop(tokio::time::timeout(DISCARDING, reading).await) }));
}

/// A body's share of the room for all bodies. It grows with what has come, not with what was announced, so that announcing costs others nothing.
pub struct Room {
    permit: Option<OwnedSemaphorePermit>,
}

impl Room {
    /// Room for nothing.
    #[cfg(test)]
    pub const fn empty() -> Self {
        Self { permit: None }
    }

    /// Makes room for `length` bytes. It never waits: whoever waits with half a body in hand keeps room from others who wait for it.
    fn hold(&mut self, plane: &Plane, length: usize) -> Result<(), Rejection> {
        let held = self.permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        if length <= held {
            return Ok(());
        }
        let wanted = length.next_power_of_two().max(SMALLEST_ROOM);
        let more = u32::try_from(wanted - held).unwrap_or(u32::MAX);
        let more = plane.body_room.clone().try_acquire_many_owned(more).map_err(|_| Rejection::NodeBusy)?;
        match &mut self.permit {
            Some(permit) => permit.merge(more),
            None => self.permit = Some(more),
        }
        Ok(())
    }
}

fn announced_length(head: &Head) -> Result<Option<u64>, Rejection> {
    let Some(value) = head.parts.headers.get(CONTENT_LENGTH) else { return Ok(None) };
    let length = value.to_str().ok().and_then(|text| text.parse().ok());
    length.map(Some).ok_or_else(|| Rejection::BodyInvalid {
        field: Some("content-length".to_owned()),
        message: "`content-length` must be a whole number of bytes".to_owned(),
    })
}

/// The whole body. One that comes in one piece is not copied.
async fn collect(plane: &Plane, mut body: Incoming, expected: u64, limit: u64) -> Result<(Bytes, Room), Rejection> {
    let broken =
        |_| Rejection::BodyInvalid { field: None, message: "the request body broke off before its end".to_owned() };
    let mut room = Room { permit: None };
    let mut join = Join::default();
    let expected = usize::try_from(expected).unwrap_or(0).min(LARGEST_RESERVE);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
        let length = join.len() + data.len();
        let held = if length as u64 > limit { Err(Rejection::BodyTooLarge(limit)) } else { room.hold(plane, length) };
        if let Err(rejection) = held {
            discard(plane, body);
            return Err(rejection);
        }
        join.push(data, expected);
    }
    Ok((join.finish(), room))
}
