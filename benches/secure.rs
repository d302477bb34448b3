//! What securing costs by itself: the two sides of a handshake, what a stranger's handshake costs, and sealing and opening
//! packets and super-packets. `cargo bench --bench secure`; no privileges needed.

#![expect(clippy::disallowed_methods, reason = "a starting point for virtual time")]

use std::hint::black_box;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use simpletun::config::{AeadChoice, LinkLayer};
use simpletun::offload::Checksum;
use simpletun::tunnel::identity::Identity;
use simpletun::tunnel::keys::{PrivateKey, SharedSecret};
use simpletun::tunnel::message::Side;
use simpletun::tunnel::secure::{Endpoint, Limits, Persistence, Randomness, Secure, Settings};
use simpletun::tunnel::{Path, PathInfo, Tunnel};

criterion_group!(secure, handshakes, messages);
criterion_main!(secure);

const PATH: Path = Path(1);

struct System(SystemRandom);

impl Randomness for System {
    fn fill(&mut self, bytes: &mut [u8]) -> bool {
        self.0.fill(bytes).is_ok()
    }
}

#[derive(Clone, Copy)]
enum Suite {
    Keys,
    Secret,
}

fn end(side: Side, suite: Suite, aead: AeadChoice, now: Instant) -> Tunnel {
    end_at(side, suite, aead, now, Duration::ZERO)
}

/// An end whose clock has advanced this far since the others' were set.
fn end_at(side: Side, suite: Suite, aead: AeadChoice, now: Instant, passed: Duration) -> Tunnel {
    let settings = Settings {
        fragments: true,
        side,
        kind: LinkLayer::Tun,
        mtu: 1420,
        aead,
        keepalive: Duration::from_secs(3),
        down_after: Duration::from_secs(10),
        endpoint: Endpoint::Follows,
        persistence: Persistence::Forever,
        limits: Limits::default(),
    };
    let private = |side: Side| PrivateKey::from_bytes([side as u8; 32]);
    let identity = match suite {
        Suite::Secret => Identity::with_secret(SharedSecret::from_bytes([7; 32]), side),
        Suite::Keys => {
            Identity::with_keys(&private(side), private(side.other()).public(), None, side).expect("a usable key")
        }
    };
    let random = Box::new(System(SystemRandom::new()));
    Tunnel::secure(Secure::new(settings, vec![identity], random, now, Duration::from_secs(1) + passed).expect("an end"))
}

fn info() -> PathInfo {
    PathInfo { reliable: false, max_message: 65_507, peer: SocketAddr::from(([192, 0, 2, 1], 1)) }
}

fn take(tunnel: &mut Tunnel) -> Vec<u8> {
    while tunnel.poll_event().is_some() {}
    tunnel.poll_transmit().expect("a message").message
}

fn give(tunnel: &mut Tunnel, mut message: Vec<u8>, now: Instant) {
    tunnel.open(PATH, &info(), &mut message, now).expect("an accepted message");
}

/// Two ends with a session.
fn pair(aead: AeadChoice, now: Instant) -> (Tunnel, Tunnel) {
    let (mut client, mut server) =
        (end(Side::Connect, Suite::Secret, aead, now), end(Side::Listen, Suite::Secret, aead, now));
    client.link_up(PATH, info(), now);
    give(&mut server, take(&mut client), now);
    give(&mut client, take(&mut server), now);
    give(&mut server, take(&mut client), now);
    (client, server)
}

fn handshakes(criterion: &mut Criterion) {
    let now = Instant::now();
    let mut group = criterion.benchmark_group("handshake");
    for (name, suite) in [("keys", Suite::Keys), ("secret", Suite::Secret)] {
        let fresh = |side| end(side, suite, AeadChoice::Auto, now);
        group.bench_function(BenchmarkId::new("initiator", name), |bencher| {
            // INIT is made inside, too; what the responder does in between is not measured.
            bencher.iter_custom(|count| {
                let mut total = Duration::ZERO;
                for _ in 0..count {
                    let (mut client, mut server) = (fresh(Side::Connect), fresh(Side::Listen));
                    let begin = Instant::now();
                    client.link_up(PATH, info(), now);
                    let init = take(&mut client);
                    total += begin.elapsed();
                    give(&mut server, init, now);
                    let resp = take(&mut server);
                    let begin = Instant::now();
                    give(&mut client, resp, now);
                    total += begin.elapsed();
                }
                total
            });
        });
        group.bench_function(BenchmarkId::new("responder", name), |bencher| {
            // One server and a new client each second, so that no limit is met and the server's caches are as warm as
            // a daemon's.
            bencher.iter_custom(|count| {
                let (mut server, mut total) = (fresh(Side::Listen), Duration::ZERO);
                for second in 1..=count {
                    let passed = Duration::from_secs(second);
                    let mut client = end_at(Side::Connect, suite, AeadChoice::Auto, now + passed, passed);
                    client.link_up(PATH, info(), now + passed);
                    let init = take(&mut client);
                    let begin = Instant::now();
                    give(&mut server, init, now + passed);
                    black_box(take(&mut server));
                    total += begin.elapsed();
                }
                total
            });
        });
        let mut stranger = vec![0x5a; if matches!(suite, Suite::Keys) { 216 } else { 168 }];
        stranger[..4].copy_from_slice(&[0xf0, 1, if matches!(suite, Suite::Keys) { 1 } else { 2 }, 0]);
        let mut server = fresh(Side::Listen);
        group.bench_function(BenchmarkId::new("stranger", name), |bencher| {
            bencher.iter(|| server.open(PATH, &info(), black_box(&mut stranger), now).is_err());
        });
    }
}

fn messages(criterion: &mut Criterion) {
    let now = Instant::now();
    let mut group = criterion.benchmark_group("message");
    let aeads = [("aes-256-gcm", AeadChoice::Aes256Gcm), ("chacha20-poly1305", AeadChoice::ChaCha20Poly1305)];
    for (name, aead) in aeads {
        for len in [64, 1400, 60_000] {
            group.throughput(Throughput::Bytes(len as u64));
            let mut packet = vec![0x45; len];
            packet[0] = 0x45;
            let (mut client, _) = pair(aead, now);
            let mut message = vec![0; len + 32];
            group.bench_function(BenchmarkId::new(format!("seal {name}"), len), |bencher| {
                bencher.iter(|| client.seal(black_box(&packet), Checksum::Made, &mut message, now));
            });
            let (mut client, mut server) = pair(aead, now);
            group.bench_function(BenchmarkId::new(format!("open {name}"), len), |bencher| {
                bencher.iter_batched(
                    || {
                        let mut message = vec![0; len + 32];
                        client.seal(&packet, Checksum::Made, &mut message, now);
                        message
                    },
                    |mut message| server.open(PATH, &info(), &mut message, now).is_ok(),
                    BatchSize::SmallInput,
                );
            });
        }
    }
}
