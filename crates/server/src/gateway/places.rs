//! Limits of the number of connections, in all and per address.
//!
//! Without a setting the share counts only once half of all places are taken: until then no client is kept out
//! because of others at its address.
//!
//! Loopback has no share of its own by default: a proxy on this host is one address with many clients, and a local
//! attacker needs no connections to do harm. A proxy elsewhere needs `server.max_connections_per_address`.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Without a setting, an address may have 1/4 of all places.
const ADDRESS_SHARE: usize = 4;

/// Prefix length of an IPv6 network: one customer of a provider may choose all bits after it.
const NETWORK_BITS: u32 = 64;

/// Why a connection is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// All places are taken.
    All,
    /// The address has its share.
    Address,
}

#[derive(Default)]
struct Taken {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// The places.
pub(super) struct Places {
    max: usize,
    max_of_address: usize,
    /// The share is a setting, which always applies, also to loopback.
    is_set: bool,
    taken: Mutex<Taken>,
}

impl Places {
    /// `max` places in all. `max_of_address` 0 means a share when places are short, and no limit for loopback.
    pub(super) fn new(max: usize, max_of_address: usize) -> Arc<Self> {
        let share = max.div_ceil(ADDRESS_SHARE);
        Arc::new(Self {
            max,
            max_of_address: if max_of_address == 0 { share } else { max_of_address },
            is_set: max_of_address > 0,
            taken: Mutex::default(),
        })
    }

    /// Takes a place for a client at `address`.
    pub(super) fn take(self: &Arc<Self>, address: IpAddr) -> Result<Place, Full> {
        let address = network(address);
        let counts = self.is_set || !address.is_loopback();
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.all >= self.max {
            return Err(Full::All);
        }
        let is_short = taken.all >= self.max.div_ceil(2);
        if counts {
            let of_address = taken.by_address.entry(address).or_default();
            if *of_address >= self.max_of_address && (self.is_set || is_short) {
                return Err(Full::Address);
            }
            *of_address += 1;
        }
        taken.all += 1;
        Ok(Place { places: self.clone(), address: counts.then_some(address) })
    }
}

/// The network that counts as one client: an IPv4 address, or the network of an IPv6 address.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) if !v6.is_loopback() => {
            let network = u128::from(v6) >> NETWORK_BITS << NETWORK_BITS;
            IpAddr::V6(network.into())
        }
        address => address,
    }
}

/// A place, given back when dropped.
pub(super) struct Place {
    places: Arc<Places>,
    address: Option<IpAddr>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.all -= 1;
        let Some(address) = self.address else { return };
        if let Some(of_address) = taken.by_address.get_mut(&address) {
            *of_address -= 1;
            if *of_address == 0 {
                taken.by_address.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_quarter_where_half_are_taken_and_loopback_all() {
        let places = Places::new(8, 0);
        let (one, other) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let first: Vec<_> = (0..3).map(|_| places.take(one).unwrap()).collect();
        let last = places.take("::ffff:192.0.2.1".parse().unwrap()).unwrap();
        assert_eq!(places.take(one).err(), Some(Full::Address), "half are taken");
        let others: Vec<_> = (0..2).map(|_| places.take(other).unwrap()).collect();
        assert_eq!(places.take(other).err(), Some(Full::Address));
        let near: Vec<_> = (0..2).map(|_| places.take(IpAddr::from([127, 0, 0, 1]))).collect();
        assert!(near.iter().all(Result::is_ok));
        assert_eq!(places.take("198.51.100.1".parse().unwrap()).err(), Some(Full::All));
        drop((first, last, others, near));
        assert!(places.taken.lock().unwrap().by_address.is_empty());
        assert!(places.take(one).is_ok());
    }

    #[test]
    fn an_ipv6_network_is_one_client_and_a_setting_is_for_loopback_too() {
        let places = Places::new(100, 1);
        let _place = places.take("2001:db8::1".parse().unwrap()).unwrap();
        assert_eq!(places.take("2001:db8::2:1".parse().unwrap()).err(), Some(Full::Address));
        assert!(places.take("2001:db8:0:1::1".parse().unwrap()).is_ok());
        let _place = places.take("::1".parse().unwrap()).unwrap();
        assert_eq!(places.take("::1".parse().unwrap()).err(), Some(Full::Address));
    }
}
