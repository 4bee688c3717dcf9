//! Replays of recorded provider traffic and properties over arbitrary input, through the public interface alone.

#[cfg(test)]
mod anthropic;
#[cfg(test)]
mod anthropic_requests;
#[cfg(test)]
mod arbitrary;
#[cfg(test)]
mod entry_points;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod google;
#[cfg(test)]
mod google_requests;
#[cfg(test)]
mod money;
#[cfg(test)]
mod recorded;
#[cfg(test)]
mod replay;
#[cfg(test)]
mod shown;
#[cfg(test)]
mod timing;
