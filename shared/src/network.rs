//! Networks: ranges of IP addresses as people write them, and lists of them.
//!
//! An address is compared in one form only: IPv4 that is written into IPv6 (`::ffff:a.b.c.d`) is IPv4, so that no list says something else for a
//! socket that takes both. A network of one family holds no address of the other.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Bits before the IPv4 address that is written into IPv6.
const MAPPED: u8 = 96;

/// A range of addresses, such as `10.0.0.0/8` or `2001:db8::/32`. Bits behind the prefix are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

/// A text is not a network. Carries nothing of it.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a network such as 10.0.0.0/8, 2001:db8::/32 or 192.0.2.7")]
pub struct NetworkError;

impl Network {
    /// The network of `address` whose first `prefix` bits are given; the others become zero.
    ///
    /// # Errors
    /// [`NetworkError`] when the address has fewer bits.
    pub fn new(address: IpAddr, prefix: u8) -> Result<Self, NetworkError> {
        let (address, prefix) = match (address, address.to_canonical()) {
            (IpAddr::V6(_), IpAddr::V4(within)) if prefix >= MAPPED => (IpAddr::V4(within), prefix - MAPPED),
            (address, _) => (address, prefix),
        };
        let address = match address {
            IpAddr::V4(v4) if prefix <= 32 => IpAddr::V4(first_of_v4(v4, prefix)),
            IpAddr::V6(v6) if prefix <= 128 => IpAddr::V6(first_of_v6(v6, prefix)),
            IpAddr::V4(_) | IpAddr::V6(_) => return Err(NetworkError),
        };
        Ok(Self { address, prefix })
    }

    /// Whether `address` lies in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => first_of_v4(other, self.prefix) == own,
            (IpAddr::V6(own), IpAddr::V6(other)) => first_of_v6(other, self.prefix) == own,
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

/// What counts as one address where callers are counted by address: IPv4 within IPv6 is IPv4, and of IPv6 it is the 64 bits of a network, of which one host
/// has all.
#[must_use]
pub fn place(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => first_of_v6(address, 64).into(),
    }
}

/// The address with zeros behind its first `prefix` bits.
fn first_of_v4(address: Ipv4Addr, prefix: u8) -> Ipv4Addr {
    let behind = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
    Ipv4Addr::from_bits(address.to_bits() & !behind)
}

fn first_of_v6(address: Ipv6Addr, prefix: u8) -> Ipv6Addr {
    let behind = u128::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
    Ipv6Addr::from_bits(address.to_bits() & !behind)
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Network {
    type Err = NetworkError;
    /// Reads an address with a prefix, or one address alone.
    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| NetworkError)?;
        let whole = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => whole,
            // A zero in front may be a slip for another digit, or be meant as octal.
            Some(digits) if digits != "0" && digits.starts_with('0') => return Err(NetworkError),
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                digits.parse().map_err(|_| NetworkError)?
            }
            Some(_) => return Err(NetworkError),
        };
        // IPv4 within IPv6 with the prefix of plain IPv4 is a slip that would match nobody who was meant.
        if matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() && prefix < MAPPED) {
            return Err(NetworkError);
        }
        Self::new(address, prefix)
    }
}

impl TryFrom<String> for Network {
    type Error = NetworkError;
    fn try_from(text: String) -> Result<Self, NetworkError> {
        text.parse()
    }
}

impl From<Network> for String {
    fn from(network: Network) -> Self {
        network.to_string()
    }
}

/// A list of networks, in order and each once.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "Vec<Network>")]
pub struct Networks(Box<[Network]>);

impl Networks {
    /// The list of these.
    #[must_use]
    pub fn new(mut networks: Vec<Network>) -> Self {
        networks.sort_unstable();
        networks.dedup();
        Self(networks.into_boxed_slice())
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `address` lies in any of them.
    #[must_use]
    pub fn contain(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(address))
    }

    /// Each of them.
    #[must_use]
    pub const fn as_slice(&self) -> &[Network] {
        &self.0
    }
}

impl From<Vec<Network>> for Networks {
    fn from(networks: Vec<Network>) -> Self {
        Self::new(networks)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn network(text: &str) -> Network {
        text.parse().unwrap()
    }

    #[test]
    fn networks_are_kept_in_one_form() {
        for (text, kept) in [
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("192.0.2.7", "192.0.2.7/32"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("2001:DB8:0::1/32", "2001:db8::/32"),
            ("::1", "::1/128"),
            ("::ffff:10.1.2.3/104", "10.0.0.0/8"),
            ("::ffff:192.0.2.7", "192.0.2.7/32"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
            ("::/0", "::/0"),
        ] {
            assert_eq!(network(text).to_string(), kept, "{text}");
        }
        let list = Networks::new(vec![network("10.2.0.0/16"), network("10.0.0.0/8"), network("10.9.9.9/8")]);
        assert_eq!(list.as_slice(), [network("10.0.0.0/8"), network("10.2.0.0/16")]);
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for wrong in [
            "",
            "/8",
            "10.0.0.0/33",
            "::/129",
            "10.0.0/8",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "10.0.0.0/08",
            "10.0.0.0/00",
            "2001:db8::/032",
            "10.0.0.0/8/8",
            "a/8",
            "::ffff:10.0.0.0/8",
        ] {
            assert_eq!(wrong.parse::<Network>(), Err(NetworkError), "{wrong}");
        }
        assert!(serde_json::from_str::<Networks>(r#"["10.0.0.0/40"]"#).is_err());
    }

    #[test]
    fn an_ipv4_address_within_ipv6_is_an_ipv4_address() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        for (range, text, inside) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.0/8", "::ffff:10.0.0.1", true),
            ("::ffff:10.0.0.0/104", "10.0.0.1", true),
            ("::/0", "10.0.0.1", false),
            ("::/0", "::ffff:10.0.0.1", false),
            ("0.0.0.0/0", "::1", false),
            ("2001:db8::/33", "2001:db8:7fff::1", true),
            ("2001:db8::/33", "2001:db8:8000::1", false),
        ] {
            assert_eq!(network(range).contains(address(text)), inside, "{text} in {range}");
        }
    }

    #[test]
    fn a_host_has_one_place_whichever_of_its_addresses_it_uses() {
        let place = |text: &str| place(text.parse().unwrap()).to_string();
        for (text, one) in [
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
            ("2001:db8:1:2::", "2001:db8:1:2::"),
            ("2001:db8:1:3::", "2001:db8:1:3::"),
        ] {
            assert_eq!(place(text), one);
        }
    }

    proptest! {
        #[test]
        fn network_holds_its_own_addresses_and_reads_itself_back(bits in any::<u128>(), prefix in 0u8..=128, v4 in any::<bool>()) {
            let address = if v4 { IpAddr::V4(Ipv4Addr::from_bits(bits as u32)) } else { IpAddr::V6(Ipv6Addr::from_bits(bits)) };
            prop_assume!(!v4 || prefix <= 32);
            let made = Network::new(address, prefix).unwrap();
            prop_assert!(made.contains(address));
            prop_assert_eq!(made.to_string().parse(), Ok(made));
        }
    }
}
