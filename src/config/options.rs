//! The settings as they are written: one structure for flags and file, so that their names cannot drift apart.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::ConfigError;
use super::security::{STANDARD_INPUT, masked};
use super::text::{Text, Words};

/// The settings of a tunnel as flags and as keys of the configuration file. A flag overrides the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Options {
    /// Name of the tun or tap device; a pattern such as tun%d lets the kernel pick the number
    #[arg(short, long, value_name = "IFNAME", help_heading = "Tunnel")]
    pub interface: Option<Text>,

    /// Act as the server: wait for a peer
    #[arg(short, long, overrides_with = "connect", help_heading = "Tunnel")]
    pub server: bool,

    /// Act as a client of this server: a name, an IPv4 address, or an IPv6 address in brackets if a port follows
    #[arg(short, long, value_name = "HOST[:PORT]", overrides_with = "server", help_heading = "Tunnel")]
    pub connect: Option<Text>,

    /// Port to listen on or to connect to: a number or a service name [default: 55555]
    #[arg(short, long, value_name = "PORT", help_heading = "Tunnel")]
    pub port: Option<Text>,

    /// Use a tun device, which carries IP packets (the default)
    #[arg(short = 'u', long, overrides_with = "tap", help_heading = "Tunnel")]
    pub tun: bool,

    /// Use a tap device, which carries Ethernet frames
    #[arg(short = 'a', long, overrides_with = "tun", help_heading = "Tunnel")]
    pub tap: bool,

    /// Carry the packets over TCP (the default)
    #[arg(long, overrides_with = "udp", help_heading = "Transport")]
    pub tcp: bool,

    /// Carry the packets over UDP, one in each datagram
    #[arg(short = 'U', long, overrides_with = "tcp", help_heading = "Transport")]
    pub udp: bool,

    /// Local address to listen on or to connect from
    #[arg(long, value_name = "ADDR[:PORT]", help_heading = "Transport")]
    pub bind: Option<Text>,

    /// With --server: accept only this peer, and over UDP send to it before it has spoken
    #[arg(long, value_name = "HOST[:PORT]", help_heading = "Transport")]
    pub remote: Option<Text>,

    /// With --server: accept peers from this network only; on a plain link the default is the private and directly
    /// connected ones, and "any" accepts everybody (repeatable)
    #[arg(long, value_name = "CIDR|any", help_heading = "Transport")]
    pub allow: Vec<Text>,

    /// Send and receive through this network interface only (SO_BINDTODEVICE)
    #[arg(long, value_name = "IFNAME", help_heading = "Transport")]
    pub bind_device: Option<Text>,

    /// Mark the packets of the link for routing rules and firewalls (SO_MARK)
    #[arg(long, value_name = "MARK", help_heading = "Transport")]
    pub fwmark: Option<Text>,

    /// TCP and secure links: probe a silent peer after this time [default: 3s]
    #[arg(long, value_name = "TIME", help_heading = "Transport")]
    pub keepalive: Option<Text>,

    /// TCP and secure links: take a peer that has answered nothing for this time to be gone [default: 10s]
    #[arg(long, value_name = "TIME", help_heading = "Transport")]
    pub down_after: Option<Text>,

    /// TCP: do as on a kernel that cannot limit the time between retransmissions, for tests
    #[arg(long, hide = true)]
    pub no_rto_cap: bool,

    /// TCP: congestion control of the connection, such as cubic or bbr [default: the system's]
    #[arg(long, value_name = "NAME", help_heading = "Transport")]
    pub congestion: Option<Text>,

    /// Size of the socket's send buffer in bytes [default: TCP the kernel's own tuning, UDP 64 KiB]
    #[arg(long, value_name = "BYTES", help_heading = "Transport")]
    pub sndbuf: Option<Text>,

    /// Size of the socket's receive buffer in bytes [default: TCP the kernel's own tuning, UDP 4 MiB]
    #[arg(long, value_name = "BYTES", help_heading = "Transport")]
    pub rcvbuf: Option<Text>,

    /// Exit when the peer leaves instead of waiting for it or reconnecting
    #[arg(long, help_heading = "Transport")]
    pub once: bool,

    /// Secure the link by the shared secret in this file, the same on both ends (simpletun genpsk makes one), or on
    /// standard input (-); twice: the old and the new one while they are exchanged
    #[arg(long, value_name = "FILE|-", help_heading = "Security")]
    pub secret_file: Vec<Text>,

    /// Secure the link by key pairs: the file of this end's private key (simpletun genkey makes one)
    #[arg(long, value_name = "FILE|-", help_heading = "Security")]
    pub private_key_file: Option<Text>,

    /// The other end's public key (simpletun pubkey prints it); twice: the old and the new one
    #[arg(long, value_name = "KEY", help_heading = "Security")]
    pub peer_public_key: Vec<Text>,

    /// With key pairs: the file of a pre-shared key that both ends have beside them (simpletun genpsk makes one)
    #[arg(long, value_name = "FILE|-", help_heading = "Security")]
    pub psk_file: Option<Text>,

    /// Cipher of a secure link: auto is AES-256-GCM if both processors help with it
    #[arg(long, value_name = "auto|aes-256-gcm|chacha20-poly1305", help_heading = "Security")]
    pub aead: Option<Text>,

    /// Secure link over UDP: send to the configured address only, even if the peer's messages come from another
    #[arg(long, help_heading = "Security")]
    pub pin_endpoint: bool,

    /// Directory in which a secure link remembers where its peer was [default: $STATE_DIRECTORY]
    #[arg(long, value_name = "DIR", help_heading = "Security")]
    pub state_dir: Option<Text>,

    /// Age at which a session of a secure link is replaced, for tests
    #[arg(long, value_name = "TIME", hide = true)]
    pub rekey_after: Option<Text>,

    /// Address of the device, such as 192.168.0.1/24 (repeatable; implies --up)
    #[arg(long, value_name = "CIDR", help_heading = "Device")]
    pub address: Vec<Text>,

    /// Address of the far end of a point-to-point device
    #[arg(long, value_name = "ADDR", help_heading = "Device")]
    pub peer_address: Option<Text>,

    /// Netmask of an IPv4 --address that has no prefix length
    #[arg(long, value_name = "MASK", help_heading = "Device")]
    pub netmask: Option<Text>,

    /// Route this network through the tunnel (repeatable; implies --up)
    #[arg(long, value_name = "CIDR", help_heading = "Device")]
    pub route: Vec<Text>,

    /// MTU of the device in bytes [default: 1500; over UDP, if the device is created and is a tun or has an address: what
    /// fits 1500 outside; on a secure link it follows what the path carries]
    #[arg(long, value_name = "BYTES", help_heading = "Device")]
    pub mtu: Option<Text>,

    /// MAC address of a tap device [default: of one that is created, the same at every start]
    #[arg(long, value_name = "MAC", help_heading = "Device")]
    pub mac: Option<Text>,

    /// Length of the device's transmit queue in packets
    #[arg(long, value_name = "PACKETS", help_heading = "Device")]
    pub txqueuelen: Option<Text>,

    /// Maximum segment size of the TCP connections inside, lowered in both directions: auto is what fits the device and
    /// the link [default: auto]
    #[arg(long, value_name = "auto|off|BYTES", help_heading = "Device")]
    pub mss_clamp: Option<Text>,

    /// Packets that are longer than the path carries: auto sends them in parts on a secure link over UDP, if the peer takes
    /// them so; off cuts or refuses them as a router does [default: auto]
    #[arg(long, value_name = "auto|off", help_heading = "Transport")]
    pub split: Option<Text>,

    /// Segmentation offload of the device: auto takes what the kernel offers, on insists on it
    #[arg(long, value_name = "auto|on|off", help_heading = "Device")]
    pub offload: Option<Text>,

    /// Let the device's carrier follow the peer, so that routes, bonds and bridges notice when it is gone: auto does so on
    /// a device that is created
    #[arg(long, value_name = "auto|on|off", help_heading = "Device")]
    pub carrier: Option<Text>,

    /// Bridge that the tap becomes a port of, with the bridge's MTU, as long as the daemon runs
    #[arg(long, value_name = "IFNAME", help_heading = "Device")]
    pub bridge: Option<Text>,

    /// Make the bridge, with this device of the LAN as a port (repeatable): its addresses and routes become the bridge's,
    /// without interrupting connections, and go back when the daemon ends
    #[arg(long, value_name = "IFNAME", help_heading = "Device")]
    pub bridge_create: Vec<Text>,

    /// Stop forwarding while there is a second path between the two LANs: auto looks for one while the tap is a port of a
    /// bridge [default: auto]
    #[arg(long, value_name = "auto|on|off", help_heading = "Bridged LANs (tap)")]
    pub loop_guard: Option<Text>,

    /// How long nothing is forwarded after the last sign of a loop, from 1s to 1h [default: 30s]
    #[arg(long, value_name = "TIME", help_heading = "Bridged LANs (tap)")]
    pub loop_hold: Option<Text>,

    /// Broadcast and multicast frames a second towards the peer; ARP and neighbour discovery always cross [default: 5000]
    #[arg(long, value_name = "FRAMES|off", help_heading = "Bridged LANs (tap)")]
    pub broadcast_limit: Option<Text>,

    /// The frames of spanning tree: pass, so that it spans both LANs, or drop, so that each has its own [default: pass]
    #[arg(long, value_name = "pass|drop", help_heading = "Bridged LANs (tap)")]
    pub bpdu: Option<Text>,

    /// VLANs that cross, in both directions, such as 10,20-29,untagged [default: all]
    #[arg(long, value_name = "LIST", help_heading = "Bridged LANs (tap)")]
    pub vlan: Option<Text>,

    /// Protocols that cross, in both directions, such as ipv4,arp,ipv6,0x88cc [default: all]
    #[arg(long, value_name = "LIST", help_heading = "Bridged LANs (tap)")]
    pub ethertype: Option<Text>,

    /// Bring the device up
    #[arg(long, help_heading = "Device")]
    pub up: bool,

    /// Keep the device when the daemon ends
    #[arg(long, help_heading = "Device")]
    pub persist: bool,

    /// User who may attach to the device, if it is created
    #[arg(long, value_name = "USER", help_heading = "Device")]
    pub owner: Option<Text>,

    /// Group whose members may attach to the device, if it is created
    #[arg(long, value_name = "GROUP", help_heading = "Device")]
    pub owner_group: Option<Text>,

    /// Socket that simpletun status asks [default: /run/simpletun/NAME.sock, NAME that of the file, else of the device]
    #[arg(long, value_name = "PATH|off", help_heading = "Status")]
    pub control: Option<Text>,

    /// Serve metrics (OpenMetrics) over HTTP at this loopback address, such as 127.0.0.1:9586
    #[arg(long, value_name = "ADDR:PORT", help_heading = "Status")]
    pub metrics: Option<Text>,

    /// Run this program when the device is configured, before anything is carried; if it fails the tunnel does not start
    #[arg(long, value_name = "COMMAND", help_heading = "Hooks")]
    pub hook_up: Option<Words>,

    /// Run this program at the end, before the device goes
    #[arg(long, value_name = "COMMAND", help_heading = "Hooks")]
    pub hook_down: Option<Words>,

    /// Run this program when the peer is there
    #[arg(long, value_name = "COMMAND", help_heading = "Hooks")]
    pub hook_link_up: Option<Words>,

    /// Run this program when the peer is gone
    #[arg(long, value_name = "COMMAND", help_heading = "Hooks")]
    pub hook_link_down: Option<Words>,

    /// Time after which a hook is ended, from 1s to 1h [default: 30s]
    #[arg(long, value_name = "TIME", help_heading = "Hooks")]
    pub hook_timeout: Option<Text>,

    /// User that the process becomes once everything is open [default: simpletun if there is such a user, else nobody]
    #[arg(long, value_name = "USER", help_heading = "Privileges")]
    pub run_as: Option<Text>,

    /// Leave out seccomp and Landlock, to find out whether they are in the way; everything else is given up all the same
    #[arg(long, help_heading = "Privileges")]
    pub no_sandbox: bool,

    /// Print a line for every packet, as the original simpletun does
    #[arg(short, long, help_heading = "Output")]
    pub debug: bool,

    /// How much is said; --verbose and --quiet say more or less than that [default: info]
    #[arg(long, value_name = "error|warn|info|debug|trace", help_heading = "Output")]
    pub log_level: Option<Text>,

    /// How the link is protected; mandatory in a file so that no service is plain by omission.
    #[arg(skip)]
    pub security: Option<Text>,
}

impl Options {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// The file cannot be read, is not TOML, has an unknown key or a value of the wrong type, or does not say
    /// how the link is protected.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        Self::from_opened(path, std::fs::File::open(path))
    }

    /// As [`from_file`](Self::from_file), of a file that was opened already or could not be.
    ///
    /// # Errors
    /// As [`from_file`](Self::from_file).
    pub fn from_opened(path: &Path, opened: std::io::Result<std::fs::File>) -> Result<Self, ConfigError> {
        let name = path.display().to_string();
        let text = opened.and_then(std::io::read_to_string);
        let text = text.map_err(|source| ConfigError::Read { path: name.clone(), source })?;
        Self::from_toml(&text, &name)
    }

    /// Parses the text of a configuration file; `name` is used in errors.
    ///
    /// # Errors
    /// As [`from_file`](Self::from_file).
    pub fn from_toml(text: &str, name: &str) -> Result<Self, ConfigError> {
        let options: Self = toml::from_str(text).map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            let content: String = text.lines().nth(line - 1).unwrap_or_default().trim().chars().take(80).collect();
            let problem = masked(&format!("{}; mend {content:?}", error.message().replace('\n', "; ")));
            ConfigError::Syntax { path: name.to_owned(), line, problem }
        })?;
        if options.security.is_none() {
            let cure = "add security = \"secret\" or \"keys\" with the options for it, or security = \"plain\" to say \
                        that the link is neither encrypted nor authenticated";
            return Err(ConfigError::Combination(format!("Configuration file {name} lacks the key security: {cure}")));
        }
        if options.server && options.connect.is_some() {
            return Err(ConfigError::Combination(format!(
                "Configuration file {name} has both server and connect: keep one of them"
            )));
        }
        if (options.tun && options.tap) || (options.tcp && options.udp) {
            return Err(ConfigError::Combination(format!(
                "Configuration file {name} has both tun and tap, or both tcp and udp: keep one of each pair"
            )));
        }
        Ok(options)
    }

    /// True if keys will be read.
    pub fn has_keys(&self) -> bool {
        self.security.as_ref().is_some_and(|security| security.0 != "plain")
            || !self.secret_file.is_empty()
            || !self.peer_public_key.is_empty()
            || self.private_key_file.is_some()
            || self.psk_file.is_some()
    }

    /// The name of the device as written.
    pub fn interface_name(&self) -> Option<String> {
        self.interface.as_ref().map(|name| name.0.clone())
    }

    /// The directory of state, if one is named.
    pub fn state_dir(&self) -> Option<PathBuf> {
        self.state_dir.as_ref().map(|directory| PathBuf::from(&directory.0))
    }

    /// The files that keys are read from, standard input left out.
    pub fn key_files(&self) -> Vec<&str> {
        let files = self.secret_file.iter().chain(&self.private_key_file).chain(&self.psk_file);
        files.map(|text| text.0.as_str()).filter(|file| *file != STANDARD_INPUT).collect()
    }

    /// The same settings with a secret from what stands for standard input, for a server that makes it itself.
    ///
    /// # Errors
    /// It is no server, or there are other keys.
    pub fn with_own_secret(self) -> Result<Self, ConfigError> {
        let refuse = |text: &str| Err(ConfigError::Combination(text.to_owned()));
        if self.connect.is_some() {
            return refuse(
                "Options pair and connect cannot be used together: the server makes the secret, and the client is started \
                 by the command line that the server prints",
            );
        }
        if self.has_keys() {
            return refuse(
                "Option pair makes the secret itself: leave out secret-file, private-key-file, peer-public-key and \
                 psk-file, or leave out pair",
            );
        }
        Ok(Self { secret_file: vec![Text(STANDARD_INPUT.to_owned())], ..self })
    }

    /// The same settings for a plain link: what they say beside the protection, which can be known without its keys.
    #[must_use]
    pub fn without_protection(self) -> Self {
        Self {
            security: Some(Text("plain".to_owned())),
            secret_file: Vec::new(),
            private_key_file: None,
            peer_public_key: Vec::new(),
            psk_file: None,
            aead: None,
            pin_endpoint: false,
            state_dir: None,
            rekey_after: None,
            ..self
        }
    }

    /// Lays `flags` over the settings of the file: what the flags say wins.
    #[must_use]
    pub fn overlaid_with(self, flags: Self) -> Self {
        let role_by_flag = flags.server || flags.connect.is_some();
        let kind_by_flag = flags.tun || flags.tap;
        let protocol_by_flag = flags.tcp || flags.udp;
        Self {
            interface: flags.interface.or(self.interface),
            server: if role_by_flag { flags.server } else { self.server },
            connect: if role_by_flag { flags.connect } else { self.connect },
            port: flags.port.or(self.port),
            tun: if kind_by_flag { flags.tun } else { self.tun },
            tap: if kind_by_flag { flags.tap } else { self.tap },
            tcp: if protocol_by_flag { flags.tcp } else { self.tcp },
            udp: if protocol_by_flag { flags.udp } else { self.udp },
            bind: flags.bind.or(self.bind),
            remote: flags.remote.or(self.remote),
            allow: first_given(flags.allow, self.allow),
            bind_device: flags.bind_device.or(self.bind_device),
            fwmark: flags.fwmark.or(self.fwmark),
            keepalive: flags.keepalive.or(self.keepalive),
            down_after: flags.down_after.or(self.down_after),
            no_rto_cap: flags.no_rto_cap || self.no_rto_cap,
            congestion: flags.congestion.or(self.congestion),
            sndbuf: flags.sndbuf.or(self.sndbuf),
            rcvbuf: flags.rcvbuf.or(self.rcvbuf),
            once: flags.once || self.once,
            secret_file: first_given(flags.secret_file, self.secret_file),
            private_key_file: flags.private_key_file.or(self.private_key_file),
            peer_public_key: first_given(flags.peer_public_key, self.peer_public_key),
            psk_file: flags.psk_file.or(self.psk_file),
            aead: flags.aead.or(self.aead),
            pin_endpoint: flags.pin_endpoint || self.pin_endpoint,
            state_dir: flags.state_dir.or(self.state_dir),
            rekey_after: flags.rekey_after.or(self.rekey_after),
            address: first_given(flags.address, self.address),
            peer_address: flags.peer_address.or(self.peer_address),
            netmask: flags.netmask.or(self.netmask),
            route: first_given(flags.route, self.route),
            mtu: flags.mtu.or(self.mtu),
            mac: flags.mac.or(self.mac),
            txqueuelen: flags.txqueuelen.or(self.txqueuelen),
            mss_clamp: flags.mss_clamp.or(self.mss_clamp),
            split: flags.split.or(self.split),
            offload: flags.offload.or(self.offload),
            carrier: flags.carrier.or(self.carrier),
            bridge: flags.bridge.or(self.bridge),
            bridge_create: first_given(flags.bridge_create, self.bridge_create),
            loop_guard: flags.loop_guard.or(self.loop_guard),
            loop_hold: flags.loop_hold.or(self.loop_hold),
            broadcast_limit: flags.broadcast_limit.or(self.broadcast_limit),
            bpdu: flags.bpdu.or(self.bpdu),
            vlan: flags.vlan.or(self.vlan),
            ethertype: flags.ethertype.or(self.ethertype),
            up: flags.up || self.up,
            persist: flags.persist || self.persist,
            owner: flags.owner.or(self.owner),
            owner_group: flags.owner_group.or(self.owner_group),
            control: flags.control.or(self.control),
            metrics: flags.metrics.or(self.metrics),
            hook_up: flags.hook_up.or(self.hook_up),
            hook_down: flags.hook_down.or(self.hook_down),
            hook_link_up: flags.hook_link_up.or(self.hook_link_up),
            hook_link_down: flags.hook_link_down.or(self.hook_link_down),
            hook_timeout: flags.hook_timeout.or(self.hook_timeout),
            run_as: flags.run_as.or(self.run_as),
            no_sandbox: flags.no_sandbox || self.no_sandbox,
            debug: flags.debug || self.debug,
            log_level: flags.log_level.or(self.log_level),
            security: flags.security.or(self.security),
        }
    }
}

fn first_given(flags: Vec<Text>, file: Vec<Text>) -> Vec<Text> {
    if flags.is_empty() { file } else { flags }
}
