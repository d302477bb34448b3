//! The service of a tunnel: what systemd says of its unit, and whether anything is left of one that was killed.

use std::path::Path;

use super::subject::Subject;
use super::{Finding, command};
use crate::helper::record;

/// What is asked of the unit.
const PROPERTIES: &[&str] = &[
    "LoadState",
    "ActiveState",
    "SubState",
    "Result",
    "UnitFileState",
    "StatusText",
    "NeedDaemonReload",
    "User",
    "AmbientCapabilities",
    "LimitNOFILE",
];

/// A unit as systemd describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unit {
    /// Its whole name.
    pub name: String,
    /// `loaded`, `not-found`, `masked`, `bad-setting`, `error`.
    pub load: String,
    /// `active`, `inactive`, `failed`, `activating`, `deactivating`.
    pub active: String,
    /// What that is in its own terms.
    pub sub: String,
    /// How it has ended.
    pub result: String,
    /// `enabled`, `disabled`, `masked`.
    pub file_state: String,
    /// What the daemon says of itself.
    pub status: String,
    /// The unit was changed since systemd has read it.
    pub is_outdated: bool,
    /// Whom it runs as; nobody means root.
    pub user: Option<String>,
    /// Capabilities that the daemon is started with.
    pub capabilities: Vec<String>,
    /// Names and files of credentials.
    pub credentials: Vec<(String, String)>,
    /// Names of credentials that only systemd can read.
    pub encrypted: Vec<String>,
    /// How many descriptors it may have.
    pub descriptors: Option<u64>,
}

impl Unit {
    /// Asks systemd; nothing if it does not manage this host.
    pub fn of(name: &str) -> Option<Self> {
        if !Path::new("/run/systemd/system").exists() {
            return None;
        }
        let unit = format!("simpletun@{name}.service");
        let properties = PROPERTIES.join(",");
        let text = command::output("systemctl", &["show", "--no-pager", "--property", &properties, &unit]).ok()?;
        let files = command::output("systemctl", &["cat", "--no-pager", &unit]).unwrap_or_default();
        let mut unit = Self::parse(unit, &text);
        unit.read_credentials(&files.replace("%i", name));
        Some(unit)
    }

    /// From the unit's files, because how systemd shows them as properties differs from version to version.
    fn read_credentials(&mut self, files: &str) {
        for (key, value) in files.lines().filter_map(|line| line.trim().split_once('=')) {
            let pair = || value.split_once(':').map(|(id, path)| (id.to_owned(), path.to_owned()));
            match key {
                "LoadCredential" if value.is_empty() => self.credentials.clear(),
                "LoadCredential" => self.credentials.extend(pair()),
                "LoadCredentialEncrypted" if value.is_empty() => self.encrypted.clear(),
                "LoadCredentialEncrypted" => self.encrypted.extend(pair().map(|(id, _)| id)),
                _ => {}
            }
        }
    }

    fn parse(name: String, text: &str) -> Self {
        let mut unit = Self { name, ..Self::default() };
        for (key, value) in text.lines().filter_map(|line| line.split_once('=')) {
            let value = value.to_owned();
            match key {
                "LoadState" => unit.load = value,
                "ActiveState" => unit.active = value,
                "SubState" => unit.sub = value,
                "Result" => unit.result = value,
                "UnitFileState" => unit.file_state = value,
                "StatusText" => unit.status = value,
                "NeedDaemonReload" => unit.is_outdated = value == "yes",
                "User" => unit.user = Some(value).filter(|user| !user.is_empty()),
                "AmbientCapabilities" => unit.capabilities = value.split_whitespace().map(str::to_owned).collect(),
                "LimitNOFILE" => unit.descriptors = value.parse().ok(),
                _ => {}
            }
        }
        unit
    }

    /// True if the daemon has this capability from the start.
    pub fn has(&self, capability: &str) -> bool {
        self.user.is_none() || self.capabilities.iter().any(|held| held.eq_ignore_ascii_case(capability))
    }
}

const CHECK: &str = "service";

/// The state of the unit, and why it is not the right one.
pub fn check(subject: &Subject) -> Vec<Finding> {
    let Some(unit) = &subject.unit else { return Vec::new() };
    let log = || command::output("journalctl", &["--no-pager", "-q", "-n", "20", "-o", "cat", "-u", &unit.name]).ok();
    vec![judge(unit, || log().and_then(|text| complaint(&text)).unwrap_or_default())]
}

/// The last line of the log that is the daemon's and not systemd's.
fn complaint(log: &str) -> Option<String> {
    let of_systemd = |line: &&str| {
        ["systemd[", "simpletun@", "Starting ", "Started ", "Stopped ", "Stopping ", "Failed to start "]
            .iter()
            .any(|begin| line.starts_with(begin))
    };
    log.lines().rfind(|line| !line.is_empty() && !of_systemd(line)).map(str::to_owned)
}

fn judge(unit: &Unit, log: impl Fn() -> String) -> Finding {
    let name = unit.name.trim_end_matches(".service");
    match (unit.load.as_str(), unit.active.as_str()) {
        ("not-found", _) => Finding::warning(
            CHECK,
            "the unit simpletun@.service is not installed, so systemd does not start this tunnel",
            "apt install ./simpletun_VERSION_ARCHITECTURE.deb",
        ),
        ("masked", _) => {
            let cure = format!("systemctl unmask {name} && systemctl enable --now {name}");
            Finding::fault(CHECK, format!("{name} is masked: systemd refuses to start it"), cure)
        }
        ("loaded", _) if unit.is_outdated => {
            let cure = format!("systemctl daemon-reload && systemctl restart {name}");
            Finding::warning(CHECK, format!("{name} was changed and systemd has not read it again"), cure)
        }
        ("loaded", "failed") => {
            let found = format!("{name} has failed ({}): {}", unit.result, log());
            Finding::fault(CHECK, found, format!("systemctl restart {name} && systemctl status {name}"))
        }
        ("loaded", "activating") if unit.sub == "auto-restart" => {
            let found = format!("{name} fails and is started again and again: {}", log());
            Finding::fault(CHECK, found, format!("journalctl -u {name} -n 20"))
        }
        ("loaded", "active") if unit.file_state == "disabled" => {
            Finding::note(CHECK, format!("{name} runs and will not be there after the next boot"))
                .with_cure(format!("systemctl enable {name}"))
        }
        ("loaded", "active") => Finding::ok(CHECK, format!("{name} is {}, {}", unit.file_state, unit.status)),
        ("loaded", "inactive") => Finding::warning(
            CHECK,
            format!("{name} is {} and does not run", unit.file_state),
            format!("systemctl enable --now {name}"),
        ),
        ("loaded", state) => Finding::note(CHECK, format!("{name} is {state} ({})", unit.sub)),
        (load, _) => {
            let found = format!("systemd cannot use the unit {name} ({load})");
            Finding::fault(CHECK, found, format!("systemd-analyze verify {name}.service"))
        }
    }
}

/// What a tunnel that was killed has left on a device.
pub fn leftovers(subject: &Subject) -> Vec<Finding> {
    const CHECK: &str = "leftovers";
    let Some(device) = subject.device().filter(|_| subject.running.is_none()) else { return Vec::new() };
    vec![match record::is_left(device) {
        Ok(false) => Finding::ok(CHECK, "none"),
        Ok(true) => Finding::warning(
            CHECK,
            format!("a tunnel that was killed has left its configuration on the device {device}"),
            match &subject.file {
                // By that more of what is left can be believed.
                Some(file) => format!("simpletun cleanup --config {}", shell_words::quote(&file.to_string_lossy())),
                None => format!("simpletun cleanup {device}"),
            },
        ),
        Err(error) => Finding::note(CHECK, error.to_string()),
    }]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::doctor::Verdict;

    fn unit(load: &str, active: &str, more: &str) -> Unit {
        Unit::parse(
            "simpletun@a.service".to_owned(),
            &format!("LoadState={load}\nActiveState={active}\nUnitFileState=enabled\n{more}"),
        )
    }

    #[test]
    fn each_state_of_a_unit_has_its_cure() {
        let of = |load: &str, active: &str, more: &str| judge(&unit(load, active, more), || "said".to_owned());
        assert_eq!(of("loaded", "active", "StatusText=up\n").verdict, Verdict::Ok);
        for (load, active, more, verdict, words) in [
            ("loaded", "failed", "Result=exit-code\n", Verdict::Fault, "systemctl restart simpletun@a"),
            ("loaded", "inactive", "", Verdict::Warning, "systemctl enable --now simpletun@a"),
            ("loaded", "activating", "SubState=auto-restart\n", Verdict::Fault, "journalctl -u simpletun@a"),
            ("loaded", "active", "UnitFileState=disabled\n", Verdict::Note, "systemctl enable simpletun@a"),
            ("loaded", "active", "NeedDaemonReload=yes\n", Verdict::Warning, "daemon-reload"),
            ("masked", "inactive", "", Verdict::Fault, "unmask"),
            ("not-found", "inactive", "", Verdict::Warning, "install"),
            ("bad-setting", "inactive", "", Verdict::Fault, "verify"),
        ] {
            let finding = of(load, active, more);
            assert_eq!(finding.verdict, verdict, "{finding:?}");
            assert!(finding.cure.as_ref().is_some_and(|cure| cure.contains(words)), "{finding:?}");
        }
        assert!(of("loaded", "failed", "").found.ends_with("said"));
    }

    #[test]
    fn credentials_and_capabilities_are_read() {
        let shown = "User=simpletun\nAmbientCapabilities=cap_net_admin\nLimitNOFILE=1024\n";
        let mut unit = unit("loaded", "active", shown);
        unit.read_credentials(
            "# /etc/a.conf\n[Service]\nLoadCredential=psk:/etc/z\nLoadCredential=\nLoadCredential=secret:/etc/x\n\
             LoadCredentialEncrypted=psk:/etc/y\n",
        );
        assert_eq!(unit.credentials, [("secret".to_owned(), "/etc/x".to_owned())]);
        assert_eq!((unit.encrypted.len(), unit.descriptors), (1, Some(1024)));
        assert!(unit.has("CAP_NET_ADMIN") && !unit.has("CAP_NET_BIND_SERVICE"));
        assert!(Unit { user: None, ..unit }.has("CAP_NET_BIND_SERVICE"));
    }

    #[test]
    fn the_reason_is_the_daemon_s_own_last_line() {
        let log = "Starting simpletun@a.service\nOption x is wrong\nsimpletun@a.service: Failed with result\n\
                   Failed to start simpletun@a.service - x.\n";
        assert_eq!(complaint(log).as_deref(), Some("Option x is wrong"));
        assert_eq!(complaint(""), None);
    }
}
