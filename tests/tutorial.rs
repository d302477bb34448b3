//! The session of the tun/tap tutorial, word for word where it can be: persistent devices made as root, tunnel ends
//! run by their unprivileged owner, ping and sessions across.

use crate::common::daemon::{Daemon, simpletun, simpletun_as};
use crate::common::lab::{Lab, NOBODY, Ns};
use crate::common::line;
use crate::common::net::transfer;
use crate::common::wait::succeed;
use std::fs;

const SERVER: &str = "-i tun3 -s";
const CLIENT: &str = "-i tun11 -c 10.86.43.52";

#[test]
fn devices_made_by_openvpn_serve_their_unprivileged_owner() {
    tutorial(|ns, device| {
        ns.run(&format!("openvpn --mktun --dev {device} --user nobody"));
    });
}

#[test]
fn devices_made_by_ip_tuntap_serve_their_unprivileged_owner() {
    tutorial(|ns, device| {
        ns.run(&format!("ip tuntap add dev {device} mode tun user {NOBODY}"));
    });
}

#[test]
fn devices_made_by_our_own_flags_serve_their_unprivileged_owner() {
    tutorial(|ns, device| {
        let mut maker = simpletun(ns, &format!("-i {device} -s --persist --owner nobody"));
        maker.wait_for(line::LISTENING);
        maker.terminate();
        assert!(ns.has_device(device), "a persistent device outlives the daemon that made it");
    });
}

#[test]
fn devices_made_by_our_mktun_serve_their_unprivileged_owner() {
    tutorial(|ns, device| {
        ns.run(&format!("{} mktun --dev {device} --user nobody", env!("CARGO_BIN_EXE_simpletun")));
    });
}

#[test]
fn a_secure_shell_session_crosses_the_tunnel() {
    let lab = Lab::new();
    let (_server, _client) = ends(&lab, |ns, device| {
        ns.run(&format!("ip tuntap add dev {device} mode tun user {NOBODY}"));
    });
    let here = Ns::here();
    for key in ["host", "user"] {
        let file = format!("/run/{key}-key");
        let keygen = here.command("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", &file]).output();
        succeed(keygen.expect("run ssh-keygen"), "ssh-keygen");
    }
    fs::create_dir_all("/run/sshd").expect("make sshd's directory");
    let _sshd = lab.remote.start(
        "/usr/sbin/sshd -D -f /dev/null -h /run/host-key -o UsePAM=no -o PidFile=none -o StrictModes=no \
         -o PermitRootLogin=yes -o AuthorizedKeysFile=/run/user-key.pub -o ListenAddress=192.168.0.2",
    );
    lab.remote.wait_for_listener(22);
    let session = lab
        .local
        .command("ssh")
        .args(["-F", "/dev/null", "-i", "/run/user-key", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no"])
        .args(["-o", "UserKnownHostsFile=/run/known-hosts", "-o", "ConnectTimeout=20", "root@192.168.0.2"])
        .arg("echo $SSH_CONNECTION; seq 100000")
        .output()
        .expect("run ssh");
    let said = succeed(session, "ssh across the tunnel");
    assert!(said.starts_with("192.168.0.1 "), "the session comes through the tunnel");
    assert!(said.ends_with("\n100000\n"), "all of the session's output arrives");
}

fn tutorial(make_device: impl Fn(&Ns, &str)) {
    let lab = Lab::new();
    let (mut server, mut client) = ends(&lab, make_device);
    let up = server.wait_for(line::UP);
    assert!(up.contains("dev=tun3") && up.contains("peer=10.86.43.51:") && up.contains("transport=tcp"), "{up}");
    let up = client.wait_for(line::UP);
    assert!(up.contains("dev=tun11") && up.contains("peer=10.86.43.52:55555"), "{up}");

    lab.local.ping("192.168.0.2", 5, 56);
    lab.remote.ping("192.168.0.1", 5, 56);
    transfer(&lab.local, &lab.remote, "192.168.0.2", 200_000);
    transfer(&lab.remote, &lab.local, "192.168.0.1", 200_000);

    client.terminate();
    server.wait_for(line::DOWN);
    server.terminate();
    assert!(lab.remote.has_device("tun3") && lab.local.has_device("tun11"), "persistent devices stay");
    assert!(lab.remote.run("ip addr show dev tun3").contains("192.168.0.2/24"), "and so does what others set on them");
}

/// Both ends of the tutorial, made ready as root and run as nobody.
fn ends(lab: &Lab, make_device: impl Fn(&Ns, &str)) -> (Daemon, Daemon) {
    for (ns, device, address) in [(&lab.remote, "tun3", "192.168.0.2/24"), (&lab.local, "tun11", "192.168.0.1/24")] {
        make_device(ns, device);
        ns.run(&format!("ip link set {device} up"));
        ns.address(device, &[address]);
    }
    let server = simpletun_as(NOBODY, &lab.remote, SERVER);
    server.wait_for(line::LISTENING);
    let client = simpletun_as(NOBODY, &lab.local, CLIENT);
    client.wait_for(line::UP);
    (server, client)
}
