//! What the interface towards the peer takes: asked for when there is a reason to, and told when it is news.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::sources::Place;
use crate::config::LinkConfig;
use crate::tunnel::Path;

/// The interface is asked again after this time at the earliest when it refuses a datagram.
const INTERVAL: Duration = Duration::from_secs(1);

/// Headers of IP without options and of UDP.
const HEADERS_LEN_IPV4: usize = 20 + 8;
const HEADERS_LEN_IPV6: usize = 40 + 8;

/// The MTU of an interface that does not tell.
const USUAL_MTU: u32 = 1500;

/// See the module's text.
pub struct InterfaceLimit {
    mtu_towards: fn(SocketAddr, Option<u32>, Option<&str>) -> io::Result<u32>,
    /// The path that the limit was told for last, the longest message, and when that was.
    told: Option<(Path, usize, Instant)>,
}

impl InterfaceLimit {
    pub fn new(mtu_towards: fn(SocketAddr, Option<u32>, Option<&str>) -> io::Result<u32>) -> Self {
        Self { mtu_towards, told: None }
    }

    /// True if it was asked a moment ago.
    pub fn is_fresh(&self, now: Instant) -> bool {
        self.told.is_some_and(|(.., at)| now.saturating_duration_since(at) < INTERVAL)
    }

    /// The longest message that the interface takes on the way to the peer, if that is news.
    pub fn ask(&mut self, peer: &Place, config: &LinkConfig, now: Instant) -> Option<usize> {
        let address = peer.info.peer;
        let mtu = (self.mtu_towards)(address, config.fwmark, config.bind_device.as_deref()).unwrap_or(USUAL_MTU);
        let headers_len = if address.is_ipv4() { HEADERS_LEN_IPV4 } else { HEADERS_LEN_IPV6 };
        let longest = usize::try_from(mtu).unwrap_or(usize::MAX).saturating_sub(headers_len);
        let limit = longest.min(peer.info.max_message);
        let is_known = self.told.is_some_and(|(path, told, _)| (path, told) == (peer.path, limit));
        self.told = Some((peer.path, limit, now));
        (!is_known).then_some(limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::udp::path_info;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a starting point for virtual time")]
    fn the_limit_is_told_once_for_a_path_and_asked_for_at_most_once_a_second() {
        let options =
            crate::cli::Cli::from_arguments("simpletun -i t -U -s".split_whitespace()).expect("flags").options;
        let keys = crate::config::KeyFiles::from_environment();
        let config = crate::config::Config::new(&options, &|_, _| None, &keys).expect("a configuration").link;
        let place = |path, address: &str| {
            let address = address.parse().expect("an address");
            Place { path: Path(path), info: path_info(address), address, local: None }
        };
        let (v4, v6) = (place(1, "192.0.2.1:7"), place(2, "[2001:db8::1]:7"));
        let now = Instant::now();
        let mut limit = InterfaceLimit::new(|_, _, _| Ok(1400));
        assert!(!limit.is_fresh(now));
        assert_eq!(limit.ask(&v4, &config, now), Some(1372));
        assert!(limit.is_fresh(now) && !limit.is_fresh(now + INTERVAL));
        assert_eq!(limit.ask(&v4, &config, now), None);
        assert_eq!(limit.ask(&v6, &config, now), Some(1352));
        limit.mtu_towards = |_, _, _| Err(io::ErrorKind::HostUnreachable.into());
        assert_eq!(limit.ask(&v6, &config, now), Some(1452), "the usual one, if nobody knows");
        limit.mtu_towards = |_, _, _| Ok(65_536);
        assert_eq!(limit.ask(&v4, &config, now), Some(65_507), "no datagram is longer");
    }
}
