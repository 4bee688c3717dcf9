//! Random bytes for the names that every request makes: fetched from the operating system a few hundred at a time, because each call of it costs
//! more than all else in making a name.
//!
//! Every byte is given out once, and is gone from the stock then. Keys, tokens and nonces are never made of it: they ask the operating system
//! themselves.

use std::cell::RefCell;

/// Bytes that are fetched at a time.
const FETCHED: usize = 512;

struct Stock {
    bytes: [u8; FETCHED],
    /// So many of them, from the first, were not given out yet.
    left: usize,
}

thread_local! {
    static STOCK: RefCell<Stock> = const { RefCell::new(Stock { bytes: [0; FETCHED], left: 0 }) };
}

/// Some random bytes, at most 512.
///
/// # Errors
/// When the operating system has no randomness to give, or more than 512 are asked for.
pub fn bytes<const N: usize>() -> Result<[u8; N], getrandom::Error> {
    STOCK.with_borrow_mut(Stock::take)
}

impl Stock {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], getrandom::Error> {
        if self.left < N {
            self.left = 0;
            getrandom::fill(&mut self.bytes)?;
            self.left = FETCHED;
        }
        let (_, taken) = self.bytes[..self.left].split_last_chunk_mut::<N>().ok_or(getrandom::Error::UNEXPECTED)?;
        let given = std::mem::replace(taken, [0; N]);
        self.left -= N;
        Ok(given)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_bytes_are_given_out_twice_and_none_stay() {
        let mut stock = Stock { bytes: [0; FETCHED], left: 0 };
        let mut seen = HashSet::new();
        for _ in 0..1_000 {
            assert!(seen.insert(stock.take::<16>().unwrap()));
            assert!(seen.insert(stock.take::<16>().unwrap()));
            assert_ne!(stock.take::<10>().unwrap(), [0; 10]);
            assert!(stock.bytes[stock.left..].iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn more_than_the_stock_is_refused_and_all_of_it_is_given() {
        assert!(bytes::<{ FETCHED + 1 }>().is_err());
        assert_ne!(bytes::<FETCHED>().unwrap(), [0; FETCHED]);
    }
}
