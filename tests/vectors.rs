//! Golden vectors, byte for byte: `vectors/noise.json` are published ones of the two Noise protocols, and
//! `vectors/secure.json` was made by the second implementation of secure links (`peer/make_vectors.py`), which shares
//! nothing with this one but the text of the protocol.

use std::fs;
use std::path::Path as File;
use std::time::{Duration, Instant};

use crate::common::secure_peer::bytes;
use serde_json::Value;
use simpletun::config::{AeadChoice, LinkLayer};
use simpletun::offload::Checksum;
use simpletun::offload::split::{Segments, check_whole};
use simpletun::offload::{VIRTIO_HEADER_LEN, VirtioHeader};
use simpletun::tunnel::crypto::{Aead, KEY_LEN, MacKey, Opener, Resolver, Sealer, has_fast_aes, hash};
use simpletun::tunnel::handshake::{self, Ephemeral, Initiation, Invitation, SessionKeys};
use simpletun::tunnel::identity::Identity;
use simpletun::tunnel::keys::{PrivateKey, PublicKey, SharedSecret};
use simpletun::tunnel::message::{
    Answer, CTRL, DATA, FRAG, HEADER_LEN, Header, OVERHEAD, Offer, SUPER, Side, Status, Suite, Timestamp,
};
use simpletun::tunnel::parts::{Joiner, Part};
use simpletun::tunnel::secure::{Endpoint, Limits, Persistence, Randomness, Secure, Settings};
use simpletun::tunnel::{Opened, Path, PathInfo, Refused, Transmit};
use zeroize::Zeroizing;

const DOWN_AFTER: Duration = Duration::from_secs(10);

fn read(name: &str) -> Value {
    let file = File::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(name);
    serde_json::from_str(&fs::read_to_string(file).expect("a file of vectors")).expect("JSON")
}

#[track_caller]
fn list(value: &Value) -> &[Value] {
    value.as_array().expect("a list")
}

#[track_caller]
fn number<T: TryFrom<u64>>(value: &Value) -> T {
    let number = value.as_u64().expect("a number");
    T::try_from(number).unwrap_or_else(|_| panic!("{number} is too large"))
}

#[track_caller]
fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

#[track_caller]
fn array<const LEN: usize>(value: &Value) -> [u8; LEN] {
    bytes(value).try_into().expect("the right length")
}

fn key(value: &Value) -> Zeroizing<[u8; KEY_LEN]> {
    Zeroizing::new(array(value))
}

fn cases() -> Vec<Value> {
    let mut vectors = read("secure.json");
    serde_json::from_value(vectors["cases"].take()).expect("cases")
}

/// The end of a published Noise vector whose fields have this prefix.
fn noise_end(vector: &Value, prefix: &str) -> snow::HandshakeState {
    let field = |name: &str| &vector[format!("{prefix}_{name}")];
    let protocol = text(&vector["protocol_name"]);
    let suite = [Suite::Keys, Suite::Secret].into_iter().find(|suite| suite.noise_name() == protocol);
    let params = protocol.parse().expect("a protocol that snow knows");
    let resolver = Box::new(Resolver::new(key(field("ephemeral"))));
    let (prologue, psk) = (bytes(field("prologue")), key(&field("psks")[0]));
    let (own, remote) = (field("static").as_str().map(|_| key(field("static"))), field("remote_static"));
    let remote = remote.as_str().map(|_| key(remote));
    let mut builder = snow::Builder::with_resolver(params, resolver)
        .prologue(&prologue)
        .and_then(|builder| builder.psk(suite.expect("one of ours").psk_place(), &psk))
        .expect("a prologue and a PSK");
    if let Some(own) = &own {
        builder = builder.local_private_key(&**own).expect("a private key");
    }
    if let Some(remote) = &remote {
        builder = builder.remote_public_key(&**remote).expect("a public key");
    }
    if prefix == "init" { builder.build_initiator() } else { builder.build_responder() }.expect("a handshake")
}

#[test]
fn the_primitives_make_the_published_messages_of_both_noise_protocols() {
    let vectors = read("noise.json");
    let vectors = list(&vectors["vectors"]);
    assert_eq!(vectors.len(), 2);
    for vector in vectors {
        let (mut initiator, mut responder) = (noise_end(vector, "init"), noise_end(vector, "resp"));
        let (mut message, mut plain) = ([0; 1024], [0; 1024]);
        let messages = list(&vector["messages"]);
        for (index, expected) in messages[..2].iter().enumerate() {
            let payload = bytes(&expected["payload"]);
            let (from, to) =
                if index == 0 { (&mut initiator, &mut responder) } else { (&mut responder, &mut initiator) };
            let len = from.write_message(&payload, &mut message).expect("a message");
            assert_eq!(message[..len], bytes(&expected["ciphertext"]), "message {index}");
            let read = to.read_message(&message[..len], &mut plain).expect("an authentic message");
            assert_eq!(plain[..read], payload);
        }
        assert_eq!(initiator.get_handshake_hash(), bytes(&vector["handshake_hash"]));
        assert_eq!(responder.get_handshake_hash(), bytes(&vector["handshake_hash"]));
        let mut initiator = initiator.into_transport_mode().expect("a complete handshake");
        let mut responder = responder.into_transport_mode().expect("a complete handshake");
        assert!(messages.len() > 4, "both directions carry more than one message");
        for (index, expected) in messages.iter().enumerate().skip(2) {
            let payload = bytes(&expected["payload"]);
            let (from, to) =
                if index % 2 == 0 { (&mut initiator, &mut responder) } else { (&mut responder, &mut initiator) };
            let len = from.write_message(&payload, &mut message).expect("a message");
            assert_eq!(message[..len], bytes(&expected["ciphertext"]), "message {index}");
            let read = to.read_message(&message[..len], &mut plain).expect("an authentic message");
            assert_eq!(plain[..read], payload);
        }
    }
}

#[test]
fn keys_have_the_same_text() {
    let vectors = read("secure.json");
    let texts = list(&vectors["key_texts"]);
    for entry in texts {
        let (given, bytes) = (text(&entry["text"]), array(&entry["key"]));
        let (written, read) = match text(&entry["what"]) {
            "private" => {
                (PrivateKey::from_bytes(bytes).to_text().to_string(), PrivateKey::parse(given).map(|key| *key.bytes()))
            }
            "public" => (PublicKey::from_bytes(bytes).to_string(), PublicKey::parse(given).map(|key| *key.bytes())),
            "secret" => (
                SharedSecret::from_bytes(bytes).to_text().to_string(),
                SharedSecret::parse(given).map(|key| *key.bytes()),
            ),
            what => panic!("{what}"),
        };
        assert_eq!((written.as_str(), read), (given, Ok(bytes)));
    }
    assert_eq!(texts.len(), 9);
}

#[test]
fn what_is_no_key_there_is_none_here() {
    let vectors = read("secure.json");
    let refused = list(&vectors["refused_key_texts"]);
    assert!(refused.len() >= 12);
    for entry in refused {
        let (given, why) = (text(&entry["text"]), text(&entry["why"]));
        let parsed = PublicKey::parse(given);
        if given.trim() == given {
            assert!(parsed.is_err(), "{why}: {given:?}");
        } else {
            // A key comes from a file or an argument, where white space around it is no part of it.
            assert_eq!(parsed, PublicKey::parse(given.trim()), "{why}: {given:?}");
        }
    }
}

/// One of the two ends of a case, with what it holds before the handshake.
struct End<'c> {
    side: Side,
    identity: Identity,
    index: u32,
    fields: &'c Value,
}

impl<'c> End<'c> {
    fn new(case: &'c Value, name: &str) -> Self {
        let fields = &case[name];
        let other = &case[if name == "initiator" { "responder" } else { "initiator" }];
        let side = if number::<u8>(&fields["role"]) == 1 { Side::Connect } else { Side::Listen };
        let identity = match number::<u8>(&case["suite"]) {
            1 => {
                let psk = &case["pre_shared_key"];
                let psk = psk.as_str().map(|_| SharedSecret::from_bytes(array(psk)));
                let private = PrivateKey::from_bytes(array(&fields["private_key"]));
                assert_eq!(private.public().bytes(), &array(&fields["public_key"]));
                let peer = PublicKey::from_bytes(array(&other["public_key"]));
                Identity::with_keys(&private, peer, psk, side).expect("keys of some use")
            }
            2 => Identity::with_secret(SharedSecret::from_bytes(array(&case["secret"])), side),
            suite => panic!("suite {suite}"),
        };
        Self { side, identity, index: number(&fields["index"]), fields }
    }

    fn ephemeral(&self) -> Ephemeral {
        key(&self.fields["ephemeral_private"])
    }

    fn offer(&self) -> Offer {
        let fields = &self.fields["fields"];
        let time = Duration::new(number(&fields["seconds"]), number(&fields["nanoseconds"]));
        Offer {
            timestamp: Timestamp::since_1970(time),
            kind: Some(if fields["kind"] == 1 { LinkLayer::Tun } else { LinkLayer::Tap }),
            mtu: number(&fields["mtu"]),
            features: number(&fields["features"]),
            instance: array(&fields["instance"]),
            tunnel: array(&fields["tunnel_id"]),
            down_after_ms: number(&fields["down_after_ms"]),
        }
    }

    /// Makes its INIT.
    fn initiate(&self) -> Initiation {
        handshake::initiate(&self.identity, self.ephemeral(), self.index, self.offer()).expect("an INIT")
    }

    /// Reads the INIT of a case.
    fn invited(&self, init: &[u8]) -> Invitation {
        assert!(handshake::is_init(&self.identity, init) && self.identity.incoming().verifies(init));
        handshake::read_init(&self.identity, self.ephemeral(), init).expect("an authentic INIT")
    }
}

fn answer(fields: &Value) -> Answer {
    let statuses = [Status::Ok, Status::Stale, Status::Kind, Status::Feature, Status::Busy];
    let greatest = Duration::new(number(&fields["greatest_seconds"]), number(&fields["greatest_nanoseconds"]));
    Answer {
        status: Some(statuses[number::<usize>(&fields["status"])]),
        aead: number(&fields["aead"]),
        kind: Some(if fields["kind"] == 1 { LinkLayer::Tun } else { LinkLayer::Tap }),
        mtu: number(&fields["mtu"]),
        features: number(&fields["features"]),
        instance: array(&fields["instance"]),
        last_timestamp: Timestamp::since_1970(greatest),
    }
}

fn aead(case: &Value) -> Aead {
    Aead::from_wire(number(&case["aead"])).expect("an AEAD")
}

/// The keys of both ends of a case, made by a handshake whose messages are those of the case.
fn shake_hands(case: &Value) -> (SessionKeys, SessionKeys) {
    let name = text(&case["name"]);
    let (initiator, responder) = (End::new(case, "initiator"), End::new(case, "responder"));
    let (init, resp) = (bytes(&case["init"]), bytes(&case["resp"]));
    let mut initiation = initiator.initiate();
    assert_eq!(initiation.message, init, "{name}");
    let invitation = responder.invited(&init);
    assert_eq!((invitation.offer, invitation.sender()), (initiator.offer(), initiator.index), "{name}");
    let agreed = answer(&responder.fields["fields"]);
    let (message, theirs) =
        invitation.answer(&responder.identity, responder.index, agreed, Some(aead(case))).expect("a RESP");
    assert_eq!(message, resp, "{name}");
    assert_eq!(handshake::resp_receiver(&initiator.identity, &resp), Some(initiator.index));
    assert_eq!(handshake::sender_index(&resp), responder.index);
    assert!(initiator.identity.incoming().verifies(&resp));
    assert_eq!(initiation.read_resp(&resp), Some(agreed), "{name}");
    (initiation.keys(aead(case)).expect("keys"), theirs.expect("keys"))
}

#[test]
fn every_handshake_is_made_and_read_as_in_the_vectors() {
    let cases = cases();
    assert_eq!(cases.len(), 12, "each suite, with and without a pre-shared key, each role, each AEAD");
    for case in &cases {
        let (initiator, responder) = (End::new(case, "initiator"), End::new(case, "responder"));
        let suite = initiator.identity.suite();
        assert_eq!(suite.noise_name(), text(&case["noise_protocol"]));
        assert_eq!(initiator.identity.prologue(initiator.side), bytes(&case["prologue"]));
        for end in [&initiator, &responder] {
            let given = key(&end.fields["mac1_key"]);
            assert_eq!(*hash(&[&bytes(&end.fields["mac1_key_input"])]), *given);
            let expected = MacKey::new(given).mac(b"anything");
            let other = if end.side == initiator.side { &responder } else { &initiator };
            assert_eq!(end.identity.incoming().mac(b"anything"), expected);
            assert_eq!(other.identity.outgoing().mac(b"anything"), expected);
        }
        let payload = array(&initiator.fields["payload"]);
        assert_eq!((Offer::parse(&payload), initiator.offer().to_bytes()), (initiator.offer(), payload));
        let (payload, fields) = (array(&responder.fields["payload"]), answer(&responder.fields["fields"]));
        assert_eq!((Answer::parse(&payload), fields.to_bytes()), (fields, payload));
        shake_hands(case);
    }
}

#[test]
fn every_refusal_is_made_and_read_as_in_the_vectors() {
    for case in &cases() {
        let (initiator, responder) = (End::new(case, "initiator"), End::new(case, "responder"));
        let refusals = list(&case["refusals"]);
        assert_eq!(refusals.len(), 4);
        for refusal in refusals {
            let fields = answer(&refusal["fields"]);
            assert_eq!(fields.to_bytes(), array(&refusal["payload"]));
            let invitation = responder.invited(&bytes(&case["init"]));
            let made = invitation.answer(&responder.identity, responder.index, fields, None);
            let (message, keys) = made.expect("a RESP");
            assert!(message == bytes(&refusal["resp"]) && keys.is_none(), "{}", text(&case["name"]));
            assert_eq!(initiator.initiate().read_resp(&message), Some(fields));
        }
    }
}

#[test]
fn a_handshake_with_one_bit_changed_is_refused() {
    for case in &cases() {
        let (initiator, responder) = (End::new(case, "initiator"), End::new(case, "responder"));
        let init = bytes(&case["init"]);
        let mac_at = init.len() - 16;
        for at in 0..init.len() {
            let mut changed = init.clone();
            changed[at] ^= 1 << (at % 8);
            assert!(!responder.identity.incoming().verifies(&changed), "byte {at}");
        }
        // Whoever can make mac1 still cannot change what is inside.
        for at in (8..mac_at).step_by(17) {
            let mut changed = init.clone();
            changed[at] ^= 1 << (at % 8);
            assert!(handshake::read_init(&responder.identity, responder.ephemeral(), &changed).is_none(), "byte {at}");
        }
        let resp = bytes(&case["resp"]);
        for at in (12..resp.len() - 16).step_by(17) {
            let mut changed = resp.clone();
            changed[at] ^= 1 << (at % 8);
            assert_eq!(initiator.initiate().read_resp(&changed), None, "byte {at}");
        }
        // Reflected, both are nothing.
        assert!(!initiator.identity.incoming().verifies(&init) && !responder.identity.incoming().verifies(&resp));
        assert!(handshake::read_init(&initiator.identity, initiator.ephemeral(), &init).is_none());
    }
}

/// Seals and opens every message of a direction, and checks that nothing near it is opened.
fn check_direction(direction: &Value, aead: Aead, sealer: &mut Sealer, opener: &Opener) {
    let noise_key = array(&direction["noise_key"]);
    let mut same = Sealer::new(&noise_key, aead).expect("a key");
    let messages = list(&direction["messages"]);
    let kinds: Vec<u8> = messages.iter().map(|message| number(&message["type"])).collect();
    assert!([DATA, SUPER, CTRL, FRAG].iter().all(|kind| kinds.contains(kind)));
    for expected in messages {
        let what = text(&expected["what"]);
        let (plain, whole) = (bytes(&expected["plaintext"]), bytes(&expected["message"]));
        let kind = number(&expected["type"]);
        let receiver = number(&expected["receiver_index"]);
        for sealer in [&mut *sealer, &mut same] {
            sealer.skip_to(number(&expected["counter"]));
            let (mut header, mut body) = (Header::unnumbered(kind, 0, receiver), vec![0; whole.len() - HEADER_LEN]);
            assert!(sealer.seal(&mut header, &plain, &mut body));
            assert_eq!(header, array(&expected["header"]), "{what}");
            assert_eq!([&header[..], &body].concat(), whole, "{what}");
        }
        let (header, body) = whole.split_first_chunk::<HEADER_LEN>().expect("a header");
        assert_eq!(opener.open(header, &mut body.to_vec()).as_deref(), Some(plain.as_slice()), "{what}");
        for at in 0..HEADER_LEN {
            let mut changed = *header;
            changed[at] ^= 1 << (at % 8);
            assert_eq!(opener.open(&changed, &mut body.to_vec()), None, "{what}: byte {at} of the header");
        }
        for at in (0..body.len()).step_by(7) {
            let mut changed = body.to_vec();
            changed[at] ^= 1 << (at % 8);
            assert_eq!(opener.open(header, &mut changed), None, "{what}: byte {at} of the body");
        }
        assert_eq!(opener.open(header, &mut body[..body.len() - 1].to_vec()), None, "{what}: cut off");
    }
    assert!(sealer.counter() > 1 << 40, "counters of more than 32 bits are among them");
}

#[test]
fn every_message_of_every_session_is_sealed_and_opened_as_in_the_vectors() {
    for case in &cases() {
        let (mut initiator, mut responder) = shake_hands(case);
        let (there, back) = (&case["initiator_to_responder"], &case["responder_to_initiator"]);
        check_direction(there, aead(case), &mut initiator.sealer, &responder.opener);
        check_direction(back, aead(case), &mut responder.sealer, &initiator.opener);
        // The directions have keys of their own.
        let message = bytes(&there["messages"][0]["message"]);
        let (header, body) = message.split_first_chunk::<HEADER_LEN>().expect("a header");
        assert_eq!(initiator.opener.open(header, &mut body.to_vec()), None);
    }
}

#[test]
fn a_counter_is_never_used_twice_whatever_is_skipped() {
    let mut sealer = Sealer::new(&[7; KEY_LEN], Aead::Aes256Gcm).expect("a key");
    let seal = |sealer: &mut Sealer| {
        let (mut header, mut body) = (Header::unnumbered(DATA, 0, 1), [0; 16]);
        sealer.seal(&mut header, &[], &mut body).then(|| Header::parse(&header).counter)
    };
    assert_eq!((seal(&mut sealer), seal(&mut sealer)), (Some(0), Some(1)));
    sealer.skip_to(0);
    assert_eq!(seal(&mut sealer), Some(2), "there is no way back");
    sealer.skip_to(u64::MAX - 1);
    assert_eq!(seal(&mut sealer), Some(u64::MAX - 1));
    assert_eq!((seal(&mut sealer), seal(&mut sealer)), (None, None), "nor round the end");
}

#[test]
fn a_super_packet_stands_for_the_same_packets() {
    let vectors = read("secure.json");
    let mut plain = bytes(&vectors["super"]["plaintext"]);
    let (header, packet) = plain.split_first_chunk_mut::<VIRTIO_HEADER_LEN>().expect("a virtio header");
    let header = VirtioHeader::parse(header).expect("a kind of super-packet");
    let header = check_whole(&header, packet, LinkLayer::Tun).expect("a super-packet that may cross whole");
    let mut segments = Segments::new(&header, packet, LinkLayer::Tun).expect("a super-packet");
    let expected = list(&vectors["super"]["packets"]);
    assert_eq!(segments.count(), expected.len());
    for packet in expected {
        assert_eq!(segments.next_packet().as_deref(), Some(bytes(packet).as_slice()));
    }
}

/// The parts of a packet, in whatever order they come, and as they are written.
#[test]
#[expect(clippy::disallowed_methods, reason = "a starting point for virtual time")]
fn the_parts_in_the_vectors_are_a_packet() {
    let (cases, now) = (cases(), Instant::now());
    for direction in cases.iter().flat_map(|case| [&case["initiator_to_responder"], &case["responder_to_initiator"]]) {
        let messages = list(&direction["messages"]);
        let plain: Vec<Vec<u8>> = messages
            .iter()
            .filter(|message| number::<u8>(&message["type"]) == FRAG)
            .map(|message| bytes(&message["plaintext"]))
            .collect();
        let parts: Vec<Part<'_>> = plain.iter().map(|plain| Part::parse(plain).expect("a part")).collect();
        let mut joiner = Joiner::default();
        assert_eq!(joiner.take(1, parts[1], 0, now), Ok(None));
        let joined = joiner.take(1, parts[0], 0, now).expect("parts of one packet").expect("a whole packet");
        let payload: Vec<u8> = (0..281u32).map(|number| (number % 251) as u8).collect();
        assert_eq!((joined.bytes.len(), joined.bytes[0], &joined.bytes[20..]), (301, 0x45, payload.as_slice()));
        for (part, plain) in parts.iter().zip(&plain) {
            let mut written = Vec::new();
            part.write(&mut written);
            assert_eq!(&written, plain);
        }
    }
}

/// Chance that was fixed before: an instance, an index, an ephemeral key; then anything.
struct Scripted(Vec<Vec<u8>>);

impl Randomness for Scripted {
    fn fill(&mut self, bytes: &mut [u8]) -> bool {
        match self.0.iter().position(|next| next.len() == bytes.len()) {
            Some(place) => bytes.copy_from_slice(&self.0.remove(place)),
            None => bytes.fill(1),
        }
        true
    }
}

/// The state machine itself, not only what it is made of.
#[test]
#[expect(clippy::disallowed_methods, reason = "a starting point for virtual time")]
fn a_link_that_begins_says_and_understands_what_is_in_the_vectors() {
    let now = Instant::now();
    let path = Path(1);
    let info = PathInfo { reliable: true, max_message: 65_535, peer: "192.0.2.1:55555".parse().expect("an address") };
    let mut checked = 0;
    for case in &cases() {
        let initiator = End::new(case, "initiator");
        // A connection is not for the listening end to begin on; and what has to be chosen depends on the processor.
        if initiator.side == Side::Listen || (aead(case) == Aead::Aes256Gcm && !has_fast_aes()) {
            continue;
        }
        checked += 1;
        let offer = initiator.offer();
        let settings = Settings {
            side: initiator.side,
            kind: LinkLayer::Tun,
            mtu: offer.mtu,
            fragments: false,
            aead: match aead(case) {
                Aead::Aes256Gcm => AeadChoice::Auto,
                Aead::ChaCha20Poly1305 => AeadChoice::ChaCha20Poly1305,
            },
            keepalive: Duration::from_secs(3),
            down_after: DOWN_AFTER,
            endpoint: Endpoint::Follows,
            persistence: Persistence::Forever,
            limits: Limits::default(),
        };
        let fields = &initiator.fields["fields"];
        let wall = Duration::new(number(&fields["seconds"]), number(&fields["nanoseconds"]));
        let index = initiator.index.to_be_bytes().to_vec();
        let random = Box::new(Scripted(vec![offer.instance.to_vec(), index, initiator.ephemeral().to_vec()]));
        let mut secure = Secure::new(settings, vec![initiator.identity], random, now, wall).expect("a link");
        secure.link_up(path, info, now);
        assert_eq!(secure.poll_transmit(), Some(Transmit { path, message: bytes(&case["init"]) }));
        assert_eq!(secure.open(path, &info, &mut bytes(&case["resp"]), now), Ok(Opened::Nothing));
        let there = list(&case["initiator_to_responder"]["messages"]);
        let confirmation = secure.poll_transmit().expect("a confirmation");
        assert_eq!(confirmation.message, bytes(&there[0]["message"]));
        for expected in &there[1..3] {
            let plain = bytes(&expected["plaintext"]);
            let mut message = vec![0; plain.len() + OVERHEAD];
            secure.seal(number(&expected["type"]), 0, &plain, &mut message, now);
            assert_eq!(message, bytes(&expected["message"]));
        }
        let back = list(&case["responder_to_initiator"]["messages"]);
        for (place, expected) in back.iter().enumerate() {
            let (mut plain, mut message) = (bytes(&expected["plaintext"]), bytes(&expected["message"]));
            let opened = secure.open(path, &info, &mut message, now);
            match (number(&expected["type"]), plain.is_empty()) {
                (DATA, true) => assert_eq!(opened, Err(Refused::Invalid)),
                (DATA, false) if plain[0] >> 4 == 4 => {
                    assert_eq!(opened, Ok(Opened::Packet(&mut plain, Checksum::Unknown)))
                }
                (DATA, false) => assert_eq!(opened, Err(Refused::Invalid), "no packet of this kind of device"),
                (SUPER, _) => assert_eq!(opened, Ok(Opened::Super(&mut plain))),
                (FRAG, _) => assert_eq!(opened, Err(Refused::Invalid), "this path is no datagram path"),
                _ => assert_eq!(opened, Ok(Opened::Nothing)),
            }
            if text(&expected["what"]).starts_with("PING with the shortest") {
                // Answered with the pong of the same token, under the next counter.
                assert_eq!(secure.poll_transmit().expect("a pong").message.len(), 11 + OVERHEAD);
            }
            if text(&expected["what"]).starts_with("CLOSE") {
                assert_eq!(place, back.len() - 2, "nothing is understood behind it");
                break;
            }
        }
        assert!(!secure.has_session());
    }
    assert!(checked >= 3);
}
