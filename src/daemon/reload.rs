//! Reading the configuration again while the tunnel runs: what has changed, what of that is applied to the link as it is,
//! what needs a new one, and what waits for a restart. A configuration with a mistake changes nothing.

use std::fmt;

use anyhow::Result;
use log::{Level, debug, error, log};

use super::network::Network;
use super::{GSO_MAX_SIZE, changes, link, mtu, upkeep};
use crate::config::{
    Access, Config, ConfigError, ControlConfig, DeviceConfig, HooksConfig, LinkConfig, NetworkConfig, PrivilegesConfig,
    Role, Security, SegmentConfig,
};
use crate::device::netchange::NetChange;
use crate::event_loop::EventLoop;
use crate::logging;
use crate::relay::Relay;
use crate::supervisor::Reload;
use crate::tunnel::message::CloseReason;

/// Reads the configuration again and applies it; gives back the relay, which is another one if the link had to be made
/// anew, and whether the new configuration was taken.
///
/// # Errors
/// Neither the new link nor the one that was in force can be opened.
pub fn reload(
    event_loop: &EventLoop,
    mut relay: Relay,
    config: &mut Config,
    network: &mut Network,
    reread: &dyn Fn() -> Result<Config, ConfigError>,
) -> Result<(Relay, Reload)> {
    // Keys that protect nothing are a mistake, too, and found before anything is changed.
    let read = reread().map_err(|mistake| mistake.to_string()).and_then(|new| {
        let identities = link::identities(&new.link).map_err(|mistake| mistake.to_string())?;
        Ok((new, identities))
    });
    let (new, identities) = match read {
        Ok(read) => read,
        Err(mistake) => {
            error!("{mistake}; going on with the configuration that is in force");
            return Ok((relay, Reload::Refused));
        }
    };
    let plan = Plan::of(config, &new);
    log!(plan.level(), "configuration read again{plan}");
    let new = Config {
        device: config.device.clone(),
        hooks: if begins_hooks(config, &new) { config.hooks.clone() } else { new.hooks },
        control: config.control.clone(),
        privileges: config.privileges.clone(),
        debug: config.debug,
        ..new
    };
    let old = std::mem::replace(config, new);
    logging::set_level(config.log_level);
    let created = relay.device_mut().was_created();
    configure(network, &old, config, created);
    relay.set_carrier_following(config.network.carrier.follows(created));
    link::set_segment(&mut relay, config, event_loop);
    if !plan.reconnects.is_empty() {
        return reopen(event_loop, relay, config, old.link);
    }
    if !plan.applied.is_empty() {
        let has_other_mtu = wanted_mtu(&old, created) != wanted_mtu(config, created);
        let settings = link::settings(relay.device_mut(), &config.link, has_other_mtu);
        let keys = config.link.security.is_secure().then_some((settings, identities));
        relay.reconfigure(&config.link, keys, event_loop.now());
    }
    Ok((relay, Reload::Applied))
}

/// Whether the first hooks would come by this reload. Whoever starts programs has to be there from the start on: nobody
/// can be let do so who has given it up.
fn begins_hooks(old: &Config, new: &Config) -> bool {
    old.hooks.is_empty() && !new.hooks.is_empty()
}

fn wanted_mtu(config: &Config, created: bool) -> Option<u32> {
    config.network.mtu.or_else(|| mtu::usual(config, created))
}

/// Configures the device as it is to be now. If nothing has changed about that, what others have taken is put back.
fn configure(network: &mut Network, old: &Config, new: &Config, created: bool) {
    if old.network == new.network && wanted_mtu(old, created) == wanted_mtu(new, created) {
        let missing =
            network.missing(&upkeep::kept(new)).inspect_err(|error| debug!("cannot look at the device: {error}"));
        for change in missing.unwrap_or_default() {
            network.apply(&change).unwrap_or_else(|error| error!("{error}"));
        }
        return;
    }
    let mut wanted = changes(new, created);
    wanted.extend(created.then_some(NetChange::GsoMaxSize(GSO_MAX_SIZE)));
    if let Err(error) = network.reconcile(&wanted) {
        error!("{error}; the rest of the new configuration is applied");
    }
}

/// Makes the link anew, or as it was if that is not possible.
fn reopen(event_loop: &EventLoop, mut relay: Relay, config: &mut Config, old: LinkConfig) -> Result<(Relay, Reload)> {
    // The old transport has to be gone before a new one can listen on the same port.
    relay.close_link(CloseReason::BeginsAnew, event_loop.now());
    let (device, past) = relay.into_parts();
    let (mut relay, how) = match link::open(device, &config.link, config.debug, event_loop) {
        Ok(relay) => (relay, Reload::Applied),
        Err((device, failure)) => {
            error!("{failure}; going on with the link that was in force");
            config.link = old;
            let relay = link::open(device, &config.link, config.debug, event_loop).map_err(|(_, error)| error)?;
            (relay, Reload::Refused)
        }
    };
    relay.continue_from(past, event_loop.now());
    Ok((relay, how))
}

/// What has changed from one configuration to another, by the names of the options.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    /// Applied while the link goes on.
    applied: Vec<&'static str>,
    /// These need a new link.
    reconnects: Vec<&'static str>,
    /// These stay as they are until a restart.
    restarts: Vec<&'static str>,
}

impl Plan {
    fn of(old: &Config, new: &Config) -> Self {
        // Every field has its place here, so that none is forgotten.
        let Config { device, network, link, segment, control, hooks: _, privileges, once, debug, log_level } = old;
        let mut plan = Self::default();
        plan.compare_devices(device, &new.device);
        note(&mut plan.restarts, [("debug", *debug != new.debug)]);
        let ControlConfig { instance: _, socket, metrics } = control;
        note(
            &mut plan.restarts,
            [("control", *socket != new.control.socket), ("metrics", *metrics != new.control.metrics)],
        );
        let PrivilegesConfig { run_as, sandbox } = privileges;
        note(
            &mut plan.restarts,
            [("run-as", *run_as != new.privileges.run_as), ("no-sandbox", *sandbox != new.privileges.sandbox)],
        );
        plan.compare_networks(network, &new.network);
        plan.compare_links(link, &new.link);
        plan.compare_segments(segment.as_ref(), new.segment.as_ref());
        plan.compare_hooks(old, new);
        note(&mut plan.applied, [("once", *once != new.once), ("log-level", *log_level != new.log_level)]);
        plan
    }

    fn compare_devices(&mut self, old: &DeviceConfig, new: &DeviceConfig) {
        let DeviceConfig { name, kind, persist, owner, group, offload } = old;
        note(
            &mut self.restarts,
            [
                ("interface", *name != new.name),
                ("tap", *kind != new.kind),
                ("persist", *persist != new.persist),
                ("owner", *owner != new.owner),
                ("owner-group", *group != new.group),
                ("offload", *offload != new.offload),
            ],
        );
    }

    fn compare_networks(&mut self, old: &NetworkConfig, new: &NetworkConfig) {
        let NetworkConfig { addresses, routes, mtu, mac, bridge, lan_ports, tx_queue_len, up, carrier } = old;
        note(
            &mut self.applied,
            [
                ("address", *addresses != new.addresses),
                ("route", *routes != new.routes),
                ("mtu", *mtu != new.mtu),
                ("mac", *mac != new.mac),
                ("bridge", *bridge != new.bridge),
                ("bridge-create", *lan_ports != new.lan_ports),
                ("txqueuelen", *tx_queue_len != new.tx_queue_len),
                ("up", *up != new.up),
                ("carrier", *carrier != new.carrier),
            ],
        );
    }

    /// The kind of the device stays, so that a segment neither comes nor goes.
    fn compare_segments(&mut self, old: Option<&SegmentConfig>, new: Option<&SegmentConfig>) {
        let (Some(old), Some(new)) = (old, new) else { return };
        let SegmentConfig { guard, hold, broadcast_limit, bpdus, vlans, protocols } = old;
        note(
            &mut self.applied,
            [
                ("loop-guard", *guard != new.guard),
                ("loop-hold", *hold != new.hold),
                ("broadcast-limit", *broadcast_limit != new.broadcast_limit),
                ("bpdu", *bpdus != new.bpdus),
                ("vlan", *vlans != new.vlans),
                ("ethertype", *protocols != new.protocols),
            ],
        );
    }

    fn compare_hooks(&mut self, old: &Config, new: &Config) {
        let HooksConfig { up, down, link_up, link_down, timeout } = &old.hooks;
        let place = if begins_hooks(old, new) { &mut self.restarts } else { &mut self.applied };
        let new = &new.hooks;
        note(
            place,
            [
                ("hook-up", *up != new.up),
                ("hook-down", *down != new.down),
                ("hook-link-up", *link_up != new.link_up),
                ("hook-link-down", *link_down != new.link_down),
                ("hook-timeout", *timeout != new.timeout),
            ],
        );
    }

    fn compare_links(&mut self, old: &LinkConfig, new: &LinkConfig) {
        let LinkConfig {
            role,
            protocol,
            bind,
            bind_device,
            fwmark,
            keepalive,
            down_after,
            caps_rto,
            congestion,
            send_buffer,
            receive_buffer,
            mss_clamp,
            fragments,
            security,
            aead,
            pin_endpoint,
            state_dir,
            rekey_after,
        } = old;
        self.compare_roles(role, &new.role);
        note(
            &mut self.reconnects,
            [
                ("udp", *protocol != new.protocol),
                ("bind", bind.address != new.bind.address),
                ("port", bind.port != new.bind.port),
                ("bind-device", *bind_device != new.bind_device),
                ("fwmark", *fwmark != new.fwmark),
                ("no-rto-cap", *caps_rto != new.caps_rto),
                ("congestion", *congestion != new.congestion),
                ("sndbuf", *send_buffer != new.send_buffer),
                ("rcvbuf", *receive_buffer != new.receive_buffer),
                ("pin-endpoint", *pin_endpoint != new.pin_endpoint),
                ("state-dir", *state_dir != new.state_dir),
            ],
        );
        self.compare_security(security, &new.security);
        note(
            &mut self.applied,
            [
                ("keepalive", *keepalive != new.keepalive),
                ("down-after", *down_after != new.down_after),
                ("mss-clamp", *mss_clamp != new.mss_clamp),
                ("split", *fragments != new.fragments),
                ("aead", *aead != new.aead),
                ("rekey-after", *rekey_after != new.rekey_after),
            ],
        );
    }

    /// Rules about addresses are exchanged; where the peer is to be found is another link.
    fn compare_roles(&mut self, old: &Role, new: &Role) {
        let is_other = old != new;
        match (old, new) {
            (Role::Connect(_), Role::Connect(_)) => note(&mut self.reconnects, [("connect", is_other)]),
            (Role::Listen(Access::Remote { .. }), Role::Listen(_))
            | (Role::Listen(_), Role::Listen(Access::Remote { .. })) => {
                note(&mut self.reconnects, [("remote", is_other)]);
            }
            (Role::Listen(_), Role::Listen(_)) => note(&mut self.applied, [("allow", is_other)]),
            (Role::Connect(_), Role::Listen(_)) => self.reconnects.push("server"),
            (Role::Listen(_), Role::Connect(_)) => self.reconnects.push("connect"),
        }
    }

    fn compare_security(&mut self, old: &Security, new: &Security) {
        match (old, new) {
            (Security::Secret(old), Security::Secret(new)) => note(&mut self.applied, [("secret-file", old != new)]),
            (
                Security::Keys { private, peers, psk },
                Security::Keys { private: other, peers: others, psk: other_psk },
            ) => {
                note(
                    &mut self.applied,
                    [
                        ("private-key-file", private != other),
                        ("peer-public-key", peers != others),
                        ("psk-file", psk != other_psk),
                    ],
                );
            }
            _ => note(&mut self.reconnects, [("security", old != new)]),
        }
    }

    /// What waits for a restart is worth a warning.
    fn level(&self) -> Level {
        if self.restarts.is_empty() { Level::Info } else { Level::Warn }
    }
}

fn note<const N: usize>(names: &mut Vec<&'static str>, changes: [(&'static str, bool); N]) {
    names.extend(changes.into_iter().filter(|(_, has_changed)| *has_changed).map(|(name, _)| name));
}

/// Continues the sentence "configuration read again".
impl fmt::Display for Plan {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::default() {
            return formatter.write_str(", nothing has changed");
        }
        let parts = [
            ("changed", &self.applied, ""),
            ("reconnecting for", &self.reconnects, ""),
            ("only a restart changes", &self.restarts, ", left as before"),
        ];
        let mut between = ": ";
        for (before, names, behind) in parts.into_iter().filter(|(_, names, _)| !names.is_empty()) {
            write!(formatter, "{between}{before} {}{behind}", names.join(", "))?;
            between = "; ";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use crate::config::KeyFiles;

    fn config(line: &str) -> Config {
        let options = Cli::from_arguments(line.split_whitespace()).expect("legal flags").options;
        Config::new(&options, &|_, _| None, &KeyFiles::from_environment()).expect("a legal configuration")
    }

    fn change(old: &str, new: &str) -> String {
        let config = |line: &str| config(&format!("simpletun -i t {line}"));
        format!("reread{}", Plan::of(&config(old), &config(new)))
    }

    #[test]
    fn what_has_changed_is_named_with_what_is_done_about_it() {
        assert_eq!(change("-s --allow any", "-s --allow any"), "reread, nothing has changed");
        for (old, new, expected) in [
            ("-s --up", "-s --allow 192.0.2.0/24 --route 10.0.0.0/8", ": changed route, allow"),
            ("-s --remote 192.0.2.1", "-s", ": reconnecting for remote"),
            ("-s", "-s --remote 192.0.2.1", ": reconnecting for remote"),
            ("-s --remote 192.0.2.1", "-s --remote 192.0.2.2", ": reconnecting for remote"),
            ("-c 192.0.2.1", "-c 192.0.2.2", ": reconnecting for connect"),
            ("-c 192.0.2.1", "-s", ": reconnecting for server, port"),
            ("-s", "-s -p 4000 --udp --mtu 1400", ": changed mtu; reconnecting for udp, port"),
            (
                "-s",
                "-s --persist -d --log-level debug",
                ": changed log-level; only a restart changes persist, debug, left as before",
            ),
            ("-s", "-s --keepalive 1s --down-after 4s --mss-clamp off", ": changed keepalive, down-after, mss-clamp"),
            ("-s", "-s --hook-up /a", ": only a restart changes hook-up, left as before"),
            ("-s --hook-up /a", "-s --hook-link-up /a", ": changed hook-up, hook-link-up"),
            ("-c ::1", "-c ::1 --fwmark 7 --bind 127.0.0.1", ": reconnecting for bind, fwmark"),
        ] {
            assert_eq!(change(old, new), format!("reread{expected}"), "{old} and {new}");
        }
    }

    #[test]
    fn keys_are_exchanged_and_another_way_of_protection_is_another_link() {
        use crate::tunnel::keys::{PrivateKey, SharedSecret};
        let secret = |byte| SharedSecret::from_bytes([byte; 32]);
        let keys = |own: u8, peer: u8, psk: Option<u8>| Security::Keys {
            private: PrivateKey::from_bytes([own; 32]),
            peers: vec![PrivateKey::from_bytes([peer; 32]).public()],
            psk: psk.map(secret),
        };
        for (old, new, expected) in [
            (Security::Secret(vec![secret(1)]), Security::Secret(vec![secret(1)]), ", nothing has changed"),
            (Security::Secret(vec![secret(1)]), Security::Secret(vec![secret(1), secret(2)]), ": changed secret-file"),
            (keys(1, 2, None), keys(3, 2, None), ": changed private-key-file"),
            (keys(1, 2, None), keys(1, 3, Some(4)), ": changed peer-public-key, psk-file"),
            (keys(1, 2, None), Security::Secret(vec![secret(1)]), ": reconnecting for security"),
            (Security::Secret(vec![secret(1)]), Security::Plain, ": reconnecting for security"),
        ] {
            let with = |security| {
                let config = config("simpletun -i t -s");
                Config { link: LinkConfig { security, ..config.link }, ..config }
            };
            assert_eq!(Plan::of(&with(old), &with(new)).to_string(), expected);
        }
    }
}
